"""Pools with their statistics, their weighing, and their gradients: darts/models/kernels/pools.py has the formulas."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from darts.models.compiled.call import Call, doubles, parts_of
from darts.models.kernels.rows import new_map
from darts.models.kernels.types import MAXIMUM, FoldedPools, Kinds, Pooled


def pooled(image: Tensor, kinds: Sequence[int], side: int, stride: int) -> Pooled:
    """Pools of one map over the pixels that are there, side by side, and parts of their sums."""
    channels, sides = image.shape[1], (-(-image.shape[2] // stride), -(-image.shape[3] // stride))
    number = parts_of(image)
    taps = new_map(image, channels, sides, torch.uint8)
    sums = image.new_empty((number, 2 * len(kinds) * channels))
    found, call = Pooled(new_map(image, len(kinds) * channels, sides), taps, sums), Call("pooled", channels)
    call.numbers(len(image), number, *image.shape[2:], *sides, channels, side, stride, len(kinds), _maxima(kinds))
    call.map(image)
    for tensor in found:
        call.tensor(tensor)
    call()
    return found


def _maxima(kinds: Sequence[int]) -> int:
    return sum(1 << at for at, kind in enumerate(kinds) if kind == MAXIMUM)


def _add_kinds(call: Call, kinds: Kinds) -> None:
    columns, plain = [*kinds.columns, 0, 0][:2], -1 if kinds.plain is None else kinds.plain
    call.numbers(len(kinds.columns), *columns, plain)


def folded_pools(mixture: Tensor, kinds: Kinds, found: Pooled | None, channels: int, eps: float | None) -> FoldedPools:
    """Factors and constants of pools, by their batch's statistics, or, `eps` None, as they are."""
    factors = mixture.new_empty((len(mixture), kinds.number, channels))
    constants, statistics = mixture.new_empty((len(mixture), channels)), (3, len(kinds.columns), channels)
    result, call = FoldedPools(factors, constants, mixture.new_empty(statistics)), Call("fold_pools", channels)
    call.arguments = [len(mixture), channels]
    _add_kinds(call, kinds)
    normed = found is not None and eps is not None
    call.numbers(normed)
    if found is None:
        call.numbers(1, 1, 0, 0)
    else:
        call.numbers(len(found.taps), found.taps.shape[2] * found.taps.shape[3], len(found.parts))
        call.tensor(found.parts)
    call.tensor(mixture)
    call.numbers(mixture.stride(0))
    for tensor in result:
        call.tensor(tensor)
    call.numbers(ctypes.addressof(doubles(eps or 0.0)))
    call()
    return result


def pool_products(gradient: Tensor, pools: Tensor | None, plain: Tensor | None, channels: int) -> Tensor:
    """Parts of the sums over pixels of each edge's gradient times each kind's map, and of the gradient alone."""
    kinds = 0 if pools is None else pools.shape[1] // channels
    edges, number, has_plain = gradient.shape[1] // channels, parts_of(gradient), plain is not None
    result = gradient.new_empty((number, edges * (kinds + has_plain + 1) * channels))
    call = Call("pool_products", channels)
    call.numbers(len(gradient), gradient.shape[2] * gradient.shape[3], number, edges, channels, kinds, has_plain)
    for image in (gradient, pools, plain):
        call.map(image)
    call.tensor(result)
    call()
    return result


def fold_pools_gradient(
    mixture: Tensor, kinds: Kinds, parts: Tensor, statistics: Tensor, pixels: int, normed: bool, for_mixture: Tensor
) -> tuple[Tensor, Tensor]:
    """By what factor and constant, (P, C), a pool's map is in its own gradient; the mixture's is written."""
    linear, constants = (statistics.new_empty(statistics.shape[1:]) for _ in range(2))
    call = Call("fold_pools_gradient", statistics.shape[2])
    call.arguments = [len(mixture), statistics.shape[2]]
    _add_kinds(call, kinds)
    call.numbers(normed, pixels, len(parts))
    call.tensor(parts)
    call.tensor(mixture)
    call.numbers(mixture.stride(0))
    for tensor in (for_mixture, statistics, linear, constants):
        call.tensor(tensor)
    call()
    return linear, constants


def pool_maps_gradient(
    gradient: Tensor, factors: Tensor, pools: Tensor, linear: Tensor, constants: Tensor, normed: bool
) -> Tensor:
    """The gradient of the pools' maps, (batch, P C, H', W')."""
    edges, kinds, channels = factors.shape
    result, call = new_map(pools, pools.shape[1]), Call("pool_maps_gradient", channels)
    call.numbers(pools.numel() // pools.shape[1], edges, channels, pools.shape[1] // channels, kinds, normed)
    call.map(gradient)
    call.tensor(factors)
    call.map(pools)
    for tensor in (linear, constants, result):
        call.tensor(tensor)
    call()
    return result


def pool_source_gradient(
    maps: Tensor | None, taps: Tensor | None, gradient: Tensor, factors: Tensor, kinds: Sequence[int],
    sides: Sequence[int], plain: bool, side: int, stride: int, added: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Of the pools' input, (batch, C, *sides), from that of their maps, and from the edges' where it comes as it is.

    `added`: another map, which is added then; of this library alone.
    """
    edges, _, channels = factors.shape
    result, call = new_map(gradient, channels, (sides[0], sides[1])), Call("pool_source_gradient", channels)
    call.numbers(len(gradient), *sides, *gradient.shape[2:], channels, side, stride, edges, len(kinds), _maxima(kinds))
    call.numbers(plain)
    call.map(maps)
    call.tensor(taps)
    call.map(gradient)
    call.tensor(factors)
    call.tensor(result)
    call.map(added)
    call()
    return result
