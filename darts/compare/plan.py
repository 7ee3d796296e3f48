"""What a comparison runs: searches by method and seed, then networks in pairs by one protocol, each a named trial.

Every group (a method, or the cells that were given) trains as many networks as there are random cells: its cells take
turns. The n-th network of every group and the n-th random cell share the seed `seed + n`, so that differences are
paired; each random cell is a draw of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darts.compare.searches import finished_searches
from darts.compare.settings import CompareSettings
from darts.config.identity import digest
from darts.loop.record import experiment
from darts.loop.settings import taken_over
from darts.runtime.errors import UserError
from darts.runtime.settings import ParallelSettings
from darts.spaces.fixed import FixedCell, find_cell, fixed_cells, read_fixed
from darts.spaces.genotype import Genotype, from_json
from darts.spaces.membership import check_membership
from darts.spaces.sources import random_genotype
from darts.train import retraining as retrain
from darts.train.settings import FinalSettings

SEARCHED, RANDOM = "searched", "random sampling"
ALONE = ParallelSettings(synchronised_batch_norm=True, timeout_minutes=1.0)  # a trial is one process's


@dataclass(frozen=True)
class Trial:
    """One network to train."""

    pair: int
    group: str  # a method, SEARCHED or RANDOM
    cell: str  # how the cell is called in the report
    genotype: Genotype
    seed: int


def given_cells_file(settings: CompareSettings, folder: Path) -> Path:
    """Where a comparison keeps the cells that `searched` named when it began; one of other settings has another."""
    own = {key: value for key, value in experiment(settings, tested=True).items() if key != "trial"}
    return folder / f"cells_{digest(own)}.json"


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
    return [(cell.origin, cell.genotype) for cell in cells]


def found_cells(settings: CompareSettings, folder: Path) -> dict[str, list[tuple[str, Genotype]]]:
    """By group the cells with their names; searches that failed are left out."""
    groups: dict[str, list[tuple[str, Genotype]]] = {}
    found = list(finished_searches(settings, folder))
    for method in settings.methods:
        files = {search.seed: place / "genotype.json" for search, place in found if search.method == method}
        if files:
            groups[method] = [
                (f"{method}, seed {seed}", from_json(file.read_text(), origin=str(file)))
                for seed, file in files.items()
            ]
    if settings.searched:
        groups[SEARCHED] = given_cells(settings, folder)
    if not groups:
        raise UserError(
            f"methods: no search of {', '.join(settings.methods)} has ended well; see {folder / 'searches'}"
        )
    for cells in groups.values():
        for name, genotype in cells:  # else its random cells would be of another space
            check_membership(genotype, settings.space, f"searched {name}")
    return groups


def plan_trials(settings: CompareSettings, folder: Path) -> list[Trial]:
    """All trainings, pair after pair, so that an interrupted comparison has whole pairs."""
    groups = found_cells(settings, folder)
    trials = []
    for pair in range(settings.random.samples):
        seed = settings.seed + pair
        for group, cells in groups.items():
            name, genotype = cells[pair % len(cells)]
            trials.append(Trial(pair, group, name, genotype, seed))
        drawn = random_genotype(settings.space, settings.seed, pair)
        trials.append(Trial(pair, RANDOM, f"random {pair}", drawn, seed))
    return trials


def trial_settings(settings: CompareSettings, trial: Trial) -> FinalSettings:
    """The retraining settings of a trial: the comparison's, with the pair's seed."""
    own = {"seed": trial.seed, "genotype": trial.cell, "weights": None, "parallel": ALONE}
    return taken_over(FinalSettings, settings, **own)


def trial_name(settings: CompareSettings, trial: Trial) -> str:
    """A folder name that says which cell, protocol and seed: equal names mean equal results."""
    final = trial_settings(settings, trial)
    flat = {key: value for key, value in retrain.protocol(final, trial.genotype).items() if key != "seed"}
    return f"{trial.genotype.digest()}_{digest(flat)}_seed{trial.seed}"
