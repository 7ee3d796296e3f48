"""Depthwise convolutions that compute what `nn.Conv2d` computes, on the CPU by faster means than the library's.

The library has fast forward kernels for every depthwise convolution, but a fast weight gradient only for kernels three
wide, without dilation, on maps at least as tall as the kernel; elsewhere its backward pass takes 5 to 75 times as long
as its forward pass (docs/performance.md). Five identities turn every case into the fast one:

- taps of the kernel that lie farther out than the map is wide see nothing but padding: they are left out;
- where the stride divides the dilation, a strided convolution is one of stride 1 on every second pixel;
- the input's gradient at stride 1 is a convolution of the output's gradient with the kernel turned by half a turn;
- in the weight's gradient, every m-th column put among the channels makes taps m apart neighbours, so that a kernel
  of any width is read three taps at a time; the same for rows and columns undoes a dilation;
- images stacked on top of each other, with rows of zeros between, are one tall image.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.runtime.device import convolutions


class Depthwise(nn.Conv2d):
    """A depthwise convolution of odd kernel that keeps the size (stride 1) or halves it, rounded up (stride 2)."""

    library = False  # True: as the library does it, for comparison

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.library:
            return super().forward(x)
        return depthwise(x, self.weight, self.stride[0], self.dilation[0])


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve x (batch, C, H, W) with weight (C, 1, k, k), k odd, padded to keep the size at stride 1."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return convolve(x, weight, stride, dilation)
    return _FastGradient.apply(x, within_reach(weight, x, dilation), stride, dilation)


class _FastGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.steps = stride, dilation
        return convolve(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        for_input = input_gradient(grad_output, x.shape, weight, *ctx.steps) if ctx.needs_input_grad[0] else None
        for_weight = weight_gradient(grad_output, x, weight, *ctx.steps) if ctx.needs_input_grad[1] else None
        return for_input, for_weight, None, None


def within_reach(weight: Tensor, x: Tensor, dilation: int) -> Tensor:
    """The middle of the kernel: taps farther out than `x` is wide would see padding only."""
    outside = weight.shape[2] // 2 - (max(x.shape[2:]) - 1) // dilation
    return weight[:, :, outside:-outside, outside:-outside] if outside > 0 else weight


def convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """The convolution itself, by the library."""
    x, stride, dilation = _seen(x, stride, dilation)
    with _kernels(x):
        result = F.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation, weight.shape[0])
    return _laid_out(result)


def input_gradient(grad_output: Tensor, shape: torch.Size, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """What `gradient`, the gradient of the output, makes of the input, which has this shape."""
    if grad_output.device.type != "cpu" or (stride > 1 and dilation % stride):
        layout = convolutions.memory_format
        x = torch.empty(shape, dtype=grad_output.dtype, device=grad_output.device, memory_format=layout)
        return _library_gradient(grad_output, x, weight, stride, dilation, of_input=True)
    gradient = convolve(grad_output, weight.flip(2, 3), 1, dilation // stride)
    return gradient if stride == 1 else _spread(gradient, shape, stride)


def weight_gradient(grad_output: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """What `gradient`, the gradient of the output, makes of the weight."""
    if x.device.type != "cpu":
        return _library_gradient(grad_output, x, weight, stride, dilation)
    x, stride, dilation = _seen(x, stride, dilation)
    if weight.shape[2] <= 3 and dilation == 1 and grad_output.shape[2] >= weight.shape[2]:
        return _library_gradient(grad_output, x, weight, stride, dilation)
    if stride > 1:
        grad_output = _spread(grad_output, x.shape, stride)
    grad_output, x = grad_output.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)  # (batch, H, W, C)
    for_phases = _undilated(_phases(grad_output, dilation), _phases(x, dilation), weight.shape[2])
    return for_phases.view(dilation, len(weight), *weight.shape[1:]).sum(0)


def _seen(x: Tensor, stride: int, dilation: int) -> tuple[Tensor, int, int]:
    """The pixels that the convolution sees, and the stride and dilation among them."""
    if stride > 1 and dilation % stride == 0:
        return x[:, :, ::stride, ::stride], 1, dilation // stride
    return x, stride, dilation


def _spread(grad_output: Tensor, shape: torch.Size, stride: int) -> Tensor:
    """As large as `shape` says, with zeros between the pixels."""
    layout = convolutions.memory_format
    spread = torch.empty(shape, dtype=grad_output.dtype, device=grad_output.device, memory_format=layout).zero_()
    spread[:, :, ::stride, ::stride] = grad_output
    return spread


def _library_gradient(
    grad_output: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int, of_input: bool = False
) -> Tensor:
    """The library's gradient of a depthwise convolution with respect to its input or its weight."""
    padding = [dilation * (side // 2) for side in weight.shape[2:]]
    sides = [stride] * 2, padding, [dilation] * 2
    wanted = [of_input, not of_input, False]
    with _kernels(x):
        gradients = torch.ops.aten.convolution_backward(
            grad_output, x, weight, None, *sides, False, [0, 0], weight.shape[0], wanted
        )
    return _laid_out(gradients[0]) if of_input else gradients[1]


def _kernels(x: Tensor) -> AbstractContextManager[object]:
    """Within the block PyTorch's own kernels convolve on CUDA, where the process has chosen them; else its choice."""
    if x.device.type == "cuda" and convolutions.own_depthwise:
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def _laid_out(x: Tensor) -> Tensor:
    """In memory as maps lie; PyTorch's own kernels know one layout."""
    if x.device.type == "cuda" and convolutions.own_depthwise:
        return x.contiguous(memory_format=convolutions.memory_format)
    return x


def _phases(x: Tensor, dilation: int) -> Tensor:
    """Rows `dilation` apart become neighbours in images of their own, columns in channels of their own."""
    if dilation == 1:
        return x
    batch, height, width, channels = x.shape
    if height % dilation or width % dilation:
        x = F.pad(x, (0, 0, 0, -width % dilation, 0, -height % dilation))
    rows = x.reshape(batch, -(-height // dilation), dilation, -1, dilation * channels).transpose(1, 2)
    return rows.reshape(batch * dilation, -(-height // dilation), -1, dilation * channels)


def _undilated(grad_output: Tensor, x: Tensor, kernel: int) -> Tensor:
    """The weight gradient (C, 1, k, k) at stride and dilation 1; `gradient` and `x`: (batch, H, W, C)."""
    if x.shape[1] < kernel:
        grad_output, x = _stacked(grad_output, kernel // 2), _stacked(x, kernel // 2)
    columns: dict[int, Tensor] = {}
    for apart in range(1, kernel // 2 + 1):
        three = _three_wide(grad_output, x, kernel, apart)
        columns |= {-apart: three[..., 0], 0: three[..., 1], apart: three[..., 2]}
    if not columns:
        return (grad_output * x).sum((0, 1, 2))[:, None, None, None]
    return torch.stack([columns[offset] for offset in sorted(columns)], dim=-1)


def _stacked(x: Tensor, zeros: int) -> Tensor:
    """Images on top of each other in two piles (two, so that two threads have work), or one if they are odd."""
    batch, _, width, channels = x.shape
    return F.pad(x, (0, 0, 0, 0, 0, zeros)).reshape(2 - batch % 2, -1, width, channels)


def _three_wide(grad_output: Tensor, x: Tensor, kernel: int, apart: int) -> Tensor:
    """The weight gradient (C, 1, k, 3) at three columns of taps that lie `apart` columns from each other."""
    batch, height, width, channels = x.shape
    pad = -width % apart
    grad_output, x = (F.pad(image, (0, 0, 0, pad)) if pad else image for image in (grad_output, x))
    grad_output, x = (
        image.reshape(batch, height, -1, apart * channels).permute(0, 3, 1, 2) for image in (grad_output, x)
    )
    weight = x.new_empty(apart * channels, 1, kernel, 3)
    return _library_gradient(grad_output, x, weight, 1, 1).view(apart, channels, 1, kernel, 3).sum(0)
