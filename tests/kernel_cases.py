"""Triton kernels by Triton's interpreter, on the CPU, against plain PyTorch in float64; run as a process of its own.

Prints a line of JSON a case: its name, and by result the largest error relative to the result's largest number.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from darts.models.fused import folding, maps
from darts.models.fused.folding import Moments, RunningStatistics, fold
from darts.models.kernels import depthwise, linear
from darts.models.kernels.fold import folded, move
from darts.models.mixture import MixtureWeights
from darts.runtime.device import convolutions
from darts.search.build import build_supernet
from darts.spaces.search_space import InputShape
from tests.conftest import composed

Errors = dict[str, float]
Case = Callable[[], Errors]


def error(found: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    assert found.shape == right.shape, (found.shape, right.shape)
    return float(
        (found.detach().double() - right.detach().double()).abs().max()
        / right.detach().double().abs().max().clamp_min(1e-12)
    )


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers; four axes are a map, channels last."""
    values = torch.randn(shape, dtype=torch.float64).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def mapped_case(groups: int, inner: int, outer: int, side: int, dtype: torch.dtype, part: bool) -> Errors:
    """A 1x1 convolution of groups, in every variant; `part`: of some channels of a wider map."""
    image = drawn(2, groups * inner + (8 if part else 0), side, side, dtype=dtype)
    image = image[:, 8:] if part else image
    matrices = drawn(groups, inner, outer).transpose(1, 2)
    constants, added = drawn(groups, outer), drawn(2, groups * outer, side, side, dtype=dtype)
    weights = matrices.to(dtype).double().flatten(0, 1)[:, :, None, None]
    right = F.conv2d(image.double(), weights, groups=groups)
    with_constants = right + constants.flatten()[:, None, None]
    return {
        "plain": error(linear.mapped(image, matrices), right),
        "constants": error(linear.mapped(image, matrices, constants), with_constants),
        "added": error(linear.mapped(image, matrices, added=added), right + added.double()),
        "rectified": error(linear.mapped(image, matrices, constants, rectify=True), with_constants.relu()),
    }


