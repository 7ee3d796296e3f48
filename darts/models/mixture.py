"""Mixture weights as they pass from a method to the supernet: one type, whatever the relaxation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor


class MixtureWeights(NamedTuple):
    """The weights of the mixed operations of one cell type.

    Columns are the candidates, then the edge extras, then (with partial channels) the weight of the other channels.
    """

    weights: Tensor  # (edges, columns) for all its cells, or (cells, edges, columns), a matrix for each
    computed: list[list[int]] | None = None  # by edge the columns that are not zero; None: compute every column
    rest_added: bool = False  # the other columns' weights, all 0, are added to the edge's output for their gradient

    def with_weights(self, weights: Tensor) -> MixtureWeights:
        """Other numbers in the same columns."""
        return self._replace(weights=weights)

    def of_cell(self, index: int) -> MixtureWeights:
        """What the cell number `index` of this type is called with: one matrix (edges, columns)."""
        return self.with_weights(self.weights[index]) if self.weights.dim() == 3 else self

    def columns_of(self, edge: int) -> list[int] | None:
        """The columns of an edge that are not zero; None for all."""
        return None if self.computed is None else self.computed[edge]

    def with_columns(self, extra: list[Tensor]) -> MixtureWeights:
        """The same with more columns, each (edges, 1), which are computed wherever a candidate is."""
        import torch

        if not extra:
            return self
        first = self.weights.shape[-1]
        added = list(range(first, first + len(extra)))
        computed = self.computed
        if computed is not None:
            computed = [[*columns, *added] if columns else [] for columns in computed]
        return MixtureWeights(torch.cat([self.weights, *extra], dim=-1), computed, self.rest_added)


Number: TypeAlias = "float | Tensor"


class Moment(NamedTuple):
    """When in a search a step is taken; the numbers are tensors where a CUDA graph reads them."""

    progress: Number  # fraction of search.epochs that is done, step by step
    epoch: Number  # epochs that are done, a whole number below `epochs`
    epochs: int  # search.epochs

    @property
    def epoch_progress(self) -> Number:
        """Fraction of search.epochs that is done, epoch by epoch: 0 in the first, 1 - 1/epochs in the last."""
        return self.epoch / self.epochs

    @property
    def to_last_epoch(self) -> Number:
        """From 0 in the first epoch to 1 in the last, epoch by epoch."""
        return self.epoch / max(1, self.epochs - 1)


START = Moment(0.0, 0, 1)  # of a search of one epoch


Mixture: TypeAlias = Mapping[str, MixtureWeights]  # by cell type


def dense_mixture(matrices: Mapping[str, Tensor]) -> dict[str, MixtureWeights]:
    """The mixture of matrices (edges, columns) by cell type of which every column is computed."""
    return {kind: MixtureWeights(matrix) for kind, matrix in matrices.items()}
