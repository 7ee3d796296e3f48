"""Sums of maps, each through 1x1 convolutions of its own: one launch that reads each map once and writes the sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.rows import divided, new_map, precision, rows, tile
from darts.models.kernels.types import Diagonal, Term

PIXELS = 128  # of a tile


@triton.jit
def _through(
    total, image, image_row, matrix, outer_step, inner_step, pixel, there, to, outer, inner,
    PRECISION: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    for first in range(0, inner, INNER):
        of = first + tl.arange(0, INNER)
        place = image + pixel[:, None] * image_row + of[None, :]
        values = tl.load(place, there[:, None] & (of < inner)[None, :], 0.0)
        place = matrix + of[:, None] * inner_step + to[None, :] * outer_step
        weights = tl.load(place, (of < inner)[:, None] & (to < outer)[None, :], 0.0).to(values.dtype)
        total = tl.dot(values, weights, total, input_precision=PRECISION)
    return total


@triton.jit
def _shifted(total, constants, group, to, outer, NUMBER: tl.constexpr):
    for n in tl.static_range(NUMBER):
        place = constants + (group * NUMBER + n) * outer + to
        total += tl.load(place, to < outer, 0.0).to(tl.float32)[None, :]
    return total


@triton.jit
def _scaled(total, place, scales, outer, writes, within, KINDS: tl.constexpr):
    for j in tl.static_range(KINDS):
        factor = tl.load(scales + j * outer, within, 0.0)
        total += tl.load(place + j * outer, writes, 0.0).to(tl.float32) * factor[None, :]
    return total


@triton.jit(do_not_specialize=("pixels",))
def _combined(
    image, matrices, other, other_matrices, constants, more_constants, still_more, pools, plain, factors, added, result,
    pixels, outer, inner, image_row, image_step, major, minor, outer_step, inner_step,
    other_inner, other_row, other_step, other_major, other_minor, other_outer_step, other_inner_step,
    pools_row, plain_row, added_row, result_row,
    IMAGES: tl.constexpr, PER: tl.constexpr, OTHER_PER: tl.constexpr,
    CONSTANTS: tl.constexpr, MORE: tl.constexpr, STILL_MORE: tl.constexpr,
    POOLS: tl.constexpr, PLAIN: tl.constexpr, HAS_ADDED: tl.constexpr, RECTIFY: tl.constexpr,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    tiles, group = tl.cdiv(outer, OUTER), tl.program_id(1) // tl.cdiv(outer, OUTER)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    to = (tl.program_id(1) % tiles) * OUTER + tl.arange(0, OUTER)
    channel, within, there = group * outer + to, to < outer, pixel < pixels
    writes = there[:, None] & within[None, :]
    total = tl.zeros((PIXELS, OUTER), tl.float32)
    if IMAGES > 0:
        place, matrix = image + group // PER * image_step, matrices + group // PER * major + group % PER * minor
        total = _through(
            total, place, image_row, matrix, outer_step, inner_step, pixel, there, to, outer, inner, PRECISION, INNER,
        )  # fmt: skip
    if IMAGES > 1:
        own, minor_group = group // OTHER_PER, group % OTHER_PER
        place, matrix = other + own * other_step, other_matrices + own * other_major + minor_group * other_minor
        total = _through(
            total, place, other_row, matrix, other_outer_step, other_inner_step, pixel, there, to, outer, other_inner,
            PRECISION, OTHER,
        )  # fmt: skip
    scales = factors + group * (POOLS + PLAIN) * outer + to
    total = _scaled(total, pools + pixel[:, None] * pools_row + to[None, :], scales, outer, writes, within, POOLS)
    place = plain + pixel[:, None] * plain_row + to[None, :]
    total = _scaled(total, place, scales + POOLS * outer, outer, writes, within, PLAIN)
    total = _shifted(total, constants, group, to, outer, CONSTANTS)
    total = _shifted(total, more_constants, group, to, outer, MORE)
    total = _shifted(total, still_more, group, to, outer, STILL_MORE)
    if HAS_ADDED:
        total += tl.load(added + pixel[:, None] * added_row + channel[None, :], writes, 0.0).to(tl.float32)
    if RECTIFY:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(result + pixel[:, None] * result_row + channel[None, :], total.to(result.dtype.element_ty), writes)


@torch.library.custom_op(
    "darts::combined",
    mutates_args=(),
    schema="(Tensor[] images, Tensor[] matrices, Tensor[] constants, Tensor? pools, Tensor? plain, Tensor? factors, "
    "Tensor? added, int groups, int outer, bool rectify) -> Tensor",
)
def _combined_op(
    images: Sequence[Tensor], matrices: Sequence[Tensor], constants: Sequence[Tensor], pools: Tensor | None,
    plain: Tensor | None, factors: Tensor | None, added: Tensor | None, groups: int, outer: int, rectify: bool,
) -> Tensor:  # fmt: skip
    like = next(image for image in (*images, pools, plain, added) if image is not None)
    result = new_map(like, groups * outer)
    unread = rows(result)  # a kernel takes a tensor also where it reads none
    one, other = [*(rows(image) for image in images), unread, unread][:2]
    matrix, other_matrix = [*matrices, *[result.new_empty((1, 1, 1, 1))] * 2][:2]
    steps = [m.shape[3] if i.map.shape[1] > m.shape[3] else 0 for i, m in ((one, matrix), (other, other_matrix))]
    pooled, same, before = (unread if image is None else rows(image) for image in (pools, plain, added))
    kinds = 0 if pools is None else pools.shape[1] // outer
    numbers = [constant.numel() // (groups * outer) for constant in constants] + [0] * (3 - len(constants))
    wide, scales = tile(outer), result if factors is None else factors
    grid = (divided(unread.pixels, PIXELS), groups * divided(outer, wide))
    _combined[grid](
        one.map, matrix, other.map, other_matrix, *[*constants, *[result] * 3][:3],
        pooled.map, same.map, scales, before.map, result,
        unread.pixels, outer, matrix.shape[3], one.distance, steps[0], *matrix.stride(),
        other_matrix.shape[3], other.distance, steps[1], *other_matrix.stride(),
        pooled.distance, same.distance, before.distance, groups * outer,
        IMAGES=len(images), PER=matrix.shape[1], OTHER_PER=other_matrix.shape[1],
        CONSTANTS=numbers[0], MORE=numbers[1], STILL_MORE=numbers[2],
        POOLS=kinds, PLAIN=int(plain is not None), HAS_ADDED=added is not None, RECTIFY=rectify,
        PRECISION=precision(like), PIXELS=PIXELS, OUTER=wide, INNER=tile(matrix.shape[3]),
        OTHER=tile(other_matrix.shape[3]), num_warps=4 * divided(wide, 32),
    )  # fmt: skip
    return result


@_combined_op.register_fake
def _(images, matrices, constants, pools, plain, factors, added, groups, outer, rectify):
    return new_map(next(image for image in (*images, pools, plain, added) if image is not None), groups * outer)


def combined(
    terms: Sequence[Term], constants: Sequence[Tensor], groups: int, outer: int, diagonal: Diagonal | None = None,
    added: Tensor | None = None, rectify: bool = False,
) -> Tensor:  # fmt: skip
    """The sum of all terms, of constants (any number for each group and channel), and of another map; then ReLU.

    Returns (batch, groups C, H, W) of C = `outer` channels a group. A launch takes two terms and three constants; more
    of them are more launches.
    """
    first, rest = list(terms[:2]), list(terms[2:])
    images, matrices = [term.image for term in first], [term.matrices for term in first]
    own = [constant.contiguous() for constant in constants[:3]]
    last = not rest and len(constants) <= 3
    kinds = diagonal or (None, None, None)
    total = _combined_op(images, matrices, own, *kinds, added, groups, outer, rectify and last)
    return total if last else combined(rest, constants[3:], groups, outer, None, total, rectify)


def mapped(
    image: Tensor,
    matrices: Tensor,
    constants: Tensor | None = None,
    added: Tensor | None = None,
    rectify: bool = False,
) -> Tensor:
    """Each group of C' channels through its matrix, plus constants, plus another map, and then ReLU.

    image (batch, K C', H, W), matrices (K, C, C'), constants (K, C), added (batch, K C, H, W); returns the like of it.
    """
    shifts = [] if constants is None else [constants]
    groups, outer = matrices.shape[:2]
    return combined([Term(image, matrices[:, None])], shifts, groups, outer, added=added, rectify=rectify)
