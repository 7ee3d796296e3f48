"""Where a genotype comes from: a published name, a file, the newest finished search, or a random draw."""

from __future__ import annotations

from pathlib import Path

from darts.runtime.errors import UserError, unknown
from darts.runtime.seeding import python_generator
from darts.spaces.genotype import Genotype, from_json
from darts.spaces.membership import check_membership
from darts.spaces.notation import from_notation
from darts.spaces.published import NAMES, published
from darts.spaces.search_space import SearchSpace


def find_genotype(reference: str, space: SearchSpace, runs: str, seed: int) -> Genotype:
    """The genotype that a setting names.

    `latest` is that of the newest finished search under `runs`; `random` is drawn uniformly from `space` with `seed`;
    else a published name, the printed notation itself, a JSON file, a text file with the printed notation, or a run
    folder. Raises `UserError` for a name that is none of these and for a genotype of another space.
    """
    if reference == "random":
        return random_genotype(space, seed, 0)
    if reference in NAMES:
        return published(reference)  # named outright, whatever the space
    path = newest_search(runs) if reference == "latest" else Path(reference)
    typed = reference.lstrip().startswith("Genotype(")
    if typed:
        genotype, origin = from_notation(reference, space.name), "genotype"
    else:
        genotype, origin = read_genotype(path, space), str(path)
    check_membership(genotype, space, origin, stamped=not typed)
    return genotype


def random_genotype(space: SearchSpace, seed: int, number: int) -> Genotype:
    """The `number`-th of an endless list of uniform draws that depends on the seed only."""
    drawn = space.sample(python_generator(seed, "random genotype", number))
    return Genotype(drawn.space, drawn.cells, {"drawn": "uniformly", "seed": seed, "number": number})


def read_genotype(path: Path, space: SearchSpace) -> Genotype:
    """Read a run folder's genotype.json, a JSON file, or a text file with the printed notation (of `space`)."""
    try:
        file = path / "genotype.json" if path.is_dir() else path
        there = file.is_file()
    except (OSError, ValueError):  # too long for a name, or holding what no name may
        raise unknown("genotype", path, ("latest", "random", *NAMES, "or a file")) from None
    if not there:
        if path.is_dir():
            raise UserError(f"genotype {path}: no genotype.json in this folder; the search has not ended")
        raise unknown("genotype", path, ("latest", "random", *NAMES, "or a file"))
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"genotype {file}: cannot be read as text ({error})") from None
    if text.lstrip().startswith("Genotype("):
        return from_notation(text, space.name, origin=str(file))
    return from_json(text, origin=str(file))


def newest_search(runs: str) -> Path:
    """The genotype.json that was written last under `runs`/search; a search writes it when it ends."""
    found = list((Path(runs) / "search").rglob("genotype.json"))
    if not found:
        place = (Path(runs) / "search").resolve()
        raise UserError(f"genotype is 'latest', but there is no finished search in {place}; run train_search.py first")
    return max(found, key=lambda file: (file.stat().st_mtime_ns, str(file)))
