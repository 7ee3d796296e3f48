"""The position of a run, epoch by epoch and step by step: what a search and a retraining have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from darts import __version__
from darts.config.identity import refuse_other_experiment
from darts.loop.optimisation import RunningMeans
from darts.loop.tracking import Tracker
from darts.runtime import distributed
from darts.runtime.checkpoint import Checkpoints, State
from darts.runtime.errors import NotFiniteError, UserError
from darts.runtime.schema import JSON, At, Length, Part, Schema, SchemaError, Within, require_schema
from darts.runtime.signals import deferred_signals, pending_signal, raise_if_interrupted
from darts.tasks.task import StepMetrics

T = TypeVar("T")
Sums = {str: Length(2, float)}  # by name a total and a count
MOST = 2**53  # larger than any count
MACS = At(0, 10**30)
TIMING = {"epoch": int, "seconds": Within(0, MOST), "step_ms": Within(0, MOST), "memory_mb": Within(0, MOST)}
LOOK_EVERY = 50  # steps between two looks at the sums; the CPU looks at every loss
KEPT = "no step was taken by it and the checkpoint before it is kept"


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

    def state_dict(self) -> State:
        """Everything else that changes, as tensors and plain values."""
        raise NotImplementedError

    def load_state_dict(self, saved: State) -> None:
        """Take up what `state_dict` gave."""
        raise NotImplementedError

    def save(self) -> None:
        """Write a checkpoint from which the run resumes bit for bit."""
        position = {
            "version": __version__,
            "position": {"epoch": self.epoch, "step": self.step, "ended": self.ended},
            "means": distributed.all_gather(self.means.state_dict()),
            "history": self.tracker.history,
            "timing": self.tracker.timing,
            "seconds": self.tracker.seconds() if self.step else 0.0,
            "macs": self.tracker.epoch_macs(),
        }
        state_dict = self.state_dict()
        _require_finite(state_dict, "", f"{KEPT}; lower {self.rate_setting()}")
        if distributed.is_main_process():
            self.checkpoints.save({**state_dict, **position})

    def schema(self) -> Schema:
        """What `state_dict` returns, as the schema that a checkpoint is checked against before it is loaded."""
        raise NotImplementedError

    def at_epoch(self, epoch: int) -> None:
        """Make what is another thing from some epoch on as it is in this one, before it begins or is taken up."""

    def rate_setting(self) -> str:
        """The setting that gives the learning rate of the weights."""
        return "weight_optimiser.learning_rate"

    def line_schema(self) -> Schema:
        """What an epoch's line of history.jsonl must hold."""
        return {"epoch": int}

    def restore(self, saved: dict[str, Any]) -> None:
        """Resume from what `save` wrote; `UserError` where a file with the right checksum holds something else."""
        try:
            position = {"epoch": At(0, self.tracker.epochs), "step": At(0, MOST), "ended": bool}
            require_schema(saved, {"position": position})
            epochs = saved["position"]["epoch"]
            self.at_epoch(epochs)
            records = {"history": Length(epochs, self.line_schema()), "timing": Length(epochs, TIMING)}
            require_schema(saved, {"history": [{str: JSON}], "timing": [Part(TIMING | {"macs": MACS})]})
            spent = {"seconds": Within(0, MOST), "macs": MACS}
            require_schema(saved, {**self.schema(), **records, "means": [Sums], **spent})
            self.require_possible(saved)
            self.load_state_dict(saved)
        except SchemaError as error:
            raise _foreign(self.checkpoints.last, error) from None
        self.epoch, self.step, self.ended = (saved["position"][name] for name in ("epoch", "step", "ended"))
        self.means = RunningMeans(_own_means(saved["means"]))
        self.tracker.restore(saved["history"], saved["timing"], saved["seconds"], saved["macs"])

    def may_have_ended(self, saved: State) -> bool:
        """Whether a run with this state can have ended before its last epoch."""
        return False

    def require_possible(self, saved: dict[str, Any]) -> None:
        """`SchemaError` where what a state says does not go together."""
        position, means = saved["position"], saved["means"]
        epochs = [line["epoch"] for line in saved["history"]]
        named = self.line_schema()
        for line in saved["history"]:
            others = {name: value for name, value in line.items() if name not in named}
            require_schema(others, {str: float}, f"history[{line['epoch'] - 1}]")
        if epochs != list(range(1, position["epoch"] + 1)):
            raise SchemaError(f"history is of the epochs {epochs[:5]}, not of 1 to {position['epoch']}")
        if position["ended"] and not self.may_have_ended(saved):
            raise SchemaError("position.ended is true, but nothing ends this run before its last epoch")
        if not means or (position["step"] and not all(means)):
            raise SchemaError(f"means is empty after {position['step']} steps of an epoch")
        if any(set(one) != set(means[0]) for one in means):
            raise SchemaError("means names other quantities for one process than for another")
        for name, (total, count) in ((name, sums) for one in means for name, sums in one.items()):
            if not (math.isfinite(total) and count >= 0):
                raise SchemaError(f"means.{name} is {[total, count]}, not a finite sum and a count")

    @contextmanager
    def located(self, learning_rate: float) -> Iterator[None]:
        """Add the step to the message of a `NotFiniteError` raised within the block."""
        try:
            yield
        except NotFiniteError as error:
            place = f"epoch {self.epoch + 1}, step {self.step + 1}, learning rate {learning_rate:.4g}"
            raise NotFiniteError(f"{place}: {error}; {KEPT}; lower {self.rate_setting()}") from None

    def measure(self, measured: StepMetrics, steps: int) -> None:
        """Take what a step, one of `steps` of the epoch, measured."""
        for name, mean in measured.items():
            self.means.add(name, mean)
        self.tracker.training_step(self.epoch, self.step, steps, measured)

    def stop_if_asked(self) -> None:
        """Raise `Interrupted` on all processes where a signal has come to one, as at the end of every epoch."""
        raise_if_interrupted(int(distributed.all_reduce_max([pending_signal()])[0]))

    def epochs(self, last: int) -> Iterator[int]:
        """Yield the epochs that remain; a checkpoint follows each."""
        with deferred_signals():
            while self.epoch < last and not self.ended:
                yield self.epoch
                self.epoch, self.step, self.means = self.epoch + 1, 0, RunningMeans()
                self.at_epoch(self.epoch)
                self.save()
                self.stop_if_asked()

    def steps(self, items: Iterable[T], steps: int) -> Iterator[T]:
        """Yield the remaining ones of an epoch's `steps` items, count them, and save when it is time."""
        saved = time.monotonic()
        for item in self.tracker.steps(items, self.epoch, self.step, steps, self.means):
            yield item
            self.step += 1
            if self.step % LOOK_EVERY == 0:
                self.means.require_finite()
            if self.step < steps:
                due = time.monotonic() - saved > 60 * self.minutes
                # the largest over processes, so that all of them save and stop at the same step
                signal, save = distributed.all_reduce_max([pending_signal(), due])
                if signal or save:
                    self.save()
                    saved = time.monotonic()
                raise_if_interrupted(int(signal))


