"""Folders of pictures: which files are training pictures and test pictures, of which class, and what is left out.

A folder is listed, not read: a search may list the test part, whose pictures it must not open.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from darts.runtime.errors import UserError, one_line
from darts.runtime.text import utf8_name
from darts.tasks.pictures import ENDINGS
from darts.tasks.settings import ImageFolderDataset

SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})  # made by file managers; in small letters
VALIDATION_NAMES = ("val", "valid", "validation")
PARTS = ("train", "test", *VALIDATION_NAMES)

HIDDEN = "hidden or made by the system"
OUTSIDE = "outside the class folders"
BROKEN = "broken link"
AGAIN = "link to a folder that is read already"
NOT_REGULAR = "not a regular file"
FOLDER_LIKE_A_PICTURE = "folder named like a picture"


class PictureFile(NamedTuple):
    """A picture by its path, with its label, its size in bytes and when it was changed, in nanoseconds."""

    path: str
    label: int
    size: int
    modified: int


@dataclass(frozen=True)
class FolderListing:
    """Which files of a folder are what."""

    root: Path  # resolved
    classes: list[str]
    training: list[PictureFile]
    test: list[PictureFile]
    set_aside: bool  # whether the test pictures are a part of the one folder of each class
    skipped: dict[str, int]  # entries that are no pictures of a class, by reason
    unused: list[str]  # folders of validation pictures beside train and test that are not used
    validation: list[PictureFile] = field(default_factory=list)  # pictures that a retraining watches
    test_folder: str = "test"
    validation_folder: str = ""
    noun: str = "picture"  # what the files are, in messages

    def part(self, name: str) -> list[PictureFile]:
        """The pictures of "training", "test" or "validation", for those who open them.

        `UserError` naming classes that have none in the part.
        """
        folders = {"test": self.test_folder, "validation": self.validation_folder}
        files = {"training": self.training, "test": self.test, "validation": self.validation}[name]
        empty = self._without_pictures(files)
        if empty and name in folders:
            place = one_line(self.root / folders[name])
            raise UserError(f"dataset.root {place}: no {self.noun} of class {shortened(empty, 5)}")
        if empty:
            told = f"no training {self.noun} of class {shortened(empty, 5)} is left beside the other parts"
            raise UserError(f"dataset.root {one_line(self.root)}: {told}")
        return files

    def without_test_pictures(self) -> list[str]:
        """The classes that have no test picture."""
        return self._without_pictures(self.test)

    def _without_pictures(self, files: Iterable[PictureFile]) -> list[str]:
        filled = {file.label for file in files}
        return [name for label, name in enumerate(self.classes) if label not in filled]

    def relative(self, file: PictureFile) -> str:
        """Where a picture lies within the folder."""
        return os.path.relpath(file.path, self.root)


@dataclass
class Walk:
    """One part's walk through its class folders."""

    part: Path
    cache: Path | None  # a folder that is no class, wherever it lies
    skipped: Counter[str]
    setting: str = "dataset.root"  # that names the folder, for messages
    endings: Collection[str] = ENDINGS  # of the files that are read, in small letters
    seen: set[tuple[int, int]] = field(default_factory=set)  # folders, by device and number

    def classes(self) -> dict[str, os.DirEntry[str]]:
        """The class folders by name, sorted by it; `UserError` where two are links to one folder."""
        found: dict[str, os.DirEntry[str]] = {}
        owners: dict[tuple[int, int], str] = {}
        for entry in self._visible(str(self.part)):
            status = self._status(entry)
            if status is None:
                continue
            if Path(entry.path) == self.cache:
                _refuse_pictures_in_cache(Path(entry.path))
                continue
            if not stat.S_ISDIR(status.st_mode):
                self.skipped[OUTSIDE] += 1
                continue
            name, key = class_name(entry.name), (status.st_dev, status.st_ino)
            place = f"{self.setting} {one_line(self.part)}"
            if key in owners:
                pair = f"{owners[key]!r} and {name!r}"
                raise UserError(f"{place}: the class folders {pair} are one folder; remove one")
            if name in found:
                pair = f"{found[name].name!a} and {entry.name!a}"
                raise UserError(f"{place}: the class folders {pair} are one name in two spellings; rename one")
            found[name], owners[key] = entry, name
        self.seen = {*owners, *self._above()}
        return dict(sorted(found.items()))

    def _above(self) -> set[tuple[int, int]]:
        """The part's folder and those above it, by device and number."""
        resolved = self.part.resolve()
        above = [folder.stat() for folder in (resolved, *resolved.parents)]
        return {(status.st_dev, status.st_ino) for status in above}

    def everything(self) -> list[PictureFile]:
        """The pictures of the part's own folder and of all below it, of no class."""
        self.seen = self._above()
        return self.pictures(str(self.part), 0)

    def pictures(self, top: str, label: int) -> list[PictureFile]:
        """The pictures below a class folder, sorted by folder and name."""
        found: list[tuple[str, str, PictureFile]] = []
        folders = [top]
        while folders:
            folder = folders.pop()
            for entry in self._visible(folder):
                status = self._status(entry)
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders += self._entered(entry, status)
                elif self._is_picture(entry, status):
                    file = PictureFile(entry.path, label, status.st_size, status.st_mtime_ns)
                    found.append((folder, entry.name, file))
        return [file for _, _, file in sorted(found)]

    def _visible(self, folder: str) -> list[os.DirEntry[str]]:
        """A folder's entries by name, without those that are hidden or made by the system."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{self.setting}: {one_line(folder)} cannot be read ({error.strerror})") from None
        visible = [entry for entry in found if not _is_hidden(entry.name)]
        self._skip(HIDDEN, len(found) - len(visible))
        return visible

    def _status(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        """What a name stands for; None, counted, where it is a link that leads nowhere or to itself."""
        try:
            return entry.stat()
        except OSError as error:
            if not entry.is_symlink():
                raise UserError(f"{self.setting}: {one_line(entry.path)} cannot be read ({error.strerror})") from None
        self._skip(BROKEN)
        return None

    def _entered(self, entry: os.DirEntry[str], status: os.stat_result) -> list[str]:
        """The folder itself, or nothing where it has been entered before or is named like a picture."""
        key = (status.st_dev, status.st_ino)
        if key in self.seen:
            self._skip(AGAIN)
            return []
        if _ending(entry.name) in self.endings:
            self._skip(FOLDER_LIKE_A_PICTURE)
            return []
        self.seen.add(key)
        return [entry.path]

    def _is_picture(self, entry: os.DirEntry[str], status: os.stat_result) -> bool:
        ending = _ending(entry.name)
        if not stat.S_ISREG(status.st_mode):
            self._skip(NOT_REGULAR)
            return False
        if ending not in self.endings:
            reason = f"ending {one_line(ending)}" if ending else "no ending"
            self._skip(reason)
            return False
        return True

    def _skip(self, reason: str, count: int = 1) -> None:
        if count:
            self.skipped[reason] += count


def class_name(folder: str) -> str:
    """The name of a class: its folder's, with letters and accents composed, as systems spell them differently."""
    return unicodedata.normalize("NFC", utf8_name(folder))


