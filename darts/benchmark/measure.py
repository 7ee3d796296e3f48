"""Times taken in turn, peak memory, operator counts, the machine's roofline, and fitted exponents."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Action = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one action, over its repetitions."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Footprint:
    """What one run of an action takes."""

    peak_mb: float  # most memory that tensors held at once, beyond what was held before
    operators: int


@dataclass(frozen=True)
class Roofline:
    """What the machine can do: a large product and a large copy, as fast as they go here."""

    gflops: float
    gigabytes: float  # a second, read and written


def in_turn(
    actions: Mapping[str, Action],
    repetitions: int,
    device: torch.device,
    before: Callable[[str], None] = lambda name: None,
) -> dict[str, Timing]:
    """Time the actions one after the other, again and again, so that a slow spell of the machine meets all alike.

    Each is called once to warm up; `before` is called with an action's name every time before it is timed.
    """
    for action in actions.values():
        action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions):
        for name, action in actions.items():
            before(name)
            times[name].append(1000 * seconds(action, device))
    return {name: Timing(statistics.median(taken), min(taken), max(taken)) for name, taken in times.items()}


def footprint(action: Action, device: torch.device) -> Footprint:
    """Peak memory and operator count of one run."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with _Watch() as watch:
        action()
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else watch.peak
    return Footprint(peak / 1e6, watch.operators)


class _Watch(TorchDispatchMode):
    """Counts operators, and the bytes of the tensors that they made and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.bytes = self.peak = 0
        self.held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operators += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.held:
            return

        def let_go(_: Any) -> None:
            del self.held[key]
            self.bytes -= size

        self.held[key] = weakref.ref(storage, let_go)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


def roofline(device: torch.device, dtype: torch.dtype) -> Roofline:
    """Measured here and now, best of five."""
    side = 8192 if device.type == "cuda" else 2048
    left = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    product = min(seconds(lambda: left @ left, device) for _ in range(6))
    copy = min(seconds(lambda: target.copy_(source), device) for _ in range(6))
    return Roofline(2 * side**3 / product / 1e9, 2 * source.numel() * 4 / copy / 1e9)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """e of the power law value ~ size**e that fits best (least squares of logarithms)."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


def seconds(action: Action, device: torch.device) -> float:
    """How long an action takes, the device's work included."""
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
