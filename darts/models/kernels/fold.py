"""A 1x1 convolution, batch norm and scale folded into one linear map, and its gradients: a launch each.

With P, m, S, a as in darts/models/fused/folding.py, r = (v + eps)^(-1/2), v = diag(P S P'), f = a r and u = P m:

    W = f P                     b = -f u
    df = rowsum(dW P) - db u    du = -f db            dv = -a df r^3 / 2
    dP = f dW + du m' + 2 dv P S          dm = P' du  dS = P' diag(dv) P      da = sum(df r)
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from darts.models.kernels.rows import divided, tile


@triton.jit
def move_row(running_mean, running_var, tracked, mean, variance, momentum, known):
    """Move one batch norm's running statistics by a batch's mean and unbiased variance."""
    before = tl.load(running_mean, known, 0.0)
    tl.store(running_mean, before + momentum * (mean - before), known)
    before = tl.load(running_var, known, 0.0)
    tl.store(running_var, before + momentum * (variance - before), known)
    tl.store(tracked, tl.load(tracked) + 1)


@triton.jit(do_not_specialize=("A", "B", "scale_step", "shared_step"))
def _forward(
    P, a, m, S, running_mean, running_var, tracked, W, b, means, factors,
    A, B, scale_step, shared_step, eps, momentum, unbiased,
    PER_EDGE: tl.constexpr, HAS_SCALES: tl.constexpr, MOVES: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    i, j, k = tl.arange(0, OUTER), tl.arange(0, INNER), tl.arange(0, INNER)
    known, place = (i < A)[:, None] & (j < B)[None, :], (group * A + i)[:, None] * B + j[None, :]
    matrix = tl.load(P + place, known, 0.0).to(tl.float32)
    own = group * shared_step
    mean = tl.load(m + own * B + j, j < B, 0.0)
    square = (j < B)[:, None] & (k < B)[None, :]
    covariance = tl.load(S + own * B * B + j[:, None] * B + k[None, :], square, 0.0)
    u = tl.sum(matrix * mean[None, :], 1)
    v = tl.maximum(
        tl.sum(tl.dot(matrix, covariance, input_precision="ieee") * matrix, 1), 0.0, propagate_nan=tl.PropagateNan.ALL
    )
    r = tl.rsqrt(v + eps)
    f = r
    if HAS_SCALES:
        f = r * tl.load(a + group * scale_step)
    first = (group // PER_EDGE * A * PER_EDGE + group % PER_EDGE) * B  # of the matrices of an edge
    tl.store(W + first + i[:, None] * (PER_EDGE * B) + j[None, :], f[:, None] * matrix, known)
    row = group * A + i
    tl.store(b + row, -f * u, i < A)
    tl.store(means + row, u, i < A)
    tl.store(factors + row, r, i < A)
    if MOVES:
        move_row(running_mean + row, running_var + row, tracked + group, u, v * unbiased, momentum, i < A)


def _warps(P: Tensor) -> int:
    return 4 if max(P.shape[1:]) <= 32 else 8


@torch.library.custom_op(
    "darts::fold",
    mutates_args=("running_mean", "running_var", "tracked"),
    schema="(Tensor P, Tensor? a, Tensor m, Tensor S, Tensor(x!) running_mean, Tensor(y!) running_var, "
    "Tensor(z!) tracked, bool moves, float eps, float momentum, float unbiased, int per_edge) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def _forward_op(
    P: Tensor, a: Tensor | None, m: Tensor, S: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor,
    moves: bool, eps: float, momentum: float, unbiased: float, per_edge: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    groups, outer, inner = P.shape
    scales, shared = P if a is None else a, 0 if len(m) == 1 else 1
    W = P.new_empty((groups // per_edge, outer, per_edge * inner))
    b, means, factors = (P.new_empty((groups, outer)) for _ in range(3))
    _forward[groups,](
        P, scales, m, S, running_mean, running_var, tracked, W, b, means, factors, outer, inner,
        scales.stride(0), shared, eps, momentum, unbiased,
        PER_EDGE=per_edge, HAS_SCALES=a is not None, MOVES=moves, OUTER=tile(outer), INNER=tile(inner),
        num_warps=_warps(P),
    )  # fmt: skip
    return W, b, means, factors


@_forward_op.register_fake
def _(P, a, m, S, running_mean, running_var, tracked, moves, eps, momentum, unbiased, per_edge):
    groups, outer, inner = P.shape
    return P.new_empty((groups // per_edge, outer, per_edge * inner)), *(P.new_empty((groups, outer)) for _ in range(3))


@triton.jit(do_not_specialize=("A", "B", "scale_step", "shared_step"))
def _backward(
    P, a, m, S, means, factors, dW, db, dP, dm, dS, da, A, B, scale_step, shared_step, gradient_group, gradient_row,
    constant_group, PER_EDGE: tl.constexpr, HAS_SCALES: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    i, j, k = tl.arange(0, OUTER), tl.arange(0, INNER), tl.arange(0, INNER)
    known, place = (i < A)[:, None] & (j < B)[None, :], (group * A + i)[:, None] * B + j[None, :]
    matrix = tl.load(P + place, known, 0.0).to(tl.float32)
    own = group * shared_step
    mean = tl.load(m + own * B + j, j < B, 0.0)
    square = (j < B)[:, None] & (k < B)[None, :]
    covariance = tl.load(S + own * B * B + j[:, None] * B + k[None, :], square, 0.0)
    row = group * A + i
    u, r = tl.load(means + row, i < A, 0.0), tl.load(factors + row, i < A, 0.0)
    first = group // PER_EDGE * gradient_group + group % PER_EDGE * B
    of_matrix = tl.load(dW + first + i[:, None] * gradient_row + j[None, :], known, 0.0)
    of_constant = tl.load(db + group * constant_group + i, i < A, 0.0)
    scale = 1.0
    if HAS_SCALES:
        scale = tl.load(a + group * scale_step)
    f = scale * r
    df = tl.sum(of_matrix * matrix, 1) - of_constant * u
    du = -f * of_constant
    if HAS_SCALES:
        tl.store(da + group, tl.sum(df * r, 0))
    spread = tl.dot(matrix, covariance, input_precision="ieee")
    dv = tl.where(tl.sum(spread * matrix, 1) < 0, 0.0, -0.5 * scale * df * r * r * r)
    found = f[:, None] * of_matrix + du[:, None] * mean[None, :] + 2.0 * dv[:, None] * spread
    tl.store(dP + place, found, known)
    tl.store(dm + group * B + j, tl.sum(matrix * du[:, None], 0), j < B)
    found = tl.dot(tl.trans(matrix), dv[:, None] * matrix, input_precision="ieee")
    tl.store(dS + group * B * B + j[:, None] * B + k[None, :], found, square)


@torch.library.custom_op(
    "darts::fold_gradient",
    mutates_args=(),
    schema="(Tensor P, Tensor? a, Tensor m, Tensor S, Tensor u, Tensor r, Tensor dW, Tensor db, int per_edge) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward_op(
    P: Tensor,
    a: Tensor | None,
    m: Tensor,
    S: Tensor,
    means: Tensor,
    factors: Tensor,
    dW: Tensor,
    db: Tensor,
    per_edge: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups, outer, inner = P.shape
    scales, shared = P if a is None else a, 0 if len(m) == 1 else 1
    dW = dW if dW.stride(2) == 1 else dW.contiguous()
    db = db if db.stride(1) == 1 else db.contiguous()
    dP, dm, dS = torch.empty_like(P), P.new_empty((groups, inner)), P.new_empty((groups, inner, inner))
    da = P.new_empty(groups)
    _backward[groups,](
        P, scales, m, S, means, factors, dW, db, dP, dm, dS, da, outer, inner,
        scales.stride(0), shared, dW.stride(0), dW.stride(1), db.stride(0),
        PER_EDGE=per_edge, HAS_SCALES=a is not None, OUTER=tile(outer), INNER=tile(inner), num_warps=_warps(P),
    )  # fmt: skip
    return dP, dm, dS, da


@_backward_op.register_fake
def _(P, a, m, S, means, factors, dW, db, per_edge):
    groups, _, inner = P.shape
    return torch.empty_like(P), P.new_empty((groups, inner)), P.new_empty((groups, inner, inner)), P.new_empty(groups)


class _Folded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, P: Tensor, a: Tensor | None, m: Tensor, S: Tensor, running: Any, numbers: Any, per_edge: int = 1
    ) -> tuple[Tensor, Tensor]:
        W, b, means, factors = _forward_op(P, a, m, S, *running, *numbers, per_edge)
        ctx.per_edge = per_edge
        ctx.save_for_backward(P, a, m, S, means, factors)
        return W, b

    @staticmethod
    def backward(ctx: Any, dW: Tensor, db: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # asked for once: activation checkpointing computes them anew
        P, a, m, *_ = saved
        dP, dm, dS, da = _backward_op(*saved, dW, db, ctx.per_edge)
        if len(m) == 1 and len(P) > 1:  # one map that all edges share
            dm, dS = dm.sum(0, keepdim=True), dS.sum(0, keepdim=True)
        return dP, None if a is None else da, dm, dS, None, None, None


@triton.jit(do_not_specialize=("C", "size"))
def _move(mean, variance, running_mean, running_var, tracked, C, size, momentum, ratio, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = place < size
    before = tl.load(running_mean + place, known, 0.0)
    tl.store(running_mean + place, before + momentum * (tl.load(mean + place % C, known, 0.0) - before), known)
    before = tl.load(running_var + place, known, 0.0)
    tl.store(
        running_var + place, before + momentum * (tl.load(variance + place % C, known, 0.0) * ratio - before), known
    )
    first = known & (place % C == 0)
    tl.store(tracked + place // C, tl.load(tracked + place // C, first, 0) + 1, first)


@torch.library.custom_op(
    "darts::move",
    mutates_args=("running_mean", "running_var", "tracked"),
    schema="(Tensor mean, Tensor variance, Tensor(x!) running_mean, Tensor(y!) running_var, Tensor(z!) tracked, "
    "float momentum, float ratio) -> ()",
)
def move(
    mean: Tensor, variance: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor,
    momentum: float, ratio: float,
) -> None:  # fmt: skip
    """Move K running means and variances of C channels, (K, C), by one batch's, (C,), the variance times `ratio`."""
    block = 256
    _move[divided(running_mean.numel(), block),](
        mean,
        variance,
        running_mean,
        running_var,
        tracked,
        len(mean),
        running_mean.numel(),
        momentum,
        ratio,
        BLOCK=block,
    )


@move.register_fake
def _(mean, variance, running_mean, running_var, tracked, momentum, ratio):
    return None


def folded(
    P: Tensor, a: Tensor | None, m: Tensor, S: Tensor, running: tuple[Tensor, ...], numbers: tuple[float, ...],
    per_edge: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """W and b of P (K, C', C), a (K,) or None, m and S (K or 1, C; C, C), with gradients of these four.

    `running`: means and variances (K, C') and counts of batches (K,); `numbers`: whether they move, eps, momentum, and
    n / (n - 1) of n pixels. Of every `per_edge` matrices W has all side by side, (K / per_edge, C', per_edge C).
    """
    W, b = _Folded.apply(P, a, m, S, running, numbers, per_edge)
    return W, b
