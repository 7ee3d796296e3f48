"""What may be built: the cell's nodes, edges and candidates, and the list of cells that make a network."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from darts.errors import UserError, require
from darts.genotype import Cell, Edge, Genotype

CELL_TYPES = ("normal", "reduction")


@dataclass(frozen=True)
class InputShape:
    """What a network is given and asked for: square images of `channels` x `size` x `size`, `classes` answers."""

    channels: int
    size: int
    classes: int


@dataclass(frozen=True)
class CellPlan:
    """One cell of a skeleton: its type, width, the widths of its two inputs, and where the resolution halves."""

    kind: str
    channels: int
    input_channels: tuple[int, int]  # of the cell before the previous one, and of the previous one
    after_reduction: bool  # then the older input is twice as large and its preprocessing halves it

    @property
    def stride(self) -> int:
        """Stride of the edges that leave the cell's two inputs."""
        return 2 if self.kind == "reduction" else 1


@dataclass
class SearchSpace:
    """Cells of `nodes` nodes whose every edge carries one of `candidates` (Liu et al. 2019, section 2.1)."""

    name: str
    nodes: int
    edges_kept: int  # incoming edges that discretisation keeps at each node
    candidates: list[str]

    def __post_init__(self) -> None:
        require(self.nodes >= 1, "space.nodes", self.nodes, "at least 1")
        require(1 <= self.edges_kept <= 2, "space.edges_kept", self.edges_kept, "1 or 2 (the first node has 2 inputs)")
        usable = len(set(self.candidates)) == len(self.candidates) and bool(self.selectable())
        require(usable, "space.candidates", self.candidates, "different names, not all none")

    def edges(self) -> list[tuple[int, int]]:
        """All edges as (input, node) in the order of the architecture parameters' rows."""
        return [(source, node) for node in range(self.nodes) for source in range(node + 2)]

    def incoming(self, node: int) -> range:
        """Rows of the architecture parameters that belong to the edges into a node; their order is the inputs'."""
        first = sum(earlier + 2 for earlier in range(node))
        return range(first, first + node + 2)

    def selectable(self) -> list[int]:
        """Columns of the architecture parameters that discretisation may choose: every candidate but none."""
        return [column for column, name in enumerate(self.candidates) if name != "none"]

    def multipliers(self) -> dict[str, int]:
        """In the supernet a cell's output joins all of its nodes."""
        return dict.fromkeys(CELL_TYPES, self.nodes)

    def count(self) -> int:
        """How many genotypes there are (edges chosen at each node times operations on them, both cell types)."""
        operations = len(self.selectable()) ** self.edges_kept
        cell = math.prod(math.comb(node + 2, self.edges_kept) * operations for node in range(self.nodes))
        return cell ** len(CELL_TYPES)

    def sample(self, generator: random.Random) -> Genotype:
        """A genotype drawn uniformly: at each node a set of inputs, on each of them an operation."""
        return Genotype(self.name, {kind: self._sample_cell(generator) for kind in CELL_TYPES})

    def _sample_cell(self, generator: random.Random) -> Cell:
        names = [self.candidates[column] for column in self.selectable()]
        nodes = []
        for node in range(self.nodes):
            sources = sorted(generator.sample(range(node + 2), self.edges_kept))
            nodes.append(tuple(Edge(generator.choice(names), source) for source in sources))
        return Cell(tuple(nodes), tuple(range(2, self.nodes + 2)))

    def check(self, genotype: Genotype, origin: str) -> None:
        """Raise `UserError` unless the genotype is of this space."""
        if genotype.space != self.name:
            raise UserError(
                f"{origin}: the genotype is of space {genotype.space!r}, but space is {self.name!r}; "
                f"add space={genotype.space}"
            )
        if set(genotype.cells) != set(CELL_TYPES):
            allowed = " and ".join(CELL_TYPES)
            raise UserError(f"{origin}: its cells are {', '.join(genotype.cells)}; space {self.name!r} has {allowed}")


def plan_cells(cells: int, channels: int, multipliers: Mapping[str, int]) -> list[CellPlan]:
    """The published skeleton: reduction cells at 1/3 and 2/3 of the depth, each doubling the channels.

    `multipliers` says by cell type how many nodes a cell's output joins. The stem gives 3 * `channels` channels to
    both inputs of the first cell (Liu et al. 2019, section 3.1.1 and their code).
    """
    plans = []
    older, newer, width = 3 * channels, 3 * channels, channels
    after_reduction = False
    for index in range(cells):
        kind = "reduction" if index in (cells // 3, 2 * cells // 3) else "normal"
        width *= 2 if kind == "reduction" else 1
        plans.append(CellPlan(kind, width, (older, newer), after_reduction))
        older, newer = newer, multipliers[kind] * width
        after_reduction = kind == "reduction"
    return plans


def output_channels(plan: CellPlan, multipliers: Mapping[str, int]) -> int:
    """Channels of a cell's output."""
    return plan.channels * multipliers[plan.kind]
