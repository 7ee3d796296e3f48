"""What the operators of by_hand.py are given and return, whichever library computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

AVERAGE, MAXIMUM = 0, 1  # kinds of pools


class Kernels(NamedTuple):
    """The kernels of K edges, (K, C, 1, k, k); of two candidates, perhaps of two sizes, which alternate as groups."""

    first: Tensor
    second: Tensor | None = None

    @property
    def sides(self) -> tuple[int, int]:
        """k of both; the first's, where there is but one."""
        return self.first.shape[-1], (self.first if self.second is None else self.second).shape[-1]

    @property
    def candidates(self) -> int:
        """How many there are."""
        return 1 if self.second is None else 2

    @property
    def groups(self) -> int:
        """G."""
        return len(self.first) * self.candidates

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Contiguous; the first twice, where there is but one."""
        first = self.first.contiguous()
        return first, first if self.second is None else self.second.contiguous()


class Scales(NamedTuple):
    """The mixture (edges, candidates), and its columns for the one or two candidates that alternate as groups."""

    mixture: Tensor
    columns: Sequence[int]


class Folded(NamedTuple):
    """What a batch's moments make of P, and what its gradient needs of them."""

    W: Tensor  # as fold.folded has it
    b: Tensor  # (K, C')
    means: Tensor  # u of the convolution, (K, C')
    factors: Tensor  # r of it
    mean: Tensor  # m, (K, C)
    covariance: Tensor  # S, (K, C, C)

    @staticmethod
    def size(matrices: Sequence[int]) -> int:
        """How many numbers it has for P of this shape."""
        return sum(map(math.prod, Folded.shapes(matrices)))

    @staticmethod
    def shapes(matrices: Sequence[int], per_edge: int = 1) -> list[tuple[int, ...]]:
        """Of its tensors, for P of this shape."""
        groups, outer, inner = matrices
        W = groups // per_edge, outer, per_edge * inner
        return [W, *[(groups, outer)] * 3, (groups, inner), (groups, inner, inner)]

    @classmethod
    def of(cls, numbers: Tensor, matrices: Sequence[int]) -> Folded:
        """Views of so many numbers one after the other, for P of this shape."""
        shapes = cls.shapes(matrices)
        found = numbers.split([math.prod(shape) for shape in shapes])
        return cls(*(part.view(shape) for part, shape in zip(found, shapes, strict=True)))


class FoldGradient(NamedTuple):
    """Of P, and the map by which the moments' gradients reach what they are of."""

    P: Tensor
    matrices: Tensor  # M, (K, C, C)
    constants: Tensor  # c, (K, C)


class Term(NamedTuple):
    """An image, and the matrix by which each group of the sum has some of its channels.

    `matrices`: (M, N, C, C'), whose group of the sum is N m + n. It is given channels C' m to C' (m + 1) of the image,
    or, where the image has C' channels only, all of them.
    """

    image: Tensor
    matrices: Tensor


class Diagonal(NamedTuple):
    """Images of which every group has each channel times a factor: D kinds of C channels, factors (groups, D, C)."""

    pools: Tensor | None  # (batch, P C, H, W)
    plain: Tensor | None  # (batch, C, H, W), the last kind
    factors: Tensor


class Pooled(NamedTuple):
    """The pools' maps side by side, and what their gradients need."""

    maps: Tensor  # (batch, P C, H', W')
    taps: Tensor  # (batch, C, H', W'): which pixel under the kernel is the largest, row by row
    parts: Tensor  # of the sums over pixels of each channel, and of its square

    @property
    def pixels(self) -> int:
        """Of a pool's map, in all images."""
        return self.taps.numel() // self.taps.shape[1]


class FoldedPools(NamedTuple):
    """The kinds' factors and constants on each edge, and the batch's statistics."""

    factors: Tensor  # f, (K, D, C)
    constants: Tensor  # b, the kinds' sum, (K, C)
    statistics: Tensor  # m, v and r, (3, P, C)


class Kinds(NamedTuple):
    """Which columns of the mixture (K, candidates) belong to the pools, and to the map that comes as it is."""

    columns: Sequence[int]
    plain: int | None

    @property
    def number(self) -> int:
        """Of all kinds."""
        return len(self.columns) + (self.plain is not None)
