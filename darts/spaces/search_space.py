"""What may be built: the cell's nodes, edges and candidates, and the list of cells that make a network."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from darts.config.registry import register
from darts.runtime.errors import UserError, require
from darts.spaces.chain import CHAIN, Chain
from darts.spaces.genotype import Cell, Edge, Genotype

CELL_TYPES = ("normal", "reduction")
RECURRENT = "recurrent"  # the one cell type of a language model
MOST_NODES = 32  # of a cell: 560 edges in the skeleton of DARTS, each with all candidates, in every cell


Size = int | tuple[int, int]  # the side of a square, or height and width
IMAGENET = "imagenet"
Stem = int | str  # how often the first layers halve the resolution, 0 to 6; or IMAGENET, which does so three times


def sides_of(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def is_size(value: object) -> bool:
    """Whether a setting is a size: a whole number from 1 to 4096, or a list of two."""
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(type(side) is int and 1 <= side <= 4096 for side in sides)


def size_of(value: int | Sequence[int]) -> Size:
    """Return the size that a setting or a file gives as one number or as [height, width]; two equal ones are one."""
    height, width = (value, value) if isinstance(value, int) else value
    return height if height == width else (height, width)


def as_written(size: Size) -> int | list[int]:
    """Return a size as settings and files give it: the inverse of `size_of`."""
    return size if isinstance(size, int) else list(size)


def is_stem(value: object) -> bool:
    """Whether a setting names a stem: a whole number from 0 to 6, or `imagenet`."""
    return value == IMAGENET or (type(value) is int and 0 <= value <= 6)


def halvings(stem: Stem) -> int:
    """How often a stem halves the resolution."""
    return 3 if isinstance(stem, str) else stem


Sides = tuple[int, int]  # height and width of a map


def divided(sides: Sides, stride: int) -> Sides:
    """Return height and width of a map after a stride; what does not divide is rounded up."""
    return -(-sides[0] // stride), -(-sides[1] // stride)


@dataclass(frozen=True)
class InputShape:
    """What a network is given and asked for: maps of `channels` x height x width, `classes` answers."""

    channels: int
    size: Size
    classes: int

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return sides_of(self.size)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        return self.channels, *self.sides


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


class Skeleton(Enum):
    """The network around the cells."""

    darts = "darts"  # two inputs a cell, all nodes joined, reduction cells searched too (Liu et al. 2019)
    nasbench201 = "nasbench201"  # one input, the last node, residual blocks between stages (Dong and Yang 2020)
    recurrent = "recurrent"  # a cell that reads a text word by word; the mean of its nodes (Liu et al. 2019)
    single = "single"  # one cell with both of its inputs from the stem, a reduction cell by DARTS' rule
    chain = "chain"  # layers one behind another, each with an operation of its own (Cai, Zhu, Han 2019)


@dataclass(frozen=True)
class Layout:
    """What a skeleton decides for its cells."""

    cell_types: tuple[str, ...]  # those with an architecture of their own
    inputs: int  # of a cell
    stem_width: int  # channels of the stem, in multiples of the first cells'
    joined: bool  # a cell's output joins all of its nodes; else it is the last one
    normalised_pools: bool  # in the supernet a batch norm follows each pooling
    running_statistics: bool  # batch norms of the supernet's candidates keep them; else batches always normalise
    chained: bool = False  # a node reads the one before it only


LAYOUTS = {
    Skeleton.darts: Layout(CELL_TYPES, 2, 3, True, True, True),
    Skeleton.nasbench201: Layout(("normal",), 1, 1, False, False, False),
    Skeleton.recurrent: Layout((RECURRENT,), 1, 1, True, False, True),
    Skeleton.single: Layout(("reduction",), 2, 3, True, True, True),
    Skeleton.chain: Layout((CHAIN,), 1, 1, False, False, True, chained=True),
}


class Frame(NamedTuple):
    """What a space's networks have besides the cells of a genotype."""

    chain: Chain | None = None
    always: tuple[str, ...] = ()  # operations that every edge carries besides its own


