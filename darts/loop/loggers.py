"""Where a run's values go besides its own files: a part that is chosen by `logger=NAME`, as parts of a method are.

history.jsonl and timing.jsonl are always written, and are what the program itself reads; a logger is for people.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from darts.config.compose import dotted_key
from darts.config.registry import register
from darts.runtime.errors import one_line, require
from darts.runtime.files import writing
from darts.runtime.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


log = logging.getLogger(__name__)
FIRST = ("method.name", "space.name", "dataset.name", "seed", "genotype")  # settings that are always shown


class LogWriter:
    """An open log of one run; this one keeps nothing. A writer of one's own has what it wants of these."""

    draws = True  # False: pictures are not even drawn

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take values by name at a step: an epoch or, in a search by scores, an evaluation, both from 1."""

    def training_step(self, step: int, values: Mapping[str, float]) -> None:
        """Take values of a single training step, counted from 1 over the whole run."""

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Take a picture at an epoch."""

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text (Markdown) at an epoch."""

    def results(self, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Take what a run came to, at its end, with the settings (by dotted name) that tell it from others."""

    def close(self) -> None:
        """Write out what has not been written yet. Called once, however the run ends."""


@dataclass
class Logger:
    """A kind of log; its fields are its settings."""

    def open(self, folder: Path, first: int) -> LogWriter:
        """Open the log of the run in `folder`, whose next values are of step `first`.

        What a killed run has logged of this step and later ones is to be withdrawn. folder/run.json says what the run
        is, and folder/history.jsonl has the lines of all steps before. Called by the main process only, when the first
        value comes.
        """
        raise NotImplementedError

    def takes(self, step: int) -> bool:
        """Whether a single training step, counted from 1, is logged."""
        return False


@dataclass
class StepLogger(Logger):
    """A logger that may take single training steps."""

    every: int  # training steps between two that are logged one by one; 0: epochs only

    def __post_init__(self) -> None:
        require(self.every >= 0, "logger.every", self.every, "at least 0 (0: epochs only)")

    def takes(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0


@register("logger", "none")
@dataclass
class NoLogger(Logger):
    """No log besides the run's own files."""

    def open(self, folder: Path, first: int) -> LogWriter:
        return _Nothing()


class _Nothing(LogWriter):
    draws = False


@register("logger", "tensorboard")
@dataclass
class TensorBoard(StepLogger):
    """Event files in the run's folder, for `tensorboard --logdir runs`."""

    def open(self, folder: Path, first: int) -> LogWriter:
        if printable(str(folder)) != str(folder):
            log.warning("logger=tensorboard keeps nothing: %s is no name in UTF-8", one_line(folder))
            return LogWriter()
        return _Events(folder, first)


class _Events(LogWriter):
    """TensorBoard's file of one process. A disk that refuses it is a `UserError`."""

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _left_to_the_next_call
        self.folder = folder
        self.place = folder / "events.out.tfevents"  # how the file's name begins
        with writing(self.place):
            self.writer: Any = SummaryWriter(str(folder), purge_step=first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with writing(self.place):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def training_step(self, step: int, values: Mapping[str, float]) -> None:
        self.scalars(step, {f"steps/{name}": value for name, value in values.items()})

    def figure(self, step: int, name: str, figure: Figure) -> None:
        from darts.loop.plotting import pixels_of

        with writing(self.place):
            self.writer.add_image(name, pixels_of(figure), step, dataformats="HWC")

    def text(self, step: int, name: str, text: str) -> None:
        with writing(self.place):
            self.writer.add_text(name, printable(text), step)

    def results(self, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """A row of the table of hyperparameters, in this file: `add_hparams` would make a run of its own."""
        from torch.utils.tensorboard.summary import hparams

        named = {}
        for name in telling(self.folder, settings):
            value = settings[name]
            named[name] = value if isinstance(value, bool | int | float) else printable(str(value))
        found = {f"result/{name}": value for name, value in values.items()}
        with writing(self.place):
            for summary in hparams(named, found):
                self.writer.file_writer.add_summary(summary)
            for name, value in found.items():
                self.writer.add_scalar(name, value)

    def close(self) -> None:
        with writing(self.place):
            self.writer.close()


def single_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are one value each, as every logger takes them: lists and dictionaries are left out."""
    return {name: value for name, value in settings.items() if not isinstance(value, list | dict)}


def telling(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """The names of the settings that tell a run from others: method, space, data, seed, and what was typed for it.

    The table of hyperparameters shows its first columns only, so that all settings would hide these.
    """
    file = folder / ".hydra" / "overrides.yaml"
    typed = [dotted_key(str(item)) for item in OmegaConf.load(file)] if file.is_file() else []
    names = [name for name in (*FIRST, *typed) if name in settings]
    return list(dict.fromkeys(names))


def _left_to_the_next_call(error: threading.ExceptHookArgs, default_hook: Any = threading.excepthook) -> None:
    """TensorBoard's writing thread hands its error on to the next call, and has nothing to print by itself."""
    if type(error.thread).__module__.split(".")[0] != "tensorboard":
        default_hook(error)
