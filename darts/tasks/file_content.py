"""What files of pictures hold, whatever their folder is called: a digest, and a hash of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from darts.runtime.errors import UserError, one_line
from darts.tasks.folders import FolderListing, PictureFile

WHOLE_BYTES = 256_000_000  # of a part's files; of the files of a larger part only the ends are read
END_BYTES = 65_536  # of each end


@dataclass(frozen=True)
class Content:
    """What a part of the data, training or test, holds."""

    digest: str  # twelve hexadecimal digits
    files: dict[str, list[str]]  # where the pictures of the same bytes lie, by their hash; empty without a folder


def known_content(listing: FolderListing, train: bool) -> Content:
    """What `content_of_files` gives; files that have neither size nor time changed are read once in a process."""
    files = listing.training if train else listing.tested()
    key = digest_of([str(listing.root), repr(listing.classes), repr(files)])
    return once(key, lambda: content_of_files(listing, train))


_contents: dict[str, Content] = {}  # parts that this process has read


def once(key: str, read: Callable[[], Content]) -> Content:
    """What is read at the first call with a key."""
    if key not in _contents:
        _contents[key] = read()
    return _contents[key]


def content_of_files(listing: FolderListing, train: bool) -> Content:
    """The digest of the training part or the test part of a folder, and the hash of each of its pictures."""
    files = listing.training if train else listing.tested()
    whole = sum(file.size for file in files) <= WHOLE_BYTES
    hashes = [_hash_of(file, whole) for file in files]
    lines = sorted(
        json.dumps([listing.classes[file.label], _name_in_class(listing, file), file.size, key])
        for file, key in zip(files, hashes, strict=True)
    )
    places: dict[str, list[str]] = {}
    for file, key in zip(files, hashes, strict=True):
        places.setdefault(key, []).append(listing.relative(file))
    return Content(digest_of([json.dumps(listing.classes), *lines]), places)


def _name_in_class(listing: FolderListing, file: PictureFile) -> str:
    """A picture's name below its class folder, with slashes on every system."""
    relative = Path(listing.relative(file)).parts
    above = 1 if listing.set_aside else 2  # the class, and the part before it
    return "/".join(relative[above:])


def _hash_of(file: PictureFile, whole: bool) -> str:
    found = hashlib.sha256(str(file.size).encode())
    try:
        with open(file.path, "rb") as opened:
            if whole or file.size <= 2 * END_BYTES:
                found.update(opened.read())
            else:
                found.update(opened.read(END_BYTES))
                opened.seek(-END_BYTES, os.SEEK_END)
                found.update(opened.read())
    except OSError as error:
        raise UserError(f"{one_line(file.path)}: cannot be read ({error.strerror}); mend it or remove it") from None
    return found.hexdigest()


def digest_of(lines: Sequence[str]) -> str:
    """Twelve hexadecimal digits that stand for some lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
