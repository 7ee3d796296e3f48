"""Which networks a comparison trains: pairs of a searched and a random cell, by one protocol and with one seed a pair.

Pair n trains one of the searched cells (they take turns) and the n-th random cell, both with seed `seed + n`. Each
random cell is a draw of its own, so the pairs' differences are independent given the searched cells, and a paired test
over them asks whether those cells differ from random sampling.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from darts import retrain
from darts.commands import CompareSettings, FinalSettings
from darts.config import digest
from darts.genotype import Genotype
from darts.genotype_sources import find_genotype, newest_search, random_genotype

log = logging.getLogger(__name__)

SEARCHED, RANDOM = "searched", "random"


@dataclass(frozen=True)
class Trial:
    """One network to train."""

    pair: int
    group: str  # SEARCHED or RANDOM
    cell: str  # how the cell is called in the report
    genotype: Genotype
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What one trial gave."""

    pair: int
    group: str
    cell: str
    genotype: str  # its digest
    seed: int
    test_accuracy: float
    parameters: int
    macs: int
    seconds: float


def plan_trials(settings: CompareSettings) -> list[Trial]:
    """All trials, pair after pair, so that an interrupted comparison has whole pairs."""
    names = [str(newest_search(settings.runs).parent) if name == "latest" else name for name in settings.searched]
    found = [(name, find_genotype(name, settings.space, settings.runs, settings.seed)) for name in names]
    for reference, genotype in found:
        settings.space.check(genotype, f"searched {reference}")  # else its random cells would be of another space
    trials = []
    for pair in range(settings.random.samples):
        seed = settings.seed + pair
        reference, genotype = found[pair % len(found)]
        trials.append(Trial(pair, SEARCHED, reference, genotype, seed))
        drawn = random_genotype(settings.space, settings.seed, pair)
        trials.append(Trial(pair, RANDOM, f"random {pair}", drawn, seed))
    return trials


def run_trials(settings: CompareSettings, folder: Path) -> list[Outcome]:
    """Train what the folder does not hold yet; returns the outcomes of all trials."""
    trials = plan_trials(settings)
    outcomes = []
    for number, trial in enumerate(trials, start=1):
        final = trial_settings(settings, trial)
        place = folder / "trials" / trial_name(final, trial)
        log.info("%strial %d/%d: %s cell (%s), seed %d", "\n" if number > 1 else "", number, len(trials),
                 trial.group, trial.cell, trial.seed)  # fmt: skip
        result = retrain.run(final, trial.genotype, place)
        log.info("test accuracy %.2f%%", 100 * result["test_accuracy"])
        figures = {name: result[name] for name in ("test_accuracy", "parameters", "macs", "seconds")}
        outcomes.append(Outcome(trial.pair, trial.group, trial.cell, trial.genotype.digest(), trial.seed, **figures))
    return outcomes


def trial_settings(settings: CompareSettings, trial: Trial) -> FinalSettings:
    """The retraining settings of a trial: the comparison's, with the pair's seed."""
    shared = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(FinalSettings)
        if field.name not in ("seed", "genotype", "weights")
    }
    return FinalSettings(**shared, seed=trial.seed, genotype=trial.cell, weights=None)


def trial_name(final: FinalSettings, trial: Trial) -> str:
    """A folder name that says which cell, protocol and seed: equal names mean equal results."""
    flat = {key: value for key, value in retrain.protocol(final, trial.genotype).items() if key != "seed"}
    return f"{trial.genotype.digest()}_{digest(flat)}_seed{trial.seed}"
