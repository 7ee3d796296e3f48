"""Batch norm, and the ReLU after it if there is one, in training on a CPU: of a found network's stem.

The formulas are those of preparation.py, with the map as it comes in the place of a convolution's. Forward and backward
are one call of C each (compiled/program.py); hooks of the layers are not called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.compiled import operators, program
from darts.models.fused.by_hand import pixels_of
from darts.models.fused.computation import Target
from darts.models.fused.libraries import is_norm, laid_out, library_for, norm_lies, numbers_of, running_of
from darts.models.fused.maps import refuse_second_derivatives
from darts.models.kernels.rows import new_map, rows
from darts.models.kernels.types import Diagonal


class Plan(NamedTuple):
    """Whether ReLU follows; whether running statistics move, eps and momentum."""

    rectified: bool
    norm: tuple[bool, float, float]


def in_turn(layers: nn.Sequential, image: Tensor) -> Tensor:
    """What the layers make of a map, one after the other, batch norms by hand where a library serves."""
    remaining = list(layers)
    while remaining:
        layer, *remaining = remaining
        rectified = bool(remaining) and type(remaining[0]) is nn.ReLU
        found = normed_by_hand(layer, image, rectified) if is_norm(layer) else None
        if found is not None and rectified:
            remaining = remaining[1:]
        image = layer(image) if found is None else found
    return image


def normed_by_hand(norm: nn.Module, image: Tensor, rectified: bool) -> Tensor | None:
    """The map normalised by its batch, which moves the running statistics; None where the module is to compute."""
    own = cast(nn.BatchNorm2d, norm)
    if library_for(image) is not operators or not own.training:
        return None
    plan = Plan(rectified, numbers_of(own))
    result: Tensor | None = _Normed.apply(plan, running_of(own), image, own.weight, own.bias)
    return result


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, running: Sequence[Tensor], image: Tensor, *affine: Tensor) -> Tensor | None:
        image = rows(image).map
        made = program.run(_forward, plan, image, *affine, *running)
        if made is None:
            return None
        result, statistics = made
        through_relu = [result] if plan.rectified else []
        ctx.save_for_backward(image, affine[0], statistics, *through_relu)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        saved = laid_out(ctx.saved_tensors, len(grad_output))
        return None, None, *program.required(_backward, None, rows(grad_output).map, *saved)


def _forward(plan: Plan, image: Tensor, scale: Tensor, shift: Tensor, *running: Tensor) -> list[Tensor] | None:
    """The result, and the batch norm's mean and r; None where a tensor does not lie as C reads it."""
    if not norm_lies([scale, shift], running, image.shape[1]):
        return None
    result = new_map(image, image.shape[1])
    return [result, normed(Target(result), image, (scale, shift), running, plan)]


def _backward(
    _: None, gradient: Tensor, image: Tensor, scale: Tensor, statistics: Tensor, *through_relu: Tensor
) -> list[Tensor]:
    """Gradients of the image, g and h; `through_relu`: the result, if ReLU made it."""
    for result in through_relu:
        gradient = operators.where_positive(gradient, result)
    return list(normed_gradient(gradient, image, scale, statistics))


def normed(target: Target, image: Tensor, affine: Sequence[Tensor], running: Sequence[Tensor], plan: Plan) -> Tensor:
    """By operators that a program may have: writes a map through batch norm; its mean and r."""
    pixels_of(image)
    factors, constants, statistics = operators.fold_norm(image, affine, running, plan.norm)
    kinds = Diagonal(None, image, factors)
    changes = operators.Changes(by_image=target.factors, into=target.into)
    operators.combined([], [constants], 1, image.shape[1], kinds, target.added, rectify=plan.rectified, changes=changes)
    return statistics


def normed_gradient(
    gradient: Tensor, image: Tensor, scale: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """By operators that a program may have: gradients of the map, g and h, from that before ReLU."""
    of_scale, of_shift, factors, constants = operators.fold_norm_gradient(gradient, image, scale, statistics)
    kinds = Diagonal(gradient, image, factors)
    return operators.combined([], [constants], 1, len(scale), kinds), of_scale, of_shift
