"""Settings that several commands share: device and seed, sizes, optimisers, lengths, budgets.

No field has a default here: every constant stands in conf/, once. Nothing here imports PyTorch, so that a wrong
setting is answered at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from darts.loop import trackers  # noqa: F401  registers its loggers
from darts.loop.loggers import Logger
from darts.models.settings import FEWEST_CELLS, MemorySettings, NetworkSettings
from darts.runtime.errors import require
from darts.runtime.settings import CheckpointSettings, Precision
from darts.spaces.search_space import SearchSpace, Size, Skeleton, halvings, sides_of
from darts.tasks import audio_settings, several_settings  # noqa: F401  register their data sets
from darts.tasks.settings import AnyDataset


class CosineUnit(Enum):
    """When a cosine schedule moves."""

    EPOCH = "epoch"
    STEP = "step"


@dataclass
class WeightOptimiser:
    """Stochastic gradient descent with a cosine schedule, for the weights of a supernet or network."""

    learning_rate: float  # at the start
    final_learning_rate: float  # at the end of the cosine
    cosine_unit: CosineUnit  # whether the learning rate changes with every step or once an epoch, as published
    momentum: float  # of stochastic gradient descent
    nesterov: bool  # Nesterov's form of momentum
    weight_decay: float  # added to the gradient, times the weight
    clip: float  # largest norm of the whole gradient

    def __post_init__(self) -> None:
        place = "weight_optimiser"
        require(0 < self.learning_rate < math.inf, f"{place}.learning_rate", self.learning_rate, "above 0, finite")
        within = 0 <= self.final_learning_rate <= self.learning_rate
        require(within, f"{place}.final_learning_rate", self.final_learning_rate, "from 0 to the learning rate")
        require(0 <= self.momentum < 1, f"{place}.momentum", self.momentum, "at least 0 and below 1")
        allowed = "false where momentum is 0"
        require(not self.nesterov or self.momentum > 0, f"{place}.nesterov", self.nesterov, allowed)
        require(0 <= self.weight_decay < math.inf, f"{place}.weight_decay", self.weight_decay, "at least 0, finite")
        require(self.clip > 0, f"{place}.clip", self.clip, "above 0 (inf: no clipping)")


@dataclass
class ArchitectureOptimiser:
    """Adam for the architecture parameters (Liu et al. 2019, section 3.1.1)."""

    learning_rate: float  # of alpha, constant
    beta1: float  # Adam's decay of the mean gradient
    beta2: float  # Adam's decay of the mean squared gradient
    weight_decay: float  # added to alpha's gradient, times alpha

    def __post_init__(self) -> None:
        place = "architecture_optimiser"
        require(0 < self.learning_rate < math.inf, f"{place}.learning_rate", self.learning_rate, "above 0, finite")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= value < 1, f"{place}.{name}", value, "at least 0 and below 1")
        require(0 <= self.weight_decay < math.inf, f"{place}.weight_decay", self.weight_decay, "at least 0, finite")


@dataclass
class SearchLoop:
    """How long a search runs and on what."""

    epochs: int  # passes over the training split
    batch_size: int  # images (of a text columns) in a batch, over all processes; the same in both splits
    train_fraction: float  # fraction of the training images that trains the weights; the rest trains the architecture
    initial_alpha: float  # standard deviation of the architecture parameters at the start

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "search.epochs", self.epochs, "at least 1")
        require(self.batch_size >= 2, "search.batch_size", self.batch_size, "at least 2 (batch norm)")
        require(0 < self.train_fraction < 1, "search.train_fraction", self.train_fraction, "above 0 and below 1")
        require(0 <= self.initial_alpha < math.inf, "search.initial_alpha", self.initial_alpha, "at least 0, finite")


@dataclass
class Budget:
    """What a search may spend; null: no limit. It ends before what would go beyond."""

    evaluations: int | None  # most genotypes that are evaluated; searches by gradients evaluate none
    epochs: float | None  # passes over all training images
    minutes: float | None  # most minutes that epochs or evaluations take
    macs: float | None  # multiply-adds; a pass that is differentiated counts three times

    def __post_init__(self) -> None:
        for name in ("evaluations", "epochs", "minutes", "macs"):
            limit = getattr(self, name)
            require(limit is None or 0 < limit < math.inf, f"budget.{name}", limit, "above 0, finite, or null")


S = TypeVar("S")


def taken_over(kind: type[S], settings: Any, **own: Any) -> S:
    """Settings of a kind: `own`, and all else from other settings that have fields of the same names."""
    names = [field.name for field in dataclasses.fields(kind) if field.name not in own]  # type: ignore[arg-type]
    return kind(**{name: getattr(settings, name) for name in names}, **own)


@dataclass
class CommonSettings:
    """What every command is told."""

    seed: int  # of all random numbers
    device: str  # auto, cpu, cuda, cuda:1, mps
    runs: str  # the folder of all runs; `latest` looks there
    plugins: list[str]  # modules to import, which register parts, operations and the like
    space: SearchSpace

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 4294967295")


@dataclass
class DataSettings(CommonSettings):
    """What every command is told that computes on a data set."""

    deterministic: bool  # on a GPU, algorithms that repeat to the bit where there are any; the CPU always repeats
    precision: Precision  # number format of convolutions and matrix products
    graphs: bool  # on CUDA, a step as one graph: recorded once, replayed after
    memory: MemorySettings
    dataset: AnyDataset
    checkpoint: CheckpointSettings
    logger: Logger  # where values go besides the run's own files


@dataclass
class RunSettings(DataSettings):
    """What every command is told that trains a network of a size of its own."""

    network: NetworkSettings
    weight_optimiser: WeightOptimiser

    def __post_init__(self) -> None:
        super().__post_init__()
        check_task(self.dataset, self.space)
        for part in self.dataset.parts().values():
            check_size(part.size_setting, part.size, self.network, self.space)
        check_cells("network.cells", self.network, self.space)


def check_task(dataset: AnyDataset, space: SearchSpace) -> None:
    """A recurrent cell reads text, and other cells read images."""
    recurrent = space.skeleton is Skeleton.recurrent
    allowed = f"a text with space={space.name}, whose cell is recurrent: dataset=bible, or dataset=text_folder"
    require(dataset.is_text or not recurrent, "dataset", dataset.name, allowed)
    allowed = f"a set of images with space={space.name}, or give space=recurrent"
    require(recurrent or not dataset.is_text, "dataset", dataset.name, allowed)


def check_cells(setting: str, network: NetworkSettings, space: SearchSpace) -> None:
    """Both types of cells must occur in a network; one of a single cell has one, and a chain's layers are its own."""
    if space.skeleton is Skeleton.single:
        require(network.cells == 1, setting, network.cells, f"1 with space={space.name}, whose networks are one cell")
    elif space.skeleton in (Skeleton.darts, Skeleton.nasbench201):
        require(network.cells >= 3, setting, network.cells, FEWEST_CELLS)


def check_size(setting: str, size: Size, network: NetworkSettings, space: SearchSpace) -> None:
    """Images must be large enough for the stem and the two reduction cells, or for a chain's strides."""
    stem, chain = network.stem_reductions, space.chain
    allowed = f"a whole number from 0 to 6 with space={space.name}, a chain with a stem of its own"
    require(chain is None or type(stem) is int, "network.stem_reductions", stem, allowed)
    of_cells = 1 if space.skeleton is Skeleton.single else 2
    halved = halvings(stem) + (of_cells if chain is None else chain.halvings)
    least = 2**halved
    allowed = f"at least {least}: the network halves it {halved} times"
    require(min(sides_of(size)) >= least, setting, size, allowed)
