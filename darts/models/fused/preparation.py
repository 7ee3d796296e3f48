"""What brings a found cell's inputs to its width and resolution, in training, on a CPU: ReLU, 1x1 convolution, norm.

Let y be the convolution of the input's ReLU, with mean m and variance v over a batch's pixels, r = 1 / sqrt(v + eps),
and g and h the batch norm's scale and shift. Its result is z = g r y + h - g r m, and with n pixels and G the gradient
of z, that of y is linear in G and y at each pixel (Ioffe and Szegedy 2015):

    dL/dg = r (sum G y - m sum G),   dL/dh = sum G,   dL/dy = g r (G - dL/dh / n - r dL/dg (y - m) / n).

Only y and z are made; the input's ReLU is computed again where it is read. Where a resolution is halved
(FactorisedReduction), the pixels that count lie side by side in a map of twice the channels, and the matrices of both
halves are two groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.compiled import operators
from darts.models.compiled.library import lanes_of
from darts.models.fused.computation import Gradients, Shape, Target, Wanted
from darts.models.fused.libraries import is_matrix, is_norm, is_trained, lie_as, norm_lies, numbers_of, running_of
from darts.models.fused.norms import Plan, normed, normed_gradient
from darts.models.kernels.rows import MOST_CHANNELS
from darts.models.kernels.types import Term
from darts.models.operations import FactorisedReduction


class Layers(NamedTuple):
    """One or, where the resolution is halved, two convolutions, and the batch norm."""

    convolutions: Sequence[nn.Conv2d]
    norm: nn.BatchNorm2d

    @property
    def operation(self) -> Prepared | None:
        """With the numbers that the layers have now; None where they are not trained by a batch's statistics."""
        return Prepared(len(self.convolutions) == 2, numbers_of(self.norm)) if is_trained(self.norm) else None

    @property
    def weights(self) -> list[Tensor]:
        """The matrix of all convolutions, and the batch norm's scale and shift."""
        matrices = [conv.weight.contiguous() for conv in self.convolutions]
        matrix = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
        return [matrix, self.norm.weight, self.norm.bias]

    @property
    def running(self) -> Sequence[Tensor]:
        """The batch norm's mean, variance and count of batches."""
        return running_of(self.norm)


def layers_of(module: nn.Module) -> Layers | None:
    """The layers of a preparation; None for any other module."""
    if type(module) is FactorisedReduction:
        found = Layers((module.even, module.odd), module.norm)
    elif type(module) is nn.Sequential and [type(layer) for layer in module] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]:
        found = Layers((cast(nn.Conv2d, module[1]),), cast(nn.BatchNorm2d, module[2]))
    else:
        return None
    return found if _is_plain(found) else None


def _is_plain(layers: Layers) -> bool:
    if not is_norm(layers.norm) or not all(is_matrix(conv) for conv in layers.convolutions):
        return False
    return len({(conv.in_channels, conv.out_channels) for conv in layers.convolutions}) == 1


@dataclass(frozen=True)
class Prepared:
    """Their numbers, as computation.py has an operation."""

    halves: bool
    norm: tuple[bool, float, float]  # whether running statistics move, eps and momentum

    @property
    def counts(self) -> tuple[int, int, int]:
        """Of weights, running statistics, and what is kept."""
        return 3, 3, 2 + self.halves

    def shape(self, image: Shape, weights: Sequence[Tensor], running: Sequence[Tensor]) -> Shape | None:
        """Of the output; None where a tensor does not lie as the layers were built with."""
        (matrix, *affine), inner = weights, image[0]
        outer, stride = len(matrix), 1 + self.halves
        of_group = outer // stride
        if outer > MOST_CHANNELS or not all(map(lanes_of, (inner, of_group, outer))):
            return None
        if not lie_as([matrix], [(outer, inner, 1, 1)]) or not norm_lies(affine, running, outer):
            return None
        return outer, -(-image[1] // stride), -(-image[2] // stride)

    def forward(
        self, target: Target, image: Tensor, weights: Sequence[Tensor], running: Sequence[Tensor]
    ) -> list[Tensor]:
        """y, the batch norm's mean and r, and the pixels that count where the resolution is halved."""
        matrix, *affine = weights
        halved = [operators.every_second(image)] if self.halves else []
        source = halved[0] if halved else image
        groups = 1 + self.halves
        terms = [Term(source, _grouped(matrix, groups))]
        changes = operators.Changes(rectified=not self.halves)
        y = operators.combined(terms, [], groups, len(matrix) // groups, changes=changes)
        return [y, normed(target, y, affine, running, Plan(False, self.norm)), *halved]

    def backward(
        self, gradient: Tensor, image: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor], wanted: Wanted
    ) -> Gradients:
        """Of the image, and of the matrix, g and h."""
        (matrix, scale, _), (y, statistics, *halved) = weights, kept
        groups, inner = 1 + self.halves, matrix.shape[1]
        of_y, of_scale, of_shift = normed_gradient(gradient, y, scale, statistics)
        source = halved[0] if halved else image
        products = operators.parts(of_y, source, groups, rectified=not self.halves)
        of_matrix = operators.sum_parts(products, matrix.numel()).view(matrix.shape)
        found = of_matrix, of_scale, of_shift
        if not wanted.image:
            return None, found
        terms = [Term(of_y, _grouped(matrix, groups).transpose(2, 3))]
        if self.halves:
            of_source = operators.combined(terms, [], groups, inner)
            return operators.every_second_gradient(of_source, image, wanted.added), found
        changes = operators.Changes(positive=image)
        return operators.combined(terms, [], groups, inner, added=wanted.added, changes=changes), found


def _grouped(matrix: Tensor, groups: int) -> Tensor:
    """(C', C, 1, 1) as matrices of groups of C', (groups, 1, C' / groups, C)."""
    return matrix.view(groups, 1, -1, matrix.shape[1])
