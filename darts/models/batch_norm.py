"""Batch norms over the whole batch, also where it is divided over processes, and statistics that do not move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from darts.runtime.distributed import all_reduce_mean_, synchronised_batch_norm, world_size
from darts.runtime.reduction import Part, run_in_step


class Normalised(NamedTuple):
    """A normalised map, and what it was normalised by: mean and (biased) variance (C,), and the pixels they are of."""

    image: Tensor
    mean: Tensor
    variance: Tensor
    pixels: Tensor


def normalised(image: Tensor, eps: float, scale: Tensor | None = None, shift: Tensor | None = None) -> Part[Normalised]:
    """Batch norm of (batch, C, H, W) over all processes, times `scale` plus `shift`, both (C,).

    Hands out 2 C + 1 sums for mean and variance; as many gradients come back.
    """
    wide = image if image.dtype == torch.float64 else image.float()
    own = wide.new_full((1,), wide.numel() // wide.shape[1])
    sums = yield torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), own])
    pixels = sums[-1].detach()
    mean, square = (sums[:-1] / pixels).chunk(2)
    variance = (square - mean.square()).clamp_min(0)
    factor = torch.rsqrt(variance + eps)
    factor = factor if scale is None else factor * scale
    constant = -mean * factor if shift is None else shift - mean * factor
    result = torch.addcmul(constant[:, None, None], wide, factor[:, None, None])
    return Normalised(result.to(image.dtype), mean.detach(), variance.detach(), pixels)


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes; the library's own has CUDA only and no second derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        """As the library's, running statistics included."""
        if not self.training and self.running_mean is not None:
            return super().forward(x)
        (found,) = run_in_step([normalised(x, self.eps, self.weight, self.bias)])
        if self.training and self.track_running_stats and self.running_mean is not None:
            move_statistics(self, found.mean, found.variance, found.pixels)
        return found.image


@torch.no_grad()
def move_statistics(norm: Any, mean: Tensor, variance: Tensor, pixels: int | Tensor) -> None:
    """Let a batch norm's running statistics move by a batch's mean and (biased) variance over so many pixels."""
    norm.running_mean.lerp_(mean.to(norm.running_mean).expand_as(norm.running_mean), norm.momentum)
    unbiased = variance.to(norm.running_var) * (pixels / (pixels - 1))
    norm.running_var.lerp_(unbiased.expand_as(norm.running_var), norm.momentum)
    norm.num_batches_tracked += 1


@torch.no_grad()
def move_statistics_by_all(norm: Any, means: Tensor, variances: Tensor, rows: int) -> None:
    """Let running statistics move by those of many batches of so many rows, (batches, C), one after the other."""
    count, kept = len(means), 1 - norm.momentum
    weights = norm.momentum * kept ** torch.arange(count - 1, -1, -1, dtype=means.dtype, device=means.device)
    unbiased = rows / (rows - 1)
    norm.running_mean.mul_(kept**count).add_((weights @ means).to(norm.running_mean))
    norm.running_var.mul_(kept**count).add_((unbiased * (weights @ variances)).to(norm.running_var))
    norm.num_batches_tracked += count


def synchronise(module: nn.Module) -> None:
    """Where several processes are one run and the settings say so: all batch norms look at the whole batch."""
    if world_size() == 1 or not synchronised_batch_norm():
        return
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = SynchronisedBatchNorm2d  # the same tensors under the same names
        elif hasattr(layer, "synchronised"):
            setattr(layer, "synchronised", True)  # noqa: B010


def average_statistics(module: nn.Module) -> None:
    """Where they do not: running statistics move by the mean of what each process saw, and are the same on all."""
    if not synchronised_batch_norm():
        all_reduce_mean_([buffer for buffer in module.buffers() if buffer.is_floating_point()])


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block batch norms normalise by the batch, as in training, but their running statistics do not move."""
    norms = [layer for layer in module.modules() if getattr(layer, "track_running_stats", False)]
    for layer in norms:
        layer.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in norms:
            layer.track_running_stats = True  # type: ignore[assignment]
