"""Batch norms that normalise by the whole batch, also where it is dealt out to several processes (parallel.py)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from darts.parallel import add_up, average, processes, synchronised

T = TypeVar("T")


def pooled(tensor: Tensor) -> Tensor:
    """Its sum over all processes, differentiable as often as one likes: gradients are summed as well."""
    return tensor if processes() == 1 else _Pooled.apply(tensor)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        add_up(total)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return pooled(slopes[0])


Part = Generator[Tensor, Tensor, T]  # hands out a vector of sums, is sent its total over all processes, and returns T


def side_by_side(parts: Sequence[Part[T]]) -> list[T]:
    """The results of several parts of a computation; what all of them hand out in a round is one message."""
    results: dict[int, T] = {}
    waiting: dict[int, Any] = dict.fromkeys(range(len(parts)))  # by part, what it is sent next
    while waiting:
        asked = {}
        for index, total in waiting.items():
            try:
                asked[index] = parts[index].send(total)
            except StopIteration as end:
                results[index] = end.value
        totals = pooled(torch.cat(list(asked.values()))).split([len(sums) for sums in asked.values()]) if asked else ()
        waiting = dict(zip(asked, totals, strict=True))
    return [results[index] for index in range(len(parts))]


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
    own = wide.new_tensor([wide.numel() // wide.shape[1]])
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
    """`nn.BatchNorm2d` over all processes; the library's own has CUDA alone and no second derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        """As the library's, running statistics included."""
        if not self.training and self.running_mean is not None:
            return super().forward(x)
        (found,) = side_by_side([normalised(x, self.eps, self.weight, self.bias)])
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


def synchronise(module: nn.Module) -> None:
    """Where several processes are one run and the settings say so: all batch norms look at the whole batch."""
    if processes() == 1 or not synchronised():
        return
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = SynchronisedBatchNorm2d  # the same tensors under the same names
        elif hasattr(layer, "synchronised"):
            setattr(layer, "synchronised", True)  # noqa: B010


def average_statistics(module: nn.Module) -> None:
    """Where they do not: running statistics move by the mean of what each process saw, and are the same on all."""
    if not synchronised():
        average([buffer for buffer in module.buffers() if buffer.is_floating_point()])
