"""Where a run stands, epoch by epoch and step by step: what a search and a retraining have in common."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from darts.checkpoint import Checkpoints, State
from darts.interruption import heeded, stop_if_asked
from darts.tracking import Tracker
from darts.training import RunningMeans

T = TypeVar("T")


@dataclass(kw_only=True)
class RunState:
    """A run's position, records and checkpoints; what it works on is added by the two loops."""

    checkpoints: Checkpoints
    tracker: Tracker
    minutes: float  # between two saves within an epoch
    epoch: int = 0
    step: int = 0  # within the epoch
    means: RunningMeans = field(default_factory=RunningMeans)
    ended: bool = False  # before the last epoch

    def contents(self) -> State:
        """Everything else that changes, as tensors and plain values."""
        raise NotImplementedError

    def take(self, contents: State) -> None:
        """Go on from what `contents` gave."""
        raise NotImplementedError

    def save(self) -> None:
        """Write a checkpoint from which the run goes on bit for bit."""
        position = {
            "position": {"epoch": self.epoch, "step": self.step, "ended": self.ended},
            "means": self.means.state(),
            "history": self.tracker.history,
            "timing": self.tracker.timing,
            "seconds": self.tracker.seconds() if self.step else 0.0,
        }
        self.checkpoints.save({**self.contents(), **position})

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from what `save` wrote."""
        self.take(plain)
        self.epoch, self.step, self.ended = (plain["position"][name] for name in ("epoch", "step", "ended"))
        self.means = RunningMeans(plain["means"])
        self.tracker.restore(plain["history"], plain["timing"], plain["seconds"])

    def epochs(self, last: int) -> Iterator[int]:
        """The epochs that are left; a checkpoint follows each."""
        with heeded():
            while self.epoch < last and not self.ended:
                yield self.epoch
                self.epoch, self.step, self.means = self.epoch + 1, 0, RunningMeans()
                self.save()
                stop_if_asked()

    def steps(self, items: Iterable[T], steps: int) -> Iterator[T]:
        """Pass on what is left of an epoch's `steps` items, count them, and save when it is time."""
        saved = time.monotonic()
        for item in self.tracker.steps(items, self.epoch, self.step, steps):
            yield item
            self.step += 1
            if self.step < steps:
                stop_if_asked(self.save)
            if time.monotonic() - saved > 60 * self.minutes and self.step < steps:
                self.save()
                saved = time.monotonic()
