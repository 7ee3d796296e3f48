"""When a search ends before its last epoch, and which epoch's genotype it returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darts.config.registry import register
from darts.runtime.errors import require


@dataclass
class Stopping:
    """A rule that reads the history of a search."""

    @property
    def eigenvalue_every(self) -> int:
        """How often, in epochs, it needs the dominant eigenvalue of the validation Hessian; 0: never."""
        return 0

    def chosen_epoch(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        """The epoch (from 1) whose genotype is the result, if the search is to end here."""
        return None


@register("stopping", "last_epoch")
@dataclass
class LastEpoch(Stopping):
    """The search runs to its last epoch."""


@register("stopping", "eigenvalue_growth")
@dataclass
class EigenvalueGrowth(Stopping):
    """Ends once the validation loss has become sharp in alpha (Zela et al. 2020, R-DARTS, section 4.3).

    The dominant eigenvalue of the Hessian of the validation loss in alpha is measured every `every` epochs from epoch
    `first` on. Once its mean over `window` measurements has grown by more than `factor` over `back` measurements, the
    genotype from before that growth is returned.
    """

    first: int  # epoch from which eigenvalues are measured
    every: int  # epochs between two measurements
    window: int  # measurements that are averaged
    back: int  # measurements that the average is compared with
    factor: float  # growth above which the search ends

    def __post_init__(self) -> None:
        for name in ("first", "every", "window", "back"):
            require(getattr(self, name) >= 1, f"method.stopping.{name}", getattr(self, name), "at least 1")
        require(1 < self.factor < math.inf, "method.stopping.factor", self.factor, "above 1, finite")

    @property
    def eigenvalue_every(self) -> int:
        return self.every

    def chosen_epoch(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        measured = [line for line in history if "eigenvalue" in line and line["epoch"] >= self.first]
        values = [line["eigenvalue"] for line in measured]
        means = []
        for end in range(1, len(values) + 1):
            window = values[max(0, end - self.window) : end]
            means.append(sum(window) / len(window))
        if len(means) <= self.back or means[-1] <= self.factor * means[-1 - self.back]:
            return None
        return int(measured[-1 - self.back]["epoch"])
