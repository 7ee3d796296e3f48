"""Where a run stands, epoch by epoch and step by step: what a search and a retraining have in common."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from darts import parallel
from darts.checkpoint import Checkpoints, State
from darts.errors import NotFiniteError, UserError
from darts.interruption import asked, heeded, stop
from darts.tracking import Tracker
from darts.training import RunningMeans

T = TypeVar("T")
LOOK_EVERY = 50  # steps between two looks at the sums; the CPU looks at every loss
REMEDY = "no step was taken by it and the checkpoint before it is kept; lower weight_optimiser.learning_rate"


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
            "means": parallel.gathered(self.means.state()),
            "history": self.tracker.history,
            "timing": self.tracker.timing,
            "seconds": self.tracker.seconds() if self.step else 0.0,
        }
        contents = self.contents()
        _require_finite(contents, "")
        if parallel.leading():
            self.checkpoints.save({**contents, **position})

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from what `save` wrote."""
        self.take(plain)
        self.epoch, self.step, self.ended = (plain["position"][name] for name in ("epoch", "step", "ended"))
        self.means = RunningMeans(_own_means(plain["means"]))
        self.tracker.restore(plain["history"], plain["timing"], plain["seconds"])

    @contextmanager
    def located(self, learning_rate: float) -> Iterator[None]:
        """Within the block a number that is none is told with the step it came in."""
        try:
            yield
        except NotFiniteError as error:
            place = f"epoch {self.epoch + 1}, step {self.step + 1}, learning rate {learning_rate:.4g}"
            raise NotFiniteError(f"{place}: {error}; {REMEDY}") from None

    def epochs(self, last: int) -> Iterator[int]:
        """The epochs that are left; a checkpoint follows each."""
        with heeded():
            while self.epoch < last and not self.ended:
                yield self.epoch
                self.epoch, self.step, self.means = self.epoch + 1, 0, RunningMeans()
                self.save()
                stop(int(parallel.largest([asked()])[0]))

    def steps(self, items: Iterable[T], steps: int) -> Iterator[T]:
        """Pass on what is left of an epoch's `steps` items, count them, and save when it is time."""
        saved = time.monotonic()
        for item in self.tracker.steps(items, self.epoch, self.step, steps):
            yield item
            self.step += 1
            if self.step % LOOK_EVERY == 0:
                self.means.require_finite()
            if self.step < steps:
                due = time.monotonic() - saved > 60 * self.minutes
                number, save = parallel.largest([asked(), due])  # all processes save and stop at the same step
                if number or save:
                    self.save()
                    saved = time.monotonic()
                stop(int(number))


def _own_means(saved: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """This process's sums of those that were saved; where other processes saved them the first takes all.

    `UserError` where the run was another with another number of processes.
    """
    if len(saved) == parallel.processes():
        return saved[parallel.number()]
    if not parallel.synchronised():
        raise UserError(
            f"this run was on {len(saved)} processes and is now on {parallel.processes()}, which is another experiment "
            "with parallel.synchronised_batch_norm=false; start as many, or give another hydra.run.dir"
        )
    return {
        name: [sum(one[name][at] for one in saved) if parallel.leading() else 0 for at in (0, 1)] for name in saved[0]
    }


def _require_finite(value: Any, name: str) -> None:
    """Raise `NotFiniteError` naming a tensor that holds a NaN or an infinity."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _require_finite(inner, f"{name} {key}".strip())
    elif isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
        raise NotFiniteError(f"{name} is not finite, and is not saved; {REMEDY}")
