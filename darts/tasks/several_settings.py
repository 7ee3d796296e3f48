"""Settings of several tasks under one alpha: which data sets, and what each counts."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from darts.config.registry import register
from darts.runtime.errors import require
from darts.tasks.settings import AnyDataset, LabelledDataset

OF_ONE_NETWORK = "for each of several tasks has a network of another size"  # why costs are not limited


class Weighting(Enum):
    """How the tasks' weights in the architecture loss move."""

    FIXED = "fixed"
    RELATIVE_PROGRESS = "relative_progress"  # dynamic weight average (Liu, Johns and Davison 2019, equation 7)


@register("dataset", "several")
@dataclass
class SeveralDatasets(AnyDataset):
    """Data sets of several tasks, for each of which a supernet is trained under the same architecture parameters."""

    noun: ClassVar[str] = "examples"

    members: dict[str, AnyDataset]  # by task
    weights: list[float] | None  # of the tasks in the architecture loss, in their order; null: all alike
    weighting: Weighting  # whether the weights stay, or follow each task's progress
    shared_cells: bool  # the supernets have their cells' weights in common

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "one data set; a search takes several by tasks=[fashion_mini,spoken_digits_mini]"
        require(bool(self.members), "dataset", "several", allowed)
        for task, dataset in self.members.items():
            allowed = "sets of images or of sounds: a text has a cell of another kind, and is searched by itself"
            require(isinstance(dataset, LabelledDataset), "tasks", f"{task} ({dataset.name})", allowed)
        self.name = "+".join(self.members)
        if self.weights is not None:
            allowed = f"{len(self.members)} numbers above 0, finite, one a task"
            sound = len(self.weights) == len(self.members) and all(0 < w < math.inf for w in self.weights)
            require(sound, "dataset.weights", self.weights, allowed)

    def parts(self) -> dict[str, LabelledDataset]:
        return {
            task: dataclasses.replace(dataset, fraction=dataset.fraction * self.fraction)
            for task, dataset in self.members.items()
            if isinstance(dataset, LabelledDataset)
        }

    def fixed_weights(self) -> list[float]:
        """The weights of the tasks, which sum to 1."""
        given = [1.0] * len(self.members) if self.weights is None else self.weights
        return [weight / sum(given) for weight in given]
