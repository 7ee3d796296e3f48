"""The cells of a study, looked up once: what `latest` or a file names may be another cell an hour later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from darts.runtime.errors import UserError
from darts.runtime.files import read_json, write_json
from darts.runtime.schema import JSON
from darts.spaces.genotype import Genotype, from_json, to_json
from darts.spaces.search_space import SearchSpace
from darts.spaces.sources import find_genotype, newest_search

FILE = {str: {"origin": str, "digest": str, "genotype": {str: JSON}}}  # cells.json: by reference


class FixedCell(NamedTuple):
    """What a reference named when the study began: a folder, file or published name, and the cell itself."""

    origin: str
    genotype: Genotype


def find_cell(reference: str, space: SearchSpace, runs: str, seed: int) -> FixedCell:
    """The cell that a reference names now, under a name that keeps its meaning; raises as `find_genotype`.

    `latest` becomes the folder of its run, and `random` the draw of this seed.
    """
    lasting = {"random": f"random:{seed}"}
    if reference == "latest":
        lasting["latest"] = str(newest_search(runs).parent)
    origin = lasting.get(reference, reference)
    return FixedCell(origin, find_genotype(origin, space, runs, seed))


def refuse_one_cell_twice(cells: Sequence[FixedCell], setting: str) -> None:
    """`UserError` where two entries are one cell of one search, by whatever names: it is one observation.

    Two searches may find equal cells; their records differ in seed or settings.
    """
    known: dict[str, str] = {}
    for origin, genotype in cells:
        name = to_json(genotype)  # the cell with its record
        if name in known and known[name] != origin:
            raise UserError(f"{setting}: {known[name]} and {origin} are one and the same cell; name it once")
        known[name] = origin


def fixed_cells(file: Path, references: Sequence[str], find: Callable[[str], FixedCell]) -> dict[str, FixedCell]:
    """By reference the cell that it named when the study began, as `file` holds it.

    A reference that the file does not hold is looked up by `find` and added. `UserError` where the file is damaged.
    """
    known = read_fixed(file)
    new = {reference: find(reference) for reference in references if reference not in known}
    known |= new
    if new:
        write_json(file, {reference: _as_json(cell) for reference, cell in known.items()})
    return {reference: known[reference] for reference in references}


def _as_json(cell: FixedCell) -> dict[str, object]:
    return {"origin": cell.origin, "digest": cell.genotype.digest(), "genotype": json.loads(to_json(cell.genotype))}


def read_fixed(file: Path) -> dict[str, FixedCell]:
    """All cells that a study's file holds, by reference; none where the study has not begun."""
    if not file.exists():
        return {}
    found = {}
    for reference, entry in read_json(file, FILE, "remove the folder to start again").items():
        genotype = from_json(json.dumps(entry["genotype"]), origin=str(file))
        if genotype.digest() != entry["digest"]:
            told = f"{reference} is {genotype.digest()} and was {entry['digest']} when the study began"
            raise UserError(f"{file} is damaged: {told}; remove the folder to start again")
        found[reference] = FixedCell(entry["origin"], genotype)
    return found
