"""Sums of products over pixels, and the moments that are made of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.rows import divided, precision, rows, tile
from darts.models.kernels.rows import parts as divided_pixels

PIXELS = 128  # of a tile


@triton.jit(do_not_specialize=("pixels", "each", "part_size", "sums_from"))
def _products(
    left, right, parts, pixels, left_row, right_row, each, A, B, part_size, sums_from,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    across, down = tl.cdiv(B, RIGHT), tl.cdiv(A, LEFT)
    place = tl.program_id(0)
    group = place // (across * down)
    a = (place // across % down) * LEFT + tl.arange(0, LEFT)
    b = (place % across) * RIGHT + tl.arange(0, RIGHT)
    part = tl.program_id(1).to(tl.int64)
    total = tl.zeros((LEFT, RIGHT), tl.float32)
    sums = tl.zeros((LEFT,), tl.float32)
    for first in range(0, each, PIXELS):
        pixel = part * each + first + tl.arange(0, PIXELS)
        there = (pixel < pixels)[:, None]
        ones = tl.load(left + pixel[:, None] * left_row + (group * A + a)[None, :], there & (a < A)[None, :], 0.0)
        others = tl.load(right + pixel[:, None] * right_row + (group * B + b)[None, :], there & (b < B)[None, :], 0.0)
        total = tl.dot(tl.trans(ones), others, total, input_precision=PRECISION)
        sums += tl.sum(ones.to(tl.float32), 0)
    out = parts + part * part_size
    tl.store(out + (group * A + a)[:, None] * B + b[None, :], total, (a < A)[:, None] & (b < B)[None, :])
    if place % across == 0:
        tl.store(out + sums_from + group * A + a, sums, a < A)


@torch.library.custom_op(
    "darts::products", mutates_args=(), schema="(Tensor left, Tensor right, int groups, bool exact) -> Tensor"
)
def _products_op(left: Tensor, right: Tensor, groups: int, exact: bool) -> Tensor:
    one, other = rows(left), rows(right)
    a, b = left.shape[1] // groups, right.shape[1] // groups
    size, high, wide = groups * a * (b + 1), tile(a), tile(b)
    tiles = groups * divided(a, high) * divided(b, wide)
    number, each = divided_pixels(one.pixels, PIXELS, tiles, 2)
    parts = torch.empty((number, size), dtype=torch.float32, device=left.device)
    kind = "ieee" if exact else precision(left)
    _products[tiles, number](
        one.map, other.map, parts, one.pixels, one.distance, other.distance, each, a, b, size, groups * a * b,
        PRECISION=kind, PIXELS=PIXELS, LEFT=high, RIGHT=wide,
    )  # fmt: skip
    return parts


@_products_op.register_fake
def _(left, right, groups, exact):
    pixels, a, b = left.numel() // left.shape[1], left.shape[1] // groups, right.shape[1] // groups
    number, _ = divided_pixels(pixels, PIXELS, groups * divided(a, tile(a)) * divided(b, tile(b)), 2)
    return left.new_empty((number, groups * a * (b + 1)), dtype=torch.float32)


def parts(left: Tensor, right: Tensor, groups: int) -> Tensor:
    """What `products` returns, before it is summed over the parts that pixels were divided into: a row a part."""
    return _products_op(left, right, groups, False)


def products(left: Tensor, right: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sums over pixels of left times right, (K, A, B), and of left, (K, A), in float32.

    left (batch, K A, H, W), right (batch, K B, H, W).
    """
    a, b = left.shape[1] // groups, right.shape[1] // groups
    total = parts(left, right, groups).sum(0)
    return total[: groups * a * b].view(groups, a, b), total[groups * a * b :].view(groups, a)


