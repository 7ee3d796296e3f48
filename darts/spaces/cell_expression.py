"""From a parsed Python expression to cells: what codebases print for a cell, read without running any of it.

An edge is (operation, input), or that and a third item: a number with a point is a weight and says nothing of the
architecture; a whole number is the node that the edge leads to, after the input or before it.
"""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass
from typing import Any

from darts.runtime.errors import UserError
from darts.spaces.genotype import Cell, Edge, _shown
from darts.spaces.search_space import RECURRENT

INPUTS = 2  # of a cell in this notation: 0 and 1 are the two previous cells, nodes go from 2 on
KINDS = {"normal": "normal", "reduce": "reduction"}  # cell types, as printed and as called here
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
RECURRENT_FIELDS = ("recurrent", "concat")  # of a recurrent cell: input 0 is the first state, nodes go from 1 on
FORM = "Genotype(normal=[('op', input), ...], normal_concat=[...], reduce=[...], reduce_concat=[...])"
LARGEST = 1000  # node number, here and in a concat
_NUMBERS = {
    *("int8", "int16", "int32", "int64", "uint8", "intc", "int_", "intp", "longlong"),
    *("float16", "float32", "float64", "float_", "str_"),
}  # what NumPy prints around a value


class MisreadError(UserError):
    """Something in the expression that has no meaning here, and the expression that it is."""

    def __init__(self, node: ast.AST, reason: str) -> None:
        super().__init__(reason)
        self.node = node


@dataclass(frozen=True)
class PrintedEdge:
    """An edge as printed, and the node that it leads to where that is printed too."""

    edge: Edge
    target: int | None
    target_first: bool = False  # (operation, node, input) rather than (operation, input, node)


def cells_of(expression: ast.expr) -> dict[str, Cell]:
    """The cells of `Genotype(...)` or of a dictionary with the same keys; raises `MisreadError` for anything else."""
    fields = _fields(expression)
    if RECURRENT in fields:
        return {RECURRENT: _recurrent_cell(fields["recurrent"], fields["concat"])}
    cells = {}
    for printed, kind in KINDS.items():
        concat = _concat(fields[f"{printed}_concat"])
        try:
            cells[kind] = Cell(_nodes(fields[printed], max(concat)), concat)
        except MisreadError:
            raise
        except UserError as error:
            raise MisreadError(fields[printed], f"{kind} cell: {error}") from None
    return cells


def _recurrent_cell(expression: ast.expr, concat: ast.expr) -> Cell:
    """A recurrent cell: one edge a node, in the nodes' order."""
    nodes = []
    for element in _elements(expression):
        nodes.append((_edge(element).edge,))
    try:
        return Cell(tuple(nodes), _concat(concat), inputs=1)
    except MisreadError:
        raise
    except UserError as error:
        raise MisreadError(expression, f"recurrent cell: {error}") from None


def node_edges(expression: ast.expr) -> list[list[Edge]]:
    """The edges of each node of a list of lists of edges, weights left out; raises `MisreadError` otherwise."""
    nodes = []
    for node in _elements(expression):
        nodes.append([_edge(element).edge for element in _elements(node)])
    return nodes


def _fields(expression: ast.expr) -> dict[str, ast.expr]:
    """The parts of a genotype by their names: four, or the two of a recurrent cell."""
    if isinstance(expression, ast.Call):
        found = _arguments(expression)
    elif isinstance(expression, ast.Dict):
        found = _items(expression)
    else:
        raise MisreadError(expression, f"a genotype is {FORM}")
    fields = RECURRENT_FIELDS if RECURRENT in found else FIELDS
    for name, value in found.items():
        if name not in fields and not (isinstance(value, ast.Constant) and value.value in (None, "")):
            raise MisreadError(value, f"{name!r} is none of {', '.join(fields)}")
    for name in fields:
        if name not in found:
            raise MisreadError(expression, f"{name!r} is missing; a genotype has {', '.join(fields)}")
    return found


