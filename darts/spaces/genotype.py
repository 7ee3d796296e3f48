"""A discrete architecture as immutable data, and its strict JSON form.

A genotype is the only thing that passes from a search to retraining. Inputs of a cell are numbered 0 (the output of
the cell before the previous one) and 1 (the previous cell), its nodes from 2 on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from darts.config.registry import missing_plugins, plugins_of
from darts.runtime.errors import UserError

FORMAT = "darts genotype"
VERSION = 1
SKIPS = ("skip_connect", "identity")  # what does nothing, in cells of images and in recurrent ones
KINDS = {"recurrent": "activation", "chain": "layer"}  # by cell type, what its candidates are registered as
LONGEST_FILE = 1_000_000
LONGEST_NOTATION = 20_000


def called(kind: str) -> str:
    """What pictures and messages call a cell type."""
    return kind if kind == "chain" else f"{kind} cell"


def in_a_list(kind: str) -> str:
    """The same where cells stand below each other."""
    return f"{kind:14}" if kind == "chain" else f"{kind:9} cell"


class Edge(NamedTuple):
    """One operation on one input: `source` 0 and 1 are the two previous cells, 2... the cell's own nodes."""

    operation: str
    source: int


@dataclass(frozen=True)
class Cell:
    """The edges of every node, in order of strength where a search found them, and the nodes the output joins."""

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]
    inputs: int = 2  # 1: the previous cell's output only, which is then 0, and nodes go from 1 on

    def __post_init__(self) -> None:
        if not self.nodes:
            raise UserError("a cell has no node")
        for index, edges in enumerate(self.nodes):
            if not edges:
                raise UserError(f"node {index} has no edge")
            for edge in edges:
                if not 0 <= edge.source < index + self.inputs:
                    raise UserError(f"node {index}: input {edge.source} must be from 0 to {index + self.inputs - 1}")
        if not self.concat or len(set(self.concat)) < len(self.concat):
            raise UserError(f"the output must join at least one node, each once, not {list(self.concat)}")
        last = len(self.nodes) + self.inputs - 1
        if not set(self.concat) <= set(range(self.inputs, last + 1)):
            raise UserError(f"the output joins nodes {list(self.concat)}; nodes go from {self.inputs} to {last}")

    def __str__(self) -> str:
        nodes = []
        for edges in self.nodes:
            nodes.append(", ".join(f"{operation} {source}" for operation, source in edges))
        return "; ".join(nodes)

    def operations(self) -> list[str]:
        """The operation of every edge, node after node."""
        return [edge.operation for edges in self.nodes for edge in edges]


