"""The first layers of a network, in front of its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from darts.spaces.search_space import Stem


class ImageNetStem(nn.Module):
    """Three convolutions of stride 2 that give the first cell two maps, the newer one half as large (Liu et al. 2019).

    (As in the authors' `NetworkImageNet`; their supernet for ImageNet is that of Xu et al. 2020.)
    """

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.older = nn.Sequential(
            nn.Conv2d(image_channels, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.newer = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of a quarter and of an eighth of the images' height and width."""
        older = self.older(images)
        return older, self.newer(older)


def first_states(stem: Callable[[Tensor], Any], images: Tensor) -> tuple[Tensor, Tensor]:
    """The older and the newer input of the first cell; of most stems both are the same map."""
    found = stem(images)
    return found if isinstance(found, tuple) else (found, found)


def build_stem(image_channels: int, channels: int, stem: Stem) -> nn.Module:
    """The first layers of a network; `channels`: of what they give."""
    if isinstance(stem, str):
        return ImageNetStem(image_channels, channels)
    return _convolutional_stem(image_channels, channels, stem)


def _convolutional_stem(image_channels: int, channels: int, reductions: int) -> nn.Module:
    """A 3x3 convolution to `channels` channels and batch norm; each of `reductions` halves the resolution.

    0 is the published CIFAR stem; 1 gives the first convolution stride 2; each more adds ReLU and another of stride 2,
    for larger images.
    """
    stride = 2 if reductions else 1
    first = nn.Conv2d(image_channels, channels, 3, stride, padding=1, bias=False)
    layers: list[nn.Module] = [first, nn.BatchNorm2d(channels)]
    for _ in range(reductions - 1):
        again = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        layers += [nn.ReLU(), again, nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers)
