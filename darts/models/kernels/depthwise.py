"""Depthwise convolutions and their gradients, of one map for several edges without copies of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.rows import PROGRAMS, divided, new_map, rows

PIXELS = 64  # of a tile
CHANNELS = 32  # of a tile, at most
LARGEST = 7  # side of a kernel whose gradient is computed: a sum for each tap of a row


def _wide(channels: int) -> int:
    return min(CHANNELS, max(8, 1 << (channels - 1).bit_length()))


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW"))
def _forward(
    image, kernel, result, pixels, H, W, OH, OW, inner, outer, image_row,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, SIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    column, line, picture = pixel % OW, pixel // OW % OH, pixel // (OW * OH)
    there, known = pixel < pixels, channel < outer
    middle = ((picture * H + line * STRIDE) * W + column * STRIDE).to(tl.int64)
    middle = image + middle[:, None] * image_row + (channel % inner)[None, :]
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for i in tl.static_range(SIDE):
        for j in tl.static_range(SIDE):
            y = line * STRIDE + (i - SIDE // 2) * DILATION
            x = column * STRIDE + (j - SIDE // 2) * DILATION
            inside = there & (y >= 0) & (y < H) & (x >= 0) & (x < W)
            place = middle + ((i - SIDE // 2) * W + j - SIDE // 2) * DILATION * image_row
            values = tl.load(place, inside[:, None] & known[None, :], 0.0).to(tl.float32)
            weights = tl.load(kernel + channel * (SIDE * SIDE) + i * SIDE + j, known, 0.0).to(tl.float32)
            total += values * weights[None, :]
    place = result + pixel.to(tl.int64)[:, None] * outer + channel[None, :]
    tl.store(place, total.to(result.dtype.element_ty), there[:, None] & known[None, :])


@torch.library.custom_op(
    "darts::depthwise", mutates_args=(), schema="(Tensor image, Tensor kernel, int stride, int dilation) -> Tensor"
)
def forward(image: Tensor, kernel: Tensor, stride: int, dilation: int) -> Tensor:
    """The convolution of (batch, C, H, W) with K edges' kernels (K C, 1, k, k), or of each channel with its own: K = 1.

    Output channel o reads channel o modulo C.
    """
    own, outer, (_, inner, height, width) = rows(image), len(kernel), image.shape
    result = new_map(image, outer, (-(-height // stride), -(-width // stride)))
    pixels, wide = result.numel() // outer, _wide(outer)
    _forward[divided(pixels, PIXELS), divided(outer, wide)](
        own.map, kernel.contiguous(), result, pixels, height, width, *result.shape[2:], inner, outer, own.distance,
        STRIDE=stride, DILATION=dilation, SIDE=kernel.shape[2], PIXELS=PIXELS, CHANNELS=wide,
    )  # fmt: skip
    return result


@forward.register_fake
def _(image, kernel, stride, dilation):
    return new_map(image, len(kernel), (-(-image.shape[2] // stride), -(-image.shape[3] // stride)))


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW", "edges"))
def _input_gradient(
    gradient, kernel, rectified, result, pixels, H, W, OH, OW, inner, gradient_row, rectified_row, edges,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, SIDE: tl.constexpr, MASKED: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    column, line, picture = pixel % W, pixel // W % H, pixel // (W * H)
    there, known = pixel < pixels, channel < inner
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for edge in range(edges):
        own = edge * inner + channel
        for i in tl.static_range(SIDE):
            for j in tl.static_range(SIDE):
                y = line - (i - SIDE // 2) * DILATION
                x = column - (j - SIDE // 2) * DILATION
                inside = there & (y >= 0) & (y < OH * STRIDE) & (x >= 0) & (x < OW * STRIDE)
                if STRIDE > 1:
                    inside = inside & (y % STRIDE == 0) & (x % STRIDE == 0)
                place = (picture * OH + y // STRIDE) * OW + x // STRIDE
                place = gradient + place.to(tl.int64)[:, None] * gradient_row + own[None, :]
                values = tl.load(place, inside[:, None] & known[None, :], 0.0).to(tl.float32)
                weights = tl.load(kernel + own * (SIDE * SIDE) + i * SIDE + j, known, 0.0).to(tl.float32)
                total += values * weights[None, :]
    writes = there[:, None] & known[None, :]
    if MASKED:
        kept = tl.load(rectified + pixel.to(tl.int64)[:, None] * rectified_row + channel[None, :], writes, 0.0)
        total = tl.where(kept > 0, total, 0.0)
    place = result + pixel.to(tl.int64)[:, None] * inner + channel[None, :]
    tl.store(place, total.to(result.dtype.element_ty), writes)


@torch.library.custom_op(
    "darts::depthwise_input",
    mutates_args=(),
    schema="(Tensor gradient, Tensor kernel, SymInt[] shape, int stride, int dilation, Tensor? rectified) -> Tensor",
)
def _input_op(
    gradient: Tensor, kernel: Tensor, shape: Sequence[int], stride: int, dilation: int, rectified: Tensor | None
) -> Tensor:
    channels, height, width = shape
    own = rows(gradient)
    mask = own if rectified is None else rows(rectified)
    result = new_map(gradient, channels, (height, width))
    pixels, wide = result.numel() // channels, _wide(channels)
    _input_gradient[divided(pixels, PIXELS), divided(channels, wide)](
        own.map, kernel.contiguous(), mask.map, result, pixels, height, width, *gradient.shape[2:], channels,
        own.distance, mask.distance, len(kernel) // channels,
        STRIDE=stride, DILATION=dilation, SIDE=kernel.shape[2], MASKED=rectified is not None,
        PIXELS=PIXELS, CHANNELS=wide,
    )  # fmt: skip
    return result


@_input_op.register_fake
def _(gradient, kernel, shape, stride, dilation, rectified):
    return new_map(gradient, shape[0], (shape[1], shape[2]))


def input_gradient(
    gradient: Tensor, shape: torch.Size, kernel: Tensor, steps: tuple[int, int], rectified: Tensor | None = None
) -> Tensor:
    """What the output's gradient (batch, K C, H', W') makes of the input, which has this shape (batch, C, H, W).

    `rectified`: the input, where it is the output of a ReLU; the gradient is that of what went into the ReLU.
    """
    return _input_op(gradient, kernel, shape[1:], *steps, rectified)


@triton.jit
def _plus(total, product, wanted: tl.constexpr):
    if wanted:
        total += product
    return total


@triton.jit
def _store(place, total, known, wanted: tl.constexpr):
    if wanted:
        tl.store(place, tl.sum(total, 0), known)


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW", "each"))
def _weight_gradient(
    gradient, image, parts, pixels, H, W, OH, OW, inner, outer, gradient_row, image_row, each,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, SIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    i, known = tl.program_id(2), channel < outer
    sum0 = tl.zeros((PIXELS, CHANNELS), tl.float32)  # one for each tap of a row; those beyond SIDE are never used
    sum1, sum2, sum3, sum4, sum5, sum6 = sum0, sum0, sum0, sum0, sum0, sum0
    for first in range(0, each, PIXELS):
        pixel = part * each + first + tl.arange(0, PIXELS)
        column, line, picture = pixel % OW, pixel // OW % OH, pixel // (OW * OH)
        there = pixel < pixels
        place = gradient + pixel.to(tl.int64)[:, None] * gradient_row + channel[None, :]
        own = tl.load(place, there[:, None] & known[None, :], 0.0).to(tl.float32)
        y = line * STRIDE + (i - SIDE // 2) * DILATION
        row = there & (y >= 0) & (y < H)
        middle = ((picture * H + y) * W + column * STRIDE).to(tl.int64)
        middle = image + middle[:, None] * image_row + (channel % inner)[None, :]
        for j in tl.static_range(SIDE):
            x = column * STRIDE + (j - SIDE // 2) * DILATION
            inside = row & (x >= 0) & (x < W)
            place = middle + (j - SIDE // 2) * DILATION * image_row
            product = own * tl.load(place, inside[:, None] & known[None, :], 0.0).to(tl.float32)
            sum0 = _plus(sum0, product, j == 0)
            sum1 = _plus(sum1, product, j == 1)
            sum2 = _plus(sum2, product, j == 2)
            sum3 = _plus(sum3, product, j == 3)
            sum4 = _plus(sum4, product, j == 4)
            sum5 = _plus(sum5, product, j == 5)
            sum6 = _plus(sum6, product, j == 6)
    out = parts + (part * outer + channel) * (SIDE * SIDE) + i * SIDE
    _store(out + 0, sum0, known, SIDE > 0)
    _store(out + 1, sum1, known, SIDE > 1)
    _store(out + 2, sum2, known, SIDE > 2)
    _store(out + 3, sum3, known, SIDE > 3)
    _store(out + 4, sum4, known, SIDE > 4)
    _store(out + 5, sum5, known, SIDE > 5)
    _store(out + 6, sum6, known, SIDE > 6)


def _parts(pixels: int, channels: int, side: int) -> tuple[int, int]:
    """Into how many parts the pixels are divided, and how many each has: a multiple of a tile."""
    number = min(divided(pixels, 4 * PIXELS), max(1, 2 * PROGRAMS // (side * divided(channels, _wide(channels)))))
    each = divided(divided(pixels, number), PIXELS) * PIXELS
    return divided(pixels, each), each


@torch.library.custom_op(
    "darts::depthwise_weight",
    mutates_args=(),
    schema="(Tensor gradient, Tensor image, int side, int stride, int dilation) -> Tensor",
)
def _weight_op(gradient: Tensor, image: Tensor, side: int, stride: int, dilation: int) -> Tensor:
    if side > LARGEST:
        raise ValueError(f"a depthwise kernel is {side} wide; its gradient by Triton is for at most {LARGEST}")
    own, read = rows(gradient), rows(image)
    outer, (_, inner, height, width) = gradient.shape[1], image.shape
    number, each = _parts(own.pixels, outer, side)
    parts = torch.empty((number, outer * side * side), dtype=torch.float32, device=image.device)
    wide = _wide(outer)
    _weight_gradient[number, divided(outer, wide), side](
        own.map, read.map, parts, own.pixels, height, width, *gradient.shape[2:], inner, outer,
        own.distance, read.distance, each,
        STRIDE=stride, DILATION=dilation, SIDE=side, PIXELS=PIXELS, CHANNELS=wide,
    )  # fmt: skip
    return parts


@_weight_op.register_fake
def _(gradient, image, side, stride, dilation):
    outer = gradient.shape[1]
    number, _ = _parts(gradient.numel() // outer, outer, side)
    return gradient.new_empty((number, outer * side * side), dtype=torch.float32)


def weight_gradient(gradient: Tensor, image: Tensor, side: int, steps: tuple[int, int]) -> Tensor:
    """What the output's gradient (batch, K C, H', W') makes of the kernels (K C, 1, k, k), in float32."""
    return _weight_op(gradient, image, side, *steps).sum(0).view(-1, 1, side, side)


