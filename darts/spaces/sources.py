"""Where a genotype comes from: a published name, a file, the newest finished search, a text, or a random draw."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection
from pathlib import Path

from darts.runtime.errors import UserError, unknown
from darts.runtime.files import files_below, newest
from darts.runtime.seeding import python_generator
from darts.spaces.chain import are_digits, from_digits, is_chain
from darts.spaces.genotype import Genotype, from_json
from darts.spaces.membership import check_membership, record_of_space
from darts.spaces.notation import from_notation, holds_cells
from darts.spaces.published import NAMES, is_published, published
from darts.spaces.search_space import RECURRENT, SearchSpace, Skeleton, is_recurrent

RESULT = "result.json"  # of a retraining, whose cell it holds
_DICTIONARY = re.compile(r"""\{\s*[ubr]?['"](?:(?:normal|reduce)(?:_concat)?|recurrent)['"]\s*:""")
_DRAWN = re.compile(r"random(:(?P<seed>\d{1,10}))?")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def find_genotype(
    reference: str, space: SearchSpace, runs: str, seed: int, operations: Collection[str] | None = None
) -> Genotype:
    """The genotype that a setting names.

    `latest` is that of the newest finished search under `runs`; `random` is drawn uniformly from `space` with `seed`,
    and `random:7` with the seed 7; else a published name, the folder of a search or of a retraining, a file
    (FILE:LINE and FILE:NAME choose one of its cells), or the text of a cell itself, of a chain its digits. A published
    name stands for
    its cell whatever the space of images; with a recurrent space darts_v1, darts_v2 and enas are the recurrent cells
    of those papers. Raises `UserError` for what is none of these, for a genotype that is not of `space`, and first,
    where `operations` are given, for an operation of another name.
    """
    if drawn := _DRAWN.fullmatch(reference):
        return random_genotype(space, int(drawn["seed"] or seed), 0)
    recurrent = f"{reference}_{RECURRENT}"
    if space.skeleton is Skeleton.recurrent and is_published(recurrent):
        return published(recurrent)
    if is_published(reference):
        return _of_the_same_kind(published(reference), space, reference)
    if space.chain is not None and are_digits(reference, space.nodes):
        return _of_digits(reference, space)
    path = newest_search(runs) if reference == "latest" else Path(reference)
    text, origin, which = _text_of(path, reference)
    genotype = read_text(text, space.name, origin, which)
    if operations is not None and not (is_recurrent(genotype) or is_chain(genotype)):
        _refuse_unknown_operations(genotype, operations, origin)
    check_membership(genotype, space, origin, stamped=_is_json(text))
    return genotype


def _of_digits(reference: str, space: SearchSpace) -> Genotype:
    """A chain of a space by its digits; `UserError` for a layer whose operation may not be there."""
    typed = from_digits(reference, space.candidates, space.nodes, space.name)
    check_membership(typed, space, f"genotype {reference}")
    return Genotype(typed.space, typed.cells, {"space": record_of_space(space)})


def _of_the_same_kind(genotype: Genotype, space: SearchSpace, reference: str) -> Genotype:
    """The genotype; `UserError` for a recurrent cell where networks of images are built, and for the reverse.

    And for cells where a chain is.
    """
    if space.chain is not None:
        allowed = f"{space.nodes} digits, or a chain that a search has found"
        raise UserError(
            f"genotype {reference} is of cells, but space={space.name} is a chain of layers; give {allowed}"
        )
    recurrent = space.skeleton is Skeleton.recurrent
    if is_recurrent(genotype) and not recurrent:
        raise UserError(f"genotype {reference} is a recurrent cell, but space is {space.name!r}; add space=recurrent")
    if recurrent and not is_recurrent(genotype):
        allowed = "darts_v1, darts_v2, enas, or a cell that a search of a text has found"
        raise UserError(f"genotype {reference} is a cell for images, but space is {space.name!r}; give {allowed}")
    return genotype


def random_genotype(space: SearchSpace, seed: int, number: int) -> Genotype:
    """The `number`-th of an endless list of uniform draws that depends on the seed only."""
    drawn = space.sample(python_generator(seed, "random genotype", number))
    provenance = {"drawn": "uniformly", "seed": seed, "number": number, "space": record_of_space(space)}
    return Genotype(drawn.space, drawn.cells, provenance)


def finished_genotype(folder: Path) -> Genotype:
    """The result of a run that has ended, in its genotype.json; `UserError` where the file is damaged."""
    file = folder / "genotype.json"
    return from_json(_decoded(file), str(file))


def read_genotype(path: Path, space: SearchSpace) -> Genotype:
    """Read a run folder's genotype.json or a file that holds a cell; `space` is that of a cell that names none."""
    text, origin, which = _text_of(path, str(path))
    return read_text(text, space.name, origin, which)


def read_text(text: str, space: str, origin: str, which: str = "") -> Genotype:
    """Read a genotype from a text: the JSON form, or a cell as people print it (`from_notation`).

    `space` is the stamp of a cell whose text names none, `which` one of several cells. Raises `UserError`, which
    begins with `origin`.
    """
    if not _is_json(text):
        return from_notation(text, space, origin, which)
    if which:
        raise UserError(f"{origin}: is one genotype in the JSON form; leave out ':{which}'")
    return from_json(text.lstrip("\ufeff"), origin)


def _is_json(text: str) -> bool:
    """Whether a text is meant to be the JSON form: it begins with a brace, and holds no dictionary of printed cells."""
    begin = text.lstrip("\ufeff \t\r\n")
    if not begin.startswith("{") or _DICTIONARY.match(begin) is not None:
        return False
    return any(f'"{key}"' in begin for key in ("format", "space", "cells")) or not holds_cells(begin)


def _refuse_unknown_operations(genotype: Genotype, operations: Collection[str], origin: str) -> None:
    for name in genotype.operations():
        if name not in operations:
            raise unknown(f"{origin}: operation", name, operations)


def _text_of(path: Path, reference: str) -> tuple[str, str, str]:
    """The text that a reference stands for, how to call it in a message, and which of its cells is meant."""
    file, which = _file_of(path)
    if file is not None:
        text = _decoded(file)
        return _cell_of_result(text, file) if file.name == RESULT else text, str(file), which
    if holds_cells(reference) or _is_json(reference):
        return reference, "genotype", ""
    raise unknown("genotype", reference, ("latest", "random", *NAMES, "or a file"))


def _file_of(path: Path) -> tuple[Path | None, str]:
    """The file that a path names, or None; and what stands after a colon behind the file's name."""
    try:
        if path.is_dir():
            held = [path / name for name in ("genotype.json", RESULT) if (path / name).is_file()]
            if not held:
                raise UserError(f"genotype {path}: no genotype.json in this folder; the search has not ended")
            return held[0], ""
        if path.is_file():
            return path, ""
        name, colon, which = path.name.rpartition(":")
        file = path.with_name(name) if colon and name and re.fullmatch(r"\w+", which) else path
        return (file, which) if file.is_file() else (None, "")
    except (OSError, ValueError):  # too long for a name, or holding what no name may
        return None, ""


def _cell_of_result(text: str, file: Path) -> str:
    """The cell within the text of a retraining's result.json, in the JSON form."""
    try:
        return json.dumps(json.loads(text)["genotype"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"genotype {file}: is no result of a retraining, which holds its genotype") from None


def _decoded(file: Path) -> str:
    """The text of a file in UTF-8, or in what its byte-order mark says."""
    try:
        data = file.read_bytes()
        encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"genotype {file}: cannot be read as text ({error})") from None


def folders_of_searches(reference: str) -> list[str]:
    """The folders of all finished searches in a folder, sorted; none where the reference names no folder."""
    try:
        inside = sorted(files_below(Path(reference), "genotype.json"))
    except OSError:  # a cell's text, which is too long for a name
        return []
    return [str(file.parent) for file in inside]


def newest_search(runs: str) -> Path:
    """The genotype.json that was written last under `runs`/search; a search writes it when it ends."""
    last = newest(files_below(Path(runs) / "search", "genotype.json"))
    if last is None:
        place = (Path(runs) / "search").resolve()
        raise UserError(f"genotype is 'latest', but there is no finished search in {place}; run train_search.py first")
    return last
