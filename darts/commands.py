"""The typed settings of the commands, and the checks that need two settings at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from darts import bilevel
from darts import weight_rules as rules
from darts.blackbox.strategy import Strategy
from darts.errors import require
from darts.method import Method
from darts.settings import (
    ArchitectureOptimiser,
    BenchmarkTable,
    Budget,
    CheckpointSettings,
    ConstraintSettings,
    Dataset,
    DiagnosticsSettings,
    Engine,
    Evaluator,
    MemorySettings,
    MultiObjective,
    NetworkSettings,
    ParallelSettings,
    Precision,
    Rules,
    SearchLoop,
    SearchMethod,
    TableLookup,
    TrainLoop,
    WeightOptimiser,
)
from darts.spaces import SearchSpace

S = TypeVar("S")


def taken_over(kind: type[S], settings: Any, **own: Any) -> S:
    """Settings of a kind: `own`, and all else from other settings that have fields of the same names."""
    names = [field.name for field in dataclasses.fields(kind) if field.name not in own]  # type: ignore[arg-type]
    return kind(**{name: getattr(settings, name) for name in names}, **own)


@dataclass
class CommonSettings:
    """What every command is told."""

    seed: int
    device: str  # auto, cpu, cuda, cuda:1, mps
    runs: str  # the folder of all runs; `latest` looks there
    space: SearchSpace
    network: NetworkSettings

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 4294967295")


@dataclass
class RunSettings(CommonSettings):
    """What every command is told that trains on images."""

    deterministic: bool  # on a GPU, algorithms that repeat to the bit where there are any; the CPU always repeats
    precision: Precision
    graphs: bool  # on CUDA, a step as one graph: recorded once, replayed after
    memory: MemorySettings
    dataset: Dataset
    weight_optimiser: WeightOptimiser
    checkpoint: CheckpointSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("dataset.image_size", self.dataset.image_size, self.network)


@dataclass
class EvaluationSettings(RunSettings):
    """What an evaluator of genotypes is told."""

    search: SearchLoop
    evaluator: Evaluator
    benchmark: BenchmarkTable

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("dataset.image_size", self.dataset.image_size, self.evaluator.network)


@dataclass
class CorrelateSettings(EvaluationSettings):
    """The settings of `python -m darts.correlate`."""

    results: list[str]  # folders of trained networks; empty: the table's column is the final accuracy
    samples: int  # cells of the table that are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        require(3 <= self.samples <= 100_000, "samples", self.samples, "from 3 to 100000")


@dataclass
class AnySearchSettings(EvaluationSettings):
    """The settings of train_search.py, whatever the method."""

    method: SearchMethod
    engine: Engine
    architecture_optimiser: ArchitectureOptimiser
    diagnostics: DiagnosticsSettings
    constraints: ConstraintSettings
    rules: Rules
    budget: Budget
    parallel: ParallelSettings  # where torchrun starts several processes
    for_method: str | None  # an experiment's settings are those of this method; others are refused

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = f"{self.for_method}, whose settings the experiment gives (for_method=null: any)"
        require(self.for_method in (None, self.method.name), "method", self.method.name, allowed)

    def narrowed(self) -> SearchSettings | BlackBoxSettings:
        """The same as the settings of the method's kind, with that kind's checks."""
        if isinstance(self.method, Method):
            return taken_over(SearchSettings, self)
        return taken_over(BlackBoxSettings, self)


@dataclass
class BlackBoxSettings(AnySearchSettings):
    """The settings of a search that asks for scores."""

    method: Strategy

    def __post_init__(self) -> None:
        super().__post_init__()
        budget = self.budget
        limited = any(limit is not None for limit in (budget.evaluations, budget.epochs, budget.minutes))
        require(limited, "budget", "unlimited", "limited in evaluations, epochs or minutes with this method")
        how = self.evaluator.accuracy if isinstance(self.evaluator, MultiObjective) else self.evaluator
        allowed = "a file with evaluator=table, which reads it"
        require(not isinstance(how, TableLookup) or bool(self.benchmark.table), "benchmark.table", None, allowed)


@dataclass
class SearchSettings(AnySearchSettings):
    """The settings of a search by gradients."""

    method: Method

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.method.hypergradient, bilevel.FiniteDifference):
            allowed = "false with a second-order method, whose unrolled step has none"
            require(not self.weight_optimiser.nesterov, "weight_optimiser.nesterov", True, allowed)
        self._check_method()
        stages = self.method.schedule.stages(self.search.epochs, self.space)
        limit, needed = self.budget.epochs, stages[-1].last * self.epoch_cost()
        within = limit is None or needed <= limit + 1e-9
        allowed = f"at least {needed:g}, the passes over all training images of search.epochs ({self.search.epochs})"
        require(within, "budget.epochs", limit, allowed + " and the method's own; or lower search.epochs")

    def epoch_cost(self) -> float:
        """How many passes over all training images an epoch is: its images for the weights, as many for alpha."""
        return 2 * self.search.weight_share

    def _check_method(self) -> None:
        method, width = self.method, self.network.channels
        shares = {
            method.channels.share(stage.number) for stage in method.schedule.stages(self.search.epochs, self.space)
        }
        for share in shares:
            require(width % share == 0, "network.channels", width, f"a multiple of {share} (method.channels.shares)")
        names = [*method.beside.operations, *(["skip_connect"] if method.beside.drops_skips else [])]
        there = set(names) <= set(self.space.candidates)
        require(
            there, "space.candidates", self.space.candidates, f"with {', '.join(names)}, which method.beside is about"
        )
        aligned = isinstance(method.weight_rule, rules.LayerAlignment)
        allowed = "at least 4 with method/weight_rule=layer_alignment, which compares normal cells"
        require(self.network.cells >= 4 or not aligned, "network.cells", self.network.cells, allowed)
        allowed = "false with this method, whose steps draw random numbers or decide on the host"
        require(not (self.graphs and not method.graphable), "graphs", True, allowed)


@dataclass
class FinalSettings(RunSettings):
    """The settings of train_final.py."""

    genotype: str  # latest, random, a published name, or a path
    weights: str | None  # evaluate this file instead of training
    train: TrainLoop
    parallel: ParallelSettings  # where torchrun starts several processes


@dataclass
class RandomBaseline:
    """The random-sampling baseline of a comparison."""

    samples: int  # cells drawn uniformly, each with its own seed

    def __post_init__(self) -> None:
        require(2 <= self.samples <= 10_000, "random.samples", self.samples, "from 2 (a spread needs two) to 10000")


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
    trial: str | None  # one trial alone, by name: what the launcher runs

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


@dataclass
class BriefSettings(RunSettings):
    """A brief training on one part of the training images, judged on the other."""

    weight_share: float  # of the training images that train; the rest judges
    train: TrainLoop

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.weight_share < 1, "weight_share", self.weight_share, "above 0 and below 1")


@dataclass
class SelectSettings(BriefSettings):
    """The settings of `python -m darts.select`."""

    searched: list[str]  # folders of searches or of sweeps, published names, files


@dataclass(frozen=True)
class Range:
    """What a tuned setting may be: from `low` to `high`, whole where both are, or one of `choices`."""

    name: str
    low: float
    high: float
    log: bool
    choices: list[str]


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


@dataclass
class TuneSettings(BriefSettings):
    """The settings of `python -m darts.tune`."""

    genotype: str  # latest, random, a published name, or a path
    parameters: list[str]  # "SETTING LOW HIGH", "SETTING LOW HIGH log", or "SETTING A|B|C"
    trials: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.trials <= 100_000, "trials", self.trials, "from 1 to 100000")
        names = [text.split()[0] if text.split() else "" for text in self.parameters]
        allowed = "at least one setting with its range, each once"
        require(bool(names) and len(set(names)) == len(names), "parameters", self.parameters, allowed)
        for text in self.parameters:
            self.range_of(text)

    @staticmethod
    def range_of(text: str) -> Range:
        """A parameter's name and what it may be; `UserError` where the text says neither."""
        name, *rest = text.split() or [""]
        allowed = "'SETTING LOW HIGH', with ' log' after it for a logarithmic scale, or 'SETTING A|B|C'"
        choices = rest[0].split("|") if len(rest) == 1 else []
        try:
            values = [_number(value) for value in rest[:2]] if len(rest) in (2, 3) else []
        except ValueError:
            values = []
        log = rest[2:] == ["log"]
        ranged = (
            len(values) == 2 and values[0] < values[1] and rest[2:] in ([], ["log"]) and not (log and values[0] <= 0)
        )
        require(ranged or len(choices) > 1, "parameters", text, allowed)
        return Range(name, values[0] if ranged else 0, values[1] if ranged else 0, log, choices)


