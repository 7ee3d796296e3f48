"""Sums of maps through 1x1 convolutions, sums of products over pixels, and what else a map is made of by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from darts.models.compiled.call import Call, parts_of
from darts.models.compiled.library import LANES
from darts.models.kernels.rows import new_map, rows
from darts.models.kernels.types import Diagonal, Term

MOST_TERMS = 4


class Changes(NamedTuple):
    """What `combined` may do besides, with up to `MOST_TERMS` terms: of this library alone."""

    rectified: bool = False  # the image of the first term goes through ReLU; of one group only
    positive: Tensor | None = None  # a map: where it is not positive, the sum is 0
    by_image: Tensor | None = None  # a factor for each image, (batch,), of all but the added map
    into: Tensor | None = None  # the map that is written, in place of a new one


def combined(
    terms: Sequence[Term], constants: Sequence[Tensor], groups: int, outer: int, diagonal: Diagonal | None = None,
    added: Tensor | None = None, rectify: bool = False, changes: Changes | None = None,
) -> Tensor:  # fmt: skip
    """The sum of all terms and of constants (any number for each group and channel), plus another map; then ReLU."""
    changes = changes or Changes()
    pools, plain, factors = diagonal or (None, None, None)
    given = [*(term.image for term in terms), pools, plain, added]
    images = [image for image in given if image is not None]
    like = images[0]
    if any(len(image) != len(like) or image.shape[2:] != like.shape[2:] for image in images):
        raise ValueError(f"no sum of maps of {' and '.join(str(tuple(image.shape)) for image in images)}")
    if len(terms) > MOST_TERMS or len(constants) > MOST_TERMS:
        half = combined(terms[:MOST_TERMS], constants[:MOST_TERMS], groups, outer, diagonal, added)
        return combined(terms[MOST_TERMS:], constants[MOST_TERMS:], groups, outer, None, half, rectify)
    lanes = math.gcd(outer, terms[0].matrices.shape[3]) if changes.rectified else outer
    result, call = _written(changes.into, like, groups * outer), Call("combined", lanes)
    call.numbers(len(result), result.shape[2] * result.shape[3], groups, outer, rectify)
    call.map(result)
    call.map(added)
    call.map(changes.positive)
    call.tensor(changes.by_image)
    call.numbers(changes.rectified)
    _add_terms(call, terms)
    kinds = [] if pools is None else list(pools.split(outer, dim=1))
    call.numbers(len(kinds) + (plain is not None))
    call.tensor(factors)
    for image in kinds if plain is None else [*kinds, plain]:
        call.map(image)
    _add_constants(call, constants, groups * outer)
    call()
    return result


def _add_terms(call: Call, terms: Sequence[Term]) -> None:
    call.numbers(len(terms))
    for image, matrices in terms:
        call.map(image)
        inner = matrices.shape[3]
        call.channels(image, inner)
        call.numbers(inner)
        call.tensor(matrices)
        call.numbers(matrices.shape[1], *matrices.stride())


def _add_constants(call: Call, constants: Sequence[Tensor], channels: int) -> None:
    call.numbers(len(constants))
    for constant in constants:
        call.tensor(constant.contiguous())
        call.numbers(constant.numel() // channels)


def mapped(image: Tensor, matrices: Tensor, constants: Tensor | None = None, rectify: bool = False) -> Tensor:
    """Each group of C' channels through its matrix, plus constants, and then ReLU."""
    groups, outer = matrices.shape[:2]
    shifts = [] if constants is None else [constants]
    return combined([Term(image, matrices[:, None])], shifts, groups, outer, rectify=rectify)


def scaled_sum(
    image: Tensor, factors: Tensor | None = None, added: Tensor | None = None, into: Tensor | None = None
) -> Tensor:
    """The map with each image times its factor, (batch,), plus another map; `into`: as `Changes` has it."""
    result, call = _written(into, image, image.shape[1]), Call("scaled_sum", image.shape[1])
    call.numbers(len(image), image.shape[2] * image.shape[3], image.shape[1])
    call.map(result)
    call.map(image)
    call.tensor(factors)
    call.map(added)
    call()
    return result


def _written(into: Tensor | None, like: Tensor, channels: int) -> Tensor:
    """The map that is to be written, which must have these channels and the other's images and sides."""
    if into is None:
        return new_map(like, channels)
    due = len(like), channels, *like.shape[2:]
    if into.shape != due or rows(into).map is not into:
        raise ValueError(f"a map {due} is written into one that lies as rows; got {tuple(into.shape)}")
    return into


def where_positive(image: Tensor, positive: Tensor) -> Tensor:
    """The map where another one is positive, else 0."""
    result, call = new_map(image, image.shape[1]), Call("map_where_positive", image.shape[1])
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
    high, width, number = left.shape[1] // groups, right.shape[1] // groups, parts_of(left)
    result, call = left.new_empty((number, groups * high * (width + 1))), Call("products", math.gcd(high, width))
    call.numbers(len(left), left.shape[2] * left.shape[3], number, groups, high, width)
    call.map(left)
    call.map(right)
    call.tensor(result)
    call.numbers(rectified)
    call()
    return result


def sum_parts(parts: Tensor, number: int) -> Tensor:
    """The first so many numbers of a part, summed over the parts."""
    result, call = parts.new_empty(number), Call("sum_parts", max(LANES))  # of any vectors: it has none
    call.arguments = [len(parts), parts.stride(0)]  # and takes no number of threads
    call.tensor(parts)
    call.numbers(number)
    call.tensor(result)
    call()
    return result


def products(left: Tensor, right: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sums over pixels of left times right, (K, A, B), and of left, (K, A)."""
    found = parts(left, right, groups)
    high, width = left.shape[1] // groups, right.shape[1] // groups
    size = groups * high * width
    alone = sum_parts(found[:, size:], groups * high)
    return sum_parts(found, size).view(groups, high, width), alone.view(groups, high)
