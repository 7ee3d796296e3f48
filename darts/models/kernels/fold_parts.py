"""Folding whose moments, and whose gradients of W and b, come as parts of sums: a launch each for all of it.

The formulas are those of fold.py. The moments of n pixels are m = s / n and S = X / n - m m', of the sums s and X over
pixels of d and of d d'; dW and db are the sums of g d' and of g, g the gradient of the map W d + b. What comes back of
the moments is the map by which d's gradient gets its part of them (darts/models/fused/folding.py):

    M = (dS + dS') / n        c = dm / n - M m
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.fold import move_row
from darts.models.kernels.rows import tile
from darts.models.kernels.types import Folded, FoldGradient, Scales


@triton.jit
def sum_of_parts(parts, number, part_size, place, known, PARTS: tl.constexpr):
    """The sum over all parts at places of two axes."""
    total = tl.zeros_like(place).to(tl.float32)
    for first in range(0, number, PARTS):
        part = first + tl.arange(0, PARTS)[:, None, None]
        values = tl.load(parts + part * part_size + place[None, :, :], (part < number) & known[None, :, :], 0.0)
        total += tl.sum(values, 0)
    return total


@triton.jit
def row_of_parts(parts, number, part_size, place, known, PARTS: tl.constexpr):
    """The same at places of one axis."""
    total = tl.zeros_like(place).to(tl.float32)
    for first in range(0, number, PARTS):
        part = first + tl.arange(0, PARTS)[:, None]
        values = tl.load(parts + part * part_size + place[None, :], (part < number) & known[None, :], 0.0)
        total += tl.sum(values, 0)
    return total


@triton.jit
def _scale(mixture, group, edge_step, column, other_column, PER: tl.constexpr):
    place = mixture + group // PER * edge_step + column
    if PER > 1:  # noqa: SIM102  # the first is decided when it is compiled
        if group % PER == 1:
            place = mixture + group // PER * edge_step + other_column
    return place


@triton.jit(do_not_specialize=("number", "pixels", "column", "other_column"))
def _forward(
    P, mixture, parts, running_mean, running_var, tracked, W, b, means, factors, m, S,
    number, part_size, sums_from, pixels, A, B, edge_step, column, other_column, eps, momentum,
    PER: tl.constexpr, SCALED: tl.constexpr, MOVES: tl.constexpr,
    OUTER: tl.constexpr, INNER: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    i, j, k = tl.arange(0, OUTER), tl.arange(0, INNER), tl.arange(0, INNER)
    square = (j < B)[:, None] & (k < B)[None, :]
    n = pixels.to(tl.float32)
    sums = parts + sums_from + group * B
    mean = row_of_parts(sums, number, part_size, j, j < B, PARTS) / n
    same = row_of_parts(sums, number, part_size, k, k < B, PARTS) / n
    own = group * B * B + j[:, None] * B + k[None, :]
    covariance = sum_of_parts(parts, number, part_size, own, square, PARTS) / n - mean[:, None] * same[None, :]
    covariance = tl.where(square, covariance, 0.0)
    tl.store(m + group * B + j, mean, j < B)
    tl.store(S + own, covariance, square)
    known, place = (i < A)[:, None] & (j < B)[None, :], (group * A + i)[:, None] * B + j[None, :]
    matrix = tl.load(P + place, known, 0.0).to(tl.float32)
    u = tl.sum(matrix * mean[None, :], 1)
    v = tl.maximum(
        tl.sum(tl.dot(matrix, covariance, input_precision="ieee") * matrix, 1), 0.0, propagate_nan=tl.PropagateNan.ALL
    )
    r = tl.rsqrt(v + eps)
    f = r
    if SCALED:
        f = r * tl.load(_scale(mixture, group, edge_step, column, other_column, PER))
    first = (group // PER * A * PER + group % PER) * B  # of the matrices of an edge
    tl.store(W + first + i[:, None] * (PER * B) + j[None, :], f[:, None] * matrix, known)
    row = group * A + i
    tl.store(b + row, -f * u, i < A)
    tl.store(means + row, u, i < A)
    tl.store(factors + row, r, i < A)
    if MOVES:
        move_row(running_mean + row, running_var + row, tracked + group, u, v * (n / (n - 1)), momentum, i < A)


def _sizes(P: Tensor) -> dict[str, int]:
    """What Triton is told of a matrix: its tiles, how many parts it reads at once, and its warps."""
    outer, inner = tile(P.shape[1]), tile(P.shape[2])
    parts = max(1, min(16, 4096 // (max(outer, inner) * inner)))
    return {"OUTER": outer, "INNER": inner, "PARTS": parts, "num_warps": 4 if max(outer, inner) <= 32 else 16}


@torch.library.custom_op(
    "darts::fold_parts",
    mutates_args=("running_mean", "running_var", "tracked"),
    schema="(Tensor P, Tensor? mixture, int column, int other_column, Tensor parts, int pixels, "
    "Tensor(x!) running_mean, Tensor(y!) running_var, Tensor(z!) tracked, bool moves, float eps, float momentum, "
    "int per_edge) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward_op(
    P: Tensor, mixture: Tensor | None, column: int, other_column: int, parts: Tensor, pixels: int,
    running_mean: Tensor, running_var: Tensor, tracked: Tensor, moves: bool, eps: float, momentum: float, per_edge: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    results = _results(P, per_edge)
    groups, outer, inner = P.shape
    scales = P if mixture is None else mixture
    _forward[groups,](
        P, scales, parts, running_mean, running_var, tracked, *results,
        len(parts), parts.shape[1], groups * inner**2, pixels, outer, inner, scales.stride(0), column, other_column,
        eps, momentum, PER=per_edge, SCALED=mixture is not None, MOVES=moves, **_sizes(P),
    )  # fmt: skip
    return results


def _results(P: Tensor, per_edge: int) -> tuple[Tensor, ...]:
    groups, outer, inner = P.shape
    W = P.new_empty((groups // per_edge, outer, per_edge * inner))
    rows = (P.new_empty((groups, outer)) for _ in range(3))
    return W, *rows, P.new_empty((groups, inner)), P.new_empty((groups, inner, inner))


@_forward_op.register_fake
def _(P, mixture, column, other_column, parts, pixels, running_mean, running_var, tracked, moves, eps, momentum, per):
    return _results(P, per)


def folded(
    P: Tensor, scales: Scales | None, parts: Tensor, pixels: int, running: tuple[Tensor, ...],
    numbers: tuple[bool, float, float], per_edge: int = 1,
) -> Folded:  # fmt: skip
    """W and b of P (K, C', C), whose input's moments over `pixels` come as parts (depthwise.measured).

    `running`: means and variances (K, C') and counts of batches (K,); `numbers`: whether they move, eps, momentum. Of
    every `per_edge` matrices W has all side by side, (K / per_edge, C', per_edge C).
    """
    mixture, columns = scales or (None, (0,))
    return Folded(
        *_forward_op(P.contiguous(), mixture, columns[0], columns[-1], parts, pixels, *running, *numbers, per_edge)
    )


@triton.jit(do_not_specialize=("number", "pixels", "column", "other_column"))
def _backward(
    P, mixture, means, factors, m, S, parts, dP, matrices, constants, for_mixture,
    number, part_size, sums_from, pixels, A, B, edge_step, column, other_column,
    PER: tl.constexpr, SCALED: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    i, j, k = tl.arange(0, OUTER), tl.arange(0, INNER), tl.arange(0, INNER)
    known, place = (i < A)[:, None] & (j < B)[None, :], (group * A + i)[:, None] * B + j[None, :]
    square, own = (j < B)[:, None] & (k < B)[None, :], group * B * B + j[:, None] * B + k[None, :]
    n = pixels.to(tl.float32)
    matrix = tl.load(P + place, known, 0.0).to(tl.float32)
    mean = tl.load(m + group * B + j, j < B, 0.0)
    covariance = tl.load(S + own, square, 0.0)
    row = group * A + i
    u, r = tl.load(means + row, i < A, 0.0), tl.load(factors + row, i < A, 0.0)
    edge = group // PER
    first = (edge * A + i)[:, None] * (PER * B) + group % PER * B + j[None, :]
    of_matrix = sum_of_parts(parts, number, part_size, first, known, PARTS)
    of_constant = row_of_parts(parts + sums_from + edge * A, number, part_size, i, i < A, PARTS)
    f, df = r, tl.sum(of_matrix * matrix, 1) - of_constant * u
    dv = -0.5 * df * r * r * r
    if SCALED:
        scale = tl.load(_scale(mixture, group, edge_step, column, other_column, PER))
        f, dv = f * scale, dv * scale
        tl.store(_scale(for_mixture, group, edge_step, column, other_column, PER), tl.sum(df * r, 0))
    du = -f * of_constant
    spread = tl.dot(matrix, covariance, input_precision="ieee")
    dv = tl.where(tl.sum(spread * matrix, 1) < 0, 0.0, dv)
    found = f[:, None] * of_matrix + du[:, None] * mean[None, :] + 2.0 * dv[:, None] * spread
    tl.store(dP + place, found, known)
    linear = tl.dot(tl.trans(matrix), dv[:, None] * matrix, input_precision="ieee") * (2.0 / n)  # dS is symmetric
    tl.store(matrices + own, linear, square)
    of_mean = tl.sum(matrix * du[:, None], 0) / n - tl.sum(linear * mean[:, None], 0)
    tl.store(constants + group * B + j, of_mean, j < B)


@torch.library.custom_op(
    "darts::fold_parts_gradient",
    mutates_args=("for_mixture",),
    schema="(Tensor P, Tensor? mixture, int column, int other_column, Tensor u, Tensor r, Tensor m, Tensor S, "
    "Tensor parts, int pixels, int per_edge, Tensor(x!) for_mixture) -> (Tensor, Tensor, Tensor)",
)
def _backward_op(
    P: Tensor, mixture: Tensor | None, column: int, other_column: int, means: Tensor, factors: Tensor, m: Tensor,
    S: Tensor, parts: Tensor, pixels: int, per_edge: int, for_mixture: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    groups, outer, inner = P.shape
    results = torch.empty_like(P), torch.empty_like(S), torch.empty_like(m)
    scales = P if mixture is None else mixture
    _backward[groups,](
        P, scales, means, factors, m, S, parts, *results, for_mixture,
        len(parts), parts.shape[1], groups // per_edge * outer * per_edge * inner, pixels, outer, inner,
        scales.stride(0), column, other_column, PER=per_edge, SCALED=mixture is not None, **_sizes(P),
    )  # fmt: skip
    return results


@_backward_op.register_fake
def _(P, mixture, column, other_column, means, factors, m, S, parts, pixels, per_edge, for_mixture):
    return torch.empty_like(P), torch.empty_like(S), torch.empty_like(m)


def gradient(
    P: Tensor, scales: Scales | None, kept: Folded, parts: Tensor, pixels: int, for_mixture: Tensor, per_edge: int = 1
) -> FoldGradient:
    """What the sums of g d' and g over pixels, in parts (products.parts), make of P and of d; g: the map's gradient.

    The mixture's own gradient is written into `for_mixture`, at the same columns.
    """
    mixture, columns = scales or (None, (0,))
    numbers = kept.means, kept.factors, kept.mean, kept.covariance, parts, pixels, per_edge
    return FoldGradient(*_backward_op(P.contiguous(), mixture, columns[0], columns[-1], *numbers, for_mixture))
