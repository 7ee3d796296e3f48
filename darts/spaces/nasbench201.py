"""NAS-Bench-201 (Dong and Yang 2020, arXiv 2001.00326): its cells as strings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from darts.runtime.errors import UserError
from darts.spaces.genotype import Cell, Edge, Genotype

SPACE = "nasbench201"
CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 3
_NODE = re.compile(r"\|(?:[a-z0-9_]+~[0-9]\|)+")


def to_string(genotype: Genotype) -> str:
    """The benchmark's own form: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|; raises `UserError` for other cells."""
    if not has_string(genotype):
        raise UserError(
            f"the benchmark's string holds a cell of NAS-Bench-201: {NODES} nodes, all edges, {', '.join(CANDIDATES)}; "
            f"this one is of space {genotype.space!r}; the JSON form (to_json) holds every genotype"
        )
    return joined(genotype)


def joined(genotype: Genotype) -> str:
    """The same of any cell of one input; of another than the benchmark's a text that means nothing to it."""
    nodes = []
    for edges in genotype.cells["normal"].nodes:
        by_source = sorted(edges, key=lambda edge: edge.source)
        node = "|".join(f"{operation}~{source}" for operation, source in by_source)
        nodes.append(f"|{node}|")
    return "+".join(nodes)


def has_string(genotype: Genotype) -> bool:
    """Whether a genotype is one of the cells of the benchmark."""
    if set(genotype.cells) != {"normal"}:
        return False
    cell = genotype.cells["normal"]
    for node, edges in enumerate(cell.nodes):
        if sorted(edge.source for edge in edges) != list(range(node + 1)):
            return False
    named = genotype.space == SPACE and set(cell.operations()) <= set(CANDIDATES)
    return named and cell.inputs == 1 and len(cell.nodes) == NODES and cell.concat == (NODES,)


def from_string(text: str) -> Genotype:
    """Read the benchmark's form; raises `UserError` for anything else."""
    nodes = []
    for number, part in enumerate(text.strip().split("+")):
        edges = [item.split("~") for item in part.strip("|").split("|")] if _NODE.fullmatch(part) else []
        sound = [name for name, _ in edges if name in CANDIDATES] and [int(s) for _, s in edges] == list(
            range(number + 1)
        )
        if not sound or not all(name in CANDIDATES for name, _ in edges):
            raise UserError(f"{text[:80]!r} is not a cell of NAS-Bench-201, |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
        nodes.append(tuple(Edge(name, int(source)) for name, source in edges))
    if len(nodes) != NODES:
        raise UserError(f"{text[:80]!r}: a cell of NAS-Bench-201 has {NODES} nodes, not {len(nodes)}")
    return Genotype(SPACE, {"normal": Cell(tuple(nodes), (NODES,), inputs=1)})


def all_strings() -> Iterator[str]:
    """All 15,625 cells."""
    for names in itertools.product(CANDIDATES, repeat=6):
        a, b, c, d, e, f = names
        yield f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def structure(genotype: Genotype) -> str:
    """A text that is the same for cells that compute the same function but for the weights of their operations.

    An edge of `none` is left out, a skip connection is what it starts from, and the order of a sum does not count.
    (Section 2.2 of the paper counts 6,466 such classes; it takes a sum with and without a zero for two.)
    """
    values: list[list[str]] = [["x"]]  # the terms of each state's sum
    for edges in genotype.cells["normal"].nodes:
        terms: list[str] = []
        for operation, source in edges:
            value = values[source]
            if operation != "none" and value:
                terms += value if operation == "skip_connect" else [f"{operation}({'+'.join(value)})"]
        values.append(sorted(terms))
    return "+".join(values[-1]) or "0"