def load_checkpoint(folder: Path, present: Mapping[str, Any], schema: Schema | None = None) -> State | None:
    """The newest state of a folder's run, None where there is none.

    `present`: the settings that decide the result; `schema`: what is needed before the rest can be checked. Raises
    `UserError` for a state of other settings and for one that is none of ours.
    """
    checkpoints = Checkpoints(folder)
    saved = checkpoints.load()
    if saved is None:
        return None
    try:
        require_schema(saved, {"settings": {str: JSON}})
        refuse_other_experiment(saved, present, folder)
        require_schema(saved, schema or {})
    except SchemaError as error:
        raise _foreign(checkpoints.last, error) from None
    return saved


def _foreign(file: Path, error: SchemaError) -> UserError:
    return UserError(f"{file}: its checksum is right, but it is no checkpoint of this run: {error}; remove the folder")


def _own_means(saved: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Return this process's sums of those that were saved; with another number of processes rank 0 takes all.

    `UserError` where another number of processes is another experiment.
    """
    before, now = len(saved), distributed.world_size()
    if before == now:
        return saved[distributed.rank()]
    if not distributed.synchronised_batch_norm():
        raise UserError(
            f"this run was on {before} processes and is now on {now}, which is another experiment "
            "with parallel.synchronised_batch_norm=false; start as many, or give another hydra.run.dir"
        )
    own: dict[str, list[float]] = {}
    for name in saved[0]:
        sums, counts = zip(*(one[name] for one in saved), strict=True)
        own[name] = [sum(sums), sum(counts)] if distributed.is_main_process() else [0, 0]
    return own


def _require_finite(value: Any, name: str, remedy: str) -> None:
    """Raise `NotFiniteError` naming a tensor that holds a NaN or an infinity, with what to do."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _require_finite(inner, f"{name} {key}".strip(), remedy)
    elif isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
        raise NotFiniteError(f"{name} is not finite, and is not saved; {remedy}")
