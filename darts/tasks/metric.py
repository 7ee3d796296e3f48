"""The number by which a trained network is judged, and which way it is better; without PyTorch."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass

from darts.tasks.settings import AnyDataset

LONG = 1e6  # a perplexity that is shown by its first digits and a power of ten


@dataclass(frozen=True)
class Metric:
    """The number that a task is judged by."""

    name: str
    higher_is_better: bool
    least: float  # that it can be
    most: float
    plural: str
    worst_score: float  # what a brief training that diverges counts as
    best_score: float  # that a brief training can have

    def score(self, value: float) -> float:
        """The value so that higher is better."""
        return value if self.higher_is_better else -value

    def loss(self, value: float) -> float:
        """The value so that lower is better, as a sweeper wants it: the error in place of an accuracy."""
        return 1 - value if self.higher_is_better else value

    def value_of_brief_score(self, score: float) -> float:
        """The value that a brief training's score stands for: an accuracy, or minus the logarithm of a perplexity."""
        return score if self.higher_is_better else math.exp(-score)

    def shown(self, value: float, digits: int = 2) -> str:
        """A value for people: accuracies in percent, others as they are."""
        if self.name == "accuracy":
            return f"{100 * value:.{digits}f}%"
        return f"{value:.{digits}f}" if value < LONG else f"{value:.3g}"


ACCURACY = Metric(
    "accuracy",
    higher_is_better=True,
    least=0.0,
    most=1.0,
    plural="accuracies",
    worst_score=0.0,
    best_score=1.0,
)
PERPLEXITY = Metric(
    "perplexity",
    higher_is_better=False,
    least=1.0,
    most=sys.float_info.max,
    plural="perplexities",
    worst_score=-100.0,
    best_score=0.0,
)
METRICS = {metric.name: metric for metric in (ACCURACY, PERPLEXITY)}


def metric_of(dataset: AnyDataset) -> Metric:
    """The metric by which what is learned from a data set is judged."""
    return PERPLEXITY if dataset.is_text else ACCURACY


def metric_among(names: Collection[str], prefix: str) -> Metric:
    """The metric that a record holds under `prefix` and its name, such as "valid/accuracy"; accuracy where none is."""
    found = [metric for metric in METRICS.values() if prefix + metric.name in names]
    return found[0] if found else ACCURACY
