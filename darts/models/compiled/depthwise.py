"""Depthwise convolutions with the sums that batch norm needs, and their gradients."""

from __future__ import annotations

from torch import Tensor

from darts.models.compiled.call import Call, parts_of
from darts.models.kernels.rows import new_map
from darts.models.kernels.types import Kernels


def _add_kernels(call: Call, kernels: Kernels, groups: int, channels: int) -> None:
    for kernel in kernels.both:
        call.tensor(kernel)
    call.numbers(*kernels.sides, kernels.candidates, groups, channels)


def measured(image: Tensor, kernels: Kernels, steps: tuple[int, int], rectify: bool) -> tuple[Tensor, Tensor]:
    """The depthwise convolution, perhaps of the image's ReLU, and parts of its sums of products."""
    groups, channels, stride = kernels.groups, kernels.first.shape[1], steps[0]
    sides = -(-image.shape[2] // stride), -(-image.shape[3] // stride)
    result, number = new_map(image, groups * channels, sides), parts_of(image)
    sums = image.new_empty((number, groups * channels * (channels + 1)))
    call = Call("depthwise", channels)
    call.numbers(len(image), number, *image.shape[2:], *sides, *steps, rectify)
    _add_kernels(call, kernels, groups, channels)
    call.map(image)
    call.channels(image, channels)
    call.map(result)
    call.tensor(sums)
    call()
    return result, sums


def source_gradient(
    gradient: Tensor, source: Tensor, kernels: Kernels, steps: tuple[int, int], added: Tensor | None = None
) -> Tensor:
    """What the gradient of `measured` makes of the image's gradient through its ReLU, plus another map."""
    groups, channels = kernels.groups, kernels.first.shape[1]
    result, call = new_map(source, source.shape[1]), Call("source_gradient", channels)
    call.numbers(len(source), *source.shape[2:], *gradient.shape[2:], *steps)
    _add_kernels(call, kernels, groups, channels)
    call.map(gradient)
    call.numbers(source.shape[1] // channels)
    call.tensor(result)
    call.map(source)
    call.map(added)
    call()
    return result


def kernel_gradients(
    gradient: Tensor, image: Tensor, kernels: Kernels, steps: tuple[int, int], rectify: bool
) -> Kernels:
    """What the gradient of `measured` makes of the kernels."""
    groups, channels = kernels.groups, kernels.first.shape[1]
    found = [gradient.new_empty(kernel.shape) for kernel in kernels if kernel is not None]
    call = Call("kernel_gradients", channels)
    call.numbers(len(image), parts_of(image), *image.shape[2:], *gradient.shape[2:], *steps, rectify)
    call.numbers(*kernels.sides, len(found), groups, channels)
    call.map(gradient)
    call.map(image)
    call.channels(image, channels)
    call.tensor(found[0])
    call.tensor(found[-1])
    call()
    return Kernels(*found)
