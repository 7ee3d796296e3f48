"""Which library computes a state by hand: Triton's kernels on a GPU, compiled C on a CPU, or none."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from darts.models.compiled import library
from darts.models.kernels.rows import MOST_CHANNELS, serves


def is_matrix(conv: nn.Module) -> bool:
    """Whether a layer is a 1x1 convolution of every pixel and nothing else."""
    if type(conv) is not nn.Conv2d or conv.kernel_size != (1, 1) or conv.stride != (1, 1):
        return False
    return conv.padding == (0, 0) and conv.groups == 1 and conv.bias is None


def is_norm(norm: nn.Module) -> bool:
    """Whether a layer is a batch norm with parameters and running statistics that move by a factor."""
    if type(norm) is not nn.BatchNorm2d or norm.momentum is None:
        return False
    return norm.affine and norm.running_mean is not None and norm.num_batches_tracked is not None


def lie_as(tensors: Sequence[Tensor], shapes: Sequence[Sequence[int]], kind: torch.dtype = torch.float32) -> bool:
    """Whether C may read and write them: numbers of this kind on the CPU, contiguous, of these shapes."""
    return all(
        t.shape == shape and t.dtype == kind and t.is_cpu and t.is_contiguous()
        for t, shape in zip(tensors, shapes, strict=True)
    )


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
    # not one of FakeTensorMode, say
    is_real = type(image) in (Tensor, nn.Parameter) and not torch.is_autocast_enabled("cpu")
    on_cpu = is_real and image.device.type == "cpu" and image.dtype == torch.float32 and image.numel() > 0
    if on_cpu and library.available() and library.lanes_of(channels):
        from darts.models.compiled import operators as compiled

        return compiled
    return None
