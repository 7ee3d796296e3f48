"""What a comparison runs: searches by method and seed, then networks by one protocol, each a named trial.

Every cell, found or drawn at random, is trained `retrainings` times, and every network has a seed of its own: found and
random cells are treated alike, so that a cell which is found no better than at random is one draw more among them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from darts.compare.searches import finished_searches, searched_methods
from darts.compare.settings import CompareSettings
from darts.config.identity import digest
from darts.loop.record import experiment
from darts.loop.settings import taken_over
from darts.runtime.errors import UserError
from darts.runtime.seeding import derive
from darts.runtime.settings import ParallelSettings
from darts.spaces.fixed import FixedCell, find_cell, fixed_cells, read_fixed, refuse_one_cell_twice
from darts.spaces.genotype import Genotype
from darts.spaces.membership import check_membership
from darts.spaces.sources import finished_genotype, random_genotype
from darts.train.result import protocol
from darts.train.settings import FROM_SCRATCH, FinalSettings, TextFinalSettings

SEARCHED, RANDOM = "searched", "random sampling"
ALONE = ParallelSettings(synchronised_batch_norm=True, timeout_minutes=1.0)  # a trial is one process's


@dataclass(frozen=True)
class Trial:
    """One network to train."""

    number: int  # of the cell in its group
    group: str  # a method, SEARCHED or RANDOM
    cell: str  # how the cell is called in the report
    genotype: Genotype
    seed: int


def given_cells_file(settings: CompareSettings, folder: Path) -> Path:
    """Where a comparison keeps the cells that `searched` named when it began; one of other settings has another."""
    return folder / f"cells_{digest(experiment(settings, tested=True))}.json"


def find_given(settings: CompareSettings, reference: str) -> FixedCell:
    """The cell that an entry of `searched` names now."""
    return find_cell(reference, settings.space, settings.runs, settings.seed)


def fix_given_cells(settings: CompareSettings, folder: Path) -> None:
    """Look up, once for all trials of a comparison and for its resumption, the cells that `searched` names."""
    if settings.searched:
        file = given_cells_file(settings, folder)
        fixed_cells(file, settings.searched, lambda reference: find_given(settings, reference))


def given_cells(settings: CompareSettings, folder: Path) -> list[tuple[str, Genotype]]:
    """The cells of `searched`, as they were when the comparison began."""
    known = read_fixed(given_cells_file(settings, folder))
    cells = [known.get(reference) or find_given(settings, reference) for reference in settings.searched or []]
    refuse_one_cell_twice(cells, "searched")
    return [(cell.origin, cell.genotype) for cell in cells]


def found_cells(settings: CompareSettings, folder: Path) -> dict[str, list[tuple[str, Genotype]]]:
    """By group the cells with their names; searches that failed are left out."""
    groups: dict[str, list[tuple[str, Genotype]]] = {}
    found = list(finished_searches(settings, folder))
    for method in searched_methods(settings):
        places = {search.seed: place for search, place in found if search.method == method}
        if places:
            groups[method] = [(f"{method}, seed {seed}", finished_genotype(place)) for seed, place in places.items()]
    if settings.searched:
        groups[SEARCHED] = given_cells(settings, folder)
    if not groups:
        raise UserError(
            f"methods: no search of {', '.join(searched_methods(settings))} has ended well; see {folder / 'searches'}"
        )
    for cells in groups.values():
        for name, genotype in cells:  # else its random cells would be of another space
            check_membership(genotype, settings.space, f"searched {name}")
    return groups


def all_cells(settings: CompareSettings, folder: Path) -> dict[str, list[tuple[str, Genotype]]]:
    """By group the cells with their names, random ones last."""
    numbers = range(settings.random.samples)
    drawn = [(f"random {number}", random_genotype(settings.space, settings.seed, number)) for number in numbers]
    return {**found_cells(settings, folder), RANDOM: drawn}


def plan_trials(settings: CompareSettings, folder: Path) -> list[Trial]:
    """All trainings, found cells and random ones in turn, so that an interrupted comparison has some of each."""
    groups = all_cells(settings, folder)
    longest = max(map(len, groups.values()))
    trials = []
    for repetition, number in itertools.product(range(settings.retrainings), range(longest)):
        for group, cells in groups.items():
            if number < len(cells):
                name, genotype = cells[number]
                seed = trial_seed(settings.seed, group, number, repetition)
                trials.append(Trial(number, group, name, genotype, seed))
    return trials


def trial_seed(seed: int, group: str, number: int, repetition: int) -> int:
    """A network's own seed: other networks of the comparison have others, and asking for more changes none."""
    return derive(seed, f"network of {group}", number, repetition) % 2**32


def trial_settings(settings: CompareSettings, trial: Trial) -> FinalSettings:
    """The retraining settings of a trial: the comparison's, with a seed of its own."""
    own = {"seed": trial.seed, "genotype": trial.cell, "parallel": ALONE, **FROM_SCRATCH}
    if settings.dataset.is_text:
        return taken_over(TextFinalSettings, settings, **own)
    return taken_over(FinalSettings, settings, **own)


def trial_name(settings: CompareSettings, trial: Trial) -> str:
    """A folder name that says which cell, protocol and seed: equal names mean equal results."""
    final = trial_settings(settings, trial)
    flat = {key: value for key, value in protocol(final, trial.genotype).items() if key != "seed"}
    return f"{trial.genotype.digest()}_{digest(flat)}_seed{trial.seed}"
