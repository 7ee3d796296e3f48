"""A discrete architecture as immutable data, its strict JSON form, and the notation printed in papers.

A genotype is the only thing that passes from a search to retraining. Inputs of a cell are numbered 0 (the output of
the cell before the previous one) and 1 (the previous cell), its nodes from 2 on.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from darts.errors import UserError

FORMAT = "darts genotype"
VERSION = 1
LONGEST_FILE = 1_000_000
LONGEST_NOTATION = 20_000


class Edge(NamedTuple):
    """One operation on one input: `source` 0 and 1 are the two previous cells, 2... the cell's own nodes."""

    operation: str
    source: int


@dataclass(frozen=True)
class Cell:
    """The edges of every node, in order of strength where a search found them, and the nodes the output joins."""

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]
    inputs: int = 2  # 1: the previous cell's output alone, which is then 0, and nodes go from 1 on

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
        return "; ".join(", ".join(f"{operation} {source}" for operation, source in edges) for edges in self.nodes)

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

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the architecture (its provenance left out)."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True).encode()).hexdigest()[:12]

    def skips(self, kind: str = "normal") -> int:
        """How many edges of a cell are skip connections; many of them are the known sign of a collapsed search."""
        return self.cells[kind].operations().count("skip_connect")


def to_json(genotype: Genotype) -> str:
    """The strict JSON form; `from_json` gives back an equal genotype."""
    plain = {"format": FORMAT, "version": VERSION, **_plain(genotype), "provenance": dict(genotype.provenance)}
    text = json.dumps(plain, indent=1, allow_nan=False)
    for cell in plain["cells"].values():  # one node a line, for people
        for node in cell["nodes"]:
            text = text.replace(_spread(node, 4), json.dumps(node))
        text = text.replace(_spread(cell["concat"], 3), json.dumps(cell["concat"]))
    return text + "\n"


def from_json(text: str, origin: str = "genotype") -> Genotype:
    """Read the strict JSON form.

    Raises `UserError`, beginning with `origin`, for anything else: an unknown, missing or repeated key, a wrong type,
    an input that does not exist.
    """
    if len(text) > LONGEST_FILE:
        raise UserError(f"{origin}: {len(text):,} characters; a genotype has at most {LONGEST_FILE:,}")
    try:
        plain = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        return _from_plain(plain)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not a JSON genotype ({type(error).__name__}: {str(error)[:100]})") from None


def to_notation(genotype: Genotype) -> str:
    """The notation printed in papers: `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=..., reduce=...)`."""
    parts = []
    for printed, kind in _NOTATION_KINDS.items():
        cell = genotype.cells[kind]
        parts.append(f"{printed}={[tuple(edge) for edges in cell.nodes for edge in edges]}")
        parts.append(f"{printed}_concat={list(cell.concat)}")
    return f"Genotype({', '.join(parts)})"


def from_notation(text: str, space: str = "darts", origin: str = "genotype") -> Genotype:
    """Read the papers' notation by parsing it; nothing in it is ever executed. Two edges make a node."""
    if len(text) > LONGEST_NOTATION:
        raise UserError(f"{origin}: {len(text):,} characters; the printed notation has at most {LONGEST_NOTATION:,}")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        arguments = _notation_arguments(call)
        cells = {
            kind: Cell(_pairs(arguments[printed]), _concat(arguments[f"{printed}_concat"]))
            for printed, kind in _NOTATION_KINDS.items()
        }
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        shown = text.strip()[:60]
        raise UserError(f"{origin}: {shown!r} is not of the form Genotype(normal=[('op', input), ...], ...)") from None
    return Genotype(space, cells)


_NOTATION_KINDS = {"normal": "normal", "reduce": "reduction"}


def _plain(genotype: Genotype) -> dict[str, Any]:
    cells = {}
    for kind, cell in genotype.cells.items():
        cells[kind] = {"nodes": [[list(edge) for edge in edges] for edges in cell.nodes], "concat": list(cell.concat)}
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


