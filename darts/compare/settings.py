"""Settings of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from darts.config.compose import is_among
from darts.config.registry import command_settings
from darts.loop.settings import Budget, RunSettings, check_task
from darts.models.settings import ConstraintSettings, with_tables
from darts.runtime.errors import UserError, require
from darts.spaces.table import BenchmarkTable
from darts.tasks.settings import LanguageSettings
from darts.train.settings import FinalLoop, FinalSettings, TextFinalSettings, refuse_for_sounds, refuse_replaced


@dataclass
class RandomBaseline:
    """What found cells are compared with."""

    samples: int  # cells drawn uniformly
    search: bool  # with methods: run random search at the same budget too

    def __post_init__(self) -> None:
        require(2 <= self.samples <= 10_000, "random.samples", self.samples, "from 2 (a spread needs two) to 10000")


@dataclass
class PowerSettings:
    """What the forecast of a comparison assumes."""

    effects: list[float]  # differences to be shown, in points of accuracy; in standard deviations without a spread
    spread: float | None  # standard deviation of random cells' accuracies in points; null: of `results`
    search_spread: float | None  # the same of cells that one method finds; null: of `results`, else like random cells'
    results: str | None  # an earlier comparison (its folder or report.json) whose spreads are taken

    def __post_init__(self) -> None:
        sound = bool(self.effects) and all(0 < effect < math.inf for effect in self.effects)
        require(sound, "power.effects", self.effects, "numbers above 0, finite")
        for name in ("spread", "search_spread"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, f"power.{name}", value, "above 0, finite, or null")
        within = self.search_spread is None or self.spread is not None or self.results is not None
        require(within, "power.search_spread", self.search_spread, "null without power.spread or power.results")


@command_settings("compare")
@dataclass
class CompareSettings(RunSettings):
    """The settings of `python -m darts.compare`: what is searched, the retraining protocol, what goes through it."""

    protocols: list[str]  # train every cell by each of several settings, NAME: KEY=VALUE ...; do they rank alike?
    tasks: list[str]  # search on each of several data sets and on all of them, and retrain every cell on each
    searches_in: str | None  # the folder of the searches, which comparisons may share; null: within this one's
    methods: list[str]  # searches to run, each a method's name or 'NAME KEY=VALUE ...'
    seeds: list[int]  # of each method's searches
    searches: dict[str, Any]  # settings of all searches, given as +searches.KEY=VALUE
    scored_by: str | None  # evaluator of searches by scores; null: brief training
    budget: Budget  # of each search; all null: as the searches' own settings say
    searched: list[str] | None  # found cells to compare; null: the newest search's, where methods is empty
    random: RandomBaseline
    retrainings: int  # networks trained of each cell, found and random ones alike
    adjust_for: str | None  # parameters or macs: compare accuracies as they would be at equal size
    power: PowerSettings  # what the forecast of the comparison assumes
    plan: bool  # print what the comparison could show, and end
    allow_underpowered: bool  # run a comparison that can show nothing, whatever the difference
    train: FinalLoop
    benchmark: BenchmarkTable  # a table of true accuracies, which then judges in place of retraining
    constraints: ConstraintSettings  # of all searches; with a table of latencies the report has their fronts
    limits: list[float]  # ms: which cell the searches would take that is no slower
    trial: str | None  # one trial only, by name: what the launcher runs
    language: LanguageSettings  # of a text: how each cell's model is trained

    def __post_init__(self) -> None:
        self.constraints = with_tables(self.constraints, self.benchmark)
        super().__post_init__()
        check_task(self.dataset, self.space)
        refuse_for_sounds(self.dataset, self.train)
        if self.tasks:
            require(len(self.tasks) > 1, "tasks", self.tasks, "at least two data sets, or give dataset=NAME")
            require(bool(self.methods), "methods", [], "names of methods with tasks, such as methods=[darts]")
            require(self.trial is None, "trial", self.trial, "null with tasks")
        if self.protocols:
            require(len(self.protocols) > 1, "protocols", self.protocols, "at least two, or give the settings alone")
            require(not self.tasks, "tasks", self.tasks, "empty with protocols")
            require(self.benchmark.table is None, "benchmark.table", self.benchmark.table, "null with protocols")
            require(self.trial is None, "trial", self.trial, "null with protocols")
        if self.searched is None:
            self.searched = [] if self.methods else ["latest"]
        require(bool(self.searched or self.methods), "searched", self.searched, "a genotype, or give methods")
        allowed = "different cells: searches whose cells are to be compared"
        require(len(set(self.searched)) == len(self.searched), "searched", self.searched, allowed)
        self.methods = [" ".join(method.split()) for method in self.methods]
        require(len(set(self.methods)) == len(self.methods), "methods", self.methods, "different searches")
        for method in self.methods:
            require(bool(method.split()), "methods", self.methods, "names, each with its settings after spaces")
        different = bool(self.seeds) and len(set(self.seeds)) == len(self.seeds) and min(self.seeds) >= 0
        require(different, "seeds", self.seeds, "different numbers from 0")
        require(1 <= self.retrainings <= 1000, "retrainings", self.retrainings, "from 1 to 1000")
        once = self.retrainings == 1 or self.benchmark.table is None
        require(once, "retrainings", self.retrainings, "1 where benchmark.table judges, which says the same again")
        allowed = "parameters, macs or null"
        require(self.adjust_for in (None, "parameters", "macs"), "adjust_for", self.adjust_for, allowed)
        allowed = "null with a text: the cells of a recurrent space are all of one size"
        require(self.adjust_for is None or not self.dataset.is_text, "adjust_for", self.adjust_for, allowed)
        single = len(self.searched) == 1 or (bool(self.methods) and len(self.seeds) == 1)
        allowed = "null with a single cell or search, of which there is no test at equal size"
        require(self.adjust_for is None or not single, "adjust_for", self.adjust_for, allowed)

        self._check_device()

    def _check_device(self) -> None:
        """What a comparison on a device asks for."""
        table = self.constraints.latency_table
        sound = all(0 < limit < math.inf for limit in self.limits)
        require(sound, "limits", self.limits, "numbers above 0, finite: milliseconds")
        require(len(set(self.limits)) == len(self.limits), "limits", self.limits, "different numbers")
        require(table is not None or not self.limits, "limits", self.limits, "empty without constraints.latency_table")
        if table is None:
            return
        allowed = "a table of the cells' accuracies with constraints.latency_table"
        require(self.benchmark.table is not None, "benchmark.table", None, allowed)
        require(bool(self.methods), "methods", [], "names of methods with constraints.latency_table")
        require(not self.tasks, "tasks", self.tasks, "empty with constraints.latency_table")

    def refuse_unused(self, key: str) -> None:
        """`UserError` where a setting is given that the retrainings do not use; `key`: its dotted name."""
        refuse_replaced(key, self)
        final = TextFinalSettings if self.dataset.is_text else FinalSettings
        ignored = [name for name in final.unused if not name.startswith(("weights", "start_from", "head_epochs"))]
        if is_among(key, ignored):
            raise UserError(f"{key} is given, but {final.kind} is trained, which ignores it")
