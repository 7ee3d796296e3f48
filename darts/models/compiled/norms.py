"""Batch norms of a map, and every second pixel of one: of found cells, in C alone."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from darts.models.compiled.call import Call, doubles, parts_of
from darts.models.kernels.rows import new_map


def channel_sums(left: Tensor, right: Tensor, middle: Tensor) -> Tensor:
    """Parts of sums over pixels, by channel: of left times (right minus `middle`, (C,)), and of left."""
    channels, number = left.shape[1], parts_of(left)
    result, call = left.new_empty((number, 2 * channels)), Call("channel_sums", channels)
    call.numbers(len(left), left.shape[2] * left.shape[3], number, channels)
    call.map(left)
    call.map(right)
    call.tensor(middle)
    call.tensor(result)
    call()
    return result


def channel_moments(image: Tensor) -> Tensor:
    """Parts of sums over pixels, by channel: of the map, and of squared deviations from the part's mean."""
    channels, number = image.shape[1], parts_of(image)
    result, call = image.new_empty((number, 2 * channels)), Call("channel_moments", channels)
    call.numbers(len(image), image.shape[2] * image.shape[3], number, channels)
    call.map(image)
    call.tensor(result)
    call()
    return result


def fold_norm(
    image: Tensor, affine: Sequence[Tensor], running: Sequence[Tensor], numbers: tuple[bool, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch norm as factors (1, 1, C) and constants (C,) of its map, and its mean and r, (2, C), for the gradient.

    Moves the running statistics, mean, variance and count. `affine`: scale and shift; `numbers`: whether statistics
    move, eps, momentum.
    """
    parts, channels = channel_moments(image), image.shape[1]
    statistics, factors, constants = (parts.new_empty(shape) for shape in ((2, channels), (1, 1, channels), channels))
    call = Call("fold_norm", channels)
    call.arguments = [channels, len(image), image.shape[2] * image.shape[3], len(parts)]
    for tensor in (parts, *affine, *running):
        call.tensor(tensor)
    call.numbers(numbers[0])
    for tensor in (*statistics, factors, constants):
        call.tensor(tensor)
    call.numbers(ctypes.addressof(doubles(*numbers[1:])))
    call()
    return factors, constants, statistics


def fold_norm_gradient(
    gradient: Tensor, image: Tensor, scale: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of scale and shift; and the map's as factors (1, 2, C) of the result's and of the map, and constants (C,)."""
    parts, pixels = channel_sums(gradient, image, statistics[0]), image.numel() // image.shape[1]
    of_scale, of_shift, constants = (torch.empty_like(scale) for _ in range(3))
    factors, call = scale.new_empty((1, 2, len(scale))), Call("fold_norm_gradient", len(scale))
    call.arguments = [len(scale), pixels, len(parts)]
    for tensor in (parts, scale, *statistics, of_scale, of_shift, factors, constants):
        call.tensor(tensor)
    call()
    return of_scale, of_shift, factors, constants


def every_second(image: Tensor) -> Tensor:
    """ReLU at even lines and columns, and as further channels at those one further; (batch, 2 C, H / 2, W / 2)."""
    sides = -(-image.shape[2] // 2), -(-image.shape[3] // 2)
    result = new_map(image, 2 * image.shape[1], sides)
    call = _of_every_second("every_second", image, sides)
    call.tensor(result)
    call()
    return result


def every_second_gradient(gradient: Tensor, image: Tensor, added: Tensor | None = None) -> Tensor:
    """The image's, from the gradient of what `every_second` makes of it; plus another map."""
    result = new_map(image, image.shape[1])
    call = _of_every_second("every_second_gradient", image, gradient.shape[2:])
    call.map(gradient)
    call.tensor(result)
    call.map(added)
    call()
    return result


def _of_every_second(name: str, image: Tensor, sides: Sequence[int]) -> Call:
    call = Call(name, image.shape[1])
    call.numbers(len(image), *image.shape[2:], *sides, image.shape[1])
    call.map(image)
    return call
