"""A found cell's depthwise-separable convolutions in training, with the operators and the algebra of by_hand.py.

A block is ReLU, depthwise convolution, 1x1 convolution P and batch norm with scale g and shift h, one or two of them in
an operation. With W and b of folding.py, W = r P and b = -r P m, batch norm of P d is g W d + g b + h: of the maps of a
block only the depthwise one is made, and its sums give mean and variance. The results are the modules', but for
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.depthwise import Depthwise
from darts.models.fused.by_hand import pixels_of
from darts.models.fused.libraries import library_for
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
    def steps(self) -> tuple[int, int]:
        """Stride and dilation."""
        return self.depthwise.stride[0], self.depthwise.dilation[0]


class Kept(NamedTuple):
    """Tensors of a block that its gradient needs."""

    image: Tensor
    kernel: Tensor
    matrix: Tensor  # (C, C, 1, 1)
    scale: Tensor  # g
    result: Tensor  # the depthwise map
    W: Tensor
    b: Tensor
    means: Tensor
    factors: Tensor
    mean: Tensor
    covariance: Tensor


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
    conv, norm, side = block.pointwise, block.norm, block.depthwise.kernel_size[0]
    square = conv.kernel_size == (1, 1) and conv.in_channels == conv.out_channels and conv.bias is None
    normed = norm.affine and norm.running_mean is not None and norm.momentum is not None
    return square and conv.groups == 1 and conv.stride == (1, 1) and normed and side % 2 == 1 and side <= WIDEST


def separated(blocks: Sequence[Layers], image: Tensor) -> Tensor | None:
    """The blocks' output, by the batch's statistics, which move the running ones; None where no library serves.

    On a CPU only: of the published network it makes 500 launches more on a GPU, for a twentieth fewer bytes.
    """
    library = library_for(image) if image.device.type == "cpu" else None
    if library is None or not all(block.norm.training for block in blocks):
        return None
    weights = [(b.depthwise.weight, b.pointwise.weight, b.norm.weight, b.norm.bias) for b in blocks]
    result: Tensor = _Separated.apply(library, blocks, image, *sum(weights, ()))
    return result


class _Separated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, library: Any, blocks: Sequence[Layers], image: Tensor, *weights: Tensor) -> Tensor:
        kept: list[Kept] = []
        for number, block in enumerate(blocks):
            kernel, matrix, scale, shift = weights[4 * number : 4 * number + 4]
            norm, matrices = block.norm, matrix.flatten(1)[None]
            result, parts = library.measured(image, Kernels(kernel[None]), block.steps, number == 0)
            running = [
                cast(Tensor, one)[None] for one in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
            ]
            pixels = pixels_of(result)
            numbers = norm.track_running_stats, norm.eps, norm.momentum
            found = library.folded(matrices, None, parts, pixels, tuple(running), numbers)
            kept.append(Kept(image, kernel, matrix, scale, result, *found))
            last = number == len(blocks) - 1
            scaled, constants = found.W * scale[:, None], torch.addcmul(shift, found.b, scale)
            image = library.mapped(result, scaled, constants, rectify=not last)
        ctx.library, ctx.blocks = library, blocks
        ctx.save_for_backward(*sum(kept, ()))
        return image

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        saved, size = ctx.saved_tensors, len(Kept._fields)
        kept = [Kept(*saved[at : at + size]) for at in range(0, len(saved), size)]
        gradient: Tensor | None = rows(grad_output).map
        for_weights: list[Tensor] = []
        for number in reversed(range(len(kept))):
            wanted = number > 0 or ctx.needs_input_grad[2]
            steps, first = ctx.blocks[number].steps, number == 0
            gradient, of_block = _of_block(ctx.library, kept[number], cast(Tensor, gradient), steps, (first, wanted))
            for_weights = [*of_block, *for_weights]
        return None, None, gradient, *for_weights


def _of_block(
    library: Any, own: Kept, gradient: Tensor, steps: tuple[int, int], place: tuple[bool, bool]
) -> tuple[Tensor | None, list[Tensor]]:
    """Of a block's input and weights, from that of its output; `place`: is it the first, is the input's wanted."""
    is_first, wanted = place
    channels, pixels = len(own.scale), own.result.numel() // own.result.shape[1]
    products, sums = library.products(gradient, own.result, 1)
    for_scale = (products[0] * own.W[0]).sum(1) + sums[0] * own.b[0]
    scaled = [(products[0] * own.scale[:, None]).flatten(), sums[0] * own.scale]
    folded, matrices = Folded(*own[5:]), own.matrix.flatten(1)[None]
    nothing = own.scale.new_empty(0)
    found = library.fold_gradient(matrices, None, folded, torch.cat(scaled)[None], pixels, nothing)
    back = (own.W * own.scale[:, None]).transpose(1, 2)[:, None]
    terms = [Term(gradient, back), Term(own.result, found.matrices[:, None])]
    of_map = library.combined(terms, [found.constants], 1, channels)
    kernels = Kernels(own.kernel[None])
    for_kernel = library.kernel_gradients(of_map, own.image, kernels, steps, is_first).first[0]
    weights = [for_kernel, found.P.view_as(own.matrix), for_scale, sums[0]]
    return library.source_gradient(of_map, own.image, kernels, steps) if wanted else None, weights
