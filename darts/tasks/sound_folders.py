"""Folders of sounds: which files are training and test sounds, of which class, by whom, and what is left out.

A folder is listed, not read: a search may list the test part, whose sounds it must not open.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from darts.runtime.errors import UserError, one_line, unknown
from darts.tasks.audio_settings import AudioFolder
from darts.tasks.folders import (
    PARTS,
    VALIDATION_NAMES,
    FolderListing,
    PictureFile,
    Walk,
    cache_folder,
    class_name,
    named_difference,
    refuse_few_classes,
    set_aside,
    shortened,
)
from darts.tasks.sounds import OTHER_ENDINGS, SOUND_ENDINGS

NOISE = "_background_noise_"  # a folder of Speech Commands that is no word
NOUN = "sound"
READ, OTHERS = " ".join(sorted(SOUND_ENDINGS)), " ".join(sorted(OTHER_ENDINGS))
OF_SOUNDS = ("class", NOUN, f"sounds end in {READ}; other forms ({OTHERS}) must be converted")


@dataclass(frozen=True)
class _Division:
    """Which of the sounds of a folder are what."""

    training: list[PictureFile]
    test: list[PictureFile]
    validation: list[PictureFile]


def list_sounds(settings: AudioFolder) -> FolderListing:
    """List the training and test sounds of `dataset.root`; `UserError` where it holds no classes to tell apart.

    The folder holds train/ and test/ (and perhaps valid/), or sounds of all parts. The latter are divided by the lists
    `dataset.testing_list` and `dataset.validation_list`, by `dataset.speakers_held_out`, or `dataset.test_fraction` of
    each class is the test part, always the same. A sound's class is its folder, or `dataset.name_pattern` finds it.
    """
    root = Path(settings.root).expanduser()
    if not root.is_dir():
        raise UserError(f"dataset.root {settings.root!r} is no folder; it must hold CLASS/*.wav, or train and test")
    root = root.resolve()
    skipped: Counter[str] = Counter()
    folders = _parts(root)
    if "train" in folders and "test" in folders:
        return _of_parts(settings, root, folders, skipped)
    if not settings.labelled_by_name:
        _refuse_lone_part(root, folders)
    classes, files = _scan(settings, root, skipped)
    refuse_few_classes(root, classes, files, OF_SOUNDS)
    lists = {setting: _list_file(settings, root, setting) for setting in ("testing_list", "validation_list")}
    division = _divided(settings, root, files, lists, len(classes))
    watched, unused = division.validation, list[str]()
    if lists["validation_list"] is not None and not settings.watch_validation:
        watched, unused = [], [lists["validation_list"].name]
    _refuse_unwatched(settings, watched)
    parts = division.training, division.test
    return FolderListing(root, classes, *parts, True, dict(skipped), unused, watched, "", "", NOUN)


def _parts(root: Path) -> dict[str, Path]:
    """The folders that are named like parts, by their names in small letters; `UserError` where two have one name."""
    found: dict[str, Path] = {}
    for entry in sorted(root.iterdir()):
        name = entry.name.lower()
        if name in PARTS and entry.is_dir():
            if name in found:
                told = f"the folders {found[name].name} and {entry.name} are one part in two spellings; remove one"
                raise UserError(f"dataset.root {one_line(root)}: {told}")
            found[name] = entry
    return found


def _refuse_lone_part(root: Path, folders: dict[str, Path]) -> None:
    """`UserError` where there is train or test only, with class folders in it; a folder of sounds is a class."""
    for name, other in (("train", "test"), ("test", "train")):
        place = folders.get(name)
        if place is not None and any(entry.is_dir() for entry in place.iterdir()):
            told = f"there is a folder {place.name} with class folders, but no folder {other} beside it"
            raise UserError(f"dataset.root {one_line(root)}: {told}; add it, or move all classes into one folder")


def _of_parts(settings: AudioFolder, root: Path, folders: dict[str, Path], skipped: Counter[str]) -> FolderListing:
    """The listing of a folder with train and test."""
    held = settings.speakers_held_out
    if held:
        raise UserError(f"dataset.speakers_held_out is {held}; it must be empty, for dataset.root has a folder test")
    classes, training = _scan(settings, folders["train"], skipped)
    refuse_few_classes(folders["train"], classes, training, OF_SOUNDS)
    test = _scan_alike(settings, folders["test"], classes, skipped)
    there = [name for name in VALIDATION_NAMES if name in folders]
    watched, folder = list[PictureFile](), ""
    if there and settings.watch_validation:
        folder = folders[there.pop(0)].name
        watched = _scan_alike(settings, root / folder, classes, skipped)
    _refuse_unwatched(settings, watched)
    unused = [folders[name].name for name in there]
    tested = folders["test"].name
    return FolderListing(root, classes, training, test, False, dict(skipped), unused, watched, tested, folder, NOUN)


def _refuse_unwatched(settings: AudioFolder, watched: list[PictureFile]) -> None:
    if settings.watch_validation and not watched:
        told = "dataset.validation_list names no sound but test sounds, and no folder valid stands beside train"
        raise UserError(f"dataset.watch_validation is true, but {told}")


def _scan(settings: AudioFolder, part: Path, skipped: Counter[str]) -> tuple[list[str], list[PictureFile]]:
    """The classes of a part and their sounds; what is no sound is added to `skipped`."""
    walk = Walk(part, cache_folder(settings.cache), skipped, endings=SOUND_ENDINGS)
    if settings.labelled_by_name:
        found = walk.everything()
        kept = [file for file in found if NOISE not in Path(file.path).relative_to(part).parts[:-1]]
        if len(kept) < len(found):
            skipped[f"folder {NOISE}"] += 1
        return _by_name(settings, kept)
    folders = walk.classes()
    if folders.pop(NOISE, None) is not None:
        skipped[f"folder {NOISE}"] += 1
    files: list[PictureFile] = []
    for label, entry in enumerate(folders.values()):
        files += walk.pictures(entry.path, label)
    return list(folders), files


def _scan_alike(settings: AudioFolder, part: Path, classes: list[str], skipped: Counter[str]) -> list[PictureFile]:
    """The sounds of a part beside train; `UserError` where its classes are others."""
    own, files = _scan(settings, part, skipped)
    if own != classes:
        difference = named_difference(classes, own, "train", part.name)
        told = f"the class folders of train and {part.name} differ: {difference}"
        raise UserError(f"dataset.root {one_line(part.parent)}: {told}")
    return files


def _by_name(settings: AudioFolder, files: list[PictureFile]) -> tuple[list[str], list[PictureFile]]:
    """The classes that the files' names say, sorted, and the files with their labels."""
    names = [class_name(_group(settings, file, "label")) for file in files]
    classes = sorted(set(names))
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, [file._replace(label=numbers[name]) for file, name in zip(files, names, strict=True)]


