"""Mixture weights as they pass from a method to the supernet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor


class Paths(NamedTuple):
    """Mixture weights of which some are zero and need not be computed: `computed` says by edge which columns are."""

    weights: Tensor  # (edges, columns)
    computed: list[list[int]]


Progress: TypeAlias = "float | Tensor"  # the share of the search that is done; a tensor where a CUDA graph reads it

# By cell type the mixture weights (edges, columns) of all its cells, or (cells, edges, columns), a matrix each.
Mixture = Mapping[str, "Tensor | Paths"]