ROWS = (
    "search step, first order",
    "search step, second order",
    "retraining step",
    "evaluation",
    "data loading",
)


@dataclass
class BenchmarkSettings(SearchSettings):
    """The settings of `python -m darts.benchmark`."""

    rows: list[str]  # what is timed
    repetitions: int  # of each action, in turn with the others of its row
    scaling: bool
    images: int  # training images of the data set to extrapolate to; 0: no extrapolation
    json: bool  # print one JSON object and nothing else
    genotype: str  # a published cell
    retrained: NetworkSettings
    train: TrainLoop

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.repetitions <= 1000, "repetitions", self.repetitions, "from 1 to 1000")
        require(self.images >= 0, "images", self.images, "at least 0")
        require(bool(self.rows) and set(self.rows) <= set(ROWS), "rows", self.rows, f"some of {', '.join(ROWS)}")


@dataclass
class InputSettings:
    """The images that a network is described for."""

    channels: int
    size: int
    classes: int

    def __post_init__(self) -> None:
        for name in ("channels", "size", "classes"):
            require(getattr(self, name) >= 1, f"input.{name}", getattr(self, name), "at least 1")


@dataclass
class DescribeSettings(CommonSettings):
    """The settings of `python -m darts.describe`."""

    genotype: str
    input: InputSettings
    json: bool  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("input.size", self.input.size, self.network)


def check_size(setting: str, image_size: int, network: NetworkSettings) -> None:
    """Images must be large enough for the stem and the two reduction cells."""
    least = 2 ** (network.stem_reductions + 2)
    allowed = f"at least {least}: the network halves it {network.stem_reductions + 2} times"
    require(image_size >= least, setting, image_size, allowed)
