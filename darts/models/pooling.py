"""Average pooling whose gradient is right on a GPU too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AveragePool(nn.AvgPool2d):
    """`nn.AvgPool2d` over the pixels that are there; on CUDA its gradient is computed of contiguous maps.

    The gradient of padded average pooling of channels-last maps was seen wrong on CUDA with PyTorch 2.11
    (github.com/pytorch/pytorch/issues/188344): every pixel gets what belongs to one beside it.
    """

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__(kernel, stride, padding, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the pixels under the kernel, without those of the padding."""
        if x.device.type != "cuda":
            return super().forward(x)
        result: Tensor = _Averaged.apply(x, self)
        return result

    @property
    def sizes(self) -> tuple[Any, ...]:
        """What PyTorch's operators are given after the maps."""
        sides = [self.kernel_size] * 2, [self.stride] * 2, [self.padding] * 2
        return *sides, self.ceil_mode, self.count_include_pad, None


class _Averaged(torch.autograd.Function):
    """Differentiable any number of times: the gradient is an operator that PyTorch differentiates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: AveragePool) -> Tensor:
        ctx.pool, ctx.shape = pool, x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        return torch.ops.aten.avg_pool2d(x, *pool.sizes)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        like = grad_output.new_empty(ctx.shape)  # only its shape counts
        gradient = torch.ops.aten.avg_pool2d_backward(grad_output.contiguous(), like, *ctx.pool.sizes)
        return gradient.contiguous(memory_format=ctx.layout), None
