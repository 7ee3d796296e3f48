"""What can be made of genotypes: neighbours, mutations, crossings, codes, and one name for equal architectures.

A genotype's places are its edges, cell type after cell type and node after node; a neighbour differs at one place, in
the operation or in the input.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Collection, Iterator, Mapping

from darts.spaces.genotype import Cell, Edge, Genotype
from darts.spaces.search_space import SearchSpace


def ordered(genotype: Genotype) -> Genotype:
    """The same architecture with every node's edges in the order of their inputs, and without provenance."""
    cells = {}
    for kind, cell in genotype.cells.items():
        nodes = tuple(tuple(sorted(edges, key=lambda edge: (edge.source, edge.operation))) for edges in cell.nodes)
        cells[kind] = dataclasses.replace(cell, nodes=nodes)
    return Genotype(genotype.space, cells)


def neighbours(genotype: Genotype, space: SearchSpace) -> list[Genotype]:
    """All genotypes that differ at one place (White, Nolen, Savani 2021, section 3, for cells).

    Another operation that is allowed there, or another free input with the same operation; where edges have candidates
    of their own, also an operation that is not allowed on the old input in place of one that is not allowed on the new.
    """
    genotype = ordered(genotype)
    return [
        _with_edges(genotype, kind, node, changed)
        for kind, cell in genotype.cells.items()
        for node, edges in enumerate(cell.nodes)
        for changed in _changed(edges, kind, node, space)
    ]


def mutation(genotype: Genotype, space: SearchSpace, generator: random.Random) -> Genotype:
    """A neighbour, drawn uniformly."""
    return generator.choice(neighbours(genotype, space))


def crossing(first: Genotype, second: Genotype, generator: random.Random) -> Genotype:
    """A child that takes each node whole, edges and operations, from either parent with equal chance."""
    first, second = ordered(first), ordered(second)
    cells = {}
    for kind, cell in first.cells.items():
        pairs = zip(cell.nodes, second.cells[kind].nodes, strict=True)
        cells[kind] = dataclasses.replace(cell, nodes=tuple(generator.choice(pair) for pair in pairs))
    return Genotype(first.space, cells)


def all_genotypes(space: SearchSpace) -> Iterator[Genotype]:
    """Every genotype of a space, in a fixed order; `space.count()` says how many there are."""
    by_kind = [list(_all_cells(space, kind)) for kind in space.cell_types]
    for cells in itertools.product(*by_kind):
        yield Genotype(space.name, dict(zip(space.cell_types, cells, strict=True)))


def node_choices(space: SearchSpace, kind: str, node: int, forbidden: Collection[str] = ()) -> list[tuple[Edge, ...]]:
    """All that a node may become: a set of inputs, and on each an operation that is allowed there."""
    rows, found = space.rows(node), []
    for sources in itertools.combinations(rows, space.kept(node)):
        names = []
        for source in sources:
            names.append([name for name in _names(space, kind, rows[source]) if name not in forbidden])
        for chosen in itertools.product(*names):
            found.append(tuple(map(Edge, chosen, sources)))
    return found


def canonical(genotype: Genotype) -> str:
    """Twelve hexadecimal digits, equal for genotypes whose networks differ in the names of their nodes only.

    Edges of `none` and nodes that reach no output are left out; of all ways to number the nodes the first in
    alphabetical order counts. Cells that compute the same by passing on (`skip_connect`) are different here.
    """
    parts = [f"{kind}:{_canonical_cell(cell)}" for kind, cell in sorted(genotype.cells.items())]
    return hashlib.sha256("/".join([genotype.space, *parts]).encode()).hexdigest()[:12]


def one_hot(genotype: Genotype) -> dict[str, float]:
    """The operations on their edges, as named features that are 1."""
    return {
        f"{kind}/{node}/{edge.source}/{edge.operation}": 1.0
        for kind, cell in genotype.cells.items()
        for node, edges in enumerate(cell.nodes)
        for edge in edges
    }


