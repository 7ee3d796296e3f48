"""What brings a found cell's inputs to its width and resolution, in training, on a CPU: ReLU, 1x1 convolution, norm.

Let y be the convolution of the input's ReLU, with mean m and variance v over a batch's pixels, r = 1 / sqrt(v + eps),
and g and h the batch norm's scale and shift. Its result is z = g r y + h - g r m, and with n pixels and G the gradient
of z, that of y is linear in G and y at each pixel (Ioffe and Szegedy 2015):

    dL/dg = r (sum G y - m sum G),   dL/dh = sum G,   dL/dy = g r (G - dL/dh / n - r dL/dg (y - m) / n).

Only y and z are made; the input's ReLU is computed again where it is read. Where a resolution is halved
(FactorisedReduction), the pixels that count lie side by side in a map of twice the channels, and the matrices of both
halves are two groups. Forward and backward are one call of C each (compiled/program.py); hooks of the layers are not
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.compiled import operators, program
from darts.models.compiled.library import lanes_of
from darts.models.fused.libraries import (
    is_matrix,
    is_norm,
    laid_out,
    library_for,
    lie_as,
    norm_lies_as,
    numbers_of,
    running_of,
)
from darts.models.fused.maps import refuse_second_derivatives
from darts.models.fused.norms import Plan, normed, normed_gradient
from darts.models.kernels.rows import rows
from darts.models.kernels.types import Term
from darts.models.operations import FactorisedReduction


class Layers(NamedTuple):
    """One or, where the resolution is halved, two convolutions, and the batch norm."""

    convolutions: Sequence[nn.Conv2d]
    norm: nn.BatchNorm2d

    def lie_as_c_reads_them(self, matrix: Tensor) -> bool:
        """Whether the matrix, weights and running statistics are as these layers were built with."""
        conv = self.convolutions[0]
        outer = conv.out_channels * len(self.convolutions)
        return lie_as([matrix], [(outer, conv.in_channels, 1, 1)]) and norm_lies_as(self.norm, outer)


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


def prepared_by_hand(layers: Layers, image: Tensor) -> Tensor | None:
    """The result by the batch's statistics, which move the running ones; None where the modules are to compute."""
    conv, norm = layers.convolutions[0], layers.norm
    served = norm.training and type(norm) is nn.BatchNorm2d
    if not served or library_for(image, conv.out_channels) is not operators:
        return None
    if lanes_of(conv.in_channels) is None or image.shape[1] != conv.in_channels:
        return None
    matrices = [conv.weight.contiguous() for conv in layers.convolutions]
    matrix = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
    if not layers.lie_as_c_reads_them(matrix):
        return None
    plan = len(matrices) == 2, Plan(False, numbers_of(norm))
    result: Tensor = _Prepared.apply(plan, running_of(norm), image, matrix, norm.weight, norm.bias)
    return result


class _Prepared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: tuple[bool, Plan], running: Sequence[Tensor], image: Tensor, matrix: Tensor, *affine: Tensor
    ) -> Tensor:
        image = rows(image).map
        result, *made = program.run(_forward, plan, image, matrix, *affine, *running)
        ctx.halves = plan[0]
        ctx.save_for_backward(image, matrix, affine[0], *made)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        image_wanted, saved = ctx.needs_input_grad[2], laid_out(ctx.saved_tensors, len(grad_output))
        found = program.run(_backward, (ctx.halves, image_wanted), rows(grad_output).map, *saved)
        for_image = found.pop() if image_wanted else None
        return None, None, for_image, *found


def _forward(plan: tuple[bool, Plan], image: Tensor, matrix: Tensor, *others: Tensor) -> list[Tensor]:
    """z, y, the batch norm's mean and r, and the pixels that count where the resolution is halved.

    `plan`: whether it is, and the batch norm's; `others`: g, h, and the running mean, variance and count of batches.
    """
    (halves, of_norm), (scale, shift, *running) = plan, others
    halved = [operators.every_second(image)] if halves else []
    source = halved[0] if halves else image
    groups, outer = (2, len(scale) // 2) if halves else (1, len(scale))
    terms = [Term(source, _grouped(matrix, groups))]
    changes = operators.Changes(rectified=not halves)
    y = operators.combined(terms, [], groups, outer, changes=changes)
    z, statistics = normed(y, (scale, shift), running, of_norm)
    return [z, y, statistics, *halved]


def _grouped(matrix: Tensor, groups: int) -> Tensor:
    """(C', C, 1, 1) as matrices of groups of C', (groups, 1, C' / groups, C)."""
    return matrix.view(groups, 1, -1, matrix.shape[1])


def _backward(plan: tuple[bool, bool], gradient: Tensor, image: Tensor, matrix: Tensor, *kept: Tensor) -> list[Tensor]:
    """Gradients of the matrix, g and h, and of the image where the plan says that it is wanted; `kept`: g and made."""
    (halves, image_wanted), (scale, y, statistics, *halved) = plan, kept
    groups, inner = 2 if halves else 1, matrix.shape[1]
    of_y, of_scale, of_shift = normed_gradient(gradient, y, scale, statistics)
    source = halved[0] if halves else image
    products = operators.parts(of_y, source, groups, rectified=not halves)
    of_matrix = operators.sum_parts(products, matrix.numel())
    found = [of_matrix.view(matrix.shape), of_scale, of_shift]
    if not image_wanted:
        return found
    terms = [Term(of_y, _grouped(matrix, groups).transpose(2, 3))]
    if halves:
        of_source = operators.combined(terms, [], groups, inner)
        return [*found, operators.every_second_gradient(of_source, image)]
    return [*found, operators.combined(terms, [], groups, inner, changes=operators.Changes(positive=image))]
