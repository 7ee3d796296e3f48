"""Settings of supernets and networks: size, engine, memory, limits of cost."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from darts.runtime.errors import require
from darts.spaces.search_space import InputShape, is_size, is_stem, size_of
from darts.spaces.table import BenchmarkTable

LATENCY = "latency_ms"
FEWEST_CELLS = "from 3 (both cell types occur) to 1000; or 1 with space=single_cell"
COSTS = ("parameters", "macs", LATENCY)  # of a network, each of one image


@dataclass
class NetworkSettings:
    """Size of a supernet or network (Liu et al. 2019: search 16 channels, 8 cells; retraining 36 and 20)."""

    channels: int  # of the first cells; reduction cells double it
    cells: int  # of the whole network, reduction cells at 1/3 and 2/3
    stem_reductions: Any  # how often the stem halves the resolution; 0: as published for CIFAR; imagenet: for ImageNet

    def __post_init__(self) -> None:
        require(2 <= self.channels <= 65536, "network.channels", self.channels, "from 2 to 65536")
        require(1 <= self.cells <= 1000, "network.cells", self.cells, FEWEST_CELLS)
        allowed = "a whole number from 0 to 6, or imagenet"
        require(is_stem(self.stem_reductions), "network.stem_reductions", self.stem_reductions, allowed)


@dataclass
class InputSettings:
    """The images that a network is made for."""

    channels: int  # of an image
    size: Any  # pixels: the side of a square image, or [height, width]
    classes: int  # answers of the network

    def __post_init__(self) -> None:
        require(1 <= self.channels <= 4096, "input.channels", self.channels, "from 1 to 4096")
        allowed = "from 1 to 4096, or [height, width] of such"
        require(is_size(self.size), "input.size", self.size, allowed)
        require(1 <= self.classes <= 1_000_000, "input.classes", self.classes, "from 1 to 1000000")

    def shape(self) -> InputShape:
        """What the network is given and asked for."""
        return InputShape(self.channels, size_of(self.size), self.classes)


class Engine(Enum):
    """How a supernet is computed; the function and the weights are the same."""

    fused = "fused"
    reference = "reference"


@dataclass
class MemorySettings:
    """Ways to need less memory."""

    activation_checkpointing: bool  # activation checkpointing: keep only cells' outputs; half more time


@dataclass
class ConstraintSettings:
    """What the network that is made of the found cell may cost; null: no limit."""

    parameters: float | None  # trained values of the network
    macs: float | None  # multiply-adds of one image
    latency_ms: float | None  # of one image, on the search's device or as latency_table says
    latency_table: str | None  # a CSV file: latencies of all cells by device, or of operations by darts.measure
    device: str | None  # which column of latency_table
    weight: float  # of the penalty while the expected cost is above a limit
    network: NetworkSettings  # the size at which the found cell is to be used

    def __post_init__(self) -> None:
        for name in COSTS:
            limit = getattr(self, name)
            require(limit is None or 0 < limit < math.inf, f"constraints.{name}", limit, "above 0, finite, or null")
        require(0 <= self.weight < math.inf, "constraints.weight", self.weight, "at least 0, finite")

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(limit is not None for limit in (self.parameters, self.macs, self.latency_ms))


def with_tables(constraints: ConstraintSettings, benchmark: BenchmarkTable) -> ConstraintSettings:
    """The constraints with their table of latencies, where it is one of `benchmark.tables`, which are assigned."""
    latency_table = benchmark.assign(constraints.device, constraints.latency_table)
    return dataclasses.replace(constraints, latency_table=latency_table)
