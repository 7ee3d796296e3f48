"""From architecture parameters to mixture weights: the continuous relaxation, and the scores used at discretisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Relaxation:
    """How a matrix of architecture parameters becomes mixture weights; both are (edges, candidates)."""

    def weights(self, alpha: Tensor) -> Tensor:
        """What the supernet is called with; differentiable."""
        raise NotImplementedError

    def scores(self, alpha: Tensor) -> Tensor:
        """What discretisation ranks: without noise, comparable over edges and candidates."""
        raise NotImplementedError

    def mixture(self, alpha: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mixture weights of every cell type."""
        return {kind: self.weights(matrix) for kind, matrix in alpha.items()}


@dataclass
class Softmax(Relaxation):
    """Softmax over the candidates of each edge (Liu et al. 2019, equation 2)."""

    def weights(self, alpha: Tensor) -> Tensor:
        return alpha.softmax(dim=-1)

    def scores(self, alpha: Tensor) -> Tensor:
        return alpha.softmax(dim=-1)