@dataclass(frozen=True)
class Genotype:
    """One cell for each cell type of a search space, and how it came about (not part of its identity)."""

    space: str
    cells: Mapping[str, Cell]
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def multipliers(self) -> dict[str, int]:
        """By cell type, how many nodes the cell's output joins."""
        return {kind: len(cell.concat) for kind, cell in self.cells.items()}

    def operations(self) -> list[str]:
        """The operation of every edge of every cell."""
        return [name for cell in self.cells.values() for name in cell.operations()]

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the architecture (its provenance left out)."""
        return hashlib.sha256(json.dumps(_as_content(self), sort_keys=True).encode()).hexdigest()[:12]

    def skips(self, kind: str = "normal") -> int:
        """How many edges of a cell are skip connections; many of them are the known sign of a collapsed search."""
        return sum(name in SKIPS for name in self.cells[kind].operations())


def to_json(genotype: Genotype) -> str:
    """The strict JSON form; `from_json` gives back an equal genotype."""
    content = {"format": FORMAT, "version": VERSION, **_as_content(genotype), "provenance": dict(genotype.provenance)}
    kind = KINDS.get(next(iter(genotype.cells)), "operation")
    needed = plugins_of([("space", genotype.space), *((kind, name) for name in genotype.operations())])
    if needed:
        content["plugins"] = needed
    text = json.dumps(content, indent=1, allow_nan=False)
    for cell in content["cells"].values():  # one node a line, for people
        for node in cell["nodes"]:
            text = text.replace(_spread(node, 4), json.dumps(node))
        text = text.replace(_spread(cell["concat"], 3), json.dumps(cell["concat"]))
    return text + "\n"


def from_json(text: str, origin: str = "genotype", with_plugins: bool = True) -> Genotype:
    """Read the strict JSON form; `with_plugins=False`: though plug-ins that it needs are not there, to list it only.

    Raises `UserError`, beginning with `origin`, for anything else: an unknown, missing or repeated key, a wrong type,
    an input that does not exist.
    """
    if len(text) > LONGEST_FILE:
        raise UserError(f"{origin}: {len(text):,} characters; a genotype has at most {LONGEST_FILE:,}")
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        return _from_content(content, with_plugins)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not a JSON genotype ({type(error).__name__}: {str(error)[:100]})") from None


def _as_content(genotype: Genotype) -> dict[str, Any]:
    cells: dict[str, dict[str, Any]] = {}
    for kind, cell in genotype.cells.items():
        nodes = [list(map(list, edges)) for edges in cell.nodes]
        cells[kind] = {"nodes": nodes, "concat": list(cell.concat)}
        if cell.inputs != 2:
            cells[kind]["inputs"] = cell.inputs
    return {"space": genotype.space, "cells": cells}


def _spread(value: Any, depth: int) -> str:
    """How `json.dumps(..., indent=1)` prints a list that lies `depth` levels deep."""
    return json.dumps(value, indent=1).replace("\n", "\n" + " " * depth)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"key {key[:80]!r} stands twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise UserError(f"{name} is not allowed")


def _from_content(content: Any, with_plugins: bool) -> Genotype:
    keys = ["format", "version", "space", "cells", "provenance"]
    needs_plugins = isinstance(content, dict) and "plugins" in content  # the key is there only where there are any
    if needs_plugins:
        keys.append("plugins")
    if isinstance(content, dict) and "format" not in content:
        raise UserError(
            "key 'format' is missing; a cell that other programs print begins with its own key, {\"normal\": ...}"
        )
    _exact_keys(content, keys, "the file")
    if needs_plugins:
        _require_plugins(content["plugins"], with_plugins)
    if content["format"] != FORMAT or content["version"] != VERSION or type(content["version"]) is not int:
        raise UserError(f"format and version must be {FORMAT!r} and {VERSION}")
    _typed(content["space"], str, "space")
    _typed(content["provenance"], dict, "provenance")
    _typed(content["cells"], dict, "cells")
    if not content["cells"]:
        raise UserError("there is no cell")
    cells = {kind: _cell(cell, kind) for kind, cell in content["cells"].items()}
    return Genotype(content["space"], cells, content["provenance"])


def _require_plugins(names: Any, there: bool) -> None:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"plugins: must be a list of module names, not {_shown(names)}")
    if there and missing_plugins(names):
        raise UserError(f"needs plugins=[{','.join(names)}], which registered its space or operations")


def _cell(content: Any, kind: str) -> Cell:
    place = f"cell {kind!r}"
    single = isinstance(content, dict) and "inputs" in content  # the key is there for cells of one input only
    keys = ["nodes", "concat", "inputs"] if single else ["nodes", "concat"]
    _exact_keys(content, keys, place)
    if single and (type(content["inputs"]) is not int or content["inputs"] != 1):
        raise UserError(f"{place}, inputs: must be 1, or left out for 2")
    _typed(content["nodes"], list, f"{place}, nodes")
    nodes = []
    for index, edges in enumerate(content["nodes"]):
        _typed(edges, list, f"{place}, node {index}")
        for edge in edges:
            pair = isinstance(edge, list) and len(edge) == 2 and isinstance(edge[0], str)
            if not pair or type(edge[1]) is not int:
                raise UserError(f"{place}, node {index}: an edge is [operation, input], not {_shown(edge)}")
        nodes.append(tuple(Edge(*edge) for edge in edges))
    concat = content["concat"]
    if not isinstance(concat, list) or any(type(node) is not int for node in concat):
        raise UserError(f"{place}, concat: must be a list of node numbers")
    inputs = 1 if single else 2
    try:
        return Cell(tuple(nodes), tuple(concat), inputs)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _exact_keys(value: Any, keys: Sequence[str], place: str) -> None:
    _typed(value, dict, place)
    for key in keys:
        if key not in value:
            raise UserError(f"{place}: key {key!r} is missing")
    for key in value:
        if key not in keys:
            raise UserError(f"{place}: key {key[:80]!r} is unknown; there are: {', '.join(keys)}")


def _shown(value: object) -> str:
    """A value as part of a line: escaped, not too long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _typed(value: Any, kind: type, place: str) -> None:
    if not isinstance(value, kind):
        raise UserError(f"{place}: must be a {kind.__name__}, not {_shown(value)}")
