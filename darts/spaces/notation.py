"""Cells as people print them: the papers' Genotype(normal=[('sep_conv_3x3', 1), ...], ...), dictionaries, strings.

Nothing in a text is ever executed. What is read, and what has no one meaning, is listed in docs/settings.md.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import warnings
from dataclasses import dataclass

from darts.runtime.errors import UserError
from darts.spaces.cell_expression import (
    FORM,
    INPUTS,
    KINDS,
    MisreadError,
    cells_of,
    deals,
    node_edges,
    repeats_an_input,
)
from darts.spaces.genotype import LONGEST_NOTATION, Cell, Genotype
from darts.spaces.nasbench201 import from_string
from darts.spaces.search_space import RECURRENT, is_recurrent

LONGEST_TEXT = 20_000_000  # characters of a log
MOST_CELLS = 5_000  # that one text holds
_BEGIN = re.compile(
    r"""(?P<call>(?<!\w)(?<!class\ )(?:Genotype|OrderedDict)\s*\()
    |(?P<dictionary>\{\s*[ubr]?['"](?:(?:normal|reduce)(?:_concat)?|recurrent)['"]\s*:)
    |(?P<string>\|[^\s|~'"]*~)""",
    re.VERBOSE,
)
_STRING = re.compile(r"[^\s'\"(),;\[\]{}]+")
_TOKEN = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|\#[^\n]*|[()\[\]{}'"]""")
_NAME = re.compile(r"(\w+)\s*(?::\s*\w+\s*)?=\s*(?:\w+\s*\.\s*)*$")
_CLOSES = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Printed:
    """Where a cell's print stands in a text, and the name that it is given there, if any."""

    begin: int
    end: int
    line: int
    name: str
    benchmark: bool  # the string of NAS-Bench-201 rather than an expression


# What follows a cell within its expression: a call of one of its own methods, in the next line too, one of its fields,
# an index, or an operator.
_CHANGED = re.compile(
    r"""(?P<what>(?<=[)}\]])[\s)]*\.\s*(?:\w+\(|_\w)
    |[)\]\ \t]*(?:\.\s*(?:normal|reduce)(?:_concat)?\b|[*+/%@&^<>~]|==|!=|(?:or|and)\b\s+[\w'"(\[]|if\b.*\belse\b)
    |\ *[\[(]|[)\]]+\ *\[|\.\w)""",
    re.VERBOSE,
)
# What stands before it there: a call of something else than what prints, or an operator.
_HANDED = re.compile(r"(?P<what>(?<![\w.])(?:not|lambda[^:\n]*:)\s*[(\[]*|(?P<called>[A-Za-z_][\w.]*)\(\s*)$")
_PRINTS = re.compile(r"(?:.*\.)?(?:print|str|repr|format|info|debug|warning|log|write|eval|pprint|tuple)|Genotype")


def to_notation(genotype: Genotype) -> str:
    """The notation printed in papers: `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=..., reduce=...)`.

    A list of all edges, where it can be read in one way only; else a list of each node's edges. A recurrent cell is
    `Genotype(recurrent=[('tanh', 0), ...], concat=[...])`. Raises `UserError` for what this notation cannot express:
    cells of one input, and other cell types than normal and reduction.
    """
    if is_recurrent(genotype):
        cell = genotype.cells[RECURRENT]
        edges = [(edge.operation, edge.source) for node in cell.nodes for edge in node]
        return f"Genotype(recurrent={edges}, concat={list(cell.concat)})"
    if not has_notation(genotype):
        raise UserError(
            f"the papers' notation holds a normal and a reduction cell of {INPUTS} inputs each, not cells of space "
            f"{genotype.space!r}; the JSON form (to_json) holds every genotype, the benchmark's string "
            f"(nasbench201.to_string) those of NAS-Bench-201"
        )
    parts = []
    for printed, kind in KINDS.items():
        cell = genotype.cells[kind]
        parts.append(f"{printed}={_printed_edges(cell)}")
        parts.append(f"{printed}_concat={list(cell.concat)}")
    return f"Genotype({', '.join(parts)})"


def has_notation(genotype: Genotype) -> bool:
    """Whether the papers' notation can express a genotype."""
    if is_recurrent(genotype):
        return True
    two_inputs = all(cell.inputs == INPUTS for cell in genotype.cells.values())
    return set(genotype.cells) == set(KINDS.values()) and two_inputs


def _printed_edges(cell: Cell) -> list[tuple[str, int]] | list[list[tuple[str, int]]]:
    nodes = []
    for edges in cell.nodes:
        nodes.append([(edge.operation, edge.source) for edge in edges])
    flat = [len(edges) for edges in nodes] in deals(len(nodes)) and not any(map(repeats_an_input, cell.nodes))
    last_is_joined = max(cell.concat) == len(nodes) + INPUTS - 1
    return list(itertools.chain(*nodes)) if flat and last_is_joined else nodes


def from_notation(text: str, space: str = "darts", origin: str = "genotype", which: str = "") -> Genotype:
    """Read the cell that a text prints, by parsing; nothing in it is ever executed.

    `space` is what the genotype is stamped with (a benchmark's string is of NAS-Bench-201, a recurrent cell of the
    space of that name). `which` names one of
    several: the number of its line, or the name that it is assigned to. Raises `UserError`, beginning with `origin`
    and with the place, for a text without a cell, with different cells, and with one that has no one meaning.
    """
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{origin}: {len(text):,} characters; a text with cells has at most {LONGEST_TEXT:,}")
    listed = _listed(text, origin)
    if listed is not None:
        return listed
    places = _places(text, origin)
    if not places:
        raise UserError(f"{origin}: {text.strip()[:60]!r} holds no cell of the form {FORM}")
    chosen = [place for place in places if not which or which in (str(place.line), place.name)]
    if not chosen:
        raise UserError(f"{origin}: no cell is called {which!r} or begins on that line; {_choices(places)}")
    genotypes = [_read(text, place, space, origin) for place in chosen]
    if any(genotype != genotypes[0] for genotype in genotypes):
        raise UserError(
            f"{origin}: holds {len(chosen)} cells, which differ; the first is on line {chosen[0].line}, the last on "
            f"line {chosen[-1].line}; {_choices(chosen)}"
        )
    return genotypes[0]


def holds_cells(text: str) -> bool:
    """Whether a text has a place where a cell begins, right or wrong."""
    return _BEGIN.search(text) is not None or text.lstrip("\ufeff \t\r\n").startswith(("[", "("))


def _choices(places: list[Printed]) -> str:
    named = list(dict.fromkeys(place.name for place in places if place.name))
    names = f" or by its name (FILE:{named[0]} to FILE:{named[-1]})" if len(named) > 1 else ""
    return f"choose one of a file by its line (genotype=FILE:{places[-1].line}){names}, or leave only one in it"


def _places(text: str, origin: str) -> list[Printed]:
    """All places where a cell is printed, in order; `UserError` for one whose brackets do not close."""
    found: list[Printed] = []
    at, line, counted = 0, 1, 0
    while match := _BEGIN.search(text, at):
        begin = match.start()
        line, counted = line + text.count("\n", counted, begin), begin
        benchmark = match.lastgroup == "string"
        at = _end_of_string(text, begin) if benchmark else _end(text, begin, origin)
        assigned = _NAME.search(text, max(0, begin - 100), begin)
        name = assigned[1] if assigned else ""
        found.append(Printed(begin, at, line, name, benchmark))
        if len(found) > MOST_CELLS:
            raise UserError(f"{origin}: holds more than {MOST_CELLS:,} cells")
    return found


def _end_of_string(text: str, begin: int) -> int:
    """Where a benchmark's string ends: with the last | before a space, a quote or a bracket."""
    run = _STRING.match(text, begin)
    end = run.end() if run else begin
    return text.rfind("|", begin, end) + 1


def _end(text: str, begin: int, origin: str) -> int:
    """Where the brackets that open first at `begin` are closed."""
    open_brackets: list[str] = []
    for token in _TOKEN.finditer(text, begin, begin + LONGEST_NOTATION):
        sign = token[0]
        if sign in _CLOSES:
            open_brackets.append(sign)
        elif sign in _CLOSES.values():
            if _CLOSES[open_brackets.pop()] != sign:
                raise UserError(f"{origin}: {_place(text, token.start())}: {sign!r} closes another bracket")
            if not open_brackets:
                return token.end()
        elif sign in "'\"":
            raise UserError(f"{origin}: {_place(text, token.start())}: a quote that is not closed on its line")
    raise UserError(f"{origin}: {_place(text, begin)}: brackets that are not closed in {LONGEST_NOTATION:,} characters")


def _read(text: str, place: Printed, space: str, origin: str) -> Genotype:
    if place.benchmark:
        try:
            return from_string(text[place.begin : place.end])
        except UserError as error:
            raise UserError(f"{origin}: {_place(text, place.begin)}: {error}") from None
    changed = _CHANGED.match(text, place.end) or _handed_over(text, place.begin)
    if changed:
        raise UserError(
            f"{origin}: {_place(text, changed.start())}: something is done with the cell; only a cell is read"
        )
    expression = _parsed(text, place.begin, place.end, origin)
    try:
        cells = cells_of(expression)
        stamp = RECURRENT if RECURRENT in cells else space
        return Genotype(stamp, cells)
    except MisreadError as error:
        at = _position(text, place.begin, error.node)
        raise UserError(f"{origin}: {_place(text, at)}: {error}") from None
    except RecursionError:
        raise UserError(f"{origin}: {_place(text, place.begin)}: too deep for a cell") from None


def _handed_over(text: str, begin: int) -> re.Match[str] | None:
    """What stands before a cell, on its line, and makes something else of it."""
    first = text.rfind("\n", 0, begin) + 1
    found = _HANDED.search(text[max(first, begin - 100) : begin])
    if found is None or (found["called"] and _PRINTS.fullmatch(found["called"])):
        return None
    return re.compile(re.escape(found["what"])).search(text, max(first, begin - 100))


def _listed(text: str, origin: str) -> Genotype | None:
    """The cell of a whole text that is a bare list of nodes, as the benchmark's code prints them; None for others.

    Such a list does not tell normal from reduction cells: it must be a cell of NAS-Bench-201.
    """
    begin = len(text) - len(text.lstrip("\ufeff \t\r\n"))
    end = len(text.rstrip())
    if not text.startswith(("[", "("), begin) or end - begin > LONGEST_NOTATION or _BEGIN.search(text, begin):
        return None
    expression = _parsed(text, begin, end, origin)
    nodes = []
    try:
        for edges in node_edges(expression):
            nodes.append("|" + "|".join(f"{edge.operation}~{edge.source}" for edge in edges) + "|")
        return from_string("+".join(nodes))
    except MisreadError as error:
        at = _position(text, begin, error.node)
        raise UserError(f"{origin}: {_place(text, at)}: {error}") from None
    except RecursionError:
        raise UserError(f"{origin}: too deep for a cell") from None
    except UserError as error:
        raise UserError(f"{origin}: a list without names is read as a cell of NAS-Bench-201: {error}") from None


def _parsed(text: str, begin: int, end: int, origin: str) -> ast.expr:
    source = text[begin:end]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parser, about strange numbers and escapes
            return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        at = begin + _offset(source, error.lineno or 1, max(0, (error.offset or 1) - 1))
        raise UserError(f"{origin}: {_place(text, at)}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{origin}: {_place(text, begin)}: cannot be parsed ({type(error).__name__})") from None


def _position(text: str, begin: int, node: ast.AST) -> int:
    """Where an expression that was parsed from `begin` on stands in the whole text."""
    source = text[begin:]
    line = getattr(node, "lineno", 1)
    start = _offset(source, line, 0)
    encoded = source[start : start + LONGEST_NOTATION].encode()[: getattr(node, "col_offset", 0)]
    return begin + start + len(encoded.decode(errors="ignore"))


def _offset(source: str, line: int, column: int) -> int:
    """The index of a line and a column, the first of which are 1 and 0."""
    start = 0
    for _ in range(line - 1):
        start = source.find("\n", start) + 1
    return start + column


def _place(text: str, at: int) -> str:
    """Line, column and the text around, for a message of one line."""
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    around = text[max(0, at - 15) : at + 25]
    return f"line {line}, column {column}, at {json.dumps(around)}"
