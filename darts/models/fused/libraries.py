"""Which library computes a state by hand: Triton's kernels on a GPU, compiled C on a CPU, or none."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from darts.models.compiled import library
from darts.models.kernels.rows import MOST_CHANNELS, serves


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
    is_real = type(image) in (Tensor, torch.nn.Parameter)  # not one of FakeTensorMode, say
    on_cpu = is_real and image.device.type == "cpu" and image.dtype == torch.float32 and image.numel() > 0
    if on_cpu and library.available() and library.lanes_of(channels):
        from darts.models.compiled import operators as compiled

        return compiled
    return None