def list_pictures(
    place: Path, in_classes: bool, setting: str, endings: Collection[str] = ENDINGS
) -> tuple[list[str], dict[str, int]]:
    """The pictures of a folder by the rules of `list_folder`, sorted by path, and what is skipped, by reason.

    `in_classes`: those of its class folders, as of a part of the data; else those in it and below it at any depth.
    `setting`: that names the folder; `endings`: of the files. `UserError` where a folder cannot be read.
    """
    skipped: Counter[str] = Counter()
    walk = Walk(place, None, skipped, setting, endings)
    found: list[PictureFile] = []
    if in_classes:
        for entry in walk.classes().values():
            found += walk.pictures(entry.path, 0)
    else:
        found = walk.everything()
    return sorted(file.path for file in found), dict(skipped)


def part_folders(root: Path, settings: ImageFolderDataset) -> dict[str, Path]:
    """The folders train and test, and those of validation pictures, by their names in small letters.

    `UserError` where one part has two.
    """
    named = {*PARTS, settings.test_folder.lower(), (settings.validation_folder or "train").lower()}
    found: dict[str, Path] = {}
    for entry in sorted(root.iterdir()):
        name = entry.name.lower()
        if name not in named or not entry.is_dir():
            continue
        if name in found and not entry.samefile(found[name]):
            pair = f"{found[name].name} and {entry.name}"
            raise UserError(f"dataset.root {one_line(root)}: {pair} are one part in two spellings; rename one")
        found[name] = entry
    return found


