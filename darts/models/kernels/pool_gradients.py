"""The gradients of pools, of their batch norms and of a map that comes as it is; the formulas are those of pools.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.fold_parts import row_of_parts
from darts.models.kernels.pools import PARTS, PIXELS
from darts.models.kernels.rows import divided, new_map, rows, wide
from darts.models.kernels.rows import parts as divided_pixels
from darts.models.kernels.types import Kinds


@triton.jit(do_not_specialize=("pixels", "edges", "each"))
def _products(
    gradient, pools, plain, parts, pixels, channels, edges, gradient_row, pools_row, plain_row, each, part_size,
    POOLS: tl.constexpr, PLAIN: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part, edge = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    one, other = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    same, alone = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, each, PIXELS):
        pixel = (part * each + first + tl.arange(0, PIXELS)).to(tl.int64)
        reads = (pixel < pixels)[:, None] & known[None, :]
        place = gradient + pixel[:, None] * gradient_row + (edge * channels + channel)[None, :]
        own = tl.load(place, reads, 0.0).to(tl.float32)
        alone += tl.sum(own, 0)
        place = pools + pixel[:, None] * pools_row + channel[None, :]
        if POOLS > 0:
            one += tl.sum(own * tl.load(place, reads, 0.0).to(tl.float32), 0)
        if POOLS > 1:
            other += tl.sum(own * tl.load(place + channels, reads, 0.0).to(tl.float32), 0)
        if PLAIN:
            place = plain + pixel[:, None] * plain_row + channel[None, :]
            same += tl.sum(own * tl.load(place, reads, 0.0).to(tl.float32), 0)
    out = parts + part * part_size + edge * (POOLS + PLAIN + 1) * channels + channel
    if POOLS > 0:
        tl.store(out, one, known)
    if POOLS > 1:
        tl.store(out + channels, other, known)
    if PLAIN:
        tl.store(out + POOLS * channels, same, known)
    tl.store(out + (POOLS + PLAIN) * channels, alone, known)


@torch.library.custom_op(
    "darts::pool_products",
    mutates_args=(),
    schema="(Tensor gradient, Tensor? pools, Tensor? plain, int channels) -> Tensor",
)
def _products_op(gradient: Tensor, pools: Tensor | None, plain: Tensor | None, channels: int) -> Tensor:
    parts, edges, kinds, each = _products_parts(gradient, pools, plain, channels)
    own = rows(gradient)
    pooled, same = (own if image is None else rows(image) for image in (pools, plain))
    at_once = wide(channels)
    _products[len(parts), divided(channels, at_once), edges](
        own.map, pooled.map, same.map, parts, own.pixels, channels, edges, own.distance, pooled.distance, same.distance,
        each, parts.shape[1], POOLS=kinds, PLAIN=int(plain is not None), PIXELS=PIXELS, CHANNELS=at_once,
    )  # fmt: skip
    return parts


def _products_parts(
    gradient: Tensor, pools: Tensor | None, plain: Tensor | None, channels: int
) -> tuple[Tensor, int, int, int]:
    """The sums' parts, without numbers; how many edges and pools there are, and the pixels of a part."""
    edges, kinds = gradient.shape[1] // channels, 0 if pools is None else pools.shape[1] // channels
    pixels = gradient.numel() // gradient.shape[1]
    number, each = divided_pixels(pixels, PIXELS, edges * divided(channels, wide(channels)))
    size = edges * (kinds + (plain is not None) + 1) * channels
    return torch.empty((number, size), dtype=torch.float32, device=gradient.device), edges, kinds, each


@_products_op.register_fake
def _(gradient, pools, plain, channels):
    return _products_parts(gradient, pools, plain, channels)[0]


