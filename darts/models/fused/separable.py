"""A found cell's depthwise-separable convolutions in training, on a CPU: the operators and algebra of by_hand.py.

A block is ReLU, depthwise convolution, 1x1 convolution P and batch norm with scale g and shift h, one or two of them in
an operation. With d the depthwise map and its moments as in folding.py, batch norm of P d is W d + b, with W = g r P
and b = h - g r P m: of the maps of a block only d is made, and its sums give mean and variance. What drop-path
multiplies each image by, and the sum of a node's edges so far, are taken in while the last map is written. The results
are the modules', but for rounding (the covariance, E d d' - m m', loses precision where a mean is many standard
deviations, and P S P' where P takes the difference of channels that are nearly equal), and hooks of the layers are not
called.

Forward and backward are one call of C each (compiled/program.py). On a GPU the modules compute: there these operators
would be 500 launches more for the published network, and a twentieth fewer bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.compiled import operators, program
from darts.models.depthwise import Depthwise
from darts.models.fused.by_hand import pixels_of
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
from darts.models.kernels.rows import rows
from darts.models.kernels.types import Folded, Kernels, Term

WIDEST = 7  # side of a kernel


class Layers(NamedTuple):
    """A block's."""

    depthwise: Depthwise
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The depthwise kernel, P, g and h."""
        kernel, matrix = self.depthwise.weight.contiguous(), self.pointwise.weight.contiguous()
        return kernel, matrix, self.norm.weight, self.norm.bias

    @property
    def lie_as_c_reads_them(self) -> bool:
        """Whether weights and running statistics are as these layers were built with."""
        C, side = self.depthwise.in_channels, self.depthwise.kernel_size[0]  # noqa: N806
        return lie_as(self.weights[:2], [(C, 1, side, side), (C, C, 1, 1)]) and norm_lies_as(self.norm, C)

    @property
    def plan(self) -> Plan:
        """Its numbers."""
        steps = self.depthwise.stride[0], self.depthwise.dilation[0]
        return Plan(steps, numbers_of(self.norm))


class Plan(NamedTuple):
    """A block's stride and dilation, and whether running statistics move, eps and momentum."""

    steps: tuple[int, int]
    norm: tuple[bool, float, float]


class Kept(NamedTuple):
    """What a block's gradient needs."""

    image: Tensor
    result: Tensor  # the depthwise map
    numbers: Tensor  # W, b, u, r, m and S in one (Folded)
    kernel: Tensor
    matrix: Tensor
    scale: Tensor


