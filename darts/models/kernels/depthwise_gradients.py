"""The gradients of depthwise convolutions: of the image, through its ReLU, and of the kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.depthwise import own_kernel
from darts.models.kernels.rows import PROGRAMS, divided, new_map, rows, wide
from darts.models.kernels.rows import parts as divided_pixels
from darts.models.kernels.types import Kernels

PIXELS = 64  # of a tile
LARGEST = 7  # side of a kernel whose gradient is computed: a sum for each tap of a row


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW", "each", "a", "b"))
def _input_gradient(
    gradient, kernel, second, rectified, added, result, pixels, H, W, OH, OW, inner, each, a, b,
    gradient_row, rectified_row, added_row, result_row,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, SIDE: tl.constexpr, CANDIDATES: tl.constexpr,
    MASKED: tl.constexpr, HAS_ADDED: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    pixel, tiles = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.cdiv(inner, CHANNELS)
    image = tl.program_id(1) // tiles  # which group of the input's channels
    own = (tl.program_id(1) % tiles) * CHANNELS + tl.arange(0, CHANNELS)
    column, line, picture = pixel % W, pixel // W % H, pixel // (W * H)
    there, known = pixel < pixels, own < inner
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for reader in range(each):
        group = image * each + reader
        weights, side = own_kernel(kernel, second, group, inner, own, a, b, CANDIDATES)
        for i in range(side):
            y = line - (i - side // 2) * DILATION
            row = there & (y >= 0) & (y < OH * STRIDE)
            if STRIDE > 1:
                row = row & (y % STRIDE == 0)
            for j in tl.static_range(SIDE):
                u = j - (SIDE - side) // 2
                x, has = column - (j - SIDE // 2) * DILATION, (u >= 0) & (u < side)
                inside = row & (x >= 0) & (x < OW * STRIDE) & has
                if STRIDE > 1:
                    inside = inside & (x % STRIDE == 0)
                place = (picture * OH + y // STRIDE) * OW + x // STRIDE
                place = gradient + place.to(tl.int64)[:, None] * gradient_row + (group * inner + own)[None, :]
                values = tl.load(place, inside[:, None] & known[None, :], 0.0).to(tl.float32)
                total += values * tl.load(weights + i * side + u, known & has, 0.0).to(tl.float32)[None, :]
    writes, channel = there[:, None] & known[None, :], image * inner + own
    far = pixel.to(tl.int64)[:, None]
    if MASKED:
        kept = tl.load(rectified + far * rectified_row + channel[None, :], writes, 0.0)
        total = tl.where(kept <= 0, 0.0, total)
    if HAS_ADDED:
        total += tl.load(added + far * added_row + channel[None, :], writes, 0.0).to(tl.float32)
    tl.store(result + far * result_row + channel[None, :], total.to(result.dtype.element_ty), writes)


@torch.library.custom_op(
    "darts::depthwise_input",
    mutates_args=(),
    schema="(Tensor gradient, Tensor kernel, Tensor? second, SymInt[] shape, int groups, int stride, int dilation, "
    "Tensor? rectified, Tensor? added) -> Tensor",
)
def _input_op(
    gradient: Tensor, kernel: Tensor, second: Tensor | None, shape: Sequence[int], groups: int, stride: int,
    dilation: int, rectified: Tensor | None, added: Tensor | None,
) -> Tensor:  # fmt: skip
    channels, height, width = shape
    own, kernels = rows(gradient), Kernels(kernel, second)
    a, b = kernels.sides
    mask, before = (own if image is None else rows(image) for image in (rectified, added))
    result = new_map(gradient, channels, (height, width))
    inner = gradient.shape[1] // groups
    images = channels // inner
    pixels, at_once = result.numel() // channels, wide(inner)
    _input_gradient[divided(pixels, PIXELS), images * divided(inner, at_once)](
        own.map, *kernels.both, mask.map, before.map, result,
        pixels, height, width, *gradient.shape[2:], inner, groups // images, a, b,
        own.distance, mask.distance, before.distance, channels,
        STRIDE=stride, DILATION=dilation, SIDE=max(a, b), CANDIDATES=kernels.candidates,
        MASKED=rectified is not None, HAS_ADDED=added is not None, PIXELS=PIXELS, CHANNELS=at_once,
    )  # fmt: skip
    return result


@_input_op.register_fake
def _(gradient, kernel, second, shape, groups, stride, dilation, rectified, added):
    return new_map(gradient, shape[0], (shape[1], shape[2]))


def input_gradient(
    gradient: Tensor, shape: torch.Size, kernel: Tensor, steps: tuple[int, int], rectified: Tensor | None = None
) -> Tensor:
    """What the output's gradient (batch, K C, H', W') makes of the input, which has this shape (batch, C, H, W).

    `rectified`: the input, where it is the output of a ReLU; the gradient is that of what went into the ReLU.
    """
    return _input_op(gradient, kernel, None, shape[1:], len(kernel) // shape[1], *steps, rectified, None)


def source_gradient(
    gradient: Tensor, source: Tensor, kernels: Kernels, steps: tuple[int, int], added: Tensor | None = None
) -> Tensor:
    """What the gradient of `measured` makes of the image's gradient through its ReLU, plus another map.

    `source`: the image, before its ReLU or after.
    """
    return _input_op(gradient, *kernels, source.shape[1:], kernels.groups, *steps, source, added)


@triton.jit
def _plus(total, product, wanted: tl.constexpr):
    if wanted:
        total += product
    return total


@triton.jit
def _store(place, total, known, wanted: tl.constexpr):
    if wanted:
        tl.store(place, tl.sum(total, 0), known)


@triton.jit
def _store_row(out, sum0, sum1, sum2, sum3, sum4, sum5, sum6, known, SIDE: tl.constexpr):
    _store(out + 0, sum0, known, SIDE > 0)
    _store(out + 1, sum1, known, SIDE > 1)
    _store(out + 2, sum2, known, SIDE > 2)
    _store(out + 3, sum3, known, SIDE > 3)
    _store(out + 4, sum4, known, SIDE > 4)
    _store(out + 5, sum5, known, SIDE > 5)
    _store(out + 6, sum6, known, SIDE > 6)


@triton.jit(do_not_specialize=("pixels", "H", "W", "OH", "OW", "each", "a", "b"))
def _weight_gradient(
    gradient, image, parts, pixels, H, W, OH, OW, inner, outer, gradient_row, image_row, image_step, each, a, b,
    STRIDE: tl.constexpr, DILATION: tl.constexpr, SIDE: tl.constexpr, CANDIDATES: tl.constexpr, RECTIFY: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    part, tiles = tl.program_id(0), tl.cdiv(inner, CHANNELS)
    group = tl.program_id(1) // tiles
    own = (tl.program_id(1) % tiles) * CHANNELS + tl.arange(0, CHANNELS)
    i, known, channel = tl.program_id(2), own < inner, group * inner + own
    side = tl.where(group % CANDIDATES == 1, b, a)
    v = i - (SIDE - side) // 2
    sum0 = tl.zeros((PIXELS, CHANNELS), tl.float32)  # one for each tap of a row; those beyond SIDE are never used
    sum1, sum2, sum3, sum4, sum5, sum6 = sum0, sum0, sum0, sum0, sum0, sum0
    for first in range(0, each, PIXELS):
        pixel = part * each + first + tl.arange(0, PIXELS)
        column, line, picture = pixel % OW, pixel // OW % OH, pixel // (OW * OH)
        there = (pixel < pixels) & (v >= 0) & (v < side)
        place = gradient + pixel.to(tl.int64)[:, None] * gradient_row + channel[None, :]
        own_gradient = tl.load(place, there[:, None] & known[None, :], 0.0).to(tl.float32)
        y = line * STRIDE + (i - SIDE // 2) * DILATION
        row = there & (y >= 0) & (y < H)
        middle = ((picture * H + y) * W + column * STRIDE).to(tl.int64)
        middle = image + middle[:, None] * image_row + (group * image_step + own)[None, :]
        for j in tl.static_range(SIDE):
            x, u = column * STRIDE + (j - SIDE // 2) * DILATION, j - (SIDE - side) // 2
            inside = row & (x >= 0) & (x < W) & (u >= 0) & (u < side)
            place = middle + (j - SIDE // 2) * DILATION * image_row
            values = tl.load(place, inside[:, None] & known[None, :], 0.0).to(tl.float32)
            if RECTIFY:
                values = tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)
            product = own_gradient * values
            sum0 = _plus(sum0, product, j == 0)
            sum1 = _plus(sum1, product, j == 1)
            sum2 = _plus(sum2, product, j == 2)
            sum3 = _plus(sum3, product, j == 3)
            sum4 = _plus(sum4, product, j == 4)
            sum5 = _plus(sum5, product, j == 5)
            sum6 = _plus(sum6, product, j == 6)
    out = parts + (part * outer + channel) * (SIDE * SIDE) + i * SIDE
    _store_row(out, sum0, sum1, sum2, sum3, sum4, sum5, sum6, known, SIDE)


@triton.jit(do_not_specialize=("number", "part_size", "size", "inner", "a", "b", "from_second"))
def _summed(
    parts, one, other, number, part_size, size, inner, a, b, from_second,
    SIDE: tl.constexpr, CANDIDATES: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Parts of all kernels' gradients, summed, each candidate's to a tensor of its own."""
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    is_second = place >= from_second
    within = tl.where(is_second, place - from_second, place)
    side = tl.where(is_second, b, a)
    tap, row = within % (side * side), within // (side * side)
    edge, channel = row // inner, row % inner
    group = edge * CANDIDATES + is_second.to(tl.int32)
    shift = (SIDE - side) // 2
    read = (group * inner + channel) * (SIDE * SIDE) + (tap // side + shift) * SIDE + tap % side + shift
    known = place < size
    total = tl.zeros((PLACES,), tl.float32)
    for first in range(0, number, PARTS):
        part = first + tl.arange(0, PARTS)
        there = (part < number)[:, None] & known[None, :]
        total += tl.sum(tl.load(parts + part[:, None] * part_size + read[None, :], there, 0.0), 0)
    tl.store(one + within, total, known & ~is_second)
    tl.store(other + within, total, known & is_second)


def _weight_parts(pixels: int, groups: int, inner: int, side: int) -> tuple[int, int]:
    return divided_pixels(pixels, PIXELS, side * groups * divided(inner, wide(inner)), most=2 * PROGRAMS)


@torch.library.custom_op(
    "darts::depthwise_weight",
    mutates_args=(),
    schema="(Tensor gradient, Tensor image, int groups, int a, int b, int candidates, int stride, int dilation, "
    "bool rectify) -> Tensor",
)
def _weight_op(
    gradient: Tensor, image: Tensor, groups: int, a: int, b: int, candidates: int, stride: int, dilation: int,
    rectify: bool,
) -> Tensor:  # fmt: skip
    side = max(a, b)
    if side > LARGEST:
        raise ValueError(f"a depthwise kernel is {side} wide; its gradient by Triton is for at most {LARGEST}")
    own, read, outer = rows(gradient), rows(image), gradient.shape[1]
    inner = outer // groups
    number, each = _weight_parts(own.pixels, groups, inner, side)
    parts = torch.empty((number, outer * side * side), dtype=torch.float32, device=image.device)
    at_once, step = wide(inner), inner if image.shape[1] > inner else 0
    _weight_gradient[number, groups * divided(inner, at_once), side](
        own.map, read.map, parts, own.pixels, *image.shape[2:], *gradient.shape[2:], inner, outer,
        own.distance, read.distance, step, each, a, b,
        STRIDE=stride, DILATION=dilation, SIDE=side, CANDIDATES=candidates, RECTIFY=rectify,
        PIXELS=PIXELS, CHANNELS=at_once,
    )  # fmt: skip
    return parts


@_weight_op.register_fake
def _(gradient, image, groups, a, b, candidates, stride, dilation, rectify):
    outer, side = gradient.shape[1], max(a, b)
    number, _ = _weight_parts(gradient.numel() // outer, groups, outer // groups, side)
    return gradient.new_empty((number, outer * side * side), dtype=torch.float32)


@torch.library.custom_op(
    "darts::depthwise_weight_sums",
    mutates_args=(),
    schema="(Tensor parts, int edges, int inner, int a, int b, int candidates) -> (Tensor, Tensor)",
)
def _sums_op(parts: Tensor, edges: int, inner: int, a: int, b: int, candidates: int) -> tuple[Tensor, Tensor]:
    one, other = _kernel_gradients(parts, edges, inner, a, b, candidates)
    size, places = one.numel() + other.numel(), 256
    _summed[divided(size, places),](
        parts, one, other, len(parts), parts.shape[1], size, inner, a, b, one.numel(),
        SIDE=max(a, b), CANDIDATES=candidates, PARTS=16, PLACES=places,
    )  # fmt: skip
    return one, other


def _kernel_gradients(parts: Tensor, edges: int, inner: int, a: int, b: int, candidates: int) -> tuple[Tensor, Tensor]:
    one = parts.new_empty((edges, inner, 1, a, a))
    shape = (edges, inner, 1, b, b) if candidates > 1 else (0,)
    return one, parts.new_empty(shape)


@_sums_op.register_fake
def _(parts, edges, inner, a, b, candidates):
    return _kernel_gradients(parts, edges, inner, a, b, candidates)


def kernel_gradients(
    gradient: Tensor, image: Tensor, kernels: Kernels, steps: tuple[int, int], rectify: bool
) -> Kernels:
    """What the gradient of `measured` makes of the kernels, in float32."""
    candidates, groups = kernels.candidates, kernels.groups
    parts = _weight_op(gradient, image, groups, *kernels.sides, candidates, *steps, rectify)
    one, other = _sums_op(parts, groups // candidates, gradient.shape[1] // groups, *kernels.sides, candidates)
    return Kernels(one) if kernels.second is None else Kernels(one, other)


def weight_gradient(gradient: Tensor, image: Tensor, side: int, steps: tuple[int, int]) -> Tensor:
    """What the output's gradient (batch, K C, H', W') makes of the kernels (K C, 1, k, k), in float32."""
    groups = gradient.shape[1] // image.shape[1]
    parts = _weight_op(gradient, image, groups, side, side, 1, *steps, False)
    return _sums_op(parts, groups, image.shape[1], side, side, 1)[0].flatten(0, 1)
