"""Settings of the benchmark."""

from __future__ import annotations

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
        require(self.images >= 0, "images", self.images, "at least 0")
        require(bool(self.rows) and set(self.rows) <= set(ROWS), "rows", self.rows, f"some of {', '.join(ROWS)}")