def _group(settings: AudioFolder, file: PictureFile, group: str) -> str:
    """What a group of `dataset.name_pattern` finds in a file's name without ending; `UserError` where it finds none."""
    found = re.fullmatch(settings.name_pattern or "", Path(file.path).stem)
    text = found[group] if found else None
    if not text:
        told = f"finds no {group} in {one_line(Path(file.path).stem)!r}"
        raise UserError(f"dataset.name_pattern is {settings.name_pattern!r}, which {told} ({one_line(file.path)})")
    return text


def _list_file(settings: AudioFolder, root: Path, setting: str) -> Path | None:
    """The file of a list; None where it has the usual name and is not there. `UserError` where one is not usable."""
    name = getattr(settings, setting)
    if name is None:
        return None
    place = root / name
    try:
        if place.is_file():
            return place
        there = os.path.lexists(place)
    except (OSError, ValueError):
        there = False
    if there or name != f"{setting}.txt":
        told = "is no file" if there else "is not in dataset.root"
        must = "it must be the name of a list, or null"
        raise UserError(f"dataset.{setting} is {one_line(name)!r}, which {told}; {must}")
    return None


def _divided(
    settings: AudioFolder, root: Path, files: list[PictureFile], lists: dict[str, Path | None], classes: int
) -> _Division:
    """Training, test and validation sounds, each in the order of the files."""
    testing, validation = lists["testing_list"], lists["validation_list"]
    held = settings.speakers_held_out
    if held:
        if testing is not None:
            told = f"empty, for dataset.root holds {testing.name}; or give dataset.testing_list=null"
            raise UserError(f"dataset.speakers_held_out is {held}; it must be {told}")
        speakers = [_group(settings, file, "speaker") for file in files]
        for name in held:
            if name not in speakers:
                raise unknown("dataset.speakers_held_out: speaker", name, sorted(set(speakers)))
        apart = {file for file, speaker in zip(files, speakers, strict=True) if speaker in held}
    else:
        apart = _named(root, files, testing)
    watched = _named(root, files, validation) - apart
    rest = [file for file in files if file not in apart and file not in watched]
    if not held and testing is None:
        rest, test = set_aside(rest, classes, settings.test_fraction)
    else:
        test = [file for file in files if file in apart]
    return _Division(rest, test, [file for file in files if file in watched])


def _named(root: Path, files: Iterable[PictureFile], place: Path | None) -> set[PictureFile]:
    """The files that a list names, a path within the folder on each line; `UserError` for one that is not there."""
    if place is None:
        return set()
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{one_line(place)} cannot be read as a list ({type(error).__name__})") from None
    by_place = {class_name(Path(file.path).relative_to(root).as_posix()): file for file in files}
    names = [class_name(line.strip().replace("\\", "/").removeprefix("./")) for line in lines if line.strip()]
    strange = [name for name in names if name not in by_place]
    if strange:
        told = f"names {len(strange)} sounds that dataset.root does not hold: {shortened(strange, 3)}"
        raise UserError(f"{one_line(place)} {told}; its lines must be CLASS/NAME.wav")
    return {by_place[name] for name in names}
