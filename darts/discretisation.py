"""From scores to a genotype: which edges stay and which operation each of them carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.genotype import Cell, Edge, Genotype
from darts.spaces import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Discretisation:
    """A rule that turns the scores of every cell type, (edges, candidates), into a genotype."""

    def genotype(self, scores: Mapping[str, Tensor], space: SearchSpace) -> Genotype:
        """The genotype of the given scores."""
        raise NotImplementedError


@dataclass
class StrongestEdges(Discretisation):
    """At each node the edges with the strongest operation stay, and that operation (Liu et al. 2019, section 2.4).

    `none` is never chosen. Ties go to the candidate and to the input that come first; a node's edges stand in order
    of strength.
    """

    def genotype(self, scores: Mapping[str, Tensor], space: SearchSpace) -> Genotype:
        return Genotype(space.name, {kind: self._cell(matrix, space) for kind, matrix in scores.items()})

    def _cell(self, scores: Tensor, space: SearchSpace) -> Cell:
        selectable = space.selectable()
        eligible = scores.detach().cpu()[:, selectable]
        strength, column = eligible.max(dim=1).values, eligible.argmax(dim=1)  # (edges,); argmax: the first on ties
        nodes = []
        for node in range(space.nodes):
            incoming = space.incoming(node)
            order = strength[list(incoming)].argsort(descending=True, stable=True)
            kept = order[: space.edges_kept].tolist()
            names = [space.candidates[selectable[int(column[incoming[source]])]] for source in kept]
            nodes.append(tuple(Edge(name, source) for name, source in zip(names, kept, strict=True)))
        return Cell(tuple(nodes), tuple(range(2, space.nodes + 2)))