@triton.jit(do_not_specialize=("size", "channels"))
def _join(
    one, other, result, size, channels, SIDE: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, y, channel = place % SIDE, place // SIDE % SIDE, place // (SIDE * SIDE)
    second, edge = channel // channels % 2, channel // (2 * channels)
    row = edge * channels + channel % channels
    known = place < size
    a, b = (SIDE - A) // 2, (SIDE - B) // 2
    inside = known & (second == 0) & (y >= a) & (y < SIDE - a) & (x >= a) & (x < SIDE - a)
    value = tl.load(one + (row * A + y - a) * A + x - a, inside, 0.0)
    inside = known & (second == 1) & (y >= b) & (y < SIDE - b) & (x >= b) & (x < SIDE - b)
    value += tl.load(other + (row * B + y - b) * B + x - b, inside, 0.0)
    tl.store(result + place, value, known)


@torch.library.custom_op("darts::join", mutates_args=(), schema="(Tensor one, Tensor other, int side) -> Tensor")
def joined(one: Tensor, other: Tensor, side: int) -> Tensor:
    """Two candidates' kernels (K, C, 1, k, k), edge by edge, each in the middle of `side` x `side`: (2 K C, ...)."""
    edges, channels = one.shape[:2]
    result = one.new_empty((2 * edges, channels, 1, side, side))
    block = 1024
    _join[divided(result.numel(), block),](
        one.contiguous(), other.contiguous(), result, result.numel(), channels,
        SIDE=side, A=one.shape[3], B=other.shape[3], BLOCK=block,
    )  # fmt: skip
    return result


@joined.register_fake
def _(one, other, side):
    return one.new_empty((2 * len(one), one.shape[1], 1, side, side))