@register("space", "search_space")
@dataclass
class SearchSpace:
    """Cells of `nodes` nodes whose every edge carries one of `candidates` (Liu et al. 2019, section 2.1)."""

    name: str  # what genotypes of this space are stamped with
    nodes: int  # of a cell, its inputs not counted
    edges_kept: int | None  # incoming edges that discretisation keeps at each node; null: all, and `none` may stay
    candidates: list[str]  # operations that may be on an edge; the order decides ties
    skeleton: Skeleton  # the network around the cells
    edge_candidates: Any  # cell type -> a list of names for each edge, where not all are allowed on each; else null
    chain: Chain | None = None  # widths and strides, with space.skeleton=chain
    joins: int | None = None  # how many of its last nodes a cell's output joins; null: as the skeleton says
    edge_skips: bool = False  # every edge carries a skip connection besides its operation, in found networks too

    def __post_init__(self) -> None:
        require(1 <= self.nodes <= MOST_NODES, "space.nodes", self.nodes, f"from 1 to {MOST_NODES}")
        most = self.layout.inputs
        allowed = f"from 1 to {most} (the first node has {most} inputs), or null for all"
        require(self.edges_kept is None or 1 <= self.edges_kept <= most, "space.edges_kept", self.edges_kept, allowed)
        chained = self.skeleton is Skeleton.chain
        allowed = "given with space.skeleton=chain, and null with another"
        require(chained == (self.chain is not None), "space.chain", self.chain, allowed)
        if self.chain is not None:
            require(self.nodes == self.chain.layers, "space.nodes", self.nodes, f"{self.chain.layers}, as space.chain")
        of_cells = self.skeleton in (Skeleton.darts, Skeleton.single)
        allowed = "from 1 to space.nodes, or null" if of_cells else f"null with space.skeleton={self.skeleton.value}"
        joined = self.joins is None or (of_cells and 1 <= self.joins <= self.nodes)
        require(joined, "space.joins", self.joins, allowed)
        allowed = "false, or space.skeleton=darts or single with it"
        require(of_cells or not self.edge_skips, "space.edge_skips", self.edge_skips, allowed)
        usable = len(set(self.candidates)) == len(self.candidates) and bool(set(self.candidates) - {"none"})
        require(usable, "space.candidates", self.candidates, "different names, not all none")
        if self.edge_candidates is not None:
            self._check_edge_candidates(self.edge_candidates)

    def _check_edge_candidates(self, given: Any) -> None:
        place, kinds = "space.edge_candidates", list(self.layout.cell_types)
        allowed = f"null, or {{TYPE: [[NAME, ...], ...]}}, a list of names for each edge; TYPE: {', '.join(kinds)}"
        require(_names_by_edge(given), place, given, allowed)
        require(sorted(given) == sorted(kinds), place, sorted(given), f"one list for each of {', '.join(kinds)}")
        for kind, lists in given.items():
            require(len(lists) == len(self.edges()), f"{place}.{kind}", f"{len(lists)} lists", f"{len(self.edges())}")
            for edge, names in enumerate(lists):
                usable = set(names) <= set(self.candidates) and bool(set(names) - {"none"})
                require(usable, f"{place}.{kind}[{edge}]", names, "names of space.candidates, not none only")

    @property
    def layout(self) -> Layout:
        """What the skeleton decides."""
        return LAYOUTS[self.skeleton]

    @property
    def cell_types(self) -> tuple[str, ...]:
        """The cell types with an architecture of their own."""
        return self.layout.cell_types

    def edges(self) -> list[tuple[int, int]]:
        """All edges as (input, node) in the order of the architecture parameters' rows."""
        return [(source, node) for node in range(self.nodes) for source in self.sources(node)]

    def sources(self, node: int) -> range:
        """The states that a node may read: the cell's inputs and all nodes before it, or the one before it only."""
        last = node + self.layout.inputs
        first = last - 1 if self.layout.chained else 0
        return range(first, last)

    def incoming(self, node: int) -> range:
        """Rows of the architecture parameters that belong to the edges into a node; their order is the inputs'."""
        first = sum(len(self.sources(earlier)) for earlier in range(node))
        return range(first, first + len(self.sources(node)))

    def rows(self, node: int) -> dict[int, int]:
        """By state that a node may read, the row of the edge from there."""
        return dict(zip(self.sources(node), self.incoming(node), strict=True))

    def kept(self, node: int) -> int:
        """How many of a node's incoming edges discretisation keeps."""
        return len(self.sources(node)) if self.edges_kept is None else self.edges_kept

    def allowed(self, kind: str) -> list[list[bool]]:
        """By edge and candidate, whether it is allowed there."""
        if self.edge_candidates is None:
            return [[True] * len(self.candidates) for _ in self.edges()]
        rows = []
        for names in self.edge_candidates[kind]:
            rows.append([name in names for name in self.candidates])
        return rows

    def selectable(self, kind: str, edge: int) -> list[int]:
        """Columns that discretisation may choose on an edge: every candidate there, `none` only if all edges stay."""
        allowed = self.allowed(kind)[edge]
        named = [column for column, name in enumerate(self.candidates) if name != "none" or self.edges_kept is None]
        return [column for column in named if allowed[column]]

    def places(self, cell: Cell) -> Iterator[tuple[int, int]]:
        """Row and column of the architecture parameters of each edge of a cell."""
        for node, edges in enumerate(cell.nodes):
            for edge in edges:
                yield self.rows(node)[edge.source], self.candidates.index(edge.operation)

    def joined(self) -> tuple[int, ...]:
        """The states that a cell's output joins."""
        nodes = range(self.layout.inputs, self.nodes + self.layout.inputs)
        if self.joins is not None:
            return tuple(nodes[-self.joins :])
        return tuple(nodes) if self.layout.joined else (nodes[-1],)

    @property
    def always(self) -> tuple[str, ...]:
        """The operations that every edge carries besides its own, each with weight 1."""
        return ("skip_connect",) if self.edge_skips else ()

    @property
    def frame(self) -> Frame:
        """What a network of this space has besides the found cell."""
        return Frame(self.chain, self.always)

    def multipliers(self) -> dict[str, int]:
        """By cell type, how many nodes a cell's output joins."""
        return dict.fromkeys(CELL_TYPES, len(self.joined()))

    def refuse_unused(self, key: str) -> None:
        """`UserError` for a setting that networks of this space do not use."""
        if self.chain is not None and key.endswith("network.cells"):
            raise UserError(f"{key} is given, but space={self.name} is a chain, whose layers are space.chain.stages")

    def plan_supernet(self, cells: int, channels: int, stem: Stem) -> list[CellPlan]:
        """The cells of a supernet, whose stem is as wide as the skeleton says, ImageNet's too (Xu et al. 2020)."""
        width = self.layout.stem_width * channels
        return plan_cells(cells, channels, self.multipliers(), self.layout, stem, width)

    def count(self) -> int:
        """How many genotypes there are: at each node the sets of edges, on each of those the operations."""
        return math.prod(self._count_cell(kind) for kind in self.cell_types)

    def _count_cell(self, kind: str) -> int:
        total = 1
        for node in range(self.nodes):
            choices = [len(self.selectable(kind, edge)) for edge in self.incoming(node)]
            total *= sum(math.prod(chosen) for chosen in itertools.combinations(choices, self.kept(node)))
        return total

    def sample(self, generator: random.Random) -> Genotype:
        """A genotype drawn: at each node a uniform set of inputs, on each of them a uniform operation."""
        return Genotype(self.name, {kind: self._sample_cell(kind, generator) for kind in self.cell_types})

    def _sample_cell(self, kind: str, generator: random.Random) -> Cell:
        nodes = []
        for node in range(self.nodes):
            rows = self.rows(node)
            sources = sorted(generator.sample(list(rows), self.kept(node)))
            columns = [generator.choice(self.selectable(kind, rows[source])) for source in sources]
            nodes.append(tuple(Edge(self.candidates[c], source) for c, source in zip(columns, sources, strict=True)))
        return Cell(tuple(nodes), self.joined(), self.layout.inputs)


