"""Settings of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darts.config.registry import command_settings
from darts.loop.settings import Budget, RunSettings, TrainLoop
from darts.runtime.errors import require
from darts.spaces.nasbench201 import BenchmarkTable


@dataclass
class RandomBaseline:
    """The random-sampling baseline of a comparison."""

    samples: int  # cells drawn uniformly, each with its own seed

    def __post_init__(self) -> None:
        require(2 <= self.samples <= 10_000, "random.samples", self.samples, "from 2 (a spread needs two) to 10000")


@command_settings("compare")
@dataclass
class CompareSettings(RunSettings):
    """The settings of `python -m darts.compare`: what is searched, the retraining protocol, what goes through it."""

    methods: list[str]  # searches to run: a method's name, or that and settings of its search after spaces
    seeds: list[int]  # of each method's searches
    searches: dict[str, Any]  # settings of all searches
    scored_by: str | None  # evaluator: what scores cells for those that ask for scores; null: brief training
    budget: Budget  # of each search; all null: as the searches' own settings say
    searched: list[str] | None  # cells that are there already; null: the newest search's, where methods is empty
    random: RandomBaseline
    train: TrainLoop
    benchmark: BenchmarkTable  # a table of true accuracies, which then judges in place of retraining
    trial: str | None  # one trial only, by name: what the launcher runs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.searched is None:
            self.searched = [] if self.methods else ["latest"]
        require(bool(self.searched or self.methods), "searched", self.searched, "a genotype, or give methods")
        allowed = f"at most random.samples long ({self.random.samples})"
        require(len(self.searched) <= self.random.samples, "searched", self.searched, allowed)
        allowed = "different cells: searches whose cells are to be compared"
        require(len(set(self.searched)) == len(self.searched), "searched", self.searched, allowed)
        require(len(set(self.methods)) == len(self.methods), "methods", self.methods, "different searches")
        for method in self.methods:
            require(bool(method.split()), "methods", self.methods, "names, each with its settings after spaces")
        different = bool(self.seeds) and len(set(self.seeds)) == len(self.seeds) and min(self.seeds) >= 0
        require(different, "seeds", self.seeds, "different numbers from 0")
        most = self.random.samples
        require(
            not self.methods or len(self.seeds) <= most, "seeds", self.seeds, f"at most random.samples long ({most})"
        )
