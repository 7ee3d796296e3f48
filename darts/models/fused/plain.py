"""A found cell's pools, over the pixels that are there, and skip connections in training, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from darts.models.compiled import operators
from darts.models.compiled.library import lanes_of
from darts.models.fused.computation import Gradients, Operation, Shape, Target, Wanted
from darts.models.kernels.types import AVERAGE, MAXIMUM
from darts.models.pooling import AveragePool


class Layers(NamedTuple):
    """Of no weights."""

    operation: Operation
    weights: Sequence[Tensor] = ()
    running: Sequence[Tensor] = ()


def layers_of(module: nn.Module) -> Layers | None:
    """The layers of a pool or of a skip connection that leaves the map as it is; None for any other module."""
    if type(module) is nn.Identity:
        return Layers(Skip())
    if type(module) is nn.MaxPool2d and (module.dilation, module.ceil_mode, module.return_indices) == (1, False, False):
        kind = MAXIMUM
    elif type(module) is AveragePool and (module.ceil_mode, module.divisor_override) == (False, None):
        kind = AVERAGE
    else:
        return None
    side, stride = module.kernel_size, module.stride
    if not isinstance(side, int) or not isinstance(stride, int) or (side % 2, module.padding) != (1, side // 2):
        return None
    return Layers(Pool(kind, side, stride))


@dataclass(frozen=True)
class Skip:
    """The map as it is, as computation.py has an operation."""

    counts = 0, 0, 0

    def shape(self, image: Shape, weights: Sequence[Tensor], running: Sequence[Tensor]) -> Shape | None:
        """The map's."""
        return None if lanes_of(image[0]) is None else image

    def forward(
        self, target: Target, image: Tensor, weights: Sequence[Tensor], running: Sequence[Tensor]
    ) -> list[Tensor]:
        """Keeps nothing."""
        operators.scaled_sum(image, target.factors, target.added, target.into)
        return []

    def backward(
        self, gradient: Tensor, image: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor], wanted: Wanted
    ) -> Gradients:
        """Of the image."""
        return operators.scaled_sum(gradient, None, wanted.added) if wanted.image else None, []


@dataclass(frozen=True)
class Pool:
    """A pool with padding of half its side, as computation.py has an operation."""

    kind: int  # MAXIMUM or AVERAGE
    side: int
    stride: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """Of weights, running statistics, and what is kept: of a maximum where it was."""
        return 0, 0, int(self.kind == MAXIMUM)

    def shape(self, image: Shape, weights: Sequence[Tensor], running: Sequence[Tensor]) -> Shape | None:
        """Of the output."""
        if lanes_of(image[0]) is None:
            return None
        return image[0], -(-image[1] // self.stride), -(-image[2] // self.stride)

    def forward(
        self, target: Target, image: Tensor, weights: Sequence[Tensor], running: Sequence[Tensor]
    ) -> list[Tensor]:
        """Taps of a maximum."""
        found = operators.pooled(image, [self.kind], self.side, self.stride)
        operators.scaled_sum(found.maps, target.factors, target.added, target.into)
        return [found.taps] if self.kind == MAXIMUM else []

    def backward(
        self, gradient: Tensor, image: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor], wanted: Wanted
    ) -> Gradients:
        """Of the image."""
        if not wanted.image:
            return None, []
        taps = kept[0] if kept else None
        no_edges = gradient.new_empty((0, 1, image.shape[1]))
        of_image = operators.pool_source_gradient(
            gradient, taps, gradient, no_edges, [self.kind], image.shape[2:], False, self.side, self.stride,
            wanted.added,
        )  # fmt: skip
        return of_image, []
