"""The true classes of pictures: by their folders, or by a table that somebody wrote, whatever form names have there."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from darts.runtime.errors import UserError, one_line
from darts.runtime.files import read_regular
from darts.runtime.text import system_name
from darts.tasks.folders import PARTS, class_name, shortened

FOLDERS = "folders"


class Told(NamedTuple):
    """What a line of a table says."""

    line: int
    label: str  # the class


def labels_of(files: Sequence[Path], place: Path, labels: str, classes: Sequence[str]) -> dict[str, int]:
    """By file the number of its true class; `UserError` for a class that the network has not, or a file without one.

    `labels`: "folders", the first folder below `place`; or a CSV file. Names are compared with accents composed.
    """
    named = _by_folder(files, place) if labels == FOLDERS else _from_csv(files, place, Path(labels).expanduser())
    numbers = {class_name(name): number for number, name in enumerate(classes)}
    found = {}
    for file in files:
        name = named.get(str(file))
        if name is None:
            raise UserError(f"labels is {one_line(labels)!r}, which says nothing of {one_line(file)}")
        if class_name(name) not in numbers:
            known = shortened(list(classes), 20)
            part = (
                "" if labels != FOLDERS or name.lower() not in PARTS else f"; or give images={one_line(place / name)}"
            )
            told = f"labels: {one_line(file)} is of class {one_line(name)!r}; the network's are {known}"
            raise UserError(told + part)
        found[str(file)] = numbers[class_name(name)]
    return found


def _by_folder(files: Sequence[Path], place: Path) -> dict[str, str]:
    if place.is_file():
        return {str(place): Path(_absolute(place)).parent.name}
    parts = {str(file): file.relative_to(place).parts for file in files}
    return {file: own[0] for file, own in parts.items() if len(own) > 1}


def _from_csv(files: Sequence[Path], place: Path, table: Path) -> dict[str, str]:
    """Lines file,class; a name stands for a file in `images`, or beside the table; either may be an absolute path.

    `UserError` where one picture has two classes.
    """
    root = place if place.is_dir() else place.parent
    pictures = _Pictures(files)
    told: dict[str, Told] = {}
    for number, name, label in _lines(table):
        for file in pictures.named([root / name, table.parent / name]):
            before = told.setdefault(file, Told(number, label))
            if class_name(before.label) != class_name(label):
                pair = f"{one_line(label)!r}, and of {one_line(before.label)!r} in line {before.line}"
                where = f"{one_line(table)}: line {number}"
                raise UserError(f"labels: {where} says that {one_line(name)} is of class {pair}; leave one of them")
    return {file: line.label for file, line in told.items()}


def _lines(table: Path) -> list[tuple[int, str, str]]:
    """The lines of a table as (number, file, class), the file's name as the system knows it."""
    try:
        text = read_regular(table).decode("utf-8-sig", "surrogateescape")
        reader = csv.reader(io.StringIO(text, newline=""))
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, csv.Error) as error:
        told = f"{one_line(table)!r}, which cannot be read ({one_line(error)})"
        raise UserError(f"labels is {told}; give folders, or a CSV file") from None
    found = []
    for number, row in rows:
        if len(row) != 2:
            raise UserError(f"labels: {one_line(table)}: line {number} has {len(row)} columns, not file,class")
        name, label = (cell.strip() for cell in row)
        if not name or not label:
            raise UserError(f"labels: {one_line(table)}: line {number} lacks a file or a class")
        found.append((number, system_name(name), label))
    return found


def _absolute(path: Path) -> str:
    """A path from the root, without dots, with its links as they are."""
    return os.path.abspath(path)  # noqa: PTH100  Path.resolve would follow them


KEYS: tuple[Callable[[Path], str], ...] = (
    _absolute,
    lambda path: class_name(_absolute(path)),  # in another Unicode spelling
    lambda path: class_name(os.path.realpath(path)),  # through links
)  # by what a path is compared with a listed picture's, the closest first


class _Pictures:
    """Listed pictures, found by any path that leads to them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.known: dict[int, dict[str, list[str]]] = {}  # by the number of a key: pictures by it, once it is needed

    def named(self, paths: Sequence[Path]) -> list[str]:
        """The listed pictures that one of the paths means; where none does, the first path, a picture not listed."""
        try:
            for number, key in enumerate(KEYS):
                known = self._by(number)
                for path in paths:
                    if key(path) in known:
                        return known[key(path)]
            return [_absolute(paths[0])]
        except ValueError:  # no name may hold a NUL
            return []

    def _by(self, number: int) -> dict[str, list[str]]:
        if number not in self.known:
            found: dict[str, list[str]] = {}
            for file in self.files:
                found.setdefault(KEYS[number](file), []).append(str(file))
            self.known[number] = found
        return self.known[number]
