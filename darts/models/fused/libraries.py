"""Which library computes by hand: Triton's kernels on a GPU, compiled C on a CPU, or none; and which layers it can."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from darts.models.compiled import library
from darts.models.kernels.rows import MOST_CHANNELS, rows, serves


def is_matrix(conv: nn.Module) -> bool:
    """Whether a layer is a 1x1 convolution of every pixel and nothing else."""
    if type(conv) is not nn.Conv2d or conv.kernel_size != (1, 1) or conv.stride != (1, 1):
        return False
    return conv.padding == (0, 0) and conv.groups == 1 and conv.bias is None


def is_norm(norm: nn.Module) -> bool:
    """Whether a layer is a batch norm with parameters and running statistics that move by a factor."""
    if type(norm) is not nn.BatchNorm2d or norm.momentum is None:
        return False
    tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.num_batches_tracked
    return all(tensor is not None for tensor in tensors)


def is_trained(norm: nn.Module) -> bool:
    """Whether a batch's statistics normalise a layer that is such a batch norm now."""
    return is_norm(norm) and norm.training


def numbers_of(norm: nn.BatchNorm2d) -> tuple[bool, float, float]:
    """Of a batch norm of `is_norm`: whether its running statistics move, eps and momentum."""
    return norm.track_running_stats, norm.eps, cast(float, norm.momentum)


def running_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """Its running mean and variance, and count of batches."""
    return cast(Any, (norm.running_mean, norm.running_var, norm.num_batches_tracked))


def lie_as(tensors: Sequence[Tensor], shapes: Sequence[Sequence[int]], kind: torch.dtype = torch.float32) -> bool:
    """Whether C may read and write them: numbers of this kind on the CPU, contiguous, of these shapes."""
    return all(
        t.shape == shape and t.dtype == kind and t.is_cpu and t.is_contiguous()
        for t, shape in zip(tensors, shapes, strict=True)
    )


def norm_lies(affine: Sequence[Tensor], running: Sequence[Tensor], channels: int) -> bool:
    """The same of the scale, shift, mean and variance of a batch norm of so many channels, and of its count."""
    mean, variance, count = running
    return lie_as([*affine, mean, variance], [(channels,)] * 4) and lie_as([count], [()], torch.int64)


def laid_out(saved: Sequence[Tensor | None], images: int) -> list[Tensor | None]:
    """Saved maps as they were saved: hooks of saved tensors may have brought them back otherwise."""
    return [t if t is None or t.dim() != 4 or len(t) != images else rows(t).map for t in saved]


def computed_in_c(image: Tensor) -> bool:
    """Whether there are operators in C for maps such as this one, whatever its channels."""
    is_real = type(image) in (Tensor, nn.Parameter) and not torch.is_autocast_enabled("cpu")  # not a fake one, say
    on_cpu = is_real and image.device.type == "cpu" and image.dtype == torch.float32 and image.numel() > 0
    return on_cpu and library.available()


def library_for(image: Tensor, channels: int | None = None) -> ModuleType | None:
    """The operators of by_hand.py for maps such as this one; None where PyTorch's own are to be used.

    `channels`: of the result, where it is not as wide.
    """
    channels = image.shape[1] if channels is None else channels
    if channels > MOST_CHANNELS:
        return None
    if serves(image):
        from darts.models.kernels import operators as kernels

        return kernels
    if computed_in_c(image) and library.lanes_of(channels):
        from darts.models.compiled import operators as compiled

        return compiled
    return None