@triton.jit(do_not_specialize=("number", "pixels", "edges", "column", "other_column", "plain"))
def _fold_gradient(
    mixture, parts, statistics, for_mixture, linear, constants,
    number, part_size, pixels, edges, channels, edge_step, column, other_column, plain,
    POOLS: tl.constexpr, KINDS: tl.constexpr, NORMED: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    kind, channel = tl.program_id(0), tl.arange(0, CHANNELS)
    known = channel < channels
    own = tl.where(kind == 0, column, other_column)
    mean, r = tl.zeros((CHANNELS,), tl.float32), tl.full((CHANNELS,), 1.0, tl.float32)
    if kind == POOLS:
        own = plain
    else:
        mean = tl.load(statistics + kind * channels + channel, known, 0.0)
        r = tl.load(statistics + (2 * POOLS + kind) * channels + channel, known, 0.0)
    dr, dm = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for edge in range(edges):
        a = tl.load(mixture + edge * edge_step + own)
        place = edge * (KINDS + 1) * channels + channel
        df = row_of_parts(parts, number, part_size, place + kind * channels, known, PARTS)
        db = row_of_parts(parts, number, part_size, place + KINDS * channels, known, PARTS)
        q = df - db * mean
        tl.store(for_mixture + edge * edge_step + own, tl.sum(tl.where(known, q * r, 0.0), 0))
        dr += a * q
        dm -= a * r * db
    if kind < POOLS:
        factor, constant = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
        if NORMED:
            n = pixels.to(tl.float32)
            factor = -r * r * r * dr / n
            constant = dm / n - factor * mean
        tl.store(linear + kind * channels + channel, factor, known)
        tl.store(constants + kind * channels + channel, constant, known)


@torch.library.custom_op(
    "darts::fold_pools_gradient",
    mutates_args=("for_mixture",),
    schema="(Tensor mixture, int[] columns, int? plain, Tensor parts, Tensor statistics, int pixels, bool normed, "
    "Tensor(x!) for_mixture) -> (Tensor, Tensor)",
)
def _fold_gradient_op(
    mixture: Tensor, columns: Sequence[int], plain: int | None, parts: Tensor, statistics: Tensor, pixels: int,
    normed: bool, for_mixture: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    channels, kinds = statistics.shape[2], len(columns) + (plain is not None)
    linear, constants = mixture.new_empty(statistics.shape[1:]), mixture.new_empty(statistics.shape[1:])
    _fold_gradient[kinds,](
        mixture, parts, statistics, for_mixture, linear, constants, len(parts), parts.shape[1], pixels, len(mixture),
        channels, mixture.stride(0), *[*columns, 0, 0][:2], plain or 0,
        POOLS=len(columns), KINDS=kinds, NORMED=normed, PARTS=PARTS, CHANNELS=1 << (channels - 1).bit_length(),
    )  # fmt: skip
    return linear, constants


@_fold_gradient_op.register_fake
def _(mixture, columns, plain, parts, statistics, pixels, normed, for_mixture):
    return mixture.new_empty(statistics.shape[1:]), mixture.new_empty(statistics.shape[1:])


@triton.jit(do_not_specialize=("pixels", "edges"))
def _maps_gradient(
    gradient, factors, pools, linear, constants, result, pixels, channels, edges, gradient_row, pools_row, result_row,
    KINDS: tl.constexpr, NORMED: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    kind = tl.program_id(2)
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    there = (pixel < pixels)[:, None] & known[None, :]
    own = kind * channels + channel
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    if NORMED:
        values = tl.load(pools + pixel[:, None] * pools_row + own[None, :], there, 0.0).to(tl.float32)
        total = values * tl.load(linear + own, known, 0.0)[None, :] + tl.load(constants + own, known, 0.0)[None, :]
    for edge in range(edges):
        factor = tl.load(factors + (edge * KINDS + kind) * channels + channel, known, 0.0)
        place = gradient + pixel[:, None] * gradient_row + (edge * channels + channel)[None, :]
        total += tl.load(place, there, 0.0).to(tl.float32) * factor[None, :]
    tl.store(result + pixel[:, None] * result_row + own[None, :], total.to(result.dtype.element_ty), there)


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW", "edges", "kinds"))
def _source_gradient(
    maps, taps, gradient, factors, result, pixels, H, W, OH, OW, channels, edges, kinds, maps_row, gradient_row,
    STRIDE: tl.constexpr, SIDE: tl.constexpr, POOLS: tl.constexpr, PLAIN: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    column, line, picture = pixel % W, pixel // W % H, pixel // (W * H)
    known = channel < channels
    there = (pixel < pixels)[:, None] & known[None, :]
    far = pixel.to(tl.int64)[:, None]
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    if PLAIN:
        for edge in range(edges):
            factor = tl.load(factors + (edge * (POOLS + 1) + POOLS) * channels + channel, known, 0.0)
            place = gradient + far * gradient_row + (edge * channels + channel)[None, :]
            total += tl.load(place, there, 0.0).to(tl.float32) * factor[None, :]
    if POOLS > 0:
        for i in tl.static_range(SIDE):
            for j in tl.static_range(SIDE):
                y, x = line - i + SIDE // 2, column - j + SIDE // 2  # of the kernel's middle
                inside = (y >= 0) & (y < OH * STRIDE) & (x >= 0) & (x < OW * STRIDE)
                if STRIDE > 1:
                    inside = inside & (y % STRIDE == 0) & (x % STRIDE == 0)
                place = ((picture * OH + y // STRIDE) * OW + x // STRIDE).to(tl.int64)[:, None]
                reads = inside[:, None] & there
                high = tl.minimum(y + SIDE // 2, H - 1) - tl.maximum(y - SIDE // 2, 0) + 1
                wide = tl.minimum(x + SIDE // 2, W - 1) - tl.maximum(x - SIDE // 2, 0) + 1
                number = tl.where(inside, high * wide, 1).to(tl.float32)[:, None]
                tap = tl.load(taps + place * channels + channel[None, :], reads & (kinds > 0), 255)
                for kind in tl.static_range(POOLS):
                    read = maps + place * maps_row + (kind * channels + channel)[None, :]
                    values = tl.load(read, reads, 0.0).to(tl.float32)
                    is_tap = tap.to(tl.int32) == i * SIDE + j
                    maximum = tl.where(is_tap, values, 0.0)
                    total += tl.where(((kinds >> kind) & 1) > 0, maximum, values / number)
    tl.store(result + far * channels + channel[None, :], total.to(result.dtype.element_ty), there)


@torch.library.custom_op(
    "darts::pool_maps_gradient",
    mutates_args=(),
    schema="(Tensor gradient, Tensor factors, Tensor pools, Tensor linear, Tensor constants, bool normed) -> Tensor",
)
def _maps_gradient_op(
    gradient: Tensor, factors: Tensor, pools: Tensor, linear: Tensor, constants: Tensor, normed: bool
) -> Tensor:
    edges, kinds, channels = factors.shape
    own, read = rows(gradient), rows(pools)
    result, at_once = new_map(pools, pools.shape[1]), wide(channels)
    _maps_gradient[divided(own.pixels, PIXELS), divided(channels, at_once), pools.shape[1] // channels](
        own.map, factors, read.map, linear, constants, result, own.pixels, channels, edges, own.distance, read.distance,
        pools.shape[1], KINDS=kinds, NORMED=normed, PIXELS=PIXELS, CHANNELS=at_once,
    )  # fmt: skip
    return result


@_maps_gradient_op.register_fake
def _(gradient, factors, pools, linear, constants, normed):
    return new_map(pools, pools.shape[1])


@torch.library.custom_op(
    "darts::pool_source_gradient",
    mutates_args=(),
    schema="(Tensor? maps, Tensor? taps, Tensor gradient, Tensor factors, int[] kinds, SymInt[] sides, bool plain, "
    "int side, int stride) -> Tensor",
)
def _source_gradient_op(
    maps: Tensor | None, taps: Tensor | None, gradient: Tensor, factors: Tensor, kinds: Sequence[int],
    sides: Sequence[int], plain: bool, side: int, stride: int,
) -> Tensor:  # fmt: skip
    edges, _, channels = factors.shape
    own, result = rows(gradient), new_map(gradient, channels, (sides[0], sides[1]))
    read, largest = own if maps is None else rows(maps), own.map if taps is None else taps
    pixels, at_once = result.numel() // channels, wide(channels)
    _source_gradient[divided(pixels, PIXELS), divided(channels, at_once)](
        read.map, largest, own.map, factors, result, pixels, *sides, *gradient.shape[2:], channels, edges,
        sum(kind << at for at, kind in enumerate(kinds)), read.distance, own.distance,
        STRIDE=stride, SIDE=side, POOLS=len(kinds), PLAIN=plain, PIXELS=PIXELS, CHANNELS=at_once,
    )  # fmt: skip
    return result


@_source_gradient_op.register_fake
def _(maps, taps, gradient, factors, kinds, sides, plain, side, stride):
    return new_map(gradient, factors.shape[2], (sides[0], sides[1]))


def products(gradient: Tensor, pools: Tensor | None, plain: Tensor | None, channels: int) -> Tensor:
    """Parts of the sums over pixels of each edge's gradient times each kind's map, and of the gradient alone.

    gradient (batch, K C, H, W), pools (batch, P C, H, W), plain (batch, C, H, W); rows of K (P + 1 + 1) C numbers.
    """
    return _products_op(gradient, pools, plain, channels)


def fold_gradient(
    mixture: Tensor, kinds: Kinds, parts: Tensor, statistics: Tensor, pixels: int, normed: bool, for_mixture: Tensor
) -> tuple[Tensor, Tensor]:
    """By what factor and constant, (P, C), a pool's map is in its own gradient.

    The mixture's gradient is written into `for_mixture`.
    """
    return _fold_gradient_op(mixture, *kinds, parts, statistics, pixels, normed, for_mixture)


def maps_gradient(
    gradient: Tensor, factors: Tensor, pools: Tensor, linear: Tensor, constants: Tensor, normed: bool
) -> Tensor:
    """The gradient of the pools' maps, (batch, P C, H', W')."""
    return _maps_gradient_op(gradient, factors, pools, linear, constants, normed)


def source_gradient(
    maps: Tensor | None, taps: Tensor | None, gradient: Tensor, factors: Tensor, kinds: Sequence[int],
    sides: Sequence[int], plain: bool, side: int, stride: int,
) -> Tensor:  # fmt: skip
    """Of the pools' input, (batch, C, *sides), from that of their maps, and from the edges' where it comes as it is."""
    return _source_gradient_op(maps, taps, gradient, factors, kinds, sides, plain, side, stride)