def _names_by_edge(given: Any) -> bool:
    """Whether it is a list of lists of names for each cell type."""
    lists: list[Any] = list(given.values()) if isinstance(given, dict) else [None]
    if not all(isinstance(edges, list) for edges in lists):
        return False
    edges = list(itertools.chain.from_iterable(lists))
    names = itertools.chain.from_iterable(edge if isinstance(edge, list) else [None] for edge in edges)
    return all(isinstance(name, str) for name in names)


def is_recurrent(genotype: Genotype) -> bool:
    """Whether a genotype is a recurrent cell's."""
    return RECURRENT in genotype.cells


def layout_of(genotype: Genotype) -> Layout:
    """The layout of the skeleton that a genotype's cells are made for: with as many inputs, recurrent or not."""
    inputs = {cell.inputs for cell in genotype.cells.values()}
    kinds = {RECURRENT, CHAIN}
    alike = [layout for layout in LAYOUTS.values() if kinds & set(layout.cell_types) == kinds & set(genotype.cells)]
    found = [layout for layout in alike if {layout.inputs} == inputs]  # of several the first: they differ in types only
    if not found:
        raise UserError(f"genotype: cells of {sorted(inputs)} inputs fit no skeleton")
    return found[0]


def plan_cells(
    cells: int,
    channels: int,
    multipliers: Mapping[str, int],
    layout: Layout = LAYOUTS[Skeleton.darts],
    stem: Stem = 0,
    stem_width: int | None = None,
) -> list[CellPlan]:
    """The published skeletons: reduction cells at 1/3 and 2/3 of the depth, each doubling the channels.

    `multipliers` says by cell type how many nodes a cell's output joins. The stem gives 3 * `channels` channels to
    both inputs of the first cell (Liu et al. 2019, section 3.1.1 and their code). That of ImageNet gives `channels` to
    each, and the first cell follows a reduction: its older input is twice as large. `stem_width` in place of these
    widths. In the skeleton of NAS-Bench-201 the reduction cells are residual blocks; its three stages of 5 cells are
    17 cells here (Dong and Yang 2020, figure 1).
    """
    plans = []
    own_width = channels if stem == IMAGENET else layout.stem_width * channels
    older = newer = own_width if stem_width is None else stem_width
    width = channels
    after_reduction = stem == IMAGENET
    for index in range(cells):
        kind = "reduction" if index in (cells // 3, 2 * cells // 3) else "normal"
        width *= 2 if kind == "reduction" else 1
        plans.append(CellPlan(kind, width, (older, newer), after_reduction))
        older, newer = newer, multipliers.get(kind, 1) * width
        after_reduction = kind == "reduction"
    return plans


def output_channels(plan: CellPlan, multipliers: Mapping[str, int]) -> int:
    """Channels of a cell's output."""
    return plan.channels * multipliers.get(plan.kind, 1)
