"""The operators of darts/models/fused/by_hand.py on a CPU: arguments for the functions of source.c.

They are those of darts/models/kernels/operators.py, whose docstrings describe them. Maps are float32 and channels
last, or some channels of a wider map; their channels are a multiple of 4. Sums over pixels come in parts, of some
images each.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darts.models.compiled.library import LANES, lanes_of, load
from darts.models.kernels.rows import new_map, rows
from darts.models.kernels.types import (
    MAXIMUM,
    Diagonal,
    Folded,
    FoldedPools,
    FoldGradient,
    Kernels,
    Kinds,
    Pooled,
    Scales,
    Term,
)

TYPES = torch.float32, torch.int64, torch.uint8  # the latter two: counts of batches, and taps of pools
MOST_PARTS = 16  # that images are divided into, which as many threads may sum
MOST_TERMS = 4
WORTH_THREADS = 1 << 14  # numbers of a map that more than one thread is used for: fewer take 10 microseconds or so


class _Tracing(threading.local):
    """Of a thread: where calls go instead of being made, while a program is traced (program.py)."""

    calls: list[_Call] | None = None


tracing = _Tracing()


class _Call:
    """A function of source.c and its arguments so far; keeps the tensors until it has run."""

    def __init__(self, name: str, channels: int) -> None:
        self.function = _function(name, lanes_of(channels) or 0)
        self.arguments: list[int] = [torch.get_num_threads()]
        self.tensors: list[Tensor] = []
        self.places: list[int] = []  # of the tensors, among the arguments
        self.largest = 0  # numbers of a map

    def numbers(self, *numbers: int) -> None:
        """Sizes and distances."""
        self.arguments += numbers

    def tensor(self, tensor: Tensor | None) -> None:
        """The place of a tensor's first number, 0 for none."""
        if tensor is None:
            self.arguments.append(0)
            return
        if tensor.dtype not in TYPES or tensor.device.type != "cpu":
            raise TypeError(f"C kernels take float32 on the CPU; got {tensor.dtype} on {tensor.device}")
        self.tensors.append(tensor)
        self.places.append(len(self.arguments))
        self.arguments.append(tensor.data_ptr())

    def map(self, image: Tensor | None) -> None:
        """A map, and from a pixel to the next."""
        if image is None:
            self.numbers(0, 0)
            return
        own = rows(image)
        self.tensor(own.map)
        self.numbers(own.distance)
        self.largest = max(self.largest, image.numel())

    def channels(self, image: Tensor, of_group: int) -> None:
        """How far a group's channels are from another's: 0 where all groups have the image's."""
        step = of_group if image.shape[1] > of_group else 0
        self.numbers(step)

    def __call__(self) -> None:
        if 0 < self.largest < WORTH_THREADS:
            self.arguments[0] = 1
        if tracing.calls is not None:
            tracing.calls.append(self)
            return
        self.function((ctypes.c_int64 * len(self.arguments))(*self.arguments))


@functools.cache
def _function(name: str, lanes: int) -> Any:
    return getattr(load(lanes), name)


@functools.cache
def _doubles(*numbers: float) -> ctypes.Array[ctypes.c_double]:
    return (ctypes.c_double * len(numbers))(*numbers)


def _parts(image: Tensor) -> int:
    return min(len(image), MOST_PARTS)


class Changes(NamedTuple):
    """What `combined` may do besides, with up to `MOST_TERMS` terms: of this library alone."""

    rectified: bool = False  # the image of the first term goes through ReLU; of one group only
    positive: Tensor | None = None  # a map: where it is not positive, the sum is 0
    by_image: Tensor | None = None  # a factor for each image, (batch,), of all but the added map


