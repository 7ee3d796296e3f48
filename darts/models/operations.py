"""Candidate operations: constructors of one signature, registered by name.

Every operation maps (batch, C, H, W) to (batch, C, ceil(H / stride), ceil(W / stride)), odd sizes included. Layers
follow the code of Liu et al. 2019 (arXiv 1806.09055, section 3.1.1), so that parameter counts agree to the unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.config.registry import operations as OPERATIONS
from darts.config.registry import register
from darts.models.depthwise import Depthwise
from darts.models.pooling import AveragePool
from darts.models.shape_check import shape_checked
from darts.runtime.errors import unknown
from darts.spaces.search_space import LAYOUTS, CellPlan, Layout, Skeleton

Build = Callable[[int, int, bool], nn.Module]  # (channels, stride, affine); `affine` is false in the supernet


@dataclass(frozen=True)
class Candidate:
    """How to build an operation and how the supernet treats it."""

    build: Build
    normalised_in_search: bool = False  # a batch norm without parameters follows it in the supernet
    random: bool = False  # it draws random numbers


class Zero(nn.Module):
    """The candidate `none`: no connection."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorisedReduction(nn.Module):
    """Halves the resolution by two 1x1 convolutions of every other pixel, the second shifted by one pixel.

    The pixels are taken first, which is the same as stride 2: oneDNN's gradient of a strided 1x1 convolution of under
    4 channels, channels last, writes past its memory on processors without AVX-512 (PyTorch 2.14.1).
    """

    def __init__(self, input_channels: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(input_channels, channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(input_channels, channels - channels // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.of_rectified(F.relu(x))

    def of_rectified(self, x: Tensor) -> Tensor:
        """The rest of it, where the ReLU has been computed."""
        even, odd = every_second(x)
        return self.norm(torch.cat([self.even(even), self.odd(odd)], dim=1))


def every_second(x: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of even lines and columns, and those one further down and right; beyond an odd side lie zeros."""
    below, right = x.shape[2] % 2, x.shape[3] % 2
    whole = F.pad(x, (0, right, 0, below)) if below or right else x
    return x[:, :, ::2, ::2], whole[:, :, 1::2, 1::2]


def relu_conv_norm(input_channels: int, channels: int, affine: bool) -> nn.Module:
    """ReLU, 1x1 convolution, batch norm: brings a cell's input to the cell's width."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(input_channels, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine)
    )


def input_preparations(plan: CellPlan, affine: bool) -> tuple[nn.Module, nn.Module]:
    """What brings a cell's older and newer input to its width, and the older one to its resolution."""
    older, newer = plan.input_channels
    first = FactorisedReduction if plan.after_reduction else relu_conv_norm
    return first(older, plan.channels, affine), relu_conv_norm(newer, plan.channels, affine)


def prepared(inputs: nn.ModuleList, older: Tensor, newer: Tensor) -> list[Tensor]:
    """The states that a cell's nodes begin with: both inputs through their preparations, or the newer as it is."""
    return [prepare(x) for prepare, x in zip(inputs, (older, newer), strict=True)] if inputs else [newer]


def _separated(depthwise: nn.Module, channels: int, affine: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        depthwise,
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def separable(kernel: int) -> Build:
    """Depthwise-separable convolution, applied twice; the stride is on the first."""

    def build(channels: int, stride: int, affine: bool) -> nn.Module:
        first = _separated(Depthwise(channels, kernel, stride, 1), channels, affine)
        return nn.Sequential(*first, *_separated(Depthwise(channels, kernel, 1, 1), channels, affine))

    return build


def dilated(kernel: int) -> Build:
    """Depthwise-separable convolution of dilation 2, applied once."""

    def build(channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Sequential(*_separated(Depthwise(channels, kernel, stride, 2), channels, affine))

    return build


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels, affine)


class Noise(nn.Module):
    """Standard normal noise of the shape that is due, whatever comes in (Zela et al. 2020, space S4)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def convolution(kernel: int) -> Build:
    """ReLU, an ordinary convolution, batch norm (Dong and Yang 2020)."""

    def build(channels: int, stride: int, affine: bool) -> nn.Module:
        conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=affine))

    return build


def _conv_7x1_1x7(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


@register("operation", "none")
def _none(channels: int, stride: int, affine: bool) -> nn.Module:
    return Zero(stride)


@register("operation", "max_pool_3x3", normalised_in_search=True)
def _max_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.MaxPool2d(3, stride, 1)


@register("operation", "avg_pool_3x3", normalised_in_search=True)
def _avg_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    return AveragePool(3, stride, 1)


@register("operation", "noise", random=True)
def _noise(channels: int, stride: int, affine: bool) -> nn.Module:
    return Noise(stride)


register("operation", "skip_connect")(_skip)
register("operation", "sep_conv_3x3")(separable(3))
register("operation", "sep_conv_5x5")(separable(5))
register("operation", "sep_conv_7x7")(separable(7))
register("operation", "dil_conv_3x3")(dilated(3))
register("operation", "dil_conv_5x5")(dilated(5))
register("operation", "conv_7x1_1x7")(_conv_7x1_1x7)
register("operation", "nor_conv_1x1")(convolution(1))
register("operation", "nor_conv_3x3")(convolution(3))


def candidate(name: str, place: str = "operation") -> Candidate:
    """Return a registered operation; raises `UserError` with the nearest right name for an unknown one."""
    if name not in OPERATIONS:
        raise unknown(place, name, OPERATIONS)
    build, treatment = OPERATIONS[name]
    return Candidate(shape_checked(f"operation {name!r}", build), **treatment)


def search_operation(name: str, channels: int, stride: int, layout: Layout = LAYOUTS[Skeleton.darts]) -> nn.Module:
    """A candidate as the supernet has it: batch norms without parameters, and what else the skeleton decides."""
    entry = candidate(name, "space.candidates: operation")
    operation = entry.build(channels, stride, False)
    if entry.normalised_in_search and layout.normalised_pools:
        operation = nn.Sequential(operation, nn.BatchNorm2d(channels, affine=False))
    if not layout.running_statistics:
        for module in operation.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
    return operation


class ResidualReduction(nn.Module):
    """Halves the resolution and doubles the channels by a residual block (Dong and Yang 2020, figure 1)."""

    def __init__(self, input_channels: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in ((input_channels, 2), (channels, 1)):
            conv = nn.Conv2d(width, channels, 3, stride, 1, bias=False)
            layers += [nn.ReLU(), conv, nn.BatchNorm2d(channels)]
        self.residual = nn.Sequential(*layers)
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.shortcut = nn.Sequential(pool, nn.Conv2d(input_channels, channels, 1, bias=False))

    def forward(self, older: Tensor, newer: Tensor, _: Tensor | None) -> Tensor:
        """Takes what a cell takes; `newer` only counts."""
        return self.shortcut(newer) + self.residual(newer)

    def paths(self) -> int:
        """It has no edge that drop-path could drop."""
        return 0


def tail(channels: int, layout: Layout) -> nn.Module:
    """What is between the last cell and the pooling before the classifier."""
    return nn.Identity() if layout.inputs == 2 else nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
