"""Settings of black-box search: evaluators, rules, the command."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from darts.blackbox.strategy import Strategy
from darts.config.registry import register
from darts.loop.settings import (
    Budget,
    DataSettings,
    SearchLoop,
    WeightOptimiser,
    check_cells,
    check_size,
)
from darts.models.settings import COSTS, ConstraintSettings, NetworkSettings, with_tables
from darts.runtime.errors import require
from darts.spaces.table import BenchmarkTable
from darts.tasks.settings import LanguageSettings, TextDataset
from darts.tasks.several_settings import OF_ONE_NETWORK, SeveralDatasets
from darts.train.settings import GRAPHS_OF_TEXT, TrainLoop, refuse_for_sounds

if TYPE_CHECKING:
    from darts.blackbox.evaluators import EvaluationContext
    from darts.blackbox.exchange import Scorer


@dataclass
class Rules:
    """Which cells may be drawn at all, besides what `constraints` allows them to cost."""

    most_skips: int | None  # skip connections in a cell
    required: list[str]  # operations that every cell must have
    forbidden: list[str]  # operations that no cell may have
    least_depth: int | None  # fewest operations on the longest path from an input to the output
    most_depth: int | None  # most operations on the longest path from an input to the output
    uniform: bool  # all valid cells are equally likely (rejection); false: backtracking, quicker but not uniform

    def __post_init__(self) -> None:
        for name in ("most_skips", "least_depth", "most_depth"):
            limit = getattr(self, name)
            require(limit is None or limit >= 0, f"rules.{name}", limit, "at least 0, or null")
        both = sorted(set(self.required) & set(self.forbidden))
        require(not both, "rules.required", self.required, "without what rules.forbidden names")


@dataclass
class Evaluator:
    """How a black-box search scores a genotype; the classes below are its kinds (blackbox/evaluators.py)."""

    network: NetworkSettings  # of the networks that are made of genotypes

    def scorer(self, context: EvaluationContext) -> Scorer:
        """Return what scores genotypes by these settings."""
        raise NotImplementedError


@register("evaluator", "brief_training")
@dataclass
class BriefTraining(Evaluator):
    """Train on the training split, measure accuracy on the validation split."""

    train: TrainLoop
    weight_optimiser: WeightOptimiser

    def scorer(self, context: EvaluationContext) -> Scorer:
        from darts.blackbox.evaluators import brief_training

        return brief_training(self, context)


@register("evaluator", "brief_training_text")
@dataclass
class BriefTrainingOfText(BriefTraining):
    """Train a language model on the training part, measure the log-likelihood of the validation part."""


@register("evaluator", "inherited")
@dataclass
class InheritedWeights(Evaluator):
    """Accuracy of the path through a trained supernet, on the validation split (Bender et al. 2018)."""

    supernet: str  # the folder of a finished search
    batch_statistics: bool  # batches normalise themselves; false: by the supernet's running statistics

    def scorer(self, context: EvaluationContext) -> Scorer:
        from darts.blackbox.evaluators import inherited_weights

        return inherited_weights(self, context)


@register("evaluator", "table")
@dataclass
class TableLookup(Evaluator):
    """A column of benchmark.table, in place of training."""

    column: str  # of the table, the score

    def scorer(self, context: EvaluationContext) -> Scorer:
        from darts.blackbox.evaluators import table_lookup

        return table_lookup(self, context)


class Proxy(Enum):
    """Scores of an untrained network (Abdelfattah et al. 2021; Mellor et al. 2021)."""

    SYNFLOW = "synflow"
    SNIP = "snip"
    GRAD_NORM = "grad_norm"
    NASWOT = "naswot"
    JACOB_COV = "jacob_cov"
    PARAMETERS = "parameters"
    MACS = "macs"


@register("evaluator", "zero_cost")
@dataclass
class ZeroCost(Evaluator):
    """A score of the untrained network on one batch."""

    proxy: Proxy  # which score of the untrained network
    batch_size: int  # images that the score is computed on

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, "evaluator.batch_size", self.batch_size, "at least 2 (batch norm)")

    def scorer(self, context: EvaluationContext) -> Scorer:
        from darts.blackbox.evaluators import zero_cost

        return zero_cost(self, context)


@register("evaluator", "multi_objective")
@dataclass
class MultiObjective(Evaluator):
    """Another evaluator's score times (cost / target) ^ exponent for every cost that has a target (Tan et al. 2019,
    MnasNet, equation 2); the cells that no other beats in accuracy and all costs are kept as the Pareto front."""

    accuracy: Evaluator
    targets: dict[str, float | None]  # parameters, macs, latency_ms
    exponent: float  # of cost / target; negative: less is better

    def __post_init__(self) -> None:
        require(sorted(self.targets) == sorted(COSTS), "evaluator.targets", sorted(self.targets), ", ".join(COSTS))
        for name, target in self.targets.items():
            sound = target is None or 0 < target < math.inf
            require(sound, f"evaluator.targets.{name}", target, "above 0, finite, or null")
        require(-math.inf < self.exponent <= 0, "evaluator.exponent", self.exponent, "at most 0, finite")
        require(not isinstance(self.accuracy, MultiObjective), "evaluator.accuracy", "multi_objective", "a single one")

    def scorer(self, context: EvaluationContext) -> Scorer:
        from darts.blackbox.evaluators import multi_objective

        return multi_objective(self, context)


@dataclass
class EvaluationSettings(DataSettings):
    """What an evaluator of genotypes is told."""

    search: SearchLoop
    evaluator: Evaluator
    benchmark: BenchmarkTable

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in self.dataset.parts().values():
            check_size(part.size_setting, part.size, self.evaluator.network, self.space)
        check_cells("evaluator.network.cells", self.evaluator.network, self.space)
        how = getattr(self.evaluator, "accuracy", self.evaluator)  # of several objectives
        of_text = isinstance(how, BriefTrainingOfText)
        require(self.dataset.is_text or not of_text, "evaluator", "brief_training_text", "another without a text")
        if isinstance(how, BriefTraining):
            refuse_for_sounds(self.dataset, how.train, "evaluator.train")


@dataclass
class BlackBoxSettings(EvaluationSettings):
    """The settings of a search by scores of cells."""

    method: Strategy
    constraints: ConstraintSettings
    rules: Rules
    budget: Budget

    kind: ClassVar[str] = "by scores of cells"
    unused: ClassVar[tuple[str, ...]] = ("search.epochs", "search.initial_alpha", "constraints.weight")

    def trained_fraction(self) -> float:
        """The fraction of the training data that an epoch of a brief training passes over."""
        return self.search.train_fraction

    def planned_epochs(self) -> float | None:
        """Passes over all training data that the search may take at most; None where that is not known."""
        how = self.evaluator.accuracy if isinstance(self.evaluator, MultiObjective) else self.evaluator
        limits = [] if self.budget.epochs is None else [self.budget.epochs]
        if self.budget.evaluations is not None and isinstance(how, BriefTraining):
            limits.append(self.budget.evaluations * how.train.epochs * self.trained_fraction())
        return min(limits) if limits else None

    def __post_init__(self) -> None:
        self.constraints = with_tables(self.constraints, self.benchmark)
        super().__post_init__()
        check_cells("constraints.network.cells", self.constraints.network, self.space)
        budget = self.budget
        limited = any(limit is not None for limit in vars(budget).values())
        require(limited, "budget", "unlimited", "limited in evaluations, epochs, minutes or macs with this method")
        several = isinstance(self.evaluator, MultiObjective)
        allowed = f"multi_objective (in a comparison scored_by) with method={self.method.name}, which has several aims"
        scores = OF_IMAGES.get(type(self.evaluator), "of a text")
        require(several or not self.method.weighs_aims, "evaluator", scores, allowed)
        used = several or self.constraints.latency_ms is not None
        table = self.constraints.latency_table
        allowed = (
            "null, or constraints.latency_ms or evaluator=multi_objective with it (else constraints.device is null)"
        )
        require(used or table is None, "constraints.latency_table", table, allowed)
        how = self.evaluator.accuracy if isinstance(self.evaluator, MultiObjective) else self.evaluator
        allowed = "a file with evaluator=table, which reads it"
        require(not isinstance(how, TableLookup) or bool(self.benchmark.table), "benchmark.table", None, allowed)
        if isinstance(self.dataset, SeveralDatasets):
            name = OF_IMAGES.get(type(self.evaluator))
            trained = name in ("brief_training", "table")
            require(trained, "evaluator", name, "brief_training or table with several tasks")
            require(not self.constraints.any, "constraints", "given", f"null, {OF_ONE_NETWORK}")
        computes = not isinstance(how, TableLookup)
        counted = budget.evaluations is not None or budget.minutes is not None
        allowed = "a number with a table, whose answers cost no epochs (or give budget.minutes)"
        require(computes or counted, "budget.evaluations", budget.evaluations, allowed)
        require(
            computes or budget.macs is None, "budget.macs", budget.macs, "null with a table, which computes nothing"
        )


OF_IMAGES: dict[type, str] = {
    BriefTraining: "brief_training",
    InheritedWeights: "inherited",
    TableLookup: "table",
    ZeroCost: "zero_cost",
    MultiObjective: "multi_objective",
}


UNUSED_WITH_A_TEXT = (
    *("benchmark", "memory", "search.train_fraction", "search.batch_size", "evaluator.network"),
    *("evaluator.train.cutout", "evaluator.train.drop_path", "evaluator.train.auxiliary_weight"),
    *("evaluator.train.recipe", "evaluator.weight_optimiser.final_learning_rate"),
    *("evaluator.weight_optimiser.cosine_unit", "language.masks", "language.unrolled_embedding"),
    *("language.test_columns", "language.perplexity"),
)  # settings that no evaluator of recurrent cells uses


@dataclass
class TextEvaluationSettings(EvaluationSettings):
    """What an evaluator of recurrent cells is told."""

    dataset: TextDataset
    language: LanguageSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        name = OF_IMAGES.get(type(self.evaluator))
        require(name is None, "evaluator", name, "brief_training_text with a text")
        require(not self.graphs, "graphs", self.graphs, GRAPHS_OF_TEXT)


@dataclass
class TextBlackBoxSettings(BlackBoxSettings, TextEvaluationSettings):
    """The settings of a search by scores for the cell of a language model."""

    unused: ClassVar[tuple[str, ...]] = (*BlackBoxSettings.unused, "constraints", *UNUSED_WITH_A_TEXT)

    def trained_fraction(self) -> float:
        return 1.0