def products_case(groups: int, a: int, b: int, side: int, dtype: torch.dtype) -> Errors:
    """Sums of products, and moments."""
    left, right = drawn(3, groups * a, side, side, dtype=dtype), drawn(3, groups * b, side, side, dtype=dtype)
    one, other = (m.double().permute(0, 2, 3, 1).reshape(-1, groups, m.shape[1] // groups) for m in (left, right))
    products, sums = linear.products(left, right, groups)
    mean, covariance = linear.moments(left, groups)
    centred = one - one.mean(0)
    for_mean, for_covariance = drawn(groups, a), drawn(groups, a, a)
    both = (for_covariance + for_covariance.mT).double() / len(one)
    constant = for_mean.double() / len(one) - (both @ mean.double()[..., None])[..., 0]
    matrices, constants = linear.of_moments(mean, for_mean, for_covariance, len(one))
    return {
        "map of moments": error(matrices, both),
        "constant of moments": error(constants, constant),
        "products": error(products, torch.einsum("pka,pkb->kab", one, other)),
        "sums": error(sums, one.sum(0)),
        "mean": error(mean, one.mean(0)),
        "covariance": error(covariance, torch.einsum("pka,pkb->kab", centred, centred) / len(one)),
    }


def depthwise_case(
    edges: int, channels: int, sides: tuple[int, int], steps: tuple[int, int, int], dtype: Any
) -> Errors:
    """A depthwise convolution of one map for several edges, and its gradients by autograd."""
    side, stride, dilation = steps
    image, kernel = drawn(2, channels, *sides, dtype=dtype), drawn(edges * channels, 1, side, side, dtype=dtype)
    leaf, weight = image.double().requires_grad_(), kernel.double().requires_grad_()
    rectified = leaf.relu()
    copies = torch.cat([rectified] * edges, dim=1)
    right = F.conv2d(copies, weight, None, stride, dilation * (side // 2), dilation, len(kernel))
    result = depthwise.forward(image.relu(), kernel, stride, dilation)
    gradient = drawn(*right.shape, dtype=dtype)
    for_image, for_rectified, for_weight = torch.autograd.grad(right, [leaf, rectified, weight], gradient.double())
    own = (gradient, image.shape, kernel, (stride, dilation))
    return {
        "forward": error(result, right),
        "input": error(depthwise.input_gradient(*own), for_rectified),
        "before ReLU": error(depthwise.input_gradient(*own, image.relu()), for_image),
        "weight": error(depthwise.weight_gradient(gradient, image.relu(), side, (stride, dilation)), for_weight),
    }


def fold_case(groups: int, inner: int, outer: int, shared: bool, scaled: bool, per_edge: int = 1) -> Errors:
    """W, b, running statistics and all gradients, by autograd of the definition."""
    mixing = drawn(1 if shared else groups, inner, 3 * inner)
    leaves = [drawn(groups, outer, inner), drawn(1 if shared else groups, inner), mixing @ mixing.mT]
    leaves += [drawn(groups)] if scaled else []
    wide = [leaf.double().requires_grad_() for leaf in leaves]
    statistics = RunningStatistics(groups, outer).double()
    a = wide[3] if scaled else None
    right = fold(wide[0], a, Moments(wide[1].expand(groups, -1), wide[2], 50), statistics)
    right = right[0].unflatten(0, (-1, per_edge)).transpose(1, 2).flatten(2), right[1]
    cotangents = drawn(groups // per_edge, outer, per_edge * inner), drawn(groups, outer)
    gradients = torch.autograd.grad(right, wide, [c.double() for c in cotangents])
    own = [leaf.requires_grad_() for leaf in leaves]
    running = torch.zeros(groups, outer), torch.ones(groups, outer), torch.zeros(groups, dtype=torch.long)
    numbers = (True, 1e-5, 0.1, 50 / 49)
    found = folded(own[0], own[3] if scaled else None, own[1], own[2], running, numbers, per_edge)
    own_gradients = torch.autograd.grad(found, own, cotangents)
    errors = {"W": error(found[0], right[0]), "b": error(found[1], right[1])}
    errors["running mean"] = error(running[0], statistics.running_mean)
    errors["batches"] = error(running[2], statistics.num_batches_tracked)
    errors["running variance"] = error(running[1], statistics.running_var)
    for name, one, other in zip(("P", "m", "S", "a"), own_gradients, gradients, strict=False):
        errors[f"gradient of {name}"] = error(one, other)
    return errors


def move_case(edges: int, channels: int) -> Errors:
    """Running statistics of several edges, moved by one batch's."""
    mean, variance = drawn(channels), drawn(channels).square()
    right = RunningStatistics(edges, channels).double()
    right.update(mean.double(), variance.double(), 50)
    found = torch.zeros(edges, channels), torch.ones(edges, channels), torch.zeros(edges, dtype=torch.long)
    move(mean, variance, *found, 0.1, 50 / 49)
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: error(one, right.get_buffer(name)) for name, one in zip(names, found, strict=True)}


def join_case(edges: int, channels: int, sides: tuple[int, int]) -> Errors:
    """Kernels of two sizes, each in the middle of the larger size."""
    one, other = (drawn(edges, channels, 1, side * side).view(edges, channels, 1, side, side) for side in sides)
    largest = max(sides)
    padded = [F.pad(k, [(largest - k.shape[-1]) // 2] * 4) for k in (one, other)]
    return {"joined": error(depthwise.joined(one, other, largest), torch.stack(padded, dim=1).flatten(0, 1))}


def cases() -> Iterator[tuple[str, Case]]:
    """By name, with odd sizes, strides, dilations, maps lower than the kernel, 1 to 5 edges, 4 to 64 channels."""
    f32, f16 = torch.float32, torch.float16  # the interpreter cannot multiply tiles of bfloat16
    for groups, inner, outer, side, dtype, part in [
        (1, 48, 80, 5, f32, False), (5, 4, 4, 3, f32, True), (2, 16, 16, 9, f16, False), (3, 64, 64, 2, f32, False),
        (1, 70, 20, 1, f32, True),
    ]:  # fmt: skip
        name = f"mapped, {groups} groups {inner} to {outer}, {side} x {side}, {dtype}{', part' if part else ''}"
        yield name, lambda a=(groups, inner, outer, side, dtype, part): mapped_case(*a)
    for groups, a, b, side, dtype in [
        (1, 80, 48, 5, f32),
        (5, 4, 4, 3, f32),
        (2, 16, 16, 17, f16),
        (1, 64, 64, 9, f32),
    ]:
        yield (
            f"products, {groups} groups {a} by {b}, {side} x {side}, {dtype}",
            lambda a=(groups, a, b, side, dtype): products_case(*a),
        )
    sizes = [(1, 4, (7, 5)), (5, 16, (4, 4)), (2, 64, (3, 3)), (3, 6, (8, 9))]
    steps = [(3, 1, 1), (5, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (3, 2, 2), (7, 1, 1)]
    pairs = [pair for number, pair in enumerate(itertools.product(sizes, steps)) if number % 2 == 0]
    for (edges, channels, sides), own in pairs:
        name = f"depthwise, {edges} edges, {channels} channels, {sides}, side, stride, dilation {own}"
        yield name, lambda a=(edges, channels, sides, own, f32): depthwise_case(*a)
    for edges, channels, sides in [(1, 4, (3, 5)), (3, 16, (5, 3)), (2, 6, (3, 3))]:
        yield f"join, {edges} edges, {channels} channels, {sides}", lambda a=(edges, channels, sides): join_case(*a)
    yield "depthwise, torch.bfloat16", lambda: depthwise_case(2, 8, (6, 6), (5, 1, 2), torch.bfloat16)
    for groups, inner, outer, shared, scaled, per_edge in [
        (1, 4, 4, False, False, 1), (5, 16, 16, False, True, 1), (2, 64, 64, False, True, 2),
        (3, 32, 16, True, True, 1), (4, 24, 12, True, False, 1), (6, 8, 8, False, True, 3),
    ]:  # fmt: skip
        name = f"fold, {groups} of {outer} x {inner}{', shared' if shared else ''}{', scaled' if scaled else ''}"
        sizes_and_more = groups, inner, outer, shared, scaled, per_edge
        yield f"{name}, {per_edge} side by side", lambda a=sizes_and_more: fold_case(*a)
    yield "supernet", supernet_case
    for edges, channels in [(1, 4), (5, 16)]:
        yield f"move, {edges} x {channels}", lambda a=(edges, channels): move_case(*a)


def supernet_case() -> Errors:
    """Output and gradients of a fused supernet that the kernels compute, against one that PyTorch computes."""
    settings = composed("search", "device=cpu", "network.channels=4", "network.cells=3", "space.nodes=2")
    shape = InputShape(3, (8, 8), 10)
    stage, *_ = settings.method.schedule.stages(settings.search.epochs, settings.space)
    active = {kind: settings.space.allowed(kind) for kind in settings.space.cell_types}
    images = drawn(4, 3, 8, 8)
    found: list[dict[str, Tensor]] = []
    for kernels in (False, True):
        convolutions.kernels = kernels
        maps.serves = lambda image: convolutions.kernels  # of a CPU too, by the interpreter
        folding.folds = lambda matrices: convolutions.kernels and max(matrices.shape[1:]) <= 64
        supernet = build_supernet(settings, shape, stage, active)
        mixture = {kind: torch.full((5, 8), 0.125, requires_grad=True) for kind in settings.space.cell_types}
        weights = {kind: MixtureWeights(matrix) for kind, matrix in mixture.items()}
        output = supernet(images, weights)
        output.square().sum().backward()
        gradients = {name: weight.grad for name, weight in supernet.named_parameters() if weight.grad is not None}
        buffers = {name: 1 + buffer.double() for name, buffer in supernet.named_buffers()}  # means are 0 or nearly
        found.append({"output": output, **{kind: m.grad for kind, m in mixture.items()}, **gradients, **buffers})
    convolutions.kernels = False
    return {name: error(found[1][name], right) for name, right in found[0].items()}


def main() -> None:
    """Run all cases."""
    torch.manual_seed(0)
    for name, case in cases():
        print(json.dumps([name, case()]), flush=True)


if __name__ == "__main__":
    main()
