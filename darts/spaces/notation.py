"""The notation of genotypes that papers print: Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=..., ...)."""

from __future__ import annotations

import ast

from darts.runtime.errors import UserError
from darts.spaces.genotype import LONGEST_NOTATION, Cell, Edge, Genotype, _shown


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
