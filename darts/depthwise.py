"""Depthwise convolutions that compute what `nn.Conv2d` computes, on the CPU by faster means than the library's.

PyTorch's backward pass of a dilated depthwise convolution takes tens of times as long as its forward pass on small
maps, where a cell spends its time. Three identities help (docs/performance.md has the measurements):

- taps of the kernel that lie farther out than the map is wide see nothing but padding: they are left out;
- the input's gradient is a depthwise convolution of the output's gradient with the kernel turned by half a turn, at
  stride 2 after zeros have been put between the gradient's pixels: the forward kernel, which is fast;
- the weight's gradient at a tap is the sum over images and pixels of the shifted input times the output's gradient:
  all taps at once, as one product, where that product is small.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_PRODUCT = 2**20  # numbers; beyond it the library's weight gradient is faster


class Depthwise(nn.Conv2d):
    """A depthwise convolution of odd kernel that keeps the size (stride 1) or halves it, rounded up (stride 2)."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        stride, dilation = self.stride[0], self.dilation[0]
        weight = _within_reach(self.weight, (max(x.shape[2:]) - 1) // dilation)
        if dilation == 1:
            return _convolve(x, weight, stride, dilation)
        return _FastGradient.apply(x, weight, stride, dilation)


class _FastGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        steps = ctx.stride, ctx.dilation
        for_input = _input_gradient(slope, weight, x, *steps) if ctx.needs_input_grad[0] else None
        for_weight = _weight_gradient(slope, weight, x, *steps) if ctx.needs_input_grad[1] else None
        return for_input, for_weight, None, None


def _within_reach(weight: Tensor, reach: int) -> Tensor:
    """The middle of the kernel: `reach` taps to each side, more of them would see padding alone."""
    outside = weight.shape[2] // 2 - reach
    return weight[:, :, outside:-outside, outside:-outside] if outside > 0 else weight


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation, weight.shape[0])


def _input_gradient(slope: Tensor, weight: Tensor, x: Tensor, stride: int, dilation: int) -> Tensor:
    if stride == 2:
        spread = torch.zeros_like(x)
        spread[:, :, ::2, ::2] = slope
        slope = spread
    return _convolve(slope, weight.flip(2, 3), 1, dilation)


def _weight_gradient(slope: Tensor, weight: Tensor, x: Tensor, stride: int, dilation: int) -> Tensor:
    channels, kernel = weight.shape[0], weight.shape[2]
    padding = dilation * (kernel // 2)
    if slope.numel() * kernel**2 > LARGEST_PRODUCT:
        sides = [stride] * 2, [padding] * 2, [dilation] * 2
        return torch.ops.aten.convolution_backward(
            slope, x, weight, None, *sides, False, [0, 0], channels, [False, True, False]
        )[1]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))  # (batch, H, W, C)
    batch, _, height, width = slope.shape
    image, row, column, channel = padded.stride()
    shape = batch, height, width, kernel, kernel, channels
    strides = image, row * stride, column * stride, row * dilation, column * dilation, channel
    taps = padded.as_strided(shape, strides)  # the input as each tap of the kernel sees it
    products = taps * slope.permute(0, 2, 3, 1)[:, :, :, None, None, :]
    rows = products.reshape(batch * height * width, -1)
    return (rows.new_ones(1, len(rows)) @ rows).view(kernel, kernel, channels).permute(2, 0, 1)[:, None]
