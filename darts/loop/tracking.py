"""What a run leaves behind while it goes: history.jsonl, timing.jsonl, a logger's values, and lines on the console.

history.jsonl holds what the settings and the seed determine, so that two runs can be compared byte by byte;
timing.jsonl holds seconds and memory, which no two runs share.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from darts.loop.loggers import Logger, LogWriter
from darts.runtime import distributed
from darts.runtime.files import append_line, write_lines, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

Metrics = Mapping[str, float]
T = TypeVar("T")


class Tracker:
    """Keeps the records of one run; the loops call `steps` around an epoch and `record` after it."""

    quiet = False  # True: nothing on the console

    def __init__(self, folder: Path, epochs: int, device: torch.device, logger: Logger) -> None:
        self.folder = folder
        self.epochs = epochs
        self.device = device
        self.history: list[dict[str, Any]] = []
        self.timing: list[dict[str, Any]] = []
        self.writes = distributed.is_main_process()
        self.logger = logger
        self.opened: LogWriter | None = None
        if self.writes:  # a checkpoint's lines come back by `restore`; others are of a run killed before its first one
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("history.jsonl", "timing.jsonl"):
                    (folder / name).unlink(missing_ok=True)
        self.epoch_start = time.perf_counter()
        self.seconds_before = 0.0  # spent on this epoch before an interruption

    def restore(self, history: list[dict[str, Any]], timing: list[dict[str, Any]], seconds: float) -> None:
        """Go on after the given epochs: whatever a killed run wrote beyond them is dropped from the files."""
        self.history, self.timing, self.seconds_before = list(history), list(timing), seconds
        if self.writes:
            write_lines(self.folder / "history.jsonl", self.history)
            write_lines(self.folder / "timing.jsonl", self.timing)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Close the records after the block, however it ends; log lines within it go above the progress bar."""
        from tqdm.contrib.logging import logging_redirect_tqdm

        try:
            with logging_redirect_tqdm():
                yield
        finally:
            self.close()

    def steps(self, items: Iterable[T], epoch: int, start: int, steps: int) -> Iterator[T]:
        """Pass the items of an epoch on and show how far it is, where the output is a terminal."""
        from tqdm import tqdm

        self.epoch_start = time.perf_counter()
        title, hidden = f"epoch {epoch + 1}/{self.epochs}", self.quiet or not self.writes or not sys.stderr.isatty()
        bar = tqdm(items, title, steps, leave=False, initial=start, disable=hidden, dynamic_ncols=True)
        if self.history:
            bar.set_postfix_str(f"{_summary(self.history[-1])}, {self._left(epoch)} left", refresh=False)
        yield from bar

    def seconds(self) -> float:
        """Seconds spent on the present epoch so far."""
        return self.seconds_before + time.perf_counter() - self.epoch_start

    def record(self, epoch: int, metrics: Metrics, steps: int, extra: Mapping[str, Any] | None = None) -> None:
        """Write down one epoch; `extra` goes to history.jsonl only."""
        seconds = self.seconds()
        timing = {
            "epoch": epoch + 1,
            "seconds": round(seconds, 3),
            "step_ms": round(1000 * seconds / steps, 3),
            "memory_mb": round(peak_memory_mb(self.device), 1),
        }
        self.seconds_before, self.epoch_start = 0.0, time.perf_counter()
        self.history.append({"epoch": epoch + 1, **metrics, **(extra or {})})
        self.timing.append(timing)
        if not self.writes:
            return
        append_line(self.folder / "history.jsonl", self.history[-1])
        append_line(self.folder / "timing.jsonl", timing)
        self.scalars(epoch, metrics)
        self.scalars(epoch, {f"time/{name}": timing[name] for name in ("seconds", "step_ms", "memory_mb")})
        left = self._left(epoch + 1)
        level = logging.DEBUG if self.quiet else logging.INFO
        log.log(level, "epoch %*d/%d  %s  %.1f s, %s left", len(str(self.epochs)), epoch + 1, self.epochs,
                 _summary(self.history[-1]), seconds, left)  # fmt: skip

    def log(self, epoch: int) -> LogWriter:
        """The open log, from the first value on."""
        if self.opened is None:
            self.opened = self.logger.open(self.folder, epoch + 1)
        return self.opened

    def scalars(self, epoch: int, metrics: Metrics) -> None:
        """Values for the logger only."""
        if self.writes:
            self.log(epoch).scalars(epoch + 1, metrics)

    def picture(self, epoch: int, name: str, draw: Callable[[], Figure]) -> None:
        """A picture for the logger, drawn where it is kept."""
        if self.writes:
            self.log(epoch).figure(epoch + 1, name, draw())

    def total_seconds(self) -> float:
        """Seconds of all epochs, those before an interruption included."""
        return sum(line["seconds"] for line in self.timing)

    def close(self) -> None:
        """Write out what the logger has not written yet."""
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()

    def _left(self, done: int) -> str:
        if not self.timing:
            return "?"
        seconds = (self.epochs - done) * self.total_seconds() / len(self.timing)
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far: of the GPU where the run is on one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _summary(line: Mapping[str, Any]) -> str:
    """The metrics of an epoch that fit on a line."""
    parts = []
    for split in ("train", "valid"):
        if f"{split}/loss" in line:
            parts.append(f"{split} loss {line[f'{split}/loss']:.3f} accuracy {100 * line[f'{split}/accuracy']:.1f}%")
    return ", ".join(parts)
