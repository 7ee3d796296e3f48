"""A call of a function of source.c: its arguments, which must be what C takes them for."""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

import torch
from torch import Tensor

from darts.models.compiled.library import lanes_of, load
from darts.models.kernels.rows import rows

TYPES = torch.float32, torch.int64, torch.uint8  # the latter two: counts of batches, and taps of pools
MOST_PARTS = 16  # that images are divided into, which as many threads may sum
WORTH_THREADS = 1 << 14  # numbers of a map that more than one thread is used for: fewer take 10 microseconds or so


class _Tracing(threading.local):
    """Of a thread: where calls go instead of being made, while a program is traced (program.py)."""

    calls: list[Call] | None = None


tracing = _Tracing()


class Call:
    """A function of source.c and its arguments so far; keeps the tensors until it has run."""

    def __init__(self, name: str, channels: int) -> None:
        self.function = _function(name, lanes_of(channels) or 0)
        self.arguments: list[int] = [torch.get_num_threads()]
        self.tensors: list[Tensor] = []
        self.places: list[int] = []  # of the tensors, among the arguments
        self.largest = 0  # numbers of a map

    def numbers(self, *numbers: int) -> None:
        """Sizes and distances."""
        self.arguments += numbers

    def tensor(self, tensor: Tensor | None) -> None:
        """The place of a tensor's first number, 0 for none."""
        if tensor is None:
            self.arguments.append(0)
            return
        if tensor.dtype not in TYPES or tensor.device.type != "cpu":
            raise TypeError(f"C kernels take float32 on the CPU; got {tensor.dtype} on {tensor.device}")
        self.tensors.append(tensor)
        self.places.append(len(self.arguments))
        self.arguments.append(tensor.data_ptr())

    def map(self, image: Tensor | None) -> None:
        """A map, and from a pixel to the next."""
        if image is None:
            self.numbers(0, 0)
            return
        own = rows(image)
        self.tensor(own.map)
        self.numbers(own.distance)
        self.largest = max(self.largest, image.numel())

    def channels(self, image: Tensor, of_group: int) -> None:
        """How far a group's channels are from another's: 0 where all groups have the image's."""
        step = of_group if image.shape[1] > of_group else 0
        self.numbers(step)

    def __call__(self) -> None:
        if 0 < self.largest < WORTH_THREADS:
            self.arguments[0] = 1
        if tracing.calls is not None:
            tracing.calls.append(self)
            return
        self.function((ctypes.c_int64 * len(self.arguments))(*self.arguments))


@functools.cache
def _function(name: str, lanes: int) -> Any:
    return getattr(load(lanes), name)


_doubles: dict[tuple[float, ...], ctypes.Array[ctypes.c_double]] = {}


def doubles(*numbers: float) -> ctypes.Array[ctypes.c_double]:
    """Numbers that stay at one address, for all threads."""
    return _doubles.setdefault(numbers, (ctypes.c_double * len(numbers))(*numbers))


def parts_of(image: Tensor) -> int:
    """Into how many parts sums over its pixels are divided."""
    return min(len(image), MOST_PARTS)