def _arguments(call: ast.Call) -> dict[str, ast.expr]:
    name = _called(call)
    if name == "OrderedDict" and len(call.args) == 1 and not call.keywords:
        inner = call.args[0]
        return _items(inner) if isinstance(inner, ast.Dict) else _pairs(inner)
    if name != "Genotype" or len(call.args) > len(FIELDS):
        raise MisreadError(call, f"a genotype is {FORM}")
    found = dict(zip(FIELDS, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg is None:
            raise MisreadError(keyword, "** has no meaning here")
        _add(found, keyword.arg, keyword.value)
    return found


def _items(dictionary: ast.Dict) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for key, value in zip(dictionary.keys, dictionary.values, strict=True):
        if key is None:
            raise MisreadError(value, "** has no meaning here")
        _add(found, _text(key), value)
    return found


def _pairs(expression: ast.expr) -> dict[str, ast.expr]:
    """The items of an ordered dictionary as older versions of Python print it: a list of (key, value)."""
    found: dict[str, ast.expr] = {}
    for item in _elements(expression):
        pair = _elements(item)
        if len(pair) != 2:
            raise MisreadError(item, "an item of an ordered dictionary is (key, value)")
        _add(found, _text(pair[0]), pair[1])
    return found


def _add(found: dict[str, ast.expr], name: str, value: ast.expr) -> None:
    if name in found:
        raise MisreadError(value, f"{name!r} stands twice")
    found[name] = value


def _nodes(expression: ast.expr, last: int) -> tuple[tuple[Edge, ...], ...]:
    """The edges of every node; `last` is the last node that the output joins."""
    elements = _elements(expression)
    if not elements:
        raise MisreadError(expression, "a cell without an edge")
    nested = [_is_node(element) for element in elements]
    if all(nested):
        nodes = []
        for number, element in enumerate(elements, start=INPUTS):
            nodes.append(_node(element, number))
        return tuple(nodes)
    if any(nested):
        raise MisreadError(elements[nested.index(not nested[0])], "edges and lists of edges stand in one list")
    edges = [_edge(element) for element in elements]
    targeted = [edge.target is not None for edge in edges]
    if all(targeted):
        return _by_target(edges, elements)
    if any(targeted):
        raise MisreadError(elements[targeted.index(not targeted[0])], "some edges name their node and some do not")
    return _dealt([edge.edge for edge in edges], last, expression)


def _is_node(expression: ast.expr) -> bool:
    """Whether it is a list of edges rather than an edge, which begins with a name."""
    elements = _elements(expression)
    return not elements or isinstance(elements[0], ast.List | ast.Tuple)


def _node(expression: ast.expr, number: int) -> tuple[Edge, ...]:
    edges = []
    for element in _elements(expression):
        printed = _edge(element)
        if printed.target not in (None, number):
            raise MisreadError(element, f"node {printed.target} is named among the edges of node {number}")
        edges.append(printed.edge)
    return tuple(edges)


def _by_target(edges: list[PrintedEdge], elements: list[ast.expr]) -> tuple[tuple[Edge, ...], ...]:
    for printed, element in zip(edges, elements, strict=True):
        if printed.target_first != edges[0].target_first:
            raise MisreadError(element, "here the larger number, the node, stands at another place than before")
    nodes: dict[int, list[Edge]] = {}
    for printed in edges:
        nodes.setdefault(printed.target or 0, []).append(printed.edge)
    return tuple(tuple(nodes.get(number, [])) for number in range(INPUTS, max(nodes) + 1))


def deals(nodes: int) -> list[list[int]]:
    """How many edges each node may have where a flat list tells only all edges: one each, two each, or all."""
    return [[1] * nodes, [2] * nodes, [node + INPUTS for node in range(nodes)]]


def _dealt(edges: list[Edge], last: int, expression: ast.expr) -> tuple[tuple[Edge, ...], ...]:
    """Deal a flat list of edges out to the nodes.

    The last node is joined by the output (nobody prints a node that leads nowhere), so there are as many nodes as the
    concat says, and each has one edge, or two, or one from every input and earlier node.
    """
    number = last - INPUTS + 1
    for sizes in deals(number):
        if number > 0 and sum(sizes) == len(edges):
            rest = iter(edges)
            nodes = tuple(tuple(itertools.islice(rest, size)) for size in sizes)
            if any(map(repeats_an_input, nodes)):
                reason = f"{len(edges)} edges for {number} nodes are all there are, but a node has two from one input"
                raise MisreadError(expression, reason)
            return nodes
    possible = " or ".join(str(total) for total in dict.fromkeys(map(sum, deals(max(number, 1)))))
    raise MisreadError(
        expression,
        f"{len(edges)} edges for {max(number, 0)} nodes (the concat ends with {last}) have no one meaning: {possible} "
        f"have; write the edges of each node in brackets of their own, [[('op', 0), ('op', 1)], ...]",
    )


def repeats_an_input(edges: tuple[Edge, ...]) -> bool:
    """Whether a node of more edges than a flat list may give it at will has two from one input.

    A node that keeps all its edges has each state before it once; a node of two edges may take one state twice.
    """
    return len(edges) > 2 and len({edge.source for edge in edges}) < len(edges)


def _edge(expression: ast.expr) -> PrintedEdge:
    elements = _elements(expression)
    if not 2 <= len(elements) <= 3:
        raise MisreadError(expression, "an edge is ('operation', input), with a weight or the node after it at most")
    operation, source = _text(elements[0]), _whole(elements[1])
    if len(elements) == 2:
        return PrintedEdge(Edge(operation, source), None)
    third = _value(elements[2])
    if type(third) is float:  # a weight
        return PrintedEdge(Edge(operation, source), None)
    if type(third) is not int:
        raise MisreadError(elements[2], f"an edge's third item is a weight or a node, not {_shown(third)}")
    first, last = sorted((source, third))
    if not 0 <= first < last or not INPUTS <= last <= LARGEST:
        reason = f"of {source} and {third} one must be a node, from {INPUTS} on, and the other before it"
        raise MisreadError(expression, reason)
    return PrintedEdge(Edge(operation, first), last, target_first=source == last)


def _concat(expression: ast.expr) -> tuple[int, ...]:
    found = _range(expression)
    if found is None:
        inner, is_sorted = _unwrapped(expression)
        found = [_whole(element) for element in _listed(inner)]
        found = sorted(found) if is_sorted else found
    if not found:
        raise MisreadError(expression, "the output joins no node")
    if not all(abs(node) <= LARGEST for node in found):
        raise MisreadError(expression, f"a cell has no node of such a number; the largest is {LARGEST}")
    return tuple(found)


def _range(expression: ast.expr) -> list[int] | None:
    """The numbers of `range(...)`, also within `list(...)` and the like; None for what is no range."""
    inner, _ = _unwrapped(expression)
    if not (isinstance(inner, ast.Call) and _called(inner) == "range"):
        return None
    ends = [_whole(argument) for argument in inner.args]
    if inner.keywords or not 1 <= len(ends) <= 3 or not all(abs(end) <= LARGEST for end in ends) or 0 in ends[2:]:
        raise MisreadError(expression, "range(first, last) takes two small numbers")
    return list(range(*ends))


def _elements(expression: ast.expr) -> list[ast.expr]:
    """What a list holds whose order has a meaning."""
    inner, is_sorted = _unwrapped(expression)
    if is_sorted:
        raise MisreadError(expression, "a set or a sorted list has lost the order of its edges; give the list")
    return _listed(inner)


def _listed(inner: ast.expr) -> list[ast.expr]:
    if not isinstance(inner, ast.List | ast.Tuple | ast.Set):
        raise MisreadError(inner, f"must be a list, not {_shown(ast.unparse(inner))}")
    return inner.elts


def _unwrapped(expression: ast.expr) -> tuple[ast.expr, bool]:
    """What stands within `list(...)`, `array(...)` and the like; and whether its order is that of the numbers."""
    inner, is_sorted = expression, False
    while isinstance(inner, ast.Call) and _called(inner) in ("list", "tuple", "set", "sorted", "array"):
        if len(inner.args) != 1 or (inner.keywords and _called(inner) != "array"):
            raise MisreadError(inner, "a list in another takes one argument")
        is_sorted = is_sorted or _called(inner) in ("set", "sorted")
        inner = inner.args[0]
    return inner, is_sorted or isinstance(inner, ast.Set)


def _called(call: ast.Call) -> str:
    """The name of what is called, without its modules; empty for what has no name."""
    function: ast.expr = call.func
    if isinstance(function, ast.Attribute):
        modules = function.value
        while isinstance(modules, ast.Attribute):
            modules = modules.value
        return function.attr if isinstance(modules, ast.Name) else ""
    return function.id if isinstance(function, ast.Name) else ""


def _text(expression: ast.expr) -> str:
    value = _value(expression)
    if not isinstance(value, str):
        raise MisreadError(expression, f"must be a name in quotes, not {_shown(value)}")
    return value


def _whole(expression: ast.expr) -> int:
    value = _value(expression)
    if type(value) is not int:
        raise MisreadError(expression, f"must be a whole number, not {_shown(value)}")
    return value


def _value(expression: ast.expr) -> Any:
    """A constant, also with a sign, and also as NumPy and PyTorch print it: np.int64(3), tensor(0.13)."""
    if isinstance(expression, ast.Constant):
        return expression.value
    if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
        value = _value(expression.operand)
        if type(value) in (int, float):
            return -value
    if isinstance(expression, ast.Call) and _called(expression) in {*_NUMBERS, "tensor"} and len(expression.args) == 1:
        return _value(expression.args[0])
    raise MisreadError(expression, f"must be a name in quotes or a number, not {_shown(ast.unparse(expression))}")
