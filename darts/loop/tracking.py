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

from darts.loop.loggers import Logger, LogWriter, single_values
from darts.runtime import distributed
from darts.runtime.files import append_line, write_lines, writing
from darts.tasks.metric import Metric, metric_among
from darts.tasks.task import Mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from darts.loop.optimisation import RunningMeans

log = logging.getLogger(__name__)

Metrics = Mapping[str, float]
T = TypeVar("T")
BAR = "{desc} {percentage:3.0f}%|{bar}|{n_fmt}/{total_fmt} {rate_fmt} {remaining} left{postfix}"
BAR_SECONDS = 1.0  # between two looks at what was measured, which a GPU has to be waited for


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
        self.macs = 0  # multiply-adds of this epoch so far, of this process's images, where the loop counts them

    def restore(self, history: list[dict[str, Any]], timing: list[dict[str, Any]], seconds: float, macs: int) -> None:
        """Go on after the given epochs: whatever a killed run wrote beyond them is dropped from the files.

        `seconds` and `macs`, of all processes together, were spent on the present epoch.
        """
        self.history, self.timing, self.seconds_before = list(history), list(timing), seconds
        self.macs = macs if self.writes else 0
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

    def steps(self, items: Iterable[T], epoch: int, start: int, steps: int, means: RunningMeans) -> Iterator[T]:
        """Pass the items of an epoch on; on a terminal, show how far it is and what was measured."""
        from tqdm import tqdm

        self.epoch_start = time.perf_counter()
        title, hidden = f"epoch {epoch + 1}/{self.epochs}", self.quiet or not self.writes or not _on_terminal()
        bar = tqdm(items, title, steps, leave=False, initial=start, disable=hidden, dynamic_ncols=True, bar_format=BAR)
        told = time.monotonic()
        for item in bar:
            if not hidden and time.monotonic() - told > BAR_SECONDS:
                told = time.monotonic()
                bar.set_postfix_str(_short(means.own_means()), refresh=False)
            yield item

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
        macs = self.epoch_macs()
        if macs:
            timing["macs"] = macs
        self.macs, self.seconds_before, self.epoch_start = 0, 0.0, time.perf_counter()
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
        if self.writes and self.log(epoch).draws:
            self.log(epoch).figure(epoch + 1, name, draw())

    def text(self, epoch: int, name: str, text: str) -> None:
        """A text for the logger, in Markdown."""
        if self.writes:
            self.log(epoch).text(epoch + 1, name, text)

    def training_step(self, epoch: int, step: int, steps: int, measured: Mapping[str, Mean]) -> None:
        """What one training step of this process measured, for a logger that takes single steps."""
        number = epoch * steps + step + 1
        if self.writes and self.logger.takes(number):
            values = {name: float(mean.total) / mean.count for name, mean in measured.items()}
            self.log(epoch).training_step(number, values)

    def results(self, settings: Mapping[str, Any], values: Metrics) -> None:
        """What the run came to, for the logger, with its settings by dotted name; those that are lists are left out."""
        if self.writes:
            self.log(self.epochs).results(single_values(settings), values)

    def total_seconds(self) -> float:
        """Seconds of all epochs, those before an interruption included."""
        return sum(line["seconds"] for line in self.timing)

    def epoch_macs(self) -> int:
        """Multiply-adds of the present epoch so far, of all processes."""
        return int(distributed.all_reduce_numbers([self.macs])[0])

    def total_macs(self) -> int:
        """Multiply-adds of all epochs that are written down."""
        return sum(line.get("macs", 0) for line in self.timing)

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


def _on_terminal() -> bool:
    """Whether the standard error output is a terminal; it may be closed."""
    return sys.stderr is not None and sys.stderr.isatty()


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held so far: of the GPU where the run is on one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _short(means: Metrics) -> str:
    """Loss and metric of the training split, for the end of a progress bar."""
    parts = []
    if "train/loss" in means:
        parts.append(f"loss {means['train/loss']:.3f}")
    metric = metric_among(means, "train/")
    if f"train/{metric.name}" in means:
        parts.append(metric.shown(means[f"train/{metric.name}"], digits=1))
    return " ".join(parts)


def _summary(line: Mapping[str, Any]) -> str:
    """The metrics of an epoch that fit on a line."""
    parts = []
    for split in ("train", "valid"):
        if f"{split}/loss" in line:
            metric = metric_among(line, f"{split}/")
            value = metric.shown(line[f"{split}/{metric.name}"], digits=1)
            parts.append(
                f"{split} loss {line[f'{split}/loss']:.3f} {metric.name} {value}{_by_task(line, split, metric)}"
            )
    return ", ".join(parts)


def _by_task(line: Mapping[str, Any], split: str, metric: Metric) -> str:
    """The metric of each of several tasks, in brackets; nothing where there is one."""
    keys = [key.split("/") for key in line]
    tasks = [parts[1] for parts in keys if len(parts) == 3 and parts[0] == split and parts[2] == metric.name]
    values = [metric.shown(line[f"{split}/{task}/{metric.name}"], digits=1) for task in tasks]
    return f" ({', '.join(f'{task} {value}' for task, value in zip(tasks, values, strict=True))})" if tasks else ""
