"""Where a run's values go besides its own files: a part that is chosen by `logger=NAME`, as parts of a method are.

history.jsonl and timing.jsonl are always written, and are what the program itself reads; a logger is for people.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.config.registry import register
from darts.runtime.files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LogWriter:
    """An open log of one run; this one keeps nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take values by name at a step: an epoch or, in a search by scores, an evaluation, both from 1."""

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Take a picture at a step."""

    def close(self) -> None:
        """Write out what has not been written yet. Called once, however the run ends."""


@dataclass
class Logger:
    """A kind of log; its fields are its settings."""

    def open(self, folder: Path, first: int) -> LogWriter:
        """Open the log of the run in `folder`, whose next values are of step `first`.

        What a killed run has logged of this step and later ones is to be withdrawn. folder/run.json says what the run
        is. Called by the main process only, when the first value comes.
        """
        raise NotImplementedError


@register("logger", "none")
@dataclass
class NoLogger(Logger):
    """No log besides the run's own files."""

    def open(self, folder: Path, first: int) -> LogWriter:
        return LogWriter()


@register("logger", "tensorboard")
@dataclass
class TensorBoard(Logger):
    """Event files in the run's folder, for `tensorboard --logdir runs`."""

    def open(self, folder: Path, first: int) -> LogWriter:
        return _Events(folder, first)


class _Events(LogWriter):
    """TensorBoard's file of one process. A disk that refuses it is a `UserError`."""

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _left_to_the_next_call
        self.place = folder / "events.out.tfevents"  # how the file's name begins
        with writing(self.place):
            self.writer: Any = SummaryWriter(str(folder), purge_step=first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with writing(self.place):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        with writing(self.place):
            self.writer.add_figure(name, figure, step)

    def close(self) -> None:
        with writing(self.place):
            self.writer.close()


def _left_to_the_next_call(error: threading.ExceptHookArgs, default_hook: Any = threading.excepthook) -> None:
    """TensorBoard's writing thread hands its error on to the next call, and has nothing to print by itself."""
    if type(error.thread).__module__.split(".")[0] != "tensorboard":
        default_hook(error)
