"""Settings of the benchmark."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum

from darts.config.registry import command_settings
from darts.models.settings import NetworkSettings
from darts.runtime.errors import require
from darts.search.settings import SearchSettings
from darts.tasks.settings import require_images
from darts.train.settings import FinalLoop

ROWS = (
    "search step, first order",
    "search step, second order",
    "retraining step",
    "evaluation",
    "data loading",
)


class GpuPhase(Enum):
    """What `gpu` measures; darts/benchmark/gpu.py says what each phase is."""

    correctness = "correctness"
    depthwise = "depthwise"
    steps = "steps"
    search = "search"


@command_settings("benchmark")
@dataclass
class BenchmarkSettings(SearchSettings):
    """The settings of `python -m darts.benchmark`."""

    gpu: GpuPhase | None  # a phase of what is measured on a GPU, in place of the rows; null: the rows
    gpu_minutes: float  # after this long no further row of a phase begins
    rows: list[str]  # what is timed
    smaller: list[list[int]]  # further sizes at which the rows are timed: [batch, channels], of search and retraining
    threads: list[int]  # numbers of CPU threads with which the rows are timed; []: as many as PyTorch takes
    repetitions: int  # of each action, in turn with the others of its row
    scaling: bool  # also measure how time and memory grow with batch, channels, cells, nodes
    images: int  # training images of the data set to extrapolate to; 0: no extrapolation
    json: bool  # print one JSON object and nothing else
    genotype: str  # a published cell
    retrained: NetworkSettings
    train: FinalLoop

    def __post_init__(self) -> None:
        super().__post_init__()
        require_images(self.dataset)
        require(1 <= self.repetitions <= 1000, "repetitions", self.repetitions, "from 1 to 1000")
        minutes = self.gpu_minutes
        require(0 < minutes <= 1e5, "gpu_minutes", minutes, "above 0 and at most 100000")
        pairs = all(len(pair) == 2 and 1 <= pair[0] <= 4096 and 2 <= pair[1] <= 4096 for pair in self.smaller)
        allowed = "pairs [batch, channels], the batch from 1 to 4096, channels from 2 to 4096"
        require(pairs, "smaller", self.smaller, allowed)
        different = len(set(self.threads)) == len(self.threads) and all(1 <= count <= 1024 for count in self.threads)
        require(different, "threads", self.threads, "different numbers from 1 to 1024")
        require(self.images >= 0, "images", self.images, "at least 0")
        require(bool(self.rows) and set(self.rows) <= set(ROWS), "rows", self.rows, f"some of {', '.join(ROWS)}")

    def at(self, batch: int, channels: int) -> BenchmarkSettings:
        """The settings with the batch and the channels of search and retraining given."""
        return dataclasses.replace(
            self,
            search=dataclasses.replace(self.search, batch_size=batch),
            train=dataclasses.replace(self.train, batch_size=batch),
            network=dataclasses.replace(self.network, channels=channels),
            retrained=dataclasses.replace(self.retrained, channels=channels),
        )
