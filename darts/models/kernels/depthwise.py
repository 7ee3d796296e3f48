"""Depthwise convolutions, of one map for several edges without copies of it.

A map of G groups of C channels is made by G C kernels, of one image of C channels that all groups read, or of an
image of G C channels that has a group for each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.rows import divided, new_map, rows, tile, wide
from darts.models.kernels.rows import parts as divided_pixels
from darts.models.kernels.types import Kernels

PIXELS = 64  # of a tile


@triton.jit
def own_kernel(kernel, second, group, inner, own, a, b, CANDIDATES: tl.constexpr):
    """A group's kernels, and how wide they are."""
    place = kernel + (group // CANDIDATES * inner + own) * (a * a)
    side = a
    if CANDIDATES > 1:  # noqa: SIM102  # the first is decided when it is compiled
        if group % 2 == 1:
            place = second + (group // CANDIDATES * inner + own) * (b * b)
            side = b
    return place, side


@triton.jit
def _taps(
    middle, weights, line, column, there, known, H, W, image_row, side,
    DILATION: tl.constexpr, SIDE: tl.constexpr, RECTIFY: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The convolution at pixels whose middle lies at a line and a column."""
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for i in range(side):
        y = line + (i - side // 2) * DILATION
        row = there & (y >= 0) & (y < H)
        for j in tl.static_range(SIDE):
            u = j - (SIDE - side) // 2  # of a kernel that may be the smaller one
            x, has = column + (j - SIDE // 2) * DILATION, (u >= 0) & (u < side)
            inside = row & (x >= 0) & (x < W) & has
            place = middle + ((i - side // 2) * W + j - SIDE // 2) * DILATION * image_row
            values = tl.load(place, inside[:, None] & known[None, :], 0.0).to(tl.float32)
            if RECTIFY:
                values = tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)
            total += values * tl.load(weights + i * side + u, known & has, 0.0).to(tl.float32)[None, :]
    return total


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW", "each", "a", "b"))
def _forward(
    image, kernel, second, result, parts, pixels, H, W, OH, OW, inner, image_row, image_step, result_row,
    each, part_size, sums_from, a, b,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, SIDE: tl.constexpr, CANDIDATES: tl.constexpr,
    RECTIFY: tl.constexpr, MOMENTS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part, tiles = tl.program_id(0), tl.cdiv(inner, CHANNELS)
    group = tl.program_id(1) // tiles
    own = (tl.program_id(1) % tiles) * CHANNELS + tl.arange(0, CHANNELS)
    channel, known = group * inner + own, own < inner
    weights, side = own_kernel(kernel, second, group, inner, own, a, b, CANDIDATES)
    products, sums = tl.zeros((CHANNELS, CHANNELS), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, each, PIXELS):
        pixel = part * each + first + tl.arange(0, PIXELS)
        column, line, picture = pixel % OW, pixel // OW % OH, pixel // (OW * OH)
        there = pixel < pixels
        middle = ((picture * H + line * STRIDE) * W + column * STRIDE).to(tl.int64)
        middle = image + middle[:, None] * image_row + (group * image_step + own)[None, :]
        total = _taps(
            middle, weights, line * STRIDE, column * STRIDE, there, known, H, W, image_row, side,
            DILATION, SIDE, RECTIFY, PIXELS, CHANNELS,
        )  # fmt: skip
        kept = total.to(result.dtype.element_ty)
        place = result + pixel.to(tl.int64)[:, None] * result_row + channel[None, :]
        tl.store(place, kept, there[:, None] & known[None, :])
        if MOMENTS:  # of the numbers that are kept; those outside are 0
            products = tl.dot(tl.trans(kept), kept, products, input_precision="ieee")
            sums += tl.sum(kept.to(tl.float32), 0)
    if MOMENTS:
        out = parts + part.to(tl.int64) * part_size
        tl.store(out + channel[:, None] * inner + own[None, :], products, known[:, None] & known[None, :])
        tl.store(out + sums_from + channel, sums, known)


@torch.library.custom_op(
    "darts::depthwise",
    mutates_args=(),
    schema="(Tensor image, Tensor kernel, Tensor? second, int groups, int stride, int dilation, bool rectify, "
    "bool moments) -> (Tensor, Tensor)",
)
def _forward_op(
    image: Tensor, kernel: Tensor, second: Tensor | None, groups: int, stride: int, dilation: int, rectify: bool,
    moments: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    result, parts, inner, each = _results(image, kernel, second, groups, stride, moments)
    own, kernels = rows(image), Kernels(kernel, second)
    a, b = kernels.sides
    pixels, step = result.numel() // result.shape[1], inner if own.map.shape[1] > inner else 0
    at_once = tile(inner) if moments else wide(inner)
    _forward[divided(pixels, each), groups * divided(inner, at_once)](
        own.map, *kernels.both, result, parts,
        pixels, *image.shape[2:], *result.shape[2:], inner, own.distance, step, groups * inner,
        each, parts.shape[1], groups * inner**2, a, b,
        STRIDE=stride, DILATION=dilation, SIDE=max(a, b), CANDIDATES=kernels.candidates,
        RECTIFY=rectify, MOMENTS=moments, PIXELS=PIXELS, CHANNELS=at_once,
    )  # fmt: skip
    return result, parts


def _results(
    image: Tensor, kernel: Tensor, second: Tensor | None, groups: int, stride: int, moments: bool
) -> tuple[Tensor, Tensor, int, int]:
    """The map and the sums' parts, without numbers; a group's channels, and the pixels of a part."""
    channels = kernel.numel() // kernel.shape[-1] ** 2 * (1 if second is None else 2)
    result = new_map(image, channels, (-(-image.shape[2] // stride), -(-image.shape[3] // stride)))
    inner, pixels = channels // groups, result.numel() // channels
    number, each = divided_pixels(pixels, PIXELS, groups) if moments else (0, PIXELS)
    parts = torch.empty((number, channels * (inner + 1)), dtype=torch.float32, device=image.device)
    return result, parts, inner, each


@_forward_op.register_fake
def _(image, kernel, second, groups, stride, dilation, rectify, moments):
    return _results(image, kernel, second, groups, stride, moments)[:2]


def forward(image: Tensor, kernel: Tensor, stride: int, dilation: int) -> Tensor:
    """The convolution of (batch, C, H, W) with K edges' kernels (K C, 1, k, k), or of each channel with its own: K = 1.

    Output channel o reads channel o modulo C.
    """
    return _forward_op(image, kernel, None, len(kernel) // image.shape[1], stride, dilation, False, False)[0]


def measured(image: Tensor, kernels: Kernels, steps: tuple[int, int], rectify: bool) -> tuple[Tensor, Tensor]:
    """The convolution, perhaps of the image's ReLU, and parts of its sums of products, as `products.parts` has them.

    `image`: (batch, C, H, W) for all groups, or (batch, G C, H, W); `steps`: stride and dilation.
    """
    return _forward_op(image, *kernels, kernels.groups, *steps, rectify, True)
