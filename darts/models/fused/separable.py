"""A found cell's depthwise-separable convolutions in training, on a CPU: the operators and algebra of by_hand.py.

A block is ReLU, depthwise convolution, 1x1 convolution P and batch norm with scale g and shift h, one or two of them in
an operation. With d the depthwise map and its moments as in folding.py, batch norm of P d is W d + b, with W = g r P
and b = h - g r P m: of the maps of a block only d is made, and its sums give mean and variance. What drop-path
multiplies each image by, and the sum of a node's edges so far, are taken in while the last map is written. The results
are the modules', but for rounding (the covariance, E d d' - m m', loses precision where a mean is many standard
deviations, and P S P' where P takes the difference of channels that are nearly equal, or where there are two pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.compiled import operators
from darts.models.compiled.library import lanes_of
from darts.models.depthwise import Depthwise
from darts.models.fused.by_hand import pixels_of
from darts.models.fused.computation import Gradients, Shape, Target, Wanted
from darts.models.fused.libraries import is_matrix, is_norm, is_trained, lie_as, norm_lies, numbers_of, running_of
from darts.models.kernels.rows import MOST_CHANNELS
from darts.models.kernels.types import Folded, Kernels, Term

WIDEST = 7  # side of a kernel


class Block(NamedTuple):
    """Its layers."""

    depthwise: Depthwise
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d


class Layers(NamedTuple):
    """The blocks of an operation."""

    blocks: Sequence[Block]

    @property
    def operation(self) -> Separable | None:
        """With the numbers that the layers have now; None where they are not trained by a batch's statistics."""
        if not all(is_trained(block.norm) for block in self.blocks):
            return None
        steps = [(block.depthwise.stride[0], block.depthwise.dilation[0]) for block in self.blocks]
        return Separable(tuple(steps), tuple([numbers_of(block.norm) for block in self.blocks]))

    @property
    def weights(self) -> list[Tensor]:
        """Of each block the depthwise kernel, P, g and h."""
        found: list[Tensor] = []
        for depthwise, pointwise, norm in self.blocks:
            found += depthwise.weight.contiguous(), pointwise.weight.contiguous(), norm.weight, norm.bias
        return found

    @property
    def running(self) -> list[Tensor]:
        """Of each block the batch norm's mean, variance and count of batches."""
        return [buffer for block in self.blocks for buffer in running_of(block.norm)]


class Kept(NamedTuple):
    """What a block's gradient needs."""

    image: Tensor
    result: Tensor  # the depthwise map
    numbers: Tensor  # W, b, u, r, m and S in one (Folded)
    kernel: Tensor
    matrix: Tensor
    scale: Tensor


def layers_of(operation: nn.Module) -> Layers | None:
    """The layers of a depthwise-separable convolution; None for any other operation."""
    if type(operation) is not nn.Sequential or len(operation) not in (4, 8):
        return None
    kinds = [nn.ReLU, Depthwise, nn.Conv2d, nn.BatchNorm2d] * (len(operation) // 4)
    if [type(layer) for layer in operation] != kinds:
        return None
    layers = list(operation)
    blocks = [Block(*cast(Any, layers[at + 1 : at + 4])) for at in range(0, len(layers), 4)]
    return Layers(blocks) if all(map(_is_plain, blocks)) else None


def _is_plain(block: Block) -> bool:
    conv = block.pointwise
    square = is_matrix(conv) and conv.in_channels == conv.out_channels == block.depthwise.in_channels
    return square and is_norm(block.norm)


@dataclass(frozen=True)
class Separable:
    """Blocks by their numbers, as computation.py has an operation."""

    steps: tuple[tuple[int, int], ...]  # stride and dilation
    norms: tuple[tuple[bool, float, float], ...]  # whether running statistics move, eps and momentum

    @property
    def counts(self) -> tuple[int, int, int]:
        """Of weights, running statistics, and what is kept."""
        blocks = len(self.steps)
        return 4 * blocks, 3 * blocks, 3 * blocks - 1

    def shape(self, image: Shape, weights: Sequence[Tensor], running: Sequence[Tensor]) -> Shape | None:
        """Of the output; None where a tensor does not lie as the layers were built with."""
        channels, (stride, _) = image[0], self.steps[0]
        if channels > MOST_CHANNELS or lanes_of(channels) is None:
            return None
        for number in range(len(self.steps)):
            kernel, matrix, *affine = weights[4 * number : 4 * number + 4]
            side = kernel.shape[-1]
            if side % 2 == 0 or side > WIDEST:
                return None
            lies = lie_as([kernel, matrix], [(channels, 1, side, side), (channels, channels, 1, 1)])
            if not lies or not norm_lies(affine, running[3 * number : 3 * number + 3], channels):
                return None
        return channels, -(-image[1] // stride), -(-image[2] // stride)

    def forward(
        self, target: Target, image: Tensor, weights: Sequence[Tensor], running: Sequence[Tensor]
    ) -> list[Tensor]:
        """Each block's depthwise map, what folding found and, between two blocks, the map."""
        kept: list[Tensor] = []
        for number, (steps, norm) in enumerate(zip(self.steps, self.norms, strict=True)):
            kernel, matrix, *affine = weights[4 * number : 4 * number + 4]
            result, parts = operators.measured(image, Kernels(kernel[None]), steps, number == 0)
            held = tuple(buffer[None] for buffer in running[3 * number : 3 * number + 3])
            P = matrix.flatten(1)[None]  # noqa: N806
            numbers = P.new_empty(Folded.size(P.shape))
            found = Folded.of(numbers, P.shape)
            operators.fold(found, P, None, parts, pixels_of(result), held, norm, affine=affine)
            terms = [Term(result, found.W[:, None])]
            kept += [result, numbers]
            if number < len(self.steps) - 1:
                image = operators.combined(terms, [found.b], 1, len(kernel), rectify=True)
                kept.append(image)
        changes = operators.Changes(by_image=target.factors, into=target.into)
        operators.combined(terms, [found.b], 1, len(kernel), added=target.added, changes=changes)
        return kept

    def backward(
        self, gradient: Tensor, image: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor], wanted: Wanted
    ) -> Gradients:
        """Of the image, and of each block's kernel, P, g and h."""
        blocks = _kept(len(self.steps), image, weights, kept)
        for_weights: list[Tensor] = []
        for number in reversed(range(len(blocks))):
            own, steps = blocks[number], self.steps[number]
            of_map, *for_block = _of_map(own, gradient)
            kernels = Kernels(own.kernel[None])
            for_kernel = operators.kernel_gradients(of_map, own.image, kernels, steps, number == 0).first
            for_weights = [for_kernel, *for_block, *for_weights]
            if number > 0:
                gradient = operators.source_gradient(of_map, own.image, kernels, steps)
        if not wanted.image:
            return None, for_weights
        return operators.source_gradient(of_map, image, kernels, steps, wanted.added), for_weights


def _kept(count: int, image: Tensor, weights: Sequence[Tensor], kept: Sequence[Tensor]) -> list[Kept]:
    """By block."""
    images = [image, *kept[2::3]]
    return [Kept(images[at], *kept[3 * at : 3 * at + 2], *weights[4 * at : 4 * at + 3]) for at in range(count)]


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
