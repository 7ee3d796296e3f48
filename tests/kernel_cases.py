"""Triton kernels by Triton's interpreter, on the CPU, against plain PyTorch in float64; run as a process of its own.

Prints a line of JSON a case: its name, and by result the largest error relative to the result's largest number.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from darts.models.compiled import library
from darts.models.fused import folding, libraries, maps
from darts.models.fused.folding import Moments, RunningStatistics, fold
from darts.models.fused.source import Source
from darts.models.kernels import depthwise, depthwise_gradients, operators, products
from darts.models.kernels.combine import mapped
from darts.models.kernels.fold import folded, move
from darts.models.kernels.types import MAXIMUM, Diagonal, Kernels, Scales, Term
from darts.models.mixture import MixtureWeights
from darts.models.operations import search_operation
from darts.runtime.device import convolutions
from darts.search.build import build_supernet
from darts.spaces.search_space import LAYOUTS, InputShape, Skeleton
from tests.conftest import composed

Errors = dict[str, float]
Case = Callable[[], Errors]
SERVED = (maps, libraries)  # modules that ask whether the kernels serve a map


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
        "plain": error(mapped(image, matrices), right),
        "constants": error(mapped(image, matrices, constants), with_constants),
        "added": error(mapped(image, matrices, added=added), right + added.double()),
        "rectified": error(mapped(image, matrices, constants, rectify=True), with_constants.relu()),
    }


def products_case(groups: int, a: int, b: int, side: int, dtype: torch.dtype) -> Errors:
    """Sums of products, and moments."""
    left, right = drawn(3, groups * a, side, side, dtype=dtype), drawn(3, groups * b, side, side, dtype=dtype)
    one, other = (m.double().permute(0, 2, 3, 1).reshape(-1, groups, m.shape[1] // groups) for m in (left, right))
    sums_of_products, sums = products.products(left, right, groups)
    mean, covariance = products.moments(left, groups)
    centred = one - one.mean(0)
    for_mean, for_covariance = drawn(groups, a), drawn(groups, a, a)
    both = (for_covariance + for_covariance.mT).double() / len(one)
    constant = for_mean.double() / len(one) - (both @ mean.double()[..., None])[..., 0]
    matrices, constants = products.of_moments(mean, for_mean, for_covariance, len(one))
    return {
        "map of moments": error(matrices, both),
        "constant of moments": error(constants, constant),
        "products": error(sums_of_products, torch.einsum("pka,pkb->kab", one, other)),
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
        "input": error(depthwise_gradients.input_gradient(*own), for_rectified),
        "before ReLU": error(depthwise_gradients.input_gradient(*own, image.relu()), for_image),
        "weight": error(
            depthwise_gradients.weight_gradient(gradient, image.relu(), side, (stride, dilation)), for_weight
        ),
    }


def combined_case(own: Any, edges: int, per: int, channels: int, side: int, kinds: int, dtype: torch.dtype) -> Errors:
    """A sum of maps: grouped, of one image for all groups, each channel by a factor, constants, another map, ReLU."""
    groups = edges * per
    grouped = drawn(2, edges * channels, side, side, dtype=dtype)
    common = drawn(2, 2 * channels, side, side, dtype=dtype)
    more = drawn(2, groups * 3, side, side, dtype=dtype)
    by_edge = drawn(edges, channels, per, channels).permute(0, 2, 3, 1)  # as a gradient has them
    matrices, others = drawn(groups, channels, 2 * channels), drawn(groups, channels, 3)
    constants = [drawn(groups * number, channels) for number in (1, 2, 1, 3)]
    maps = [drawn(2, channels, side, side, dtype=dtype) for _ in range(kinds + 1)]
    factors = drawn(groups, kinds + 1, channels)
    added = drawn(2, (groups + 1) * channels, side, side, dtype=dtype)[:, channels:]
    terms = [Term(grouped, by_edge), Term(common, matrices[:, None]), Term(more, others[:, None])]
    pools = torch.cat(maps[:-1], dim=1) if kinds else None
    found = own.combined(terms, constants, groups, channels, Diagonal(pools, maps[-1], factors), added, rectify=True)

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).double()

    right = torch.einsum("becyx,enoc->benoyx", rounded(grouped).unflatten(1, (edges, -1)), rounded(by_edge)).flatten(
        1, 2
    )
    right = right + torch.einsum("bcyx,goc->bgoyx", rounded(common), rounded(matrices))
    right = right + torch.einsum("bgcyx,goc->bgoyx", rounded(more).unflatten(1, (groups, -1)), rounded(others))
    right = right + torch.einsum("kbcyx,gkc->bgcyx", torch.stack(maps).double(), factors.double())
    shift = sum(constant.double().unflatten(0, (groups, -1)).sum(1) for constant in constants)
    right = right.flatten(1, 2) + shift.flatten()[:, None, None] + added.double()
    plain = own.combined(terms[:1], [], groups, channels)
    one = torch.einsum("becyx,enoc->benoyx", rounded(grouped).unflatten(1, (edges, -1)), rounded(by_edge)).flatten(1, 3)
    return {"all": error(found, right.relu()), "one": error(plain, one)}


def measured_case(
    own: Any,
    edges: int,
    channels: int,
    sides: tuple[int, int],
    kernels: tuple[int, ...],
    steps: tuple[int, int],
    grouped: bool,
) -> Errors:
    """Depthwise convolutions of one or two candidates with their sums, of one ReLU for all or of each group's own."""
    candidates = len(kernels)
    image = drawn(3, channels * (edges * candidates if grouped else 1), *sides)
    weights = [drawn(edges, channels, 1, side * side).view(edges, channels, 1, side, side) for side in kernels]
    leaf, *wide = (tensor.double().requires_grad_() for tensor in (image, *weights))
    largest, (stride, dilation) = max(kernels), steps
    padded = [F.pad(k, [(largest - k.shape[-1]) // 2] * 4) for k in wide]
    kernel = torch.stack(padded, dim=1).flatten(0, 2)
    rectified = leaf.relu()
    copies = rectified if grouped else torch.cat([rectified] * (edges * candidates), dim=1)
    right = F.conv2d(copies, kernel, None, stride, dilation * (largest // 2), dilation, len(kernel))
    given = Kernels(*weights)
    result, parts = own.measured(image, given, steps, rectify=True)
    groups = edges * candidates
    pixels = right.detach().permute(0, 2, 3, 1).reshape(-1, groups, channels)
    products = torch.cat([torch.einsum("pga,pgb->gab", pixels, pixels).flatten(), pixels.sum(0).flatten()])
    gradient, added = drawn(*right.shape), drawn(*image.shape)
    for_image, *for_weights = torch.autograd.grad(right, [leaf, *wide], gradient.double())
    found = own.kernel_gradients(gradient, image, given, steps, rectify=True)
    errors = {"forward": error(result, right), "sums": error(parts.sum(0), products)}
    for_source = own.source_gradient(gradient, image, given, steps, added)
    errors["source"] = error(for_source, for_image + added.double())
    for number, (one, other) in enumerate(zip(found, for_weights, strict=False)):
        errors[f"kernel {number}"] = error(one, other)
    return errors


def fold_of_parts_case(own: Any, edges: int, per: int, channels: int, scaled: bool) -> Errors:
    """Batch norm of 1x1 convolutions and the mixture's weights, by PyTorch's batch norm and autograd, from an image."""
    groups, size = edges * per, (4, 3, 5)
    image, P = drawn(4, groups * channels, 3, 5), drawn(groups, channels, channels)  # noqa: N806
    mixture = drawn(edges, 4).softmax(1)
    columns = [3, 1][:per]
    leaf, wide, weights = (tensor.double().requires_grad_() for tensor in (image, P, mixture))
    running = torch.zeros(groups, channels), torch.ones(groups, channels), torch.zeros(groups, dtype=torch.long)
    moved = [tensor.double().flatten() for tensor in running[:2]]
    normal = F.conv2d(leaf, wide.flatten(0, 1)[:, :, None, None], groups=groups)
    normal = F.batch_norm(normal, *moved, training=True, momentum=0.1).unflatten(1, (edges, per, channels))
    weighted = normal * weights[:, columns][None, :, :, None, None, None] if scaled else normal
    right = (weighted.sum(2) if scaled else weighted).flatten(1, -3)
    parts = torch.stack([_sums(half, half, groups) for half in image.split([1, 3])])
    scales, per_edge = (Scales(mixture, columns), per) if scaled else (None, 1)
    found = own.folded(P, scales, parts, 60, running, (True, 1e-5, 0.1), per_edge)
    result = own.combined([Term(image, found.W[:, None])], [found.b], groups // per_edge, channels)
    errors = {"map": error(result, right), "batches": error(running[2], torch.ones(groups))}
    errors |= {
        name: error(one.flatten(), other)
        for name, one, other in zip(("mean", "variance"), running[:2], moved, strict=True)
    }
    gradient = drawn(*right.shape)
    gradients = torch.autograd.grad(right, [leaf, wide, weights], gradient.double(), allow_unused=True)
    for_mixture = torch.zeros_like(mixture)
    sums = torch.stack(
        [_sums(g, i, groups // per_edge) for g, i in zip(gradient.split([2, 2]), image.split([2, 2]), strict=True)]
    )
    back = own.fold_gradient(P, scales, found, sums, 60, for_mixture, per_edge)
    turned = found.W.view(groups // per_edge, channels, per_edge, channels).permute(0, 2, 3, 1)
    terms = [Term(gradient, turned), Term(image, back.matrices[:, None])]
    errors["gradient of the image"] = error(own.combined(terms, [back.constants], groups, channels), gradients[0])
    errors["gradient of P"] = error(back.P, gradients[1])
    if scaled:
        errors["gradient of the mixture"] = error(for_mixture, gradients[2])
    assert size[0] * size[1] * size[2] == 60
    return errors


def _sums(left: Tensor, right: Tensor, groups: int) -> Tensor:
    """Sums over pixels of left times right and of left, as a row of parts."""
    one, other = (m.permute(0, 2, 3, 1).reshape(-1, groups, m.shape[1] // groups) for m in (left, right))
    return torch.cat([torch.einsum("pga,pgb->gab", one, other).flatten(), one.sum(0).flatten()])


def operations_of(
    names: tuple[str, ...], edges: int, channels: int, stride: int, normed: bool
) -> list[dict[int, torch.nn.Module]]:
    """The reference operations of a state, by edge and column, with weights of their own."""
    layout = LAYOUTS[Skeleton.darts if normed else Skeleton.nasbench201]
    columns = list(enumerate(names))
    own = [{column: search_operation(name, channels, stride, layout) for column, name in columns} for _ in range(edges)]
    for operation in (operation for edge in own for operation in edge.values()):
        for weight in operation.parameters():
            torch.nn.init.normal_(weight)
    return own


def source_of(names: tuple[str, ...], edges: int, channels: int, stride: int, normed: bool) -> Source:
    """A state of the fused supernet."""
    return Source(operations_of(names, edges, channels, stride, normed))


def launched_case(
    names: tuple[str, ...], edges: int, channels: int, stride: int, sides: tuple[int, int], normed: bool
) -> Errors:
    """What a state sends, its statistics and all gradients, against the reference operations in float64."""
    own = operations_of(names, edges, channels, stride, normed)
    reference = [{column: copy.deepcopy(operation).double() for column, operation in edge.items()} for edge in own]
    part = Source(own)
    image, mixture = drawn(3, channels, *sides), drawn(edges, len(names)).softmax(1)
    image = (image * 4).round() / 4  # some pixels of a pool are equal
    outer = tuple(-(-side // stride) for side in sides)
    added = drawn(3, (edges + 1) * channels, *outer)[:, channels:]
    wide = [tensor.double().requires_grad_() for tensor in (image, mixture, added)]
    terms = [
        sum(wide[1][edge, column] * operation(wide[0]) for column, operation in candidates.items())
        for edge, candidates in enumerate(reference)
    ]
    right = torch.cat(terms, dim=1) + wide[2]
    leaves = [tensor.requires_grad_() for tensor in (image, mixture, added)]
    assert part.is_by_hand(leaves[0])
    found = part(*leaves)
    gradient = drawn(*right.shape)
    right.backward(gradient.double())
    found.backward(gradient)
    errors = {"sum": error(found, right)}
    for name, one, other in zip(("source", "mixture", "added"), leaves, wide, strict=True):
        errors[f"gradient of the {name}"] = error(one.grad, other.grad)
    stacked = [
        (f"{prefix}.{name}", rows)
        for prefix, m in part.named_modules()
        for name, rows in getattr(m, "rows", {}).items()
    ]
    for name, rows in stacked:
        places = rows if isinstance(rows, list) else [rows]
        tensors = [_learnt(reference[row.edge][row.column], row.name) for row in places]
        errors[name] = error(_learnt(part, name), torch.stack(tensors) if isinstance(rows, list) else tensors[0])
    return errors


def least_numbers_case(own: Any) -> Errors:
    """The gradient of a maximum of nothing but minus infinity goes to a pixel that is there, the first."""
    image = torch.full((1, 4, 3, 3), float("-inf")).contiguous(memory_format=torch.channels_last)
    leaf = image.double().requires_grad_()
    F.max_pool2d(leaf, 3, 1, 1).sum().backward()
    found = own.pooled(image, [MAXIMUM], 3, 1)
    gradient, factors = torch.ones_like(image), torch.ones(1, 1, 4)
    geometry = [MAXIMUM], (3, 3), False, 3, 1
    return {"gradient": error(own.pool_source_gradient(gradient, found.taps, gradient, factors, *geometry), leaf.grad)}


def _learnt(module: torch.nn.Module, name: str) -> Tensor:
    """A parameter's gradient, or a buffer; these are 0, or nearly, and 1 is added."""
    found = dict(module.named_parameters()).get(name)
    return 1 + module.get_buffer(name).double() if found is None else found.grad


@contextmanager
def by_kernels() -> Iterator[None]:
    """Within the block the kernels serve a CPU too, by the interpreter."""
    before = [module.serves for module in SERVED], folding.folds
    for module in SERVED:
        module.serves = lambda image: True
    folding.folds = lambda matrices: max(matrices.shape[1:]) <= 64
    convolutions.kernels = True
    try:
        yield
    finally:
        convolutions.kernels = False
        for module, own in zip(SERVED, before[0], strict=True):
            module.serves = own
        folding.folds = before[1]


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
    yield "depthwise, torch.bfloat16", lambda: depthwise_case(2, 8, (6, 6), (5, 1, 2), torch.bfloat16)
    for groups, inner, outer, shared, scaled, per_edge in [
        (1, 4, 4, False, False, 1), (5, 16, 16, False, True, 1), (2, 64, 64, False, True, 2),
        (3, 32, 16, True, True, 1), (4, 24, 12, True, False, 1), (6, 8, 8, False, True, 3),
    ]:  # fmt: skip
        name = f"fold, {groups} of {outer} x {inner}{', shared' if shared else ''}{', scaled' if scaled else ''}"
        sizes_and_more = groups, inner, outer, shared, scaled, per_edge
        yield f"{name}, {per_edge} side by side", lambda a=sizes_and_more: fold_case(*a)
    for edges, per, channels, side, kinds, dtype in [
        (1, 1, 4, 5, 2, f32), (3, 2, 16, 3, 0, f32), (2, 2, 64, 2, 1, f32), (5, 1, 20, 3, 2, f16),
    ]:  # fmt: skip
        name = f"combined, {edges} times {per} of {channels}, {side} x {side}, {dtype}"
        yield name, lambda a=(edges, per, channels, side, kinds, dtype): combined_case(operators, *a)
    for edges, channels, sides, kernels, own_steps, own in [
        (1, 4, (7, 5), (3, 5), (1, 1), False), (5, 16, (4, 4), (3, 5), (2, 2), False),
        (2, 64, (3, 3), (5, 3), (1, 2), False),
        (2, 6, (9, 8), (3, 5), (1, 1), True), (3, 8, (2, 7), (7,), (2, 1), False),
        (1, 20, (17, 11), (3, 5), (2, 1), True),
    ]:  # fmt: skip
        name = f"measured, {edges} edges, {channels} channels, {sides}, {kernels}, {own_steps}{', own' if own else ''}"
        yield name, lambda a=(edges, channels, sides, kernels, own_steps, own): measured_case(operators, *a)
    for edges, per, channels, scaled in [(1, 2, 4, True), (5, 1, 16, True), (3, 2, 20, False), (2, 2, 64, True)]:
        name = f"parts, {edges} times {per} of {channels}{', scaled' if scaled else ''}"
        yield name, lambda a=(edges, per, channels, scaled): fold_of_parts_case(operators, *a)
    pools = "max_pool_3x3", "avg_pool_3x3"
    convolutions_ = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"
    for names, edges, channels, stride, sides, normed in [
        (("none", *pools, "skip_connect", *convolutions_), 2, 4, 1, (5, 4), True),
        (("none", *pools, "skip_connect", *convolutions_), 3, 8, 2, (5, 7), True),
        ((pools[1], "dil_conv_5x5", pools[0]), 1, 16, 1, (3, 3), True),
        (("skip_connect", "sep_conv_7x7", "none"), 2, 6, 1, (2, 5), True),
        (("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"), 2, 4, 1, (4, 5), False),
        (("conv_7x1_1x7", pools[0], "dil_conv_3x3", "nor_conv_3x3"), 2, 4, 2, (6, 5), True),
        (("skip_connect", "dil_conv_3x3", "skip_connect", "skip_connect"), 2, 8, 2, (5, 4), True),
    ]:  # fmt: skip
        name = f"launched, {len(names)} candidates, {edges} edges, {channels} channels, stride {stride}, {sides}"
        yield name, lambda a=(names, edges, channels, stride, sides, normed): by_kernels()(launched_case)(*a)
    yield "pooled, minus infinity", lambda: least_numbers_case(operators)
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
    for context in (library.switched_off(), by_kernels()):
        with context:
            supernet = build_supernet(settings, shape, stage, active)
            mixture = {kind: torch.full((5, 8), 0.125, requires_grad=True) for kind in settings.space.cell_types}
            weights = {kind: MixtureWeights(matrix) for kind, matrix in mixture.items()}
            output = supernet(images, weights)
            output.square().sum().backward()
        gradients = {name: weight.grad for name, weight in supernet.named_parameters() if weight.grad is not None}
        buffers = {name: 1 + buffer.double() for name, buffer in supernet.named_buffers()}  # means are 0 or nearly
        found.append({"output": output, **{kind: m.grad for kind, m in mixture.items()}, **gradients, **buffers})
    return {name: error(found[1][name], right) for name, right in found[0].items()}


def main() -> None:
    """Run all cases."""
    torch.manual_seed(0)
    for name, case in cases():
        print(json.dumps([name, case()]), flush=True)


if __name__ == "__main__":
    main()
