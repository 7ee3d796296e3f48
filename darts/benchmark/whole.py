"""A whole search and the retraining of its cell: rows of `python -m darts.benchmark gpu=search`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from darts.benchmark.settings import BenchmarkSettings
from darts.loop.settings import taken_over
from darts.runtime.errors import UserError
from darts.runtime.signals import Interrupted
from darts.search import loop as search
from darts.search.settings import SearchSettings
from darts.spaces.genotype import Genotype, from_json
from darts.train import retraining as retrain
from darts.train.settings import FROM_SCRATCH, FinalSettings

Found = dict[str, Any]
SHOWN = ("epoch", "train/accuracy", "valid/accuracy", "seconds")  # of an epoch, as far as it has them


def search_rows(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, Callable[[], Found]]:
    """The search, then the retraining; each stops when gpu_minutes are over, and goes on at the next call."""
    until = time.monotonic() + 60 * settings.gpu_minutes
    return {
        "search": partial(whole_search, settings, folder / "search", until),
        "retraining": partial(whole_retraining, settings, folder, until),
    }


def whole_search(settings: BenchmarkSettings, folder: Path, until: float) -> Found:
    """The search that `python train_search.py` runs."""
    own = taken_over(SearchSettings, settings)
    with stopped_in_time(folder, until):
        genotype = search.run(own, folder)
    return {"cell": genotype.digest(), "skips": genotype.skips(), "epochs": epochs_of(folder)}


def whole_retraining(settings: BenchmarkSettings, folder: Path, until: float) -> Found:
    """The retraining that `python train_final.py` runs, of the search's cell."""
    file = folder / "search" / "genotype.json"
    if not file.exists():
        raise UserError("the search has not ended")
    own = taken_over(FinalSettings, settings, network=settings.retrained, **FROM_SCRATCH)
    with stopped_in_time(folder / "retraining", until):
        result = retrain.run(own, _read(file), folder / "retraining")
    names = ("test_accuracy", "test_loss", "parameters", "macs")
    return {**{name: result[name] for name in names}, "epochs": epochs_of(folder / "retraining")}


def _read(file: Path) -> Genotype:
    return from_json(file.read_text(encoding="utf-8"), str(file))


@contextmanager
def stopped_in_time(folder: Path, until: float) -> Iterator[None]:
    """A run within the block saves and stops at that time, as SIGTERM stops it: `UserError` says how far it is."""
    timer = threading.Timer(max(0.1, until - time.monotonic()), os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    except Interrupted as stop:
        if stop.exit_code != 128 + signal.SIGTERM:
            raise
        raise UserError(f"stopped in time after {len(epochs_of(folder))} epochs; the next call goes on") from None
    finally:
        timer.cancel()


def epochs_of(folder: Path) -> list[str]:
    """A line an epoch of a run so far: what it measured, and how long it took."""
    files = [folder / name for name in ("history.jsonl", "timing.jsonl")]
    if not all(file.exists() for file in files):
        return []
    lines = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    both = [own | timing for own, timing in zip(*lines, strict=False)]
    return ["  ".join(f"{name} {line[name]:.4g}" for name in SHOWN if name in line) for line in both]