@triton.jit(do_not_specialize=("number", "part_size", "sums_from", "pixels", "C"))
def _moments(
    parts, mean, covariance, number, part_size, sums_from, pixels, C, PARTS: tl.constexpr, PLACES: tl.constexpr
):
    group = tl.program_id(0)
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES)
    a, b, known = place // C, place % C, place < C * C
    second, one = tl.zeros((PLACES,), tl.float32), tl.zeros((PLACES,), tl.float32)
    other = tl.zeros((PLACES,), tl.float32)
    for first in range(0, number, PARTS):
        part = first + tl.arange(0, PARTS)
        own, there = parts + (part * part_size)[:, None], (part < number)[:, None] & known[None, :]
        second += tl.sum(tl.load(own + (group * C * C + place)[None, :], there, 0.0), 0)
        one += tl.sum(tl.load(own + (sums_from + group * C + a)[None, :], there, 0.0), 0)
        other += tl.sum(tl.load(own + (sums_from + group * C + b)[None, :], there, 0.0), 0)
    tl.store(mean + group * C + a, one / pixels, known & (b == 0))
    tl.store(covariance + group * C * C + place, second / pixels - one / pixels * (other / pixels), known)


@torch.library.custom_op(
    "darts::moments", mutates_args=(), schema="(Tensor parts, int groups, int channels, int pixels) -> (Tensor, Tensor)"
)
def _moments_op(parts: Tensor, groups: int, channels: int, pixels: int) -> tuple[Tensor, Tensor]:
    mean, covariance = parts.new_empty((groups, channels)), parts.new_empty((groups, channels, channels))
    places = min(128, 1 << (channels**2 - 1).bit_length())
    _moments[groups, divided(channels**2, places)](
        parts, mean, covariance, len(parts), parts.shape[1], groups * channels**2, pixels, channels,
        PARTS=32, PLACES=places,
    )  # fmt: skip
    return mean, covariance


@_moments_op.register_fake
def _(parts, groups, channels, pixels):
    return parts.new_empty((groups, channels)), parts.new_empty((groups, channels, channels))


def moments(image: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean (K, C) and covariance (K, C, C) of each group of channels over all pixels, in float32, exact products."""
    channels, pixels = image.shape[1] // groups, image.numel() // image.shape[1]
    return _moments_op(_products_op(image, image, groups, True), groups, channels, pixels)


@triton.jit(do_not_specialize=("C", "pixels"))
def _of_moments(mean, for_mean, for_covariance, matrices, constants, C, pixels, SIZE: tl.constexpr):
    group = tl.program_id(0)
    a, b = tl.arange(0, SIZE), tl.arange(0, SIZE)
    there = (a < C)[:, None] & (b < C)[None, :]
    own = for_covariance + group * C * C
    both = tl.load(own + a[:, None] * C + b[None, :], there, 0.0) + tl.load(
        own + b[None, :] * C + a[:, None], there, 0.0
    )
    linear = both / pixels
    means = tl.load(mean + group * C + b, b < C, 0.0)
    constant = tl.load(for_mean + group * C + a, a < C, 0.0) / pixels - tl.sum(linear * means[None, :], 1)
    tl.store(matrices + group * C * C + a[:, None] * C + b[None, :], linear, there)
    tl.store(constants + group * C + a, constant, a < C)


@torch.library.custom_op(
    "darts::of_moments",
    mutates_args=(),
    schema="(Tensor mean, Tensor for_mean, Tensor for_covariance, int pixels) -> (Tensor, Tensor)",
)
def of_moments(mean: Tensor, for_mean: Tensor, for_covariance: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """The linear map (K, C, C), (K, C) that makes of an image what its moments' gradients make of it (folding.py)."""
    groups, channels = mean.shape
    matrices, constants = mean.new_empty((groups, channels, channels)), mean.new_empty((groups, channels))
    for_mean, for_covariance = for_mean.contiguous(), for_covariance.contiguous()
    _of_moments[groups,](
        mean, for_mean, for_covariance, matrices, constants, channels, pixels,
        SIZE=1 << (channels - 1).bit_length(),
    )  # fmt: skip
    return matrices, constants


@of_moments.register_fake
def _(mean, for_mean, for_covariance, pixels):
    groups, channels = mean.shape
    return mean.new_empty((groups, channels, channels)), mean.new_empty((groups, channels))
