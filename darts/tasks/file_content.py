"""What files of pictures hold, whatever their folder is called: a digest, and a hash of each."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from darts.runtime.errors import UserError, one_line
from darts.runtime.text import encoded, utf8_name
from darts.tasks.folders import FolderListing, PictureFile

WHOLE_BYTES = 256_000_000  # of a part's files; of the files of a larger part only the ends are read
END_BYTES = 65_536  # of each end


@dataclass(frozen=True)
class Content:
    """What a part of the data, training or test, holds."""

    digest: str  # twelve hexadecimal digits
    files: dict[str, list[str]]  # where the pictures of the same size and ends lie, by hash; empty without a folder


def known_content(listing: FolderListing, part: str) -> Content:
    """What `content_of_files` gives; files that have neither size nor time changed are read once in a process."""
    files = listing.part(part)
    key = digest_of([str(listing.root), repr(listing.classes), repr(files)])
    return once(key, lambda: content_of_files(listing, part))


_contents: dict[str, Content] = {}  # parts that this process has read


def once(key: str, read: Callable[[], Content]) -> Content:
    """What is read at the first call with a key."""
    if key not in _contents:
        _contents[key] = read()
    return _contents[key]


def content_of_files(listing: FolderListing, part: str) -> Content:
    """The digest of the training, test or validation part of a folder, and the hash of each of its pictures."""
    files = listing.part(part)
    whole = sum(file.size for file in files) <= WHOLE_BYTES
    hashes = [_hash_of(file, whole) for file in files]
    lines = sorted(
        json.dumps([listing.classes[file.label], _name_in_class(listing, file), file.size, key])
        for file, (key, _) in zip(files, hashes, strict=True)
    )
    places: dict[str, list[str]] = {}
    for file, (_, key) in zip(files, hashes, strict=True):
        places.setdefault(key, []).append(listing.relative(file))
    return Content(digest_of([json.dumps(listing.classes), *lines]), places)


def path_digest(path: Path) -> str:
    """Twelve hexadecimal digits that stand for a file, or for all files of a folder; "" where there is nothing.

    Of a file of more than 256 MB, and of each file where a folder has more, the first and the last 64 KiB count.
    Files that have neither size nor time changed are read once in a process.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        known = [(file, file.stat()) for file in files]
    except OSError:
        return ""
    if any(not stat.S_ISREG(status.st_mode) for _, status in known):
        return ""  # a pipe, which nobody may ever fill: whoever reads it refuses it
    whole = sum(status.st_size for _, status in known) <= WHOLE_BYTES

    def read() -> Content:
        lines = []
        for file, status in known:
            picture = PictureFile(str(file), 0, status.st_size, status.st_mtime_ns)
            lines.append(json.dumps([str(file.relative_to(path)), _hash_of(picture, whole)[0]]))
        return Content(digest_of(lines), {})

    key = repr([(str(file), status.st_size, status.st_mtime_ns) for file, status in known])
    return once(key, read).digest


def _name_in_class(listing: FolderListing, file: PictureFile) -> str:
    """A picture's name below its class folder, with slashes on every system."""
    relative = Path(listing.relative(file)).parts
    above = 1 if listing.set_aside else 2  # the class, and the part before it
    return utf8_name("/".join(relative[above:] or relative[-1:]))


def _hash_of(file: PictureFile, whole: bool) -> tuple[str, str]:
    """Of a file's size and its bytes, or without `whole` its ends; and of its size and ends whatever `whole` is.

    By the second, files of a small part of the data are compared with those of a large one.
    """
    size = str(file.size).encode()
    try:
        with open(file.path, "rb") as opened:
            if whole or file.size <= 2 * END_BYTES:
                content = opened.read()
                ends = content if file.size <= 2 * END_BYTES else content[:END_BYTES] + content[-END_BYTES:]
            else:
                content = opened.read(END_BYTES)
                opened.seek(-END_BYTES, os.SEEK_END)
                content = ends = content + opened.read()
    except OSError as error:
        raise UserError(f"{one_line(file.path)}: cannot be read ({error.strerror}); mend it or remove it") from None
    own = hashlib.sha256(size + content).hexdigest()
    return own, own if ends is content else hashlib.sha256(size + ends).hexdigest()


def digest_of(lines: Sequence[str]) -> str:
    """Twelve hexadecimal digits that stand for some lines."""
    return hashlib.sha256(encoded("\n".join(lines))).hexdigest()[:12]