def list_folder(settings: ImageFolderDataset) -> FolderListing:
    """List the training and test pictures of `dataset.root`; `UserError` where it holds no classes to tell apart.

    The folder holds train/CLASS and test/CLASS (`dataset.test_folder` names another, such as val), or CLASS only: then
    the last pictures of each class, in an order that depends on the file names only, are the test part.
    """
    root = Path(settings.root)
    if not root.is_dir():
        raise UserError(f"dataset.root {settings.root!r} is no folder; it must hold train/CLASS/*.png or CLASS/*.png")
    root = root.resolve()  # so that every picture's path begins with it
    skipped: Counter[str] = Counter()
    parts = part_folders(root, settings)
    if "train" not in parts:
        _refuse_parts_without_train(root, parts, settings)
        classes, files = _scan(settings, root, skipped)
        refuse_few_classes(root, classes, files)
        training, test = set_aside(files, len(classes), settings.test_fraction)
        return FolderListing(root, classes, training, test, True, dict(skipped), [])
    tested, watched = settings.test_folder.lower(), (settings.validation_folder or "").lower()
    unused = [parts[name].name for name in VALIDATION_NAMES if name in parts and name not in (tested, watched)]
    if tested not in parts:
        raise UserError(_without_test(root, settings.test_folder, unused))
    classes, training = _scan(settings, parts["train"], skipped)
    refuse_few_classes(parts["train"], classes, training)
    test = _scan_alike(settings, parts[tested], classes, skipped)
    validation: list[PictureFile] = []
    if watched:
        if watched not in parts:
            place = one_line(root / str(settings.validation_folder))
            raise UserError(f"dataset.validation_folder is {settings.validation_folder!r}; there is no folder {place}")
        validation = _scan_alike(settings, parts[watched], classes, skipped)
    names = parts[tested].name, parts[watched].name if watched else ""
    return FolderListing(root, classes, training, test, False, dict(skipped), unused, validation, *names)


def _scan_alike(
    settings: ImageFolderDataset, part: Path, classes: list[str], skipped: Counter[str]
) -> list[PictureFile]:
    """The pictures of a part beside train; `UserError` where its classes are others."""
    own, files = _scan(settings, part, skipped)
    if own != classes:
        difference = named_difference(classes, own, "train", part.name)
        root = one_line(part.parent)
        raise UserError(f"dataset.root {root}: the class folders of train and {part.name} differ: {difference}")
    return files


def named_difference(first: Iterable[str], second: Iterable[str], in_first: str, in_second: str) -> str:
    """Say which names are in one list only: "only in train: ant; only in test: bee"; at most five of each."""
    parts = []
    pairs = ((in_first, set(first) - set(second)), (in_second, set(second) - set(first)))
    for place, names in pairs:
        if names:
            parts.append(f"only in {place}: {shortened(sorted(names), 5)}")
    return "; ".join(parts)


