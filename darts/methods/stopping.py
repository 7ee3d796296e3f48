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
    """Ends once the validation loss has become sharp in alpha (Zela et al. 2020, DARTS-ES, section 4.3).

    The dominant eigenvalue of the Hessian of the validation loss in alpha is measured after the first epoch and every
    `every` epochs from there. The mean of the last `window` measurements is compared with that of `back` measurements
    before; where it has grown by more than `factor`, the search ends, and the genotype in the middle of the earlier
    window is returned, if that is not before epoch `first`. Epochs are counted from 0 here, as by the authors.
    """

    first: int  # earliest epoch whose genotype may be returned
    every: int  # epochs between two measurements
    window: int  # measurements that are averaged
    back: int  # measurements between the two averages
    factor: float  # growth above which the search ends

    def __post_init__(self) -> None:
        for name, least in (("first", 0), ("every", 1), ("window", 1), ("back", 1)):
            value = getattr(self, name)
            require(value >= least, f"method.stopping.{name}", value, f"at least {least}")
        require(1 < self.factor < math.inf, "method.stopping.factor", self.factor, "above 1, finite")

    @property
    def eigenvalue_every(self) -> int:
        return self.every

    def chosen_epoch(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        measured = [line for line in history if "eigenvalue" in line and (line["epoch"] - 1) % self.every == 0]
        if not measured or measured[-1] is not history[-1]:
            return None
        now = int(measured[-1]["epoch"]) - 1
        chosen = now - self.every * (self.window // 2 + self.back)
        if chosen < self.first:
            return None
        values = [float(line["eigenvalue"]) for line in measured]
        recent, earlier = values[-self.window :], values[: -self.back][-self.window :]
        grown = sum(recent) / len(recent) > self.factor * sum(earlier) / len(earlier)
        return chosen + 1 if grown else None
