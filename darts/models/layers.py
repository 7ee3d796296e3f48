"""Candidates of a chain's layers: constructors of one signature, registered by name.

Every layer maps (batch, input channels, H, W) to (batch, channels, ceil(H / stride), ceil(W / stride)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from darts.config.registry import layers as LAYERS
from darts.config.registry import register
from darts.models.depthwise import Depthwise
from darts.models.shape_check import shape_checked
from darts.runtime.errors import unknown
from darts.spaces.chain import LayerPlan

BuildLayer = Callable[[int, int, int, bool], nn.Module]  # (input channels, channels, stride, affine)


@dataclass(frozen=True)
class Layer:
    """How to build a layer and how the supernet treats it."""

    build: BuildLayer
    random: bool = False  # it draws random numbers


def rectifier(relu6: bool) -> nn.Module:
    """ReLU6, as mobile networks have it, or ReLU."""
    return nn.ReLU6() if relu6 else nn.ReLU()


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, a depthwise one, and 1x1 back (Sandler et al. 2018, 3.3).

    Its input is added where it has the same shape. Without the first convolution where the expansion is 1.
    (arXiv 1801.04381.)
    """

    def __init__(self, plan: LayerPlan, kernel: int, expansion: int, relu6: bool, affine: bool) -> None:
        super().__init__()
        input_channels, channels, stride = plan
        self.residual = stride == 1 and input_channels == channels
        width = expansion * input_channels
        parts: list[nn.Module] = []
        if expansion > 1:
            first = nn.Conv2d(input_channels, width, 1, bias=False)
            parts = [first, nn.BatchNorm2d(width, affine=affine), rectifier(relu6)]
        parts += [Depthwise(width, kernel, stride, 1), nn.BatchNorm2d(width, affine=affine), rectifier(relu6)]
        parts += [nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine)]
        self.layers = nn.Sequential(*parts)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """`scale`: (batch,), what each sample's own part is multiplied by (stochastic depth); None: 1."""
        out = self.layers(x)
        if not self.residual:
            return out
        return x + (out if scale is None else out * scale[:, None, None, None])


class Projection(nn.Module):
    """1x1 convolution and batch norm: a skip connection where the shape changes."""

    def __init__(self, input_channels: int, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv2d(input_channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x[:, :, :: self.stride, :: self.stride]))  # pixels first: stride 2, exactly


@register("layer", "skip_connect")
def _skip(input_channels: int, channels: int, stride: int, affine: bool) -> nn.Module:
    same = stride == 1 and input_channels == channels
    return nn.Identity() if same else Projection(input_channels, channels, stride, affine)


def inverted_residual(kernel: int, expansion: int, relu6: bool = True) -> BuildLayer:
    """The constructor of an inverted residual."""

    def build(input_channels: int, channels: int, stride: int, affine: bool) -> nn.Module:
        return InvertedResidual(LayerPlan(input_channels, channels, stride), kernel, expansion, relu6, affine)

    return build


for _kernel in (3, 5, 7):
    for _expansion in (3, 6):  # of ProxylessNAS (Cai, Zhu, Han 2019, arXiv 1812.00332, section 4.2)
        register("layer", f"inverted_{_kernel}x{_kernel}_e{_expansion}")(inverted_residual(_kernel, _expansion))
register("layer", "inverted_3x3_e3_relu")(inverted_residual(3, 3, relu6=False))  # of NAS-Bench-Macro
register("layer", "inverted_5x5_e6_relu")(inverted_residual(5, 6, relu6=False))


def layer(name: str, place: str = "layer") -> Layer:
    """Return a registered layer; raises `UserError` with the nearest right name for an unknown one."""
    if name not in LAYERS:
        raise unknown(place, name, LAYERS)
    build, treatment = LAYERS[name]
    return Layer(shape_checked(f"layer {name!r}", build), **treatment)