def _from_plain(plain: Any) -> Genotype:
    _exact_keys(plain, ("format", "version", "space", "cells", "provenance"), "the file")
    if plain["format"] != FORMAT or plain["version"] != VERSION or type(plain["version"]) is not int:
        raise UserError(f"format and version must be {FORMAT!r} and {VERSION}")
    _typed(plain["space"], str, "space")
    _typed(plain["provenance"], dict, "provenance")
    _typed(plain["cells"], dict, "cells")
    if not plain["cells"]:
        raise UserError("there is no cell")
    cells = {kind: _cell(cell, kind) for kind, cell in plain["cells"].items()}
    return Genotype(plain["space"], cells, plain["provenance"])


def _cell(plain: Any, kind: str) -> Cell:
    place = f"cell {kind!r}"
    single = isinstance(plain, dict) and "inputs" in plain  # the key is there for cells of one input alone
    _exact_keys(plain, ("nodes", "concat", "inputs") if single else ("nodes", "concat"), place)
    if single and (type(plain["inputs"]) is not int or plain["inputs"] != 1):
        raise UserError(f"{place}, inputs: must be 1, or left out for 2")
    _typed(plain["nodes"], list, f"{place}, nodes")
    nodes = []
    for index, edges in enumerate(plain["nodes"]):
        _typed(edges, list, f"{place}, node {index}")
        for edge in edges:
            pair = isinstance(edge, list) and len(edge) == 2 and isinstance(edge[0], str)
            if not pair or type(edge[1]) is not int:
                raise UserError(f"{place}, node {index}: an edge is [operation, input], not {_shown(edge)}")
        nodes.append(tuple(Edge(*edge) for edge in edges))
    concat = plain["concat"]
    if not isinstance(concat, list) or any(type(node) is not int for node in concat):
        raise UserError(f"{place}, concat: must be a list of node numbers")
    try:
        return Cell(tuple(nodes), tuple(concat), 1 if single else 2)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _exact_keys(value: Any, keys: tuple[str, ...], place: str) -> None:
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


def _notation_arguments(call: ast.expr) -> dict[str, ast.expr]:
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
        raise ValueError("not a Genotype")
    arguments = {keyword.arg or "**": keyword.value for keyword in call.keywords}
    expected = {key for printed in _NOTATION_KINDS for key in (printed, f"{printed}_concat")}
    if call.args or len(arguments) != len(call.keywords) or set(arguments) != expected:
        raise UserError(f"Genotype(...) takes {', '.join(sorted(expected))}, each once and by name")
    return arguments


def _pairs(expression: ast.expr) -> tuple[tuple[Edge, ...], ...]:
    pairs = ast.literal_eval(expression)
    if not isinstance(pairs, list | tuple) or len(pairs) % 2:
        raise UserError("a cell is an even number of ('operation', input) pairs, two a node")
    for pair in pairs:
        whole = isinstance(pair, list | tuple) and len(pair) == 2
        if not whole or not isinstance(pair[0], str) or type(pair[1]) is not int:
            raise UserError(f"an edge is ('operation', input), not {_shown(pair)}")
    edges = [Edge(*pair) for pair in pairs]
    return tuple((edges[i], edges[i + 1]) for i in range(0, len(edges), 2))


def _concat(expression: ast.expr) -> tuple[int, ...]:
    ranged = isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name)
    if ranged and expression.func.id == "range" and len(expression.args) == 2 and not expression.keywords:  # type: ignore[attr-defined]
        first, last = (ast.literal_eval(argument) for argument in expression.args)  # type: ignore[attr-defined]
        if type(first) is not int or type(last) is not int or not 0 <= first <= last <= 1000:
            raise UserError("range(first, last) takes two small numbers")
        return tuple(range(first, last))
    nodes = ast.literal_eval(expression)
    if not isinstance(nodes, list | tuple) or any(type(node) is not int for node in nodes):
        raise UserError("concat is a list of node numbers or range(first, last)")
    return tuple(nodes)
