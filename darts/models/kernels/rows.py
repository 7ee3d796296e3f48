"""Maps as the kernels see them: rows of channels, one a pixel, at a fixed distance in memory."""

from __future__ import annotations

import functools
import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor

from darts.runtime.device import convolutions

TYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_CHANNELS = 64  # of a matrix that is folded: one program holds it and the covariance
PROGRAMS = 528  # that a GPU is to be given at once: four for each of an H100's 132 multiprocessors


@functools.cache
def installed() -> bool:
    """Whether Triton is here; PyTorch brings it along for CUDA on Linux."""
    return importlib.util.find_spec("triton") is not None


def serves(image: Tensor) -> bool:
    """Whether this process has chosen the kernels, and they can take this map."""
    return convolutions.kernels and image.device.type == "cuda" and image.dtype in TYPES


def folds(matrices: Tensor) -> bool:
    """Whether this process has chosen the kernels, and they can fold matrices (K, C', C) of this size."""
    fits = matrices.dtype == torch.float32 and max(matrices.shape[1:]) <= MOST_CHANNELS
    return convolutions.kernels and matrices.is_cuda and fits


class Rows(NamedTuple):
    """A map (batch, C, H, W) channels last, perhaps some channels of a wider one."""

    map: Tensor
    distance: int  # from a pixel to the next, in numbers

    @property
    def pixels(self) -> int:
        """Of all images."""
        return self.map.numel() // self.map.shape[1]


def rows(image: Tensor) -> Rows:
    """The map as rows; a copy where it lies otherwise, or is another one's with its signs turned by PyTorch alone."""
    image = image.resolve_neg()
    batch, channels, height, width = image.shape
    strides = image.stride()
    if strides == (height * width * channels, 1, width * channels, channels):
        return Rows(image, channels)
    sides = ((width, strides[3], 1), (height, strides[2], width), (batch, strides[0], height * width))
    found = next((stride // pixels for side, stride, pixels in sides if side > 1), channels)
    lies_so = all(side == 1 or stride == pixels * found for side, stride, pixels in sides)
    if lies_so and found >= channels and (channels == 1 or strides[1] == 1):
        return Rows(image, found)
    return Rows(image.contiguous(memory_format=torch.channels_last), channels)


def new_map(
    like: Tensor, channels: int, sides: tuple[int, int] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """An empty map of another number of channels, and perhaps other sides or another kind of numbers."""
    shape = len(like), channels, *(sides or (like.shape[2], like.shape[3]))
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)


def divided(number: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-number // by)


def parts(pixels: int, of_tile: int, programs: int, least: int = 4, most: int = PROGRAMS) -> tuple[int, int]:
    """Into how many parts pixels are divided where a sum over them has so many programs a part, and how many each has.

    A part has at least `least` tiles; together there are about `most` programs.
    """
    number = min(divided(pixels, least * of_tile), max(1, most // programs))
    each = divided(divided(pixels, number), of_tile) * of_tile
    return divided(pixels, each), each


def wide(channels: int, most: int = 32) -> int:
    """How many channels a program takes at once where it multiplies no matrices: a power of 2 from 8 on."""
    return min(most, max(8, 1 << (channels - 1).bit_length()))


def tile(channels: int, most: int = 64) -> int:
    """How many channels a program takes at once: a power of 2 from 16 on, as products of tiles need it."""
    return min(most, max(16, 1 << (channels - 1).bit_length()))


def precision(image: Tensor) -> str:
    """How products of float32 are computed: as PyTorch's settings say."""
    return "tf32" if image.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"