def blocks_of(operation: nn.Module) -> list[Layers] | None:
    """The blocks of a depthwise-separable convolution; None for any other operation."""
    if type(operation) is not nn.Sequential or len(operation) not in (4, 8):
        return None
    kinds = [nn.ReLU, Depthwise, nn.Conv2d, nn.BatchNorm2d] * (len(operation) // 4)
    if [type(layer) for layer in operation] != kinds:
        return None
    layers = list(operation)
    blocks = [Layers(*cast(Any, layers[at + 1 : at + 4])) for at in range(0, len(layers), 4)]
    return blocks if all(_is_plain(block) for block in blocks) else None


def _is_plain(block: Layers) -> bool:
    conv, side = block.pointwise, block.depthwise.kernel_size[0]
    square = is_matrix(conv) and conv.in_channels == conv.out_channels == block.depthwise.in_channels
    return square and is_norm(block.norm) and side % 2 == 1 and side <= WIDEST


def separated(
    blocks: Sequence[Layers], image: Tensor, factors: Tensor | None = None, added: Tensor | None = None
) -> Tensor | None:
    """The blocks' output by the batch's statistics, which move the running ones; None where the modules are to compute.

    `factors`: what each image of it is multiplied by, (batch,); `added`: another map, which is added then.
    """
    served = all(block.norm.training and type(block.norm) is nn.BatchNorm2d for block in blocks)
    if not served or library_for(image) is not operators:
        return None
    if not _fits(blocks, image, factors, added):
        return None
    factors = None if factors is None else factors.to(image.dtype).contiguous()
    plans = tuple(block.plan for block in blocks)
    weights = [weight for block in blocks for weight in block.weights]
    running = [buffer for block in blocks for buffer in running_of(block.norm)]
    result: Tensor = _Separated.apply(plans, running, image, factors, added, *weights)
    return result


def _fits(blocks: Sequence[Layers], image: Tensor, factors: Tensor | None, added: Tensor | None) -> bool:
    """Whether all tensors have the shapes that they must have; the modules say what is wrong."""
    channels, stride = blocks[0].depthwise.in_channels, blocks[0].depthwise.stride[0]
    shape = len(image), channels, -(-image.shape[2] // stride), -(-image.shape[3] // stride)
    if factors is not None and (factors.shape != (len(image),) or factors.requires_grad):
        return False
    if added is not None and (added.shape != shape or added.dtype != image.dtype):
        return False
    return image.shape[1] == channels and all(block.lie_as_c_reads_them for block in blocks)


class _Separated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plans: tuple[Plan, ...], running: Sequence[Tensor], image: Tensor, factors: Tensor | None,
        added: Tensor | None, *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        image, added = rows(image).map, None if added is None else rows(added).map
        output, *made = program.run(_forward, plans, image, factors, added, *running, *weights)
        ctx.plans = plans
        ctx.save_for_backward(image, factors, *made, *weights)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        plan, gradient = (ctx.plans, ctx.needs_input_grad[2]), rows(grad_output).map
        found = program.run(_backward, plan, gradient, *laid_out(ctx.saved_tensors, len(grad_output)))
        for_image = found.pop() if ctx.needs_input_grad[2] else None
        return None, None, for_image, None, grad_output if ctx.needs_input_grad[4] else None, *found


def _forward(
    plans: Sequence[Plan], image: Tensor, factors: Tensor | None, added: Tensor | None, *tensors: Tensor
) -> list[Tensor]:
    """The output; then each block's depthwise map, what folding found and, between two blocks, the map."""
    running, weights = tensors[: 3 * len(plans)], tensors[3 * len(plans) :]
    made: list[Tensor] = []
    for number, plan in enumerate(plans):
        kernel, matrix, *affine = weights[4 * number : 4 * number + 4]
        result, parts = operators.measured(image, Kernels(kernel[None]), plan.steps, number == 0)
        held = tuple(buffer[None] for buffer in running[3 * number : 3 * number + 3])
        P = matrix.flatten(1)[None]  # noqa: N806
        numbers = P.new_empty(Folded.size(P.shape))
        found = Folded.of(numbers, P.shape)
        operators.fold(found, P, None, parts, pixels_of(result), held, plan.norm, affine=affine)
        terms = [Term(result, found.W[:, None])]
        made += [result, numbers]
        if number == len(plans) - 1:
            break
        image = operators.combined(terms, [found.b], 1, len(kernel), rectify=True)
        made.append(image)
    changes = operators.Changes(by_image=factors)
    return [operators.combined(terms, [found.b], 1, len(kernel), added=added, changes=changes), *made]


def _backward(
    plan: tuple[Sequence[Plan], bool], gradient: Tensor, image: Tensor, factors: Tensor | None, *tensors: Tensor
) -> list[Tensor]:
    """Gradients of each block's kernel, P, g and h, and of the image where the plan says that it is wanted."""
    plans, image_wanted = plan
    blocks = _kept(len(plans), image, tensors)
    if factors is not None:
        gradient = operators.times_factors(gradient, factors)
    for_weights: list[Tensor] = []
    for number in reversed(range(len(blocks))):
        own, steps = blocks[number], plans[number].steps
        of_map, *for_block = _of_map(own, gradient)
        kernels = Kernels(own.kernel[None])
        for_kernel = operators.kernel_gradients(of_map, own.image, kernels, steps, number == 0).first
        for_weights = [for_kernel, *for_block, *for_weights]
        if number > 0 or image_wanted:
            gradient = operators.source_gradient(of_map, own.image, kernels, steps)
    return [*for_weights, gradient] if image_wanted else for_weights


def _kept(count: int, image: Tensor, tensors: Sequence[Tensor]) -> list[Kept]:
    """By block, of weights and of what `_forward` made: map, numbers and, but for the last block, the next image."""
    made, weights = tensors[: 3 * count - 1], tensors[3 * count - 1 :]
    images = [image, *made[2::3]]
    return [Kept(images[at], *made[3 * at : 3 * at + 2], *weights[4 * at : 4 * at + 3]) for at in range(count)]


def _of_map(own: Kept, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a block's depthwise map, P, g and h, from that of its output."""
    P, channels = own.matrix.flatten(1)[None], len(own.scale)  # noqa: N806
    folded = Folded.of(own.numbers, P.shape)
    affine = own.scale, torch.empty_like(own.scale), torch.empty_like(own.scale)
    parts = operators.parts(gradient, own.result, 1)
    found = operators.fold_gradient(P, None, folded, parts, pixels_of(own.result), None, affine=affine)
    terms = [Term(gradient, folded.W.transpose(1, 2)[:, None]), Term(own.result, found.matrices[:, None])]
    of_map = operators.combined(terms, [found.constants], 1, channels)
    return of_map, found.P.view(own.matrix.shape), *affine[1:]
