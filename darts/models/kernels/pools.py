"""Pools of one map and their batch norms: both pools in a launch, and the same for their sums and their gradients.

A pool's map d is normalised and weighted within the sum of the edges' maps: with mixture weight a, mean m, variance v
and r = (v + eps)^(-1/2) of a channel, its term on an edge is f d + b with f = a r and b = -a r m. From the sums over n
pixels of g d and of g, g an edge's gradient, which are df and db:

    q = df - db m        da = sum over channels of q r        dr = sum over edges of a q
    dv = -r^3 dr / 2     dm = -sum over edges of a r db       dd = sum over edges of f g + 2 dv (d - m) / n + dm / n

A map that comes as it is (the skip connection) is the last kind: f = a, and neither m nor r.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.fold_parts import row_of_parts
from darts.models.kernels.rows import divided, new_map, rows, wide
from darts.models.kernels.rows import parts as divided_pixels
from darts.models.kernels.types import FoldedPools, Kinds, Pooled

PIXELS = 64  # of a tile
PARTS = 64  # of a sum, read at once


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW", "each", "kinds"))
def _pooled(
    image, maps, taps, parts, pixels, H, W, OH, OW, channels, image_row, maps_row, each, part_size, sums, kinds,
    STRIDE: tl.constexpr, SIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part, kind = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, is_maximum = channel < channels, (kinds >> kind) & 1
    total, squares = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, each, PIXELS):
        pixel = part * each + first + tl.arange(0, PIXELS)
        column, line, picture = pixel % OW, pixel // OW % OH, pixel // (OW * OH)
        writes = (pixel < pixels)[:, None] & known[None, :]
        largest, tap = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32), tl.full((PIXELS, CHANNELS), -1, tl.int32)
        together, number = tl.zeros((PIXELS, CHANNELS), tl.float32), tl.zeros((PIXELS,), tl.float32)
        for i in tl.static_range(SIDE):
            for j in tl.static_range(SIDE):
                y, x = line * STRIDE + i - SIDE // 2, column * STRIDE + j - SIDE // 2
                inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
                place = ((picture * H + y) * W + x).to(tl.int64)
                place = image + place[:, None] * image_row + channel[None, :]
                values = tl.load(place, inside[:, None] & writes, 0.0).to(tl.float32)
                larger = (values > largest) | (values != values) | (tap < 0)  # the first of equals, and nan
                larger = larger & inside[:, None]
                tap = tl.where(larger, i * SIDE + j, tap)
                largest = tl.where(larger, values, largest)
                together += values
                number += inside.to(tl.float32)
        found = tl.where(is_maximum > 0, largest, together / number[:, None])
        kept = tl.where(writes, found, 0.0).to(maps.dtype.element_ty)
        far = pixel.to(tl.int64)[:, None]
        tl.store(maps + far * maps_row + (kind * channels + channel)[None, :], kept, writes)
        tl.store(taps + far * channels + channel[None, :], tap.to(tl.uint8), writes & (is_maximum > 0))
        values = kept.to(tl.float32)
        total += tl.sum(values, 0)
        squares += tl.sum(values * values, 0)
    out = parts + part * part_size + kind * channels + channel
    tl.store(out, total, known)
    tl.store(out + sums, squares, known)


@torch.library.custom_op(
    "darts::pooled",
    mutates_args=(),
    schema="(Tensor image, int[] kinds, int side, int stride) -> (Tensor, Tensor, Tensor)",
)
def _pooled_op(image: Tensor, kinds: Sequence[int], side: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    maps, taps, parts, each = _maps(image, kinds, stride)
    own, channels = rows(image), image.shape[1]
    pixels, at_once = taps.numel() // channels, wide(channels)
    _pooled[len(parts), divided(channels, at_once), len(kinds)](
        own.map, maps, taps, parts, pixels, *image.shape[2:], *maps.shape[2:], channels, own.distance,
        maps.shape[1], each, parts.shape[1], maps.shape[1], sum(kind << at for at, kind in enumerate(kinds)),
        STRIDE=stride, SIDE=side, PIXELS=PIXELS, CHANNELS=at_once,
    )  # fmt: skip
    return maps, taps, parts


def _maps(image: Tensor, kinds: Sequence[int], stride: int) -> tuple[Tensor, Tensor, Tensor, int]:
    channels, sides = image.shape[1], (-(-image.shape[2] // stride), -(-image.shape[3] // stride))
    maps = new_map(image, len(kinds) * channels, sides)
    taps = new_map(image, channels, sides, torch.uint8)
    number, each = divided_pixels(taps.numel() // channels, PIXELS, len(kinds) * divided(channels, wide(channels)))
    parts = torch.empty((number, 2 * len(kinds) * channels), dtype=torch.float32, device=image.device)
    return maps, taps, parts, each


@_pooled_op.register_fake
def _(image, kinds, side, stride):
    return _maps(image, kinds, stride)[:3]


def pooled(image: Tensor, kinds: Sequence[int], side: int, stride: int) -> Pooled:
    """P pools of one map (batch, C, H, W), each `AVERAGE` or `MAXIMUM`, over the pixels that are there."""
    return Pooled(*_pooled_op(image, kinds, side, stride))


@triton.jit
def _statistics(parts, number, part_size, sums, place, known, n, eps, NORMED: tl.constexpr, PARTS: tl.constexpr):
    mean, variance = tl.zeros_like(place).to(tl.float32), tl.zeros_like(place).to(tl.float32)
    factor = mean + 1.0
    if NORMED:
        mean = row_of_parts(parts, number, part_size, place, known, PARTS) / n
        square = row_of_parts(parts + sums, number, part_size, place, known, PARTS) / n
        variance = tl.maximum(square - mean * mean, 0.0, propagate_nan=tl.PropagateNan.ALL)
        factor = tl.rsqrt(variance + eps)
    return mean, variance, factor


@triton.jit(do_not_specialize=("number", "pixels", "edges", "column", "other_column", "plain"))
def _fold(
    mixture, parts, scales, constants, statistics,
    number, part_size, sums, pixels, edges, channels, edge_step, column, other_column, plain, eps,
    POOLS: tl.constexpr, PLAIN: tl.constexpr, NORMED: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known, n = channel < channels, pixels.to(tl.float32)
    mean, variance, r = _statistics(parts, number, part_size, sums, channel, known, n, eps, NORMED, PARTS)
    other_mean, other_variance, other_r = mean, variance, r
    row = POOLS * channels
    if POOLS > 0:
        tl.store(statistics + channel, mean, known)
        tl.store(statistics + row + channel, variance, known)
        tl.store(statistics + 2 * row + channel, r, known)
    if POOLS > 1:
        other = channels + channel
        other_mean, other_variance, other_r = _statistics(
            parts, number, part_size, sums, other, known, n, eps, NORMED, PARTS
        )
        tl.store(statistics + other, other_mean, known)
        tl.store(statistics + row + other, other_variance, known)
        tl.store(statistics + 2 * row + other, other_r, known)
    for edge in range(edges):
        own, constant = mixture + edge * edge_step, tl.zeros((CHANNELS,), tl.float32)
        out = scales + edge * (POOLS + PLAIN) * channels + channel
        if POOLS > 0:
            f = tl.load(own + column) * r
            tl.store(out, f, known)
            constant -= f * mean
        if POOLS > 1:
            f = tl.load(own + other_column) * other_r
            tl.store(out + channels, f, known)
            constant -= f * other_mean
        if PLAIN:
            tl.store(out + POOLS * channels, tl.load(own + plain) + tl.zeros((CHANNELS,), tl.float32), known)
        tl.store(constants + edge * channels + channel, constant, known)


@torch.library.custom_op(
    "darts::fold_pools",
    mutates_args=(),
    schema="(Tensor mixture, int[] columns, int? plain, Tensor? parts, int pixels, int channels, bool normed, "
    "float eps) -> (Tensor, Tensor, Tensor)",
)
def _fold_op(
    mixture: Tensor, columns: Sequence[int], plain: int | None, parts: Tensor | None, pixels: int, channels: int,
    normed: bool, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    results = _fold_results(mixture, columns, plain, channels)
    read, at_once = mixture if parts is None else parts, wide(channels)
    _fold[divided(channels, at_once),](
        mixture, read, *results, len(read), read.shape[1], len(columns) * channels, pixels, len(mixture), channels,
        mixture.stride(0), *[*columns, 0, 0][:2], plain or 0, eps,
        POOLS=len(columns), PLAIN=int(plain is not None), NORMED=normed and parts is not None, PARTS=PARTS,
        CHANNELS=at_once,
    )  # fmt: skip
    return results


def _fold_results(
    mixture: Tensor, columns: Sequence[int], plain: int | None, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    kinds = len(columns) + (plain is not None)
    factors, constants = mixture.new_empty((len(mixture), kinds, channels)), mixture.new_empty((len(mixture), channels))
    return factors, constants, mixture.new_empty((3, len(columns), channels))


@_fold_op.register_fake
def _(mixture, columns, plain, parts, pixels, channels, normed, eps):
    return _fold_results(mixture, columns, plain, channels)


def folded(mixture: Tensor, kinds: Kinds, found: Pooled | None, channels: int, eps: float | None) -> FoldedPools:
    """Factors and constants of pools, by their batch's statistics, or, `eps` None, as they are."""
    pixels = 1 if found is None else found.taps.numel() // channels
    own = None if found is None else found.parts
    return FoldedPools(*_fold_op(mixture, *kinds, own, pixels, channels, eps is not None, eps or 0.0))
