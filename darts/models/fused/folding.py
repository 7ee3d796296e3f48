"""A linear map, the batch norm after it and a scale, folded into one linear map; all the algebra of the fused supernet.

Let d be a vector of channels at a pixel, with mean m and covariance S over a batch's pixels, and P the matrix of a 1x1
convolution. Then P d has mean P m and variances v = diag(P S P'), so that batch norm (without parameters) times a
mixture weight a is again linear in d:

    a BN(P d) = W d + b,    W = a / sqrt(v + eps) P,    b = -a / sqrt(v + eps) P m.

The normalised and the weighted maps never exist, only d, and a sum over operations is a sum of 1x1 convolutions. m and
S depend on d, so that d's gradient has three parts. With n pixels, G_S and G_m the gradients of S and m, and G the one
that W hands down,

    dL/dd = G + (G_S + G_S') (d - m) / n + G_m / n,

which is the exact gradient of batch norm (Ioffe and Szegedy 2015) without any of its intermediate maps. The variance by
which running statistics move is v n / (n - 1), as in the library.

This file has the small matrices: `fold` makes W and b from P, a, m and S by operations that autograd knows. What
touches maps of pixels is in maps.py. K edges that leave the same state are stacked: matrices (K, C', C), maps
(batch, K C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.batch_norm import move_statistics
from darts.models.kernels.rows import folds
from darts.runtime.device import convolutions, full_float32
from darts.runtime.reduction import Part


class Moments(NamedTuple):
    """Mean (K, C) and covariance (K, C, C) of K stacked vectors of C channels over `pixels` pixels."""

    mean: Tensor
    covariance: Tensor
    pixels: int | Tensor


def over_all_processes(own: Moments | None, statistics: RunningStatistics) -> Part[Moments | None]:
    """The moments over the pixels of every process, where `statistics` ask for them; None stays None.

    Means and second moments add up, weighted by pixels.
    """
    if own is None or not statistics.synchronised:
        return own
    second = own.covariance + own.mean[:, :, None] * own.mean[:, None, :]
    pixels = torch.full((1,), cast(int, own.pixels), dtype=own.mean.dtype, device=own.mean.device)
    weighted = [own.mean.flatten() * own.pixels, second.flatten() * own.pixels, pixels]
    sums = yield torch.cat(weighted)
    pixels = sums[-1].detach()
    mean, second = (sums[:-1] / pixels).split([own.mean.numel(), second.numel()])
    mean, second = mean.view_as(own.mean), second.view_as(own.covariance)
    return Moments(mean, second - mean[:, :, None] * mean[:, None, :], pixels)


@contextmanager
def folded_once(module: nn.Module) -> Iterator[None]:
    """Within the block what running statistics normalise is folded at its first use, and kept.

    For evaluation without gradients, under one mixture, while the weights stand still. The results are the same bits.
    """
    found = [layer for layer in module.modules() if isinstance(layer, RunningStatistics)]
    for layer in found:
        layer.kept = []
    try:
        yield
    finally:
        for layer in found:
            layer.kept = None


class RunningStatistics(nn.Module):
    """Running mean and variance of K stacked batch norms of C channels without parameters, as `nn.BatchNorm2d` has."""

    eps, momentum = 1e-5, 0.1
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    synchronised = False  # True: a batch's moments are those of all processes' parts of it
    kept: list[tuple[Tensor, Tensor]] | None = None  # within `folded_once`, what `fold` returned for it

    def __init__(self, stacked: int, channels: int, tracked: bool = True) -> None:
        """`tracked`: false where the batch always normalises; the buffers then mean nothing and are not stored."""
        super().__init__()
        self.track_running_stats = tracked
        self.register_buffer("running_mean", torch.zeros(stacked, channels), persistent=tracked)
        self.register_buffer("running_var", torch.ones(stacked, channels), persistent=tracked)
        self.register_buffer("num_batches_tracked", torch.zeros(stacked, dtype=torch.long), persistent=tracked)

    @property
    def by_batch(self) -> bool:
        """Whether the batch's own statistics normalise it."""
        return self.training or not self.track_running_stats

    @property
    def moves(self) -> bool:
        """Whether a batch's statistics move them."""
        return self.training and self.track_running_stats

    def update(self, mean: Tensor, variance: Tensor, pixels: int | Tensor) -> None:
        """Move by a batch's mean and (biased) variance; both (K, C), or (C) for all alike.

        Raises `ValueError` for a single pixel, which has no variance.
        """
        if self.moves and isinstance(pixels, int) and pixels == 1:
            raise ValueError("a batch norm is trained by more than one pixel; got one")
        if self.moves and convolutions.kernels and mean.is_cuda and mean.dim() == 1 and isinstance(pixels, int):
            from darts.models.kernels.fold import move

            held = self.running_mean, self.running_var, self.num_batches_tracked
            move(mean, variance, *held, self.momentum, pixels / (pixels - 1))
        elif self.moves:
            move_statistics(self, mean, variance, pixels)


def fold(
    matrices: Tensor,
    scales: Tensor | None,
    moments: Moments | None,
    statistics: RunningStatistics,
    per_edge: int = 1,
) -> tuple[Tensor, Tensor]:
    """W (K, C', C) and b (K, C') of P = `matrices` and a = `scales` (K,), None for ones.

    Of the n = `per_edge` matrices of an edge, W has all side by side, (K / n, C', n C), and b their sum, (K / n, C').
    `moments` are those of the batch, which also move the running statistics, or None: then the latter normalise.
    """
    if moments is not None or statistics.kept is None:
        return _folded(matrices, scales, moments, statistics, per_edge)
    if not statistics.kept:
        statistics.kept.append(_folded(matrices, scales, None, statistics, per_edge))
    return statistics.kept[0]


def _folded(
    matrices: Tensor, scales: Tensor | None, moments: Moments | None, statistics: RunningStatistics, per_edge: int
) -> tuple[Tensor, Tensor]:
    wide = matrices.to(statistics.running_mean.dtype)
    if moments is not None and isinstance(moments.pixels, int) and folds(wide):
        from darts.models.kernels.fold import folded

        ratio = moments.pixels / (moments.pixels - 1)
        held = statistics.running_mean, statistics.running_var, statistics.num_batches_tracked
        numbers = statistics.moves, statistics.eps, statistics.momentum, ratio
        own = moments.mean, moments.covariance
        W, b = folded(wide.contiguous(), scales, *own, held, numbers, per_edge)  # noqa: N806
        return W, b if per_edge == 1 else b.unflatten(0, (-1, per_edge)).sum(1)
    if moments is None:
        means, variances = statistics.running_mean, statistics.running_var
    else:
        means = (wide * moments.mean[:, None]).sum(2)
        covariance = moments.covariance.expand(len(wide), -1, -1)
        with full_float32(wide.device):
            variances = (torch.bmm(wide, covariance) * wide).sum(2).clamp_min(0)
        statistics.update(means, variances, moments.pixels)
    factors = torch.rsqrt(variances + statistics.eps)
    if scales is not None:
        factors = factors * scales[:, None]
    result, constants = factors[:, :, None] * wide, -factors * means
    if per_edge == 1:
        return result, constants
    by_edge = -1, per_edge
    return result.unflatten(0, by_edge).transpose(1, 2).flatten(2), constants.unflatten(0, by_edge).sum(1)