def path_code(genotype: Genotype) -> dict[str, float]:
    """Every way from an input to the output as the operations on it (White, Neiswanger, Savani 2021, section 3.1)."""
    return {f"{kind}/{path}": 1.0 for kind, cell in genotype.cells.items() for path in _paths(cell)}


def depth(cell: Cell) -> int:
    """Operations on the longest way from an input to the output; an edge of `none` leads nowhere."""
    longest: list[int | None] = [0] * cell.inputs
    for edges in cell.nodes:
        ways = [longest[edge.source] for edge in edges if edge.operation != "none"]
        known = [way for way in ways if way is not None]
        here = 1 + max(known) if known else None
        longest.append(here)
    ends = [longest[node] for node in cell.concat]
    return max((end for end in ends if end is not None), default=0)


def _with_edges(genotype: Genotype, kind: str, node: int, edges: tuple[Edge, ...]) -> Genotype:
    cell = genotype.cells[kind]
    nodes = (*cell.nodes[:node], tuple(sorted(edges, key=lambda edge: edge.source)), *cell.nodes[node + 1 :])
    return Genotype(genotype.space, {**genotype.cells, kind: dataclasses.replace(cell, nodes=nodes)})


def _changed(edges: tuple[Edge, ...], kind: str, node: int, space: SearchSpace) -> Iterator[tuple[Edge, ...]]:
    rows = space.rows(node)
    used = {edge.source for edge in edges}
    for place, edge in enumerate(edges):
        rest = (*edges[:place], *edges[place + 1 :])
        for source in rows:
            if source != edge.source and source in used:
                continue
            names = _names(space, kind, rows[source])
            if source != edge.source:
                here = _names(space, kind, rows[edge.source])
                names = [edge.operation] if edge.operation in names else [name for name in names if name not in here]
            yield from ((*rest, Edge(name, source)) for name in names if Edge(name, source) != edge)


def _names(space: SearchSpace, kind: str, edge: int) -> list[str]:
    return [space.candidates[column] for column in space.selectable(kind, edge)]


def _all_cells(space: SearchSpace, kind: str) -> Iterator[Cell]:
    for nodes in itertools.product(*(node_choices(space, kind, node) for node in range(space.nodes))):
        yield Cell(nodes, space.joined(), space.layout.inputs)


def _canonical_cell(cell: Cell) -> str:
    inputs = cell.inputs
    nodes = {}
    for number, edges in enumerate(cell.nodes, start=inputs):
        nodes[number] = [edge for edge in edges if edge.operation != "none"]
    reached, open_ends = set(), [node for node in cell.concat if nodes[node]]
    while open_ends:
        node = open_ends.pop()
        if node not in reached:
            reached.add(node)
            open_ends += [edge.source for edge in nodes[node] if edge.source >= inputs]
    first = ""
    for names in _numberings({n: nodes[n] for n in sorted(reached)}, inputs):
        listed = []
        for node in reached:
            incoming = sorted((names[edge.source], edge.operation) for edge in nodes[node])
            listed.append((names[node], incoming))
        listed.sort()
        ends = sorted(names[node] for node in cell.concat if node in names)
        text = f"{listed}{ends}"
        first = min(first, text) if first else text
    return first


def _numberings(nodes: Mapping[int, list[Edge]], inputs: int) -> Iterator[dict[int, int]]:
    """All ways to number the nodes so that every edge comes from a lower number."""
    fixed = {source: source for source in range(inputs)}
    for order in itertools.permutations(nodes):
        names = fixed | {node: place + inputs for place, node in enumerate(order)}
        if all(names.get(edge.source, -1) < names[node] for node in order for edge in nodes[node]):
            yield names


def _paths(cell: Cell) -> set[str]:
    ways: list[set[str]] = [{str(source)} for source in range(cell.inputs)]
    for edges in cell.nodes:
        known = {f"{way}>{edge.operation}" for edge in edges if edge.operation != "none" for way in ways[edge.source]}
        ways.append(known)
    return set().union(*(ways[node] for node in cell.concat))
