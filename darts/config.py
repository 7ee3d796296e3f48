"""The typed settings of the four commands, their schemas for Hydra, and checks that need two settings at once.

A part of a method (a relaxation, say) is its own schema: registered here, composed by Hydra from its YAML file, and
returned by `typed` as an instance of the very class that does the work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from darts import alpha_terms, beside, bilevel, channels, discretisation, perturbation, relaxation, schedule, stopping
from darts import weight_rules as rules
from darts.errors import UserError, require, unknown
from darts.method import Method
from darts.settings import (
    ArchitectureOptimiser,
    BenchmarkTable,
    BundledDataset,
    CheckpointSettings,
    ConstraintSettings,
    Dataset,
    DiagnosticsSettings,
    Engine,
    ImageFolderDataset,
    MemorySettings,
    NetworkSettings,
    Precision,
    SearchLoop,
    TorchvisionDataset,
    TrainLoop,
    WeightOptimiser,
)
from darts.spaces import SearchSpace

CONF = str(Path(__file__).parent.parent / "conf")
T = TypeVar("T")


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
class SearchSettings(RunSettings):
    """The settings of train_search.py."""

    method: Method
    engine: Engine
    search: SearchLoop
    architecture_optimiser: ArchitectureOptimiser
    diagnostics: DiagnosticsSettings
    constraints: ConstraintSettings
    benchmark: BenchmarkTable

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.method.hypergradient, bilevel.FiniteDifference):
            allowed = "false with a second-order method, whose unrolled step has none"
            require(not self.weight_optimiser.nesterov, "weight_optimiser.nesterov", True, allowed)
        self._check_method()

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


@dataclass
class RandomBaseline:
    """The random-sampling baseline of a comparison."""

    samples: int  # cells drawn uniformly, each with its own seed

    def __post_init__(self) -> None:
        require(2 <= self.samples <= 10_000, "random.samples", self.samples, "from 2 (a spread needs two) to 10000")


@dataclass
class CompareSettings(RunSettings):
    """The settings of `python -m darts.compare`: the retraining protocol, and what goes through it."""

    searched: list[str]  # genotypes of independent searches: latest, published names, paths
    random: RandomBaseline
    train: TrainLoop

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.searched), "searched", self.searched, "a list of at least one genotype")
        allowed = f"at most random.samples long ({self.random.samples})"
        require(len(self.searched) <= self.random.samples, "searched", self.searched, allowed)
        allowed = "different cells: searches whose cells are to be compared"
        require(len(set(self.searched)) == len(self.searched), "searched", self.searched, allowed)


@dataclass
class SelectSettings(RunSettings):
    """The settings of `python -m darts.select`."""

    searched: list[str]  # folders of searches or of sweeps, published names, files
    weight_share: float  # of the training images that train; the rest judges
    train: TrainLoop

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.weight_share < 1, "weight_share", self.weight_share, "above 0 and below 1")


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


PARTS = {
    "bundled": BundledDataset,
    "torchvision": TorchvisionDataset,
    "image_folder": ImageFolderDataset,
    "search_space": SearchSpace,
    "method": Method,
    "softmax": relaxation.Softmax,
    "gumbel": relaxation.Gumbel,
    "gumbel_hard": relaxation.GumbelHard,
    "dirichlet": relaxation.Dirichlet,
    "sigmoid": relaxation.Sigmoid,
    "binary_paths": relaxation.BinaryPaths,
    "all_channels": channels.AllChannels,
    "partial_channels": channels.PartialChannels,
    "nothing": beside.Nothing,
    "auxiliary_skip": beside.AuxiliarySkip,
    "skip_dropout": beside.SkipDropout,
    "zero_one": alpha_terms.ZeroOne,
    "log_sum_exp": alpha_terms.LogSumExp,
    "anchor": alpha_terms.Anchor,
    "unperturbed": perturbation.Unperturbed,
    "random_smoothing": perturbation.RandomSmoothing,
    "adversarial_smoothing": perturbation.AdversarialSmoothing,
    "first_order": bilevel.FirstOrder,
    "finite_difference": bilevel.FiniteDifference,
    "neumann": bilevel.Neumann,
    "training_loss": rules.TrainingLoss,
    "layer_alignment": rules.LayerAlignment,
    "frozen_operations": rules.FrozenOperations,
    "constant": schedule.Constant,
    "warm_up": schedule.WarmUp,
    "stages": schedule.Stages,
    "greedy": schedule.Greedy,
    "projection": schedule.Projection,
    "last_epoch": stopping.LastEpoch,
    "eigenvalue_growth": stopping.EigenvalueGrowth,
    "strongest_edges": discretisation.StrongestEdges,
    "few_skips": discretisation.FewSkips,
    "threshold": discretisation.Threshold,
}


def register() -> None:
    """Tell Hydra the schemas; the YAML files under conf/ name them in their defaults lists."""
    store = ConfigStore.instance()
    commands = {"search": SearchSettings, "final": FinalSettings, "compare": CompareSettings, "select": SelectSettings}
    for name, node in (commands | {"describe": DescribeSettings, "benchmark": BenchmarkSettings}).items():
        store.store(name=f"{name}_schema", node=node)
    for name, part in PARTS.items():
        store.store(group="schema", name=name, node=part)


def typed(config: DictConfig, kind: type[T]) -> T:
    """The composed configuration as an object of its settings class, every range checked; `UserError` otherwise."""
    _refuse_strays(config, "")
    try:
        settings = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing; give {error.full_key}=VALUE") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {' '.join(str(error).splitlines()[0].split())}") from None
    assert isinstance(settings, kind)
    return settings


def _refuse_strays(config: DictConfig, prefix: str) -> None:
    """Hydra's `+key=value` adds keys that no schema knows; refuse them."""
    kind = OmegaConf.get_type(config)
    known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in config:
        if known is not None and key not in known:
            raise unknown(f"{prefix.rstrip('.')}: setting" if prefix else "setting", key, known)
        value = config._get_node(key)
        if isinstance(value, DictConfig) and not value._is_missing():
            _refuse_strays(value, f"{prefix}{key!s}.")


# What may differ between two runs that are still the same experiment.
_CIRCUMSTANCES = (
    *("device", "engine", "graphs", "memory", "runs", "root", "download", "device_megabytes", "workers", "cache"),
    *("checkpoint", "weights"),
)


def plain(settings: Any) -> Any:
    """Settings as dictionaries, lists and plain values; a part carries the name of its class."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        values = {field.name: plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
        is_part = type(settings).__base__ is not object
        return {"part": type(settings).__name__, **values} if is_part else values
    if isinstance(settings, Enum):
        return settings.value
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(value) for value in settings]
    return settings


def identity(settings: Any) -> dict[str, Any]:
    """The settings that decide the result, flat: dotted key -> value."""
    return dict(_flat(plain(settings), ""))


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if key not in _CIRCUMSTANCES:
            pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def digest(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a flat set of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def refuse_other_settings(stored: dict[str, Any], present: dict[str, Any], folder: Path) -> None:
    """Raise `UserError` naming the settings that differ between a run's folder and the present command."""
    differing = sorted(key for key in stored.keys() | present.keys() if stored.get(key) != present.get(key))
    if differing:
        named = ", ".join(f"{key} was {stored.get(key)!r} and is now {present.get(key)!r}" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(f"{folder} holds a run of other settings: {named}{more}; give another hydra.run.dir")