def shortened(names: Sequence[str], most: int) -> str:
    """The names with commas between them, in one line; beyond `most` their number instead."""
    shown = ", ".join(one_line(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _ending(name: str) -> str:
    return Path(name).suffix.lower()


def _scan(settings: ImageFolderDataset, part: Path, skipped: Counter[str]) -> tuple[list[str], list[PictureFile]]:
    """The classes of a part and their pictures; what is no picture is added to `skipped`."""
    walk = Walk(part, cache_folder(settings.cache), skipped)
    classes = walk.classes()
    files: list[PictureFile] = []
    for label, entry in enumerate(classes.values()):
        files += walk.pictures(entry.path, label)
    return list(classes), files


def _refuse_pictures_in_cache(folder: Path) -> None:
    """`UserError` where the folder that dataset.cache names, which is no class, holds pictures."""
    picture = next((file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS), None)
    if picture is not None:
        place = one_line(folder)
        raise UserError(f"dataset.cache is {place!r}, a class folder with pictures; give a folder of its own")


def cache_folder(named: str) -> Path | None:
    """The folder that dataset.cache names; None where there is no home that it begins with."""
    try:
        return Path(named).expanduser().resolve()
    except RuntimeError:
        return None


OF_PICTURES = ("class folder", "picture", f"pictures end in {' '.join(sorted(ENDINGS))}")


def refuse_few_classes(
    part: Path, classes: list[str], files: list[PictureFile], words: tuple[str, str, str] = OF_PICTURES
) -> None:
    """`UserError` where there are no two classes to tell apart, or where one holds no file.

    `words`: what a class is, what a file is, and which files are read.
    """
    of_class, noun, advice = words
    place = f"dataset.root {one_line(part)}"
    if len(classes) < 2:
        held = f"there is one class, {classes[0]!r}" if classes else f"there is no {of_class} in it"
        raise UserError(f"{place}: {held}; at least 2 are needed, a folder each")
    filled = {file.label for file in files}
    empty = [name for label, name in enumerate(classes) if label not in filled]
    if empty:
        raise UserError(f"{place}: class {shortened(empty, 5)} holds no {noun}; {advice}")


def _without_test(root: Path, name: str, unused: list[str]) -> str:
    """The message for a folder train alone; with pictures for validation, as ImageNet is laid out, what to do."""
    told = f"dataset.root {one_line(root)}: there is a folder train but no folder {name} beside it"
    if not unused:
        return told
    return f"{told}; to use the pictures of {unused[0]} as the test set, give dataset.test_folder={unused[0]}"


def _refuse_parts_without_train(root: Path, parts: Mapping[str, Path], settings: ImageFolderDataset) -> None:
    """`UserError` where a part is there or asked for and no folder train: it would be a class, or not be used."""
    advice = "name the training folder train, or move all classes into one folder"
    there = next((parts[name].name for name in ("test", settings.test_folder.lower()) if name in parts), None)
    if there is not None:
        told = f"dataset.root {one_line(root)}: there is a folder {there} but no folder train beside it"
        raise UserError(f"{told}; {advice}")
    for setting, value, default in (
        ("test_folder", settings.test_folder, "test"),
        ("validation_folder", settings.validation_folder, None),
    ):
        if value != default:
            shown = "null" if default is None else default
            told = f"dataset.{setting} is {value!r}, but dataset.root {one_line(root)} has no folder train"
            raise UserError(f"{told}; it must be {shown} there, or {advice}")


def set_aside(files: list[PictureFile], classes: int, fraction: float) -> tuple[list[PictureFile], list[PictureFile]]:
    """Training and test files where there is no test folder, each sorted by path; `fraction`: of each class."""
    training: list[PictureFile] = []
    test: list[PictureFile] = []
    for label in range(classes):
        own = [file for file in files if file.label == label]
        own.sort(key=lambda file: hashlib.sha256(os.fsencode(Path(file.path).name)).digest())
        count = max(1, round(fraction * len(own)))
        training += own[:-count]
        test += own[-count:]
    return sorted(training), sorted(test)
