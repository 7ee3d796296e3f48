"""The cells of a study, looked up once: what `latest` or a file names may be another cell an hour later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from darts.runtime.errors import UserError
from darts.runtime.files import write_json
from darts.spaces.genotype import Genotype, from_json, to_json
from darts.spaces.search_space import SearchSpace
from darts.spaces.sources import find_genotype, newest_search


class FixedCell(NamedTuple):
    """What a reference named when the study began: a folder, file or published name, and the cell itself."""

    origin: str
    genotype: Genotype


def find_cell(reference: str, space: SearchSpace, runs: str, seed: int) -> FixedCell:
    """The cell that a reference names now, `latest` under the name of its run folder; raises as `find_genotype`."""
    origin = str(newest_search(runs).parent) if reference == "latest" else reference
    return FixedCell(origin, find_genotype(origin, space, runs, seed))


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
    try:
        content = json.loads(file.read_text())
        found = {}
        for reference, entry in content.items():
            genotype = from_json(json.dumps(entry["genotype"]), origin=str(file))
            found[str(reference)] = FixedCell(str(entry["origin"]), genotype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}); remove the folder to start again") from None
    return found
