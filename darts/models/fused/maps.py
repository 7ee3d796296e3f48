"""What touches maps of pixels: two functions with gradients of their own.

    Convolved   [1x1 convolution, ReLU], depthwise convolution, moments of the result
    Summed      the sum of 1x1 convolutions of many maps: a node's term

On a GPU they may do so by Triton kernels (darts/models/kernels/), where layout.py has found these to be faster.

Batch norm needs the whole batch first: the functions begin and end there. Gradients are by hand, so that few maps are
kept (Convolved: its input, the rectified map and its result; not the copies of an image for each edge, nor anything
normalised or weighted) and none is computed for which nobody asked. Second derivatives are the reference supernet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darts.models import depthwise
from darts.models.fused.folding import Moments
from darts.models.kernels.rows import MOST_CHANNELS, serves
from darts.runtime.device import convolutions, full_float32

# The CPU's library convolves groups of few channels fastest where an image is one row, and PyTorch does not give it
# fewer images than 16 where there is one thread (docs/performance.md): pixels are given as ROWS images,
# each one pixel high.
NARROW, FEWEST, ROWS = 32, 16, 32


class Before(NamedTuple):
    """The folded 1x1 convolution that, with a ReLU, comes before a depthwise convolution; (K, C, C) and (K, C)."""

    matrices: Tensor
    constants: Tensor


def convolved(
    image: Tensor, before: Before | None, kernel: Tensor, steps: tuple[int, int], wanted: bool
) -> tuple[Tensor, Moments | None]:
    """A depthwise convolution of K stacked edges, and the moments of its result where they are wanted.

    `kernel`: (K, C, 1, k, k); `steps`: stride and dilation. Without `before` the image is what all edges have in
    common, (batch, C, H, W); with it, it is (batch, K C, H, W) and goes through 1x1 convolution and ReLU first.
    """
    edges = len(kernel)
    stride, dilation = steps
    if before is None and dilation % stride == 0:  # then only these pixels are seen (depthwise.py)
        image, steps = image[:, :, ::stride, ::stride], (1, dilation // stride)
    kernel = depthwise.within_reach(kernel.flatten(0, 1), image, steps[1])
    kernel = kernel if serves(image) else kernel.to(image.dtype)
    folded = before or (None, None)
    result, mean, covariance = _Convolved.apply(_Plan(edges, steps, wanted), image, kernel, *folded)
    return result, Moments(mean, covariance, result.numel() // result.shape[1]) if wanted else None


class Operand(NamedTuple):
    """A map and the 1x1 convolutions that bring it to each of K edges' sums: (K, C, C'), (K, C).

    Matrices of a shared map may be diagonal, (K, C).
    """

    image: Tensor
    matrices: Tensor
    constants: Tensor | None


def sum_of_maps(shared: Sequence[Operand], stacked: Sequence[Operand]) -> Tensor:
    """For each of K edges the sum of all maps, each through its 1x1 convolution: (batch, K C, H, W).

    A shared map is (batch, C', H, W) and serves all edges; a stacked one (batch, K C', H, W) has a group for each.
    """
    operands = [*shared, *stacked]
    constants = [operand.constants for operand in operands if operand.constants is not None]
    if len(constants) > 2:
        bias = torch.stack(constants).sum(0)
    elif constants:
        bias = constants[0] + constants[1] if len(constants) > 1 else constants[0]
    else:
        bias = operands[0].matrices.new_zeros(operands[0].matrices.shape[:2])
    images = [operand.image for operand in operands]
    weights = [operand.matrices for operand in stacked]
    if shared:  # their maps are one, joined along the channels, with one dense matrix
        weights.insert(0, _dense([operand.matrices for operand in shared]).flatten(0, 1)[None])
    return _Summed.apply(len(shared), len(images), bias, *images, *weights)


def _dense(matrices: Sequence[Tensor]) -> Tensor:
    """Matrices (K, C, C'), or diagonals (K, C), side by side: (K, C, sum of C')."""
    kinds = [matrix.dim() for matrix in matrices]
    if kinds != sorted(kinds):
        return torch.cat([torch.diag_embed(m) if m.dim() == 2 else m for m in matrices], dim=2)
    diagonals = [matrix for matrix in matrices if matrix.dim() == 2]
    if not diagonals:
        return torch.cat(list(matrices), dim=2)
    dense = torch.diag_embed(torch.stack(diagonals, dim=1), dim1=1, dim2=3).flatten(2)
    return torch.cat([dense, *matrices[len(diagonals) :]], dim=2) if len(diagonals) < len(matrices) else dense


def mapped(
    image: Tensor,
    matrices: Tensor,
    constants: Tensor | None = None,
    added: Tensor | None = None,
    rectify: bool = False,
) -> Tensor:
    """Each group of C' channels through its own matrix: image (batch, K C', H, W), (K, C, C'), (K, C).

    Plus another map, (batch, K C, H, W), and then ReLU. Without a gradient.
    """
    if serves(image):
        from darts.models.kernels import combine

        return combine.mapped(image, matrices, constants, added, rectify)
    result = _grouped(image, matrices, constants)
    result = result if added is None else result.add_(added)
    return result.relu_() if rectify else result


def _grouped(image: Tensor, matrices: Tensor, constants: Tensor | None) -> Tensor:
    """`mapped` by the library's grouped convolution."""
    groups = len(matrices)
    matrices = matrices.flatten(0, 1)[:, :, None, None].to(image.dtype)
    bias = None if constants is None else constants.flatten().to(image.dtype)
    pixels = image.numel() // image.shape[1]
    narrow = groups > 1 and (matrices.shape[1] <= NARROW or len(image) < FEWEST)
    on_cpu = image.device.type == "cpu" and image.is_contiguous(memory_format=torch.channels_last)
    if not (narrow and on_cpu and pixels) or pixels % ROWS:
        return torch.conv2d(image, matrices, bias, groups=groups)
    rows = image.permute(0, 2, 3, 1).reshape(ROWS, 1, pixels // ROWS, -1).permute(0, 3, 1, 2)
    result = torch.conv2d(rows, matrices, bias, groups=groups).permute(0, 2, 3, 1)
    return result.reshape(len(image), *image.shape[2:], -1).permute(0, 3, 1, 2)


def moments(image: Tensor, groups: int = 1) -> Moments:
    """The moments of each group of channels, with a gradient."""
    if serves(image):
        mean, covariance = _Moments.apply(image, groups)
        return Moments(mean, covariance, image.numel() // image.shape[1])
    pixels = _pixels(image, groups)
    mean = pixels.mean(1)
    with full_float32(image.device):  # a product that rounds what it multiplies is no covariance of these pixels
        second = torch.bmm(pixels.transpose(1, 2), pixels) / pixels.shape[1]
    return Moments(mean, second - mean[:, :, None] * mean[:, None, :], pixels.shape[1])


class _Moments(torch.autograd.Function):
    """Those of the kernels."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        from darts.models.kernels import products

        mean, covariance = products.moments(image, groups)
        ctx.save_for_backward(image, mean)
        return mean, covariance

    @staticmethod
    def backward(ctx: Any, grad_mean: Any, grad_covariance: Any) -> tuple[Any, ...]:
        refuse_second_derivatives()
        image, mean = ctx.saved_tensors
        return mapped(image, *_of_moments(image, mean, grad_mean, grad_covariance)), None


def _of_moments(image: Tensor, mean: Tensor, grad_mean: Tensor, grad_covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map that makes of an image what its moments' gradients make of it (folding.py)."""
    count = image.numel() // image.shape[1]
    if serves(image) and mean.shape[1] <= MOST_CHANNELS:
        from darts.models.kernels import products as kernels

        return kernels.of_moments(mean, grad_mean, grad_covariance, count)
    linear = (grad_covariance + grad_covariance.transpose(1, 2)) / count
    return linear, grad_mean / count - (linear * mean[:, None]).sum(2)


class _Plan(NamedTuple):
    edges: int
    steps: tuple[int, int]
    moments: bool


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, image: Tensor, kernel: Tensor, matrices: Tensor | None, constants: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        edges, steps, wanted = plan
        mean = covariance = None
        with torch.autocast(image.device.type, enabled=False):
            rectified = None if matrices is None else mapped(image, matrices, constants, rectify=True)
            source = image if rectified is None else rectified
            result = convolved_alone(source, kernel, steps)
            if wanted:
                mean, covariance, _ = moments(result, edges)
        ctx.plan = plan
        ctx.save_for_backward(image, kernel, matrices, rectified, result, mean)
        return result, mean, covariance

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, grad_mean: Any, grad_covariance: Any) -> tuple[Any, ...]:
        refuse_second_derivatives()
        image, kernel, matrices, rectified, result, mean = ctx.saved_tensors
        edges, steps, _ = ctx.plan
        wanted = ctx.needs_input_grad[2]
        if mean is not None:
            grad_output = mapped(result, *_of_moments(result, mean, grad_mean, grad_covariance), added=grad_output)
        source = image if matrices is None else rectified
        for_source, for_kernel = gradients_alone(grad_output, source, kernel, steps, wanted, matrices is not None)
        if matrices is None:
            return None, for_source, for_kernel, None, None
        for_matrices, for_constants = products(for_source, image, edges)
        return None, mapped(for_source, matrices.transpose(1, 2)), for_kernel, for_matrices, for_constants


def products(left: Tensor, right: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sums over pixels of left times right, (K, A, B), and of left, (K, A), in float32 at least.

    left (batch, K A, H, W), right (batch, K B, H, W).
    """
    if serves(left):
        from darts.models.kernels import products as kernels

        return kernels.products(left, right, groups)
    return _products(left, right, groups), _pixels(left, groups).sum(1)


def _products(left: Tensor, right: Tensor, groups: int) -> Tensor:
    return torch.bmm(_pixels(left, groups).transpose(1, 2), _pixels(right, groups))


def convolved_alone(image: Tensor, kernel: Tensor, steps: tuple[int, int]) -> Tensor:
    """The depthwise convolutions of (batch, C, H, W) with each edge's kernel of (K C, 1, k, k), side by side."""
    if serves(image):
        from darts.models.kernels import depthwise as kernels

        return kernels.forward(image, kernel, *steps)
    if len(kernel) == image.shape[1]:
        return depthwise.convolve(image, kernel, *steps)
    return _for_each_edge(image, kernel, steps)


def gradients_alone(
    grad_output: Tensor, image: Tensor, kernel: Tensor, steps: tuple[int, int], wanted: bool, rectified: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Of the image, and of the kernel if it is wanted; `rectified`: of what went into the ReLU that made the image."""
    if serves(image):
        from darts.models.kernels import depthwise_gradients as kernels

        for_kernel = kernels.weight_gradient(grad_output, image, kernel.shape[2], steps) if wanted else None
        mask = image if rectified else None
        return kernels.input_gradient(grad_output, image.shape, kernel, steps, mask), for_kernel
    if len(kernel) != image.shape[1]:
        return _gradients_for_each_edge(grad_output, image, kernel, steps, wanted)
    for_kernel = depthwise.weight_gradient(grad_output, image, kernel, *steps) if wanted else None
    grad_output = depthwise.input_gradient(grad_output, image.shape, kernel, *steps)
    if rectified:  # in place: it is ours
        torch.ops.aten.threshold_backward.grad_input(grad_output, image, 0, grad_input=grad_output)
    return grad_output, for_kernel


def _for_each_edge(image: Tensor, kernel: Tensor, steps: tuple[int, int]) -> Tensor:
    """The convolutions of one image (batch, C, H, W) with each edge's kernel of (K C, 1, k, k), side by side.

    At stride 1 the image is put side by side first, for one convolution; else its copies are larger than the results.
    """
    edges = len(kernel) // image.shape[1]
    if steps[0] == 1:
        return depthwise.convolve(torch.cat([image] * edges, dim=1), kernel, *steps)
    return torch.cat([depthwise.convolve(image, one, *steps) for one in kernel.chunk(edges)], dim=1)


def _gradients_for_each_edge(
    grad_output: Tensor, image: Tensor, kernel: Tensor, steps: tuple[int, int], wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Of the image, and of the kernel if it is wanted."""
    edges = len(kernel) // image.shape[1]
    copies, grad_outputs, kernels = [image] * edges, grad_output.chunk(edges, dim=1), kernel.chunk(edges)
    if steps[0] == 1:
        for_copies = depthwise.input_gradient(grad_output, grad_output.shape, kernel, *steps).chunk(edges, dim=1)
        for_kernel = (
            depthwise.weight_gradient(grad_output, torch.cat(copies, dim=1), kernel, *steps) if wanted else None
        )
        return _total(for_copies), for_kernel
    triples = list(zip(grad_outputs, copies, kernels, strict=True))
    for_each = [depthwise.input_gradient(s, x.shape, k, *steps) for s, x, k in triples]
    for_kernels = [depthwise.weight_gradient(*triple, *steps) for triple in triples if wanted]
    return _total(for_each), torch.cat(for_kernels) if wanted else None


def _total(images: Sequence[Tensor]) -> Tensor:
    total = images[0] + images[1] if len(images) > 1 else images[0]
    for image in images[2:]:
        total += image
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: int, maps: int, bias: Tensor, *tensors: Tensor) -> Tensor:
        images, weights = _joined(tensors[:maps], shared), tensors[maps:]
        ctx.channels, ctx.bias_shape = [image.shape[1] for image in tensors[:shared]], bias.shape
        ctx.save_for_backward(*images, *weights)
        with torch.autocast(bias.device.type, enabled=False):
            total = mapped(images[0], weights[0], bias)
            for image, weight in zip(images[1:], weights[1:], strict=True):
                total = mapped(image, weight, added=total)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        saved = ctx.saved_tensors
        half = len(saved) // 2
        images, weights = saved[:half], saved[half:]
        shared = len(ctx.channels)
        wanted = ctx.needs_input_grad[3 : 3 + max(shared - 1, 0) + half]
        wanted = [any(wanted[:shared]), *wanted[shared:]] if shared else wanted
        for_images: list[Any] = [
            mapped(grad_output, weight.transpose(1, 2)) if want else None
            for weight, want in zip(weights, wanted, strict=True)
        ]
        pairs = list(zip(images, weights, strict=True))
        if serves(grad_output):
            found = [products(grad_output, image, len(weight)) for image, weight in pairs]
            for_weights, for_bias = [one for one, _ in found], found[0][1]
        else:
            for_weights = [_products(grad_output, image, len(weight)) for image, weight in pairs]
            for_bias = _pixels(grad_output, 1).sum(1)
        if shared:
            parts = [None] * shared if for_images[0] is None else for_images[0].split(ctx.channels, dim=1)
            layout = convolutions.memory_format
            for_images[:1] = [p if p is None else p.contiguous(memory_format=layout) for p in parts]
        return None, None, for_bias.view(ctx.bias_shape), *for_images, *for_weights


def _joined(images: Sequence[Tensor], shared: int) -> list[Tensor]:
    """The first `shared` maps as one, and the others."""
    return [torch.cat(list(images[:shared]), dim=1), *images[shared:]] if shared else list(images)


def refuse_second_derivatives() -> None:
    """For a gradient by hand: `RuntimeError` where the caller of its backward pass asked for create_graph."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "gradients by hand are first derivatives only; second ones need engine=reference, "
            "or of a found network that train_by_hand() is not called"
        )


def _pixels(image: Tensor, groups: int) -> Tensor:
    """The pixels of each group of channels, (groups, pixels, C), in float32 at least; no copy if channels last."""
    pixels = image.permute(0, 2, 3, 1).reshape(-1, groups, image.shape[1] // groups).transpose(0, 1)
    return pixels if pixels.dtype in (torch.float32, torch.float64) else pixels.float()