def combined(
    terms: Sequence[Term], constants: Sequence[Tensor], groups: int, outer: int, diagonal: Diagonal | None = None,
    added: Tensor | None = None, rectify: bool = False, changes: Changes | None = None,
) -> Tensor:  # fmt: skip
    """The sum of all terms and of constants (any number for each group and channel), plus another map; then ReLU."""
    changes = changes or Changes()
    pools, plain, factors = diagonal or (None, None, None)
    images = [image for image in (*(term.image for term in terms), pools, plain, added) if image is not None]
    like = images[0]
    if any(len(image) != len(like) or image.shape[2:] != like.shape[2:] for image in images):
        raise ValueError(f"no sum of maps of {' and '.join(str(tuple(image.shape)) for image in images)}")
    if len(terms) > MOST_TERMS or len(constants) > MOST_TERMS:
        half = combined(terms[:MOST_TERMS], constants[:MOST_TERMS], groups, outer, diagonal, added)
        return combined(terms[MOST_TERMS:], constants[MOST_TERMS:], groups, outer, None, half, rectify)
    lanes = math.gcd(outer, terms[0].matrices.shape[3]) if changes.rectified else outer
    result, call = new_map(like, groups * outer), _Call("combined", lanes)
    call.numbers(len(result), result.shape[2] * result.shape[3], groups, outer, rectify)
    call.map(result)
    call.map(added)
    call.map(changes.positive)
    call.tensor(changes.by_image)
    call.numbers(changes.rectified)
    call.numbers(len(terms))
    for image, matrices in terms:
        call.map(image)
        inner = matrices.shape[3]
        call.channels(image, inner)
        call.numbers(inner)
        call.tensor(matrices)
        call.numbers(matrices.shape[1], *matrices.stride())
    kinds = [] if pools is None else list(pools.split(outer, dim=1))
    call.numbers(len(kinds) + (plain is not None))
    call.tensor(factors)
    for image in kinds if plain is None else [*kinds, plain]:
        call.map(image)
    call.numbers(len(constants))
    for constant in constants:
        call.tensor(constant.contiguous())
        call.numbers(constant.numel() // (groups * outer))
    call()
    return result


def mapped(image: Tensor, matrices: Tensor, constants: Tensor | None = None, rectify: bool = False) -> Tensor:
    """Each group of C' channels through its matrix, plus constants, and then ReLU."""
    groups, outer = matrices.shape[:2]
    shifts = [] if constants is None else [constants]
    return combined([Term(image, matrices[:, None])], shifts, groups, outer, rectify=rectify)


def times_factors(image: Tensor, factors: Tensor) -> Tensor:
    """The map with each image times its factor, (batch,)."""
    result, call = new_map(image, image.shape[1]), _Call("times_factors", image.shape[1])
    call.numbers(len(image), image.shape[2] * image.shape[3], image.shape[1])
    call.map(image)
    call.tensor(factors)
    call.tensor(result)
    call()
    return result


def where_positive(image: Tensor, positive: Tensor) -> Tensor:
    """The map where another one is positive, else 0."""
    result, call = new_map(image, image.shape[1]), _Call("map_where_positive", image.shape[1])
    call.numbers(image.numel() // image.shape[1], image.shape[1])
    call.map(image)
    call.map(positive)
    call.tensor(result)
    call()
    return result


def parts(left: Tensor, right: Tensor, groups: int, rectified: bool = False) -> Tensor:
    """What `products` returns, before it is summed over the parts that images were divided into.

    `rectified`: of right's ReLU; of this library alone.
    """
    high, width, number = left.shape[1] // groups, right.shape[1] // groups, _parts(left)
    result, call = left.new_empty((number, groups * high * (width + 1))), _Call("products", math.gcd(high, width))
    call.numbers(len(left), left.shape[2] * left.shape[3], number, groups, high, width)
    call.map(left)
    call.map(right)
    call.tensor(result)
    call.numbers(rectified)
    call()
    return result


def sum_parts(parts: Tensor, number: int) -> Tensor:
    """The first so many numbers, summed over the parts."""
    result, call = parts.new_empty(number), _Call("sum_parts", max(LANES))  # of any vectors: it has none
    call.arguments = [len(parts), parts.shape[1]]  # and takes no number of threads
    call.tensor(parts)
    call.numbers(number)
    call.tensor(result)
    call()
    return result


def channel_sums(left: Tensor, right: Tensor, middle: Tensor) -> Tensor:
    """Parts of sums over pixels, by channel: of left times (right minus `middle`, (C,)), and of left."""
    channels, number = left.shape[1], _parts(left)
    result, call = left.new_empty((number, 2 * channels)), _Call("channel_sums", channels)
    call.numbers(len(left), left.shape[2] * left.shape[3], number, channels)
    call.map(left)
    call.map(right)
    call.tensor(middle)
    call.tensor(result)
    call()
    return result


def channel_moments(image: Tensor) -> Tensor:
    """Parts of sums over pixels, by channel: of the map, and of squared deviations from the part's mean."""
    channels, number = image.shape[1], _parts(image)
    result, call = image.new_empty((number, 2 * channels)), _Call("channel_moments", channels)
    call.numbers(len(image), image.shape[2] * image.shape[3], number, channels)
    call.map(image)
    call.tensor(result)
    call()
    return result


def fold_norm(
    image: Tensor, affine: Sequence[Tensor], running: Sequence[Tensor], numbers: tuple[bool, float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch norm as factors (1, 1, C) and constants (C,) of its map, and its mean and r, (2, C), for the gradient.

    Moves the running statistics, mean, variance and count. `affine`: scale and shift; `numbers`: whether statistics
    move, eps, momentum.
    """
    parts, channels = channel_moments(image), image.shape[1]
    statistics, factors, constants = (parts.new_empty(shape) for shape in ((2, channels), (1, 1, channels), channels))
    call = _Call("fold_norm", channels)
    call.arguments = [channels, len(image), image.shape[2] * image.shape[3], len(parts)]
    for tensor in (parts, *affine, *running):
        call.tensor(tensor)
    call.numbers(numbers[0])
    for tensor in (*statistics, factors, constants):
        call.tensor(tensor)
    call.numbers(ctypes.addressof(_doubles(*numbers[1:])))
    call()
    return factors, constants, statistics


def fold_norm_gradient(
    gradient: Tensor, image: Tensor, scale: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of scale and shift; and the map's as factors (1, 2, C) of the result's and of the map, and constants (C,)."""
    parts, pixels = channel_sums(gradient, image, statistics[0]), image.numel() // image.shape[1]
    of_scale, of_shift, constants = (torch.empty_like(scale) for _ in range(3))
    factors, call = scale.new_empty((1, 2, len(scale))), _Call("fold_norm_gradient", len(scale))
    call.arguments = [len(scale), pixels, len(parts)]
    for tensor in (parts, scale, *statistics, of_scale, of_shift, factors, constants):
        call.tensor(tensor)
    call()
    return of_scale, of_shift, factors, constants


def every_second(image: Tensor) -> Tensor:
    """ReLU at even lines and columns, and as further channels at those one further; (batch, 2 C, H / 2, W / 2)."""
    sides = -(-image.shape[2] // 2), -(-image.shape[3] // 2)
    result = new_map(image, 2 * image.shape[1], sides)
    call = _of_every_second("every_second", image, sides)
    call.tensor(result)
    call()
    return result


def every_second_gradient(gradient: Tensor, image: Tensor) -> Tensor:
    """The image's, from the gradient of what `every_second` makes of it."""
    result = new_map(image, image.shape[1])
    call = _of_every_second("every_second_gradient", image, gradient.shape[2:])
    call.map(gradient)
    call.tensor(result)
    call()
    return result


def _of_every_second(name: str, image: Tensor, sides: Sequence[int]) -> _Call:
    call = _Call(name, image.shape[1])
    call.numbers(len(image), *image.shape[2:], *sides, image.shape[1])
    call.map(image)
    return call


def products(left: Tensor, right: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sums over pixels of left times right, (K, A, B), and of left, (K, A)."""
    total = parts(left, right, groups).sum(0)
    high, width = left.shape[1] // groups, right.shape[1] // groups
    size = groups * high * width
    return total[:size].view(groups, high, width), total[size:].view(groups, high)


def _add_kernels(call: _Call, kernels: Kernels, groups: int, channels: int) -> None:
    for kernel in kernels.both:
        call.tensor(kernel)
    call.numbers(*kernels.sides, kernels.candidates, groups, channels)


def measured(image: Tensor, kernels: Kernels, steps: tuple[int, int], rectify: bool) -> tuple[Tensor, Tensor]:
    """The depthwise convolution, perhaps of the image's ReLU, and parts of its sums of products."""
    groups, channels, stride = kernels.groups, kernels.first.shape[1], steps[0]
    sides = -(-image.shape[2] // stride), -(-image.shape[3] // stride)
    result, number = new_map(image, groups * channels, sides), _parts(image)
    sums = image.new_empty((number, groups * channels * (channels + 1)))
    call = _Call("depthwise", channels)
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
    result, call = new_map(source, source.shape[1]), _Call("source_gradient", channels)
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
    call = _Call("kernel_gradients", channels)
    call.numbers(len(image), _parts(image), *image.shape[2:], *gradient.shape[2:], *steps, rectify)
    call.numbers(*kernels.sides, len(found), groups, channels)
    call.map(gradient)
    call.map(image)
    call.channels(image, channels)
    call.tensor(found[0])
    call.tensor(found[-1])
    call()
    return Kernels(*found)


def _add_scales(call: _Call, scales: Scales | None) -> None:
    mixture, columns = scales or (None, (0,))
    step = 0 if mixture is None else mixture.stride(0)
    call.tensor(mixture)
    call.numbers(step, columns[0], columns[-1])


def folded(
    P: Tensor, scales: Scales | None, parts: Tensor, pixels: int, running: tuple[Tensor, ...],
    numbers: tuple[bool, float, float], per_edge: int = 1,
) -> Folded:  # fmt: skip
    """W and b of P (K, C', C), whose input's moments over `pixels` come as parts."""
    found = Folded.of(P.new_empty(Folded.size(P.shape)), P.shape, per_edge)
    fold(found, P, scales, parts, pixels, running, numbers, per_edge)
    return found


def fold(
    found: Folded, P: Tensor, scales: Scales | None, parts: Tensor, pixels: int, running: tuple[Tensor, ...],
    numbers: tuple[bool, float, float], per_edge: int = 1, affine: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """The same, written to `found`; `affine`: scale and shift of each batch norm, (K, C'), in place of scales."""
    groups, outer, inner = P.shape
    call = _Call("fold", inner)
    call.numbers(groups, outer, inner, per_edge, pixels, len(parts))
    call.tensor(parts)
    call.tensor(P.contiguous())
    _add_scales(call, scales)
    for row in affine or (None, None):
        call.tensor(row)
    for tensor in running:
        call.tensor(tensor)
    call.numbers(numbers[0])
    for tensor in found:
        call.tensor(tensor)
    call.numbers(ctypes.addressof(_doubles(*numbers[1:])))
    call()


def fold_gradient(
    P: Tensor, scales: Scales | None, kept: Folded, parts: Tensor, pixels: int, for_mixture: Tensor | None,
    per_edge: int = 1, affine: Sequence[Tensor] = (),
) -> FoldGradient:  # fmt: skip
    """What the sums of g d' and g over pixels, in parts, make of P and of d; the mixture's is written.

    `affine`: each batch norm's scale, (K, C'), and where its gradient and its shift's are written.
    """
    P = P.contiguous()
    groups, outer, inner = P.shape
    found = FoldGradient(torch.empty_like(P), torch.empty_like(kept.covariance), torch.empty_like(kept.mean))
    call = _Call("fold_gradient", inner)
    call.numbers(groups, outer, inner, per_edge, pixels, len(parts))
    call.tensor(parts)
    call.tensor(P)
    _add_scales(call, scales)
    for tensor in (for_mixture, *(affine or (None,) * 3), kept.means, kept.factors, kept.mean, kept.covariance, *found):
        call.tensor(tensor)
    call()
    return found


def pooled(image: Tensor, kinds: Sequence[int], side: int, stride: int) -> Pooled:
    """Pools of one map over the pixels that are there, side by side, and parts of their sums."""
    channels, sides = image.shape[1], (-(-image.shape[2] // stride), -(-image.shape[3] // stride))
    number = _parts(image)
    taps = new_map(image, channels, sides, torch.uint8)
    sums = image.new_empty((number, 2 * len(kinds) * channels))
    found, call = Pooled(new_map(image, len(kinds) * channels, sides), taps, sums), _Call("pooled", channels)
    call.numbers(len(image), number, *image.shape[2:], *sides, channels, side, stride, len(kinds), _maxima(kinds))
    call.map(image)
    for tensor in found:
        call.tensor(tensor)
    call()
    return found


def _maxima(kinds: Sequence[int]) -> int:
    return sum(1 << at for at, kind in enumerate(kinds) if kind == MAXIMUM)


def _add_kinds(call: _Call, kinds: Kinds) -> None:
    columns, plain = [*kinds.columns, 0, 0][:2], -1 if kinds.plain is None else kinds.plain
    call.numbers(len(kinds.columns), *columns, plain)


def folded_pools(mixture: Tensor, kinds: Kinds, found: Pooled | None, channels: int, eps: float | None) -> FoldedPools:
    """Factors and constants of pools, by their batch's statistics, or, `eps` None, as they are."""
    factors = mixture.new_empty((len(mixture), kinds.number, channels))
    constants, statistics = mixture.new_empty((len(mixture), channels)), (3, len(kinds.columns), channels)
    result, call = FoldedPools(factors, constants, mixture.new_empty(statistics)), _Call("fold_pools", channels)
    call.arguments = [len(mixture), channels]
    _add_kinds(call, kinds)
    normed = found is not None and eps is not None
    call.numbers(normed)
    if found is None:
        call.numbers(1, 1, 0, 0)
    else:
        call.numbers(len(found.taps), found.taps.shape[2] * found.taps.shape[3], len(found.parts))
        call.tensor(found.parts)
    call.tensor(mixture)
    call.numbers(mixture.stride(0))
    for tensor in result:
        call.tensor(tensor)
    call.numbers(ctypes.addressof(_doubles(eps or 0.0)))
    call()
    return result


def pool_products(gradient: Tensor, pools: Tensor | None, plain: Tensor | None, channels: int) -> Tensor:
    """Parts of the sums over pixels of each edge's gradient times each kind's map, and of the gradient alone."""
    kinds = 0 if pools is None else pools.shape[1] // channels
    edges, number, has_plain = gradient.shape[1] // channels, _parts(gradient), plain is not None
    result = gradient.new_empty((number, edges * (kinds + has_plain + 1) * channels))
    call = _Call("pool_products", channels)
    call.numbers(len(gradient), gradient.shape[2] * gradient.shape[3], number, edges, channels, kinds, has_plain)
    for image in (gradient, pools, plain):
        call.map(image)
    call.tensor(result)
    call()
    return result


def fold_pools_gradient(
    mixture: Tensor, kinds: Kinds, parts: Tensor, statistics: Tensor, pixels: int, normed: bool, for_mixture: Tensor
) -> tuple[Tensor, Tensor]:
    """By what factor and constant, (P, C), a pool's map is in its own gradient; the mixture's is written."""
    linear, constants = (statistics.new_empty(statistics.shape[1:]) for _ in range(2))
    call = _Call("fold_pools_gradient", statistics.shape[2])
    call.arguments = [len(mixture), statistics.shape[2]]
    _add_kinds(call, kinds)
    call.numbers(normed, pixels, len(parts))
    call.tensor(parts)
    call.tensor(mixture)
    call.numbers(mixture.stride(0))
    for tensor in (for_mixture, statistics, linear, constants):
        call.tensor(tensor)
    call()
    return linear, constants


def pool_maps_gradient(
    gradient: Tensor, factors: Tensor, pools: Tensor, linear: Tensor, constants: Tensor, normed: bool
) -> Tensor:
    """The gradient of the pools' maps, (batch, P C, H', W')."""
    edges, kinds, channels = factors.shape
    result, call = new_map(pools, pools.shape[1]), _Call("pool_maps_gradient", channels)
    call.numbers(pools.numel() // pools.shape[1], edges, channels, pools.shape[1] // channels, kinds, normed)
    call.map(gradient)
    call.tensor(factors)
    call.map(pools)
    for tensor in (linear, constants, result):
        call.tensor(tensor)
    call()
    return result


def pool_source_gradient(
    maps: Tensor | None, taps: Tensor | None, gradient: Tensor, factors: Tensor, kinds: Sequence[int],
    sides: Sequence[int], plain: bool, side: int, stride: int,
) -> Tensor:  # fmt: skip
    """Of the pools' input, (batch, C, *sides), from that of their maps, and from the edges' where it comes as it is."""
    edges, _, channels = factors.shape
    result, call = new_map(gradient, channels, (sides[0], sides[1])), _Call("pool_source_gradient", channels)
    call.numbers(len(gradient), *sides, *gradient.shape[2:], channels, side, stride, edges, len(kinds), _maxima(kinds))
    call.numbers(plain)
    call.tensor(maps)
    call.tensor(taps)
    call.map(gradient)
    call.tensor(factors)
    call.tensor(result)
    call()
    return result
