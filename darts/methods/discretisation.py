"""From scores to a genotype: which edges stay and which operation each of them carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.config.registry import register
from darts.runtime.errors import require
from darts.spaces.genotype import Cell, Edge, Genotype
from darts.spaces.search_space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Discretisation:
    """A rule that turns the scores of every cell type, (edges, candidates), into a genotype."""

    def genotype(self, scores: Mapping[str, Tensor], space: SearchSpace) -> Genotype:
        """The genotype of the given scores."""
        cells = {kind: self._cell(kind, matrix.detach().cpu().tolist(), space) for kind, matrix in scores.items()}
        return Genotype(space.name, cells)

    def _cell(self, kind: str, scores: list[list[float]], space: SearchSpace) -> Cell:
        raise NotImplementedError


@register("discretisation", "strongest_edges")
@dataclass
class StrongestEdges(Discretisation):
    """At each node the edges with the strongest operation stay, and that operation (Liu et al. 2019, section 2.4).

    `none` is never chosen, except in a space that keeps every edge. Ties go to the candidate and to the input that come
    first; a node's edges are in order of strength, in order of their inputs where all are kept.
    """

    def _cell(self, kind: str, scores: list[list[float]], space: SearchSpace) -> Cell:
        nodes = []
        for node in range(space.nodes):
            best = [_strongest(scores[edge], space.selectable(kind, edge)) for edge in space.incoming(node)]
            order = sorted(range(len(best)), key=lambda place: -best[place][0])
            kept = range(len(best)) if space.edges_kept is None else order[: space.edges_kept]
            sources = space.sources(node)
            nodes.append(tuple(Edge(space.candidates[best[place][1]], sources[place]) for place in kept))
        return Cell(tuple(nodes), space.joined(), space.layout.inputs)


def _strongest(row: list[float], columns: list[int]) -> tuple[float, int]:
    """The largest score among some columns and its column; the first on ties."""
    column = max(columns, key=lambda column: row[column])
    return row[column], column


# Variants


@register("discretisation", "few_skips")
@dataclass
class FewSkips(StrongestEdges):
    """The same with at most `most` skip connections in the normal cell (Chen et al. 2019, P-DARTS, section 3.3.2).

    In a chain: among its layers.

    While there are more, the weakest of them loses its score, and edges and operations are chosen again.
    """

    most: int  # skip connections in the normal cell

    def __post_init__(self) -> None:
        require(self.most >= 0, "method.discretisation.most", self.most, "at least 0")

    def _cell(self, kind: str, scores: list[list[float]], space: SearchSpace) -> Cell:
        cell = super()._cell(kind, scores, space)
        if kind == "reduction" or "skip_connect" not in space.candidates:
            return cell
        column, scores = space.candidates.index("skip_connect"), [list(row) for row in scores]
        while cell.operations().count("skip_connect") > self.most:
            skips = [
                space.rows(node)[edge.source]
                for node, edges in enumerate(cell.nodes)
                for edge in edges
                if edge.operation == "skip_connect"
            ]
            weakest = min(skips, key=lambda edge: scores[edge][column])
            if scores[weakest][column] < 0:
                return cell  # nothing but skip connections is left to choose
            scores[weakest][column] = -1.0
            cell = super()._cell(kind, scores, space)
        return cell


@register("discretisation", "threshold")
@dataclass
class Threshold(StrongestEdges):
    """Of the edges that would stay those go whose operation is under a threshold (Chu et al. 2020, FairDARTS, 3.3).

    A node's strongest edge stays in any case, since a node without an edge would be no node. Where all edges stay an
    operation gives way to `none`.
    """

    least: float  # score under which an edge is removed, from 0 to below 1

    def __post_init__(self) -> None:
        require(0 <= self.least < 1, "method.discretisation.least", self.least, "at least 0 and below 1")

    def _cell(self, kind: str, scores: list[list[float]], space: SearchSpace) -> Cell:
        cell = super()._cell(kind, scores, space)
        nodes = []
        for node, edges in enumerate(cell.nodes):
            strength = [scores[space.rows(node)[edge.source]][space.candidates.index(edge.operation)] for edge in edges]
            strongest = max(range(len(edges)), key=lambda index: strength[index])
            kept = [i for i in range(len(edges)) if strength[i] >= self.least or i == strongest]
            stay = space.edges_kept is None and "none" in space.candidates
            nodes.append(tuple(
                edge if i in kept else Edge("none", edge.source) for i, edge in enumerate(edges) if i in kept or stay
            ))  # fmt: skip
        return Cell(tuple(nodes), cell.concat, cell.inputs)
