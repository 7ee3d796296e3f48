"""Settings of retraining and of brief training."""

from __future__ import annotations

from dataclasses import dataclass

from darts.config.registry import command_settings
from darts.loop.settings import RunSettings, TrainLoop
from darts.runtime.errors import require
from darts.runtime.settings import ParallelSettings


@command_settings("final")
@dataclass
class FinalSettings(RunSettings):
    """The settings of train_final.py."""

    genotype: str  # latest, random, random:7, a published name, a path, or a cell as printed
    weights: str | None  # evaluate this file instead of training
    train: TrainLoop
    parallel: ParallelSettings  # where torchrun starts several processes


@dataclass
class BriefSettings(RunSettings):
    """A brief training on one part of the training images, judged on the other."""

    train_fraction: float  # of the training images that train; the rest judges
    train: TrainLoop

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.train_fraction < 1, "train_fraction", self.train_fraction, "above 0 and below 1")
