"""Settings of a search, whatever its kind, and the checks that need two settings at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from omegaconf import DictConfig

from darts.blackbox import nsga2, predictor, strategies  # noqa: F401  they register themselves
from darts.blackbox.settings import BlackBoxSettings, Evaluator, Rules, TextBlackBoxSettings
from darts.config.compose import dotted_key, is_among, typed_settings
from darts.config.implied import IGNORED_IF_IMPLIED, task_names
from darts.config.registry import command_settings
from darts.loop.settings import (
    ArchitectureOptimiser,
    Budget,
    DataSettings,
    RunSettings,
    SearchLoop,
    WeightOptimiser,
    check_cells,
    check_task,
    taken_over,
)
from darts.methods.discretisation import Threshold
from darts.methods.hypergradient import FiniteDifference
from darts.methods.method import Method, SearchMethod
from darts.methods.preference import AlongFront
from darts.methods.regularisers import Anchor
from darts.methods.weight_gradient import LayerAlignment, TrainingLoss
from darts.models.settings import COSTS, ConstraintSettings, Engine, NetworkSettings, with_tables
from darts.runtime.errors import UserError, require
from darts.runtime.settings import ParallelSettings
from darts.spaces.table import BenchmarkTable
from darts.tasks.settings import LanguageSettings, TextDataset
from darts.tasks.several_settings import OF_ONE_NETWORK, SeveralDatasets
from darts.train.settings import GRAPHS_OF_TEXT, refuse_replaced

SEARCHED_TOGETHER = "a plain list, without dataset= beside it, the same in every run of a sweep"


@dataclass
class DiagnosticsSettings:
    """Which costly diagnostics a search measures; the cheap ones are always there."""

    eigenvalue_every: int  # epochs between two dominant eigenvalues of the validation Hessian in alpha; 0: never
    gap_every: int  # epochs from one accuracy of the discretised supernet to the next; 0: never
    gradient_repeats: int  # number of gradients of alpha, over batches and over draws, compared after an epoch; 0: none

    def __post_init__(self) -> None:
        for name in ("eigenvalue_every", "gap_every"):
            require(getattr(self, name) >= 0, f"diagnostics.{name}", getattr(self, name), "at least 0 (0: never)")
        repeats = self.gradient_repeats
        require(repeats == 0 or 2 <= repeats <= 1000, "diagnostics.gradient_repeats", repeats, "0, or from 2 to 1000")


@dataclass
class SearchSettings(RunSettings):
    """The settings of a search by gradients."""

    method: Method
    search: SearchLoop
    engine: Engine  # how the supernet is computed; the function is the same
    architecture_optimiser: ArchitectureOptimiser
    diagnostics: DiagnosticsSettings
    constraints: ConstraintSettings
    budget: Budget
    benchmark: BenchmarkTable
    parallel: ParallelSettings  # where torchrun starts several processes

    kind: ClassVar[str] = "by gradients"
    unused: ClassVar[tuple[str, ...]] = ("budget.evaluations",)

    def __post_init__(self) -> None:
        self.constraints = with_tables(self.constraints, self.benchmark)
        super().__post_init__()
        if isinstance(self.method.hypergradient, FiniteDifference):
            allowed = "false with a second-order method, whose unrolled step has none"
            require(not self.weight_optimiser.nesterov, "weight_optimiser.nesterov", True, allowed)
        check_cells("constraints.network.cells", self.constraints.network, self.space)
        self._check_method()
        if isinstance(self.dataset, SeveralDatasets):
            require(not self.graphs, "graphs", True, "false with several tasks, whose batches are of many shapes")
            require(not self.constraints.any, "constraints", "given", f"null, {OF_ONE_NETWORK}")
        of_images = not (self.dataset.is_text or isinstance(self.dataset, SeveralDatasets))
        allowed = "one_alpha with a text or several tasks, whose networks have no such cost"
        require(of_images or not self.method.preference.draws, "method/preference", "along_front", allowed)
        rule = self.method.preference
        allowed = "null with method/preference=along_front, whose front has a cell for every limit"
        for name in COSTS if rule.draws else ():
            limit = getattr(self.constraints, name)
            require(limit is None, f"constraints.{name}", limit, allowed)
        learns = isinstance(rule, AlongFront) and rule.cost in (None, "latency_ms")
        table, used = self.constraints.latency_table, learns or self.constraints.latency_ms is not None
        devices = rule.devices if isinstance(rule, AlongFront) else []
        allowed = "[] without constraints.latency_table, whose columns they are"
        require(table is not None or not devices, "method.preference.devices", devices, allowed)
        allowed = "null, or constraints.latency_ms with it (without it constraints.device is null too)"
        require(used or table is None, "constraints.latency_table", table, allowed)
        limit, needed = self.budget.epochs, self.planned_epochs()
        within = limit is None or needed <= limit + 1e-9
        allowed = f"at least {needed:g}, the passes over all training images of search.epochs ({self.search.epochs})"
        lower = "lower search.epochs (of a comparison's searches: +searches.search.epochs)"
        require(within, "budget.epochs", limit, f"{allowed} and the method's own; or {lower}")

    def planned_epochs(self) -> float:
        """Passes over all training images that the whole search takes, unless it stops before."""
        stages = self.method.schedule.stages(self.search.epochs, self.space)
        return stages[-1].last * self.epoch_cost()

    def epoch_cost(self) -> float:
        """How many passes over all training images an epoch is: what moves the weights, and what moves alpha."""
        rule = self.method.hypergradient
        if rule.single_level:
            return 1.0
        of_weights = max(1, rule.inner_steps)
        of_products = 1 if rule.inner_steps else 0  # a training batch of its own for alpha's step
        return (of_weights + of_products + 1) * self.trained_fraction()

    def trained_fraction(self) -> float:
        """The fraction of the training data that moves the weights once an epoch; as much moves alpha."""
        return self.search.train_fraction

    def _check_method(self) -> None:
        method, width = self.method, self.network.channels
        for reason, clash in self._reasons_against_chains().items() if self.space.chain is not None else []:
            if clash:
                raise UserError(f"method={method.name} is for cells, and space={self.space.name} is a chain: {reason}")
        for stage in method.schedule.stages(self.search.epochs, self.space):
            k = method.channels.k_of_stage(stage.number)
            require(width % k == 0, "network.channels", width, f"a multiple of {k} (method.channels.k)")
        names = list(method.edge_extras.operations)
        if method.edge_extras.drops_skips:
            names.append("skip_connect")
        candidates = self.space.candidates
        allowed = f"with {', '.join(names)}, which method.edge_extras is about"
        require(set(names) <= set(candidates), "space.candidates", candidates, allowed)
        threshold = isinstance(method.discretisation, Threshold)
        holds = not threshold or self.space.edges_kept is not None or "none" in candidates or bool(self.space.chain)
        allowed = "with none, which removes an edge where space.edges_kept=null and method/discretisation=threshold"
        require(holds, "space.candidates", candidates, allowed)
        aligned = isinstance(method.weight_gradient, LayerAlignment)
        allowed = "at least 4 with method/weight_gradient=layer_alignment, which compares normal cells"
        enough = self.network.cells >= 4 or self.space.chain is not None
        require(enough or not aligned, "network.cells", self.network.cells, allowed)
        anchored = any(isinstance(term, Anchor) for term in method.regularisers.values())
        decay = self.architecture_optimiser.weight_decay
        allowed = "0 with method/regularisers anchor, which takes its place (Chen et al. 2021)"
        require(decay == 0 or not anchored, "architecture_optimiser.weight_decay", decay, allowed)
        for reason in self._reasons_against_graphs() if self.graphs else []:
            require(False, "graphs", True, f"false with {reason}")

    def _reasons_against_chains(self) -> dict[str, bool]:
        """What parts of methods need cells for, and whether the method has it."""
        method, extras = self.method, self.method.edge_extras
        stages = method.schedule.stages(self.search.epochs, self.space)
        return {
            "method/channels lets channels bypass an operation, but a layer changes their number; give "
            "method/channels=all_channels": any(method.channels.k_of_stage(stage.number) > 1 for stage in stages),
            "method/channels weighs the edges of a node, which a layer has one of; give method/channels="
            "all_channels": method.channels.edge_weights,
            "method/edge_extras drops whole edges, and a chain would be cut; give method/edge_extras=none": (
                extras.drops_paths
            ),
            "method/weight_gradient compares normal cells; give method/weight_gradient=training_loss": isinstance(
                method.weight_gradient, LayerAlignment
            ),
            "method/schedule makes the network deeper; give another": any(stage.more_cells for stage in stages),
        }

    def _reasons_against_graphs(self) -> list[str]:
        """Why a step cannot be recorded as a CUDA graph; none for plain DARTS."""
        from darts.models.building import drawing_candidates

        drawing = drawing_candidates(self.space)
        reasons = {
            f"method={self.method.name}, whose steps decide on the host what is computed": not (
                self.method.stays_on_device
            ),
            f"method={self.method.name}, whose steps draw random numbers: each step seeds its own, and a recorded step "
            "would keep the seed of the recording": self.method.random,
            f"space.candidates {', '.join(drawing)}, which draw random numbers: a recorded step would keep the seed of "
            "the recording": bool(drawing),
        }
        return [reason for reason, holds in reasons.items() if holds]


@dataclass
class TextSearchSettings(SearchSettings):
    """The settings of a search by gradients for the cell of a language model."""

    dataset: TextDataset
    language: LanguageSettings

    unused: ClassVar[tuple[str, ...]] = (
        *("budget.evaluations", "network", "constraints", "benchmark", "memory", "search.train_fraction"),
        *("language.test_columns", "language.average_after", "language.average_from", "language.perplexity"),
    )

    def trained_fraction(self) -> float:
        return 1.0

    def _check_method(self) -> None:
        """Refuse what mixes, drops or widens maps of images."""
        method = self.method
        stages = method.schedule.stages(self.search.epochs, self.space)
        require(not self.graphs, "graphs", self.graphs, GRAPHS_OF_TEXT)
        reasons = {
            "method/channels mixes a part of the channels of an image; give method/channels=all_channels": any(
                method.channels.k_of_stage(stage.number) > 1 for stage in stages
            ),
            "method/channels weighs the edges of a node, which a recurrent cell has one of; give "
            "method/channels=all_channels": method.channels.edge_weights,
            "method/edge_extras are operations on images; give method/edge_extras=none": bool(
                method.edge_extras.operations or method.edge_extras.drops_skips or method.edge_extras.drops_paths
            ),
            "method/weight_gradient compares operations that have weights, or several cells; give "
            "method/weight_gradient=training_loss": not isinstance(method.weight_gradient, TrainingLoss),
            "method/schedule makes the network deeper; give another": any(stage.more_cells for stage in stages),
        }
        for reason, clash in reasons.items():
            if clash:
                raise UserError(f"method={method.name} is for images: {reason}")


@command_settings("search")
@dataclass
class AnySearchSettings(DataSettings):
    """What train_search.py is told, before it is known which kind of search the method is."""

    method: SearchMethod
    tasks: list[str]  # several data sets under one alpha, NAME or TASK:NAME; dataset.members.TASK holds their settings
    for_method: str | None  # an experiment's settings are those of this method; others are refused
    network: NetworkSettings
    search: SearchLoop
    engine: Engine  # how the supernet is computed; the function is the same
    weight_optimiser: WeightOptimiser
    architecture_optimiser: ArchitectureOptimiser
    diagnostics: DiagnosticsSettings
    constraints: ConstraintSettings
    evaluator: Evaluator
    rules: Rules
    budget: Budget
    benchmark: BenchmarkTable
    parallel: ParallelSettings
    language: LanguageSettings  # of a text

    def __post_init__(self) -> None:
        super().__post_init__()
        check_task(self.dataset, self.space)
        members = list(self.dataset.members) if isinstance(self.dataset, SeveralDatasets) else []
        require(members == list(task_names(self.tasks)), "tasks", self.tasks, SEARCHED_TOGETHER)
        allowed = f"{self.for_method}, whose settings the experiment gives (for_method=null: any)"
        require(self.for_method in (None, self.method.name), "method", self.method.name, allowed)

    def narrowed(self) -> SearchSettings | BlackBoxSettings:
        """The settings of the method's kind only, with that kind's checks."""
        if isinstance(self.method, Method):
            kind = TextSearchSettings if self.dataset.is_text else SearchSettings
            return taken_over(kind, self)
        by_scores = TextBlackBoxSettings if self.dataset.is_text else BlackBoxSettings
        return taken_over(by_scores, self)


def search_settings(config: DictConfig, overrides: Sequence[str] = ()) -> SearchSettings | BlackBoxSettings:
    """The settings of a search, of the method's kind.

    Raises `UserError` where an override (`key=value`) sets what this kind of search does not use.
    """
    settings = typed_settings(config, AnySearchSettings).narrowed()
    for override in overrides:
        if override not in IGNORED_IF_IMPLIED:
            refuse_unused(dotted_key(override), settings)
    return settings


def uses(settings: SearchSettings | BlackBoxSettings, key: str) -> bool:
    """Whether a kind of search uses a setting; what no search has (hydra, experiment) is used elsewhere."""
    first = key.split(".")[0]
    if first not in _names(AnySearchSettings) or first in ("for_method", "tasks"):
        return True
    return first in _names(type(settings)) and not is_among(key, settings.unused)


def refuse_unused(key: str, settings: SearchSettings | BlackBoxSettings) -> None:
    """Raise `UserError` where a setting is given that the chosen kind of search does not use."""
    if not uses(settings, key):
        raise UserError(f"{key} is given, but method={settings.method.name} searches {settings.kind} and ignores it")
    refuse_replaced(key, settings)


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}
