"""What a setting allows, in words: read from the checks of its own class, so that help and errors say the same.

A check is a call `require(holds, "group.name", value, "what is allowed")` in `__post_init__`, or such a call within a
loop over names, `for name in ("a", "b"): require(..., f"group.{name}", ...)`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache


@cache
def allowed(kind: type) -> dict[str, str]:
    """By field of a settings class, what it allows, where a check of the class or of a base says so in plain words."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base) or "__post_init__" not in vars(base):
            continue
        for name, words in _checks(base):
            found.setdefault(name, words)
    return {field.name: found[field.name] for field in dataclasses.fields(kind) if field.name in found}


def _checks(kind: type) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(kind)["__post_init__"])))
    except (OSError, TypeError, SyntaxError):
        return
    yield from _within(tree.body, {}, {})


def _within(body: list[ast.stmt], loops: dict[str, list[str]], texts: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The checks of some statements; `loops`: what a variable goes through; `texts`: what one was set to."""
    for statement in body:
        if isinstance(statement, ast.For):
            yield from _within(statement.body, {**loops, **_loop(statement)}, texts)
        elif isinstance(statement, ast.FunctionDef | ast.If | ast.With):
            yield from _within(statement.body, loops, texts)
        elif isinstance(statement, ast.Assign):
            texts |= _assigned(statement)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Name) and call.func.id == "require" and len(call.args) == 4:
                words = _words(call.args[3], texts)
                if words:
                    yield from ((name, words) for name in _names(call.args[1], loops))


def _loop(statement: ast.For) -> dict[str, list[str]]:
    """The texts that a loop's first variable goes through, where they stand in the source."""
    target = statement.target
    first = target.elts[0] if isinstance(target, ast.Tuple) else target
    if not isinstance(first, ast.Name) or not isinstance(statement.iter, ast.Tuple):
        return {}
    items = [item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item for item in statement.iter.elts]
    return {first.id: [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]}


def _assigned(statement: ast.Assign) -> dict[str, str]:
    target, value = statement.targets[0], statement.value
    if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
        return {target.id: value.value}
    return {}


def _names(node: ast.expr, loops: dict[str, list[str]]) -> list[str]:
    """The last part of the setting's name, or names: "a.b" gives b, f"{place}.{name}" what `name` goes through."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value.rsplit(".", 1)[-1]]
    if isinstance(node, ast.Name):
        return [name.rsplit(".", 1)[-1] for name in loops.get(node.id, [])]
    if isinstance(node, ast.JoinedStr) and node.values:
        last = node.values[-1]
        if isinstance(last, ast.Constant):
            return [str(last.value).rsplit(".", 1)[-1]]
        if isinstance(last, ast.FormattedValue) and isinstance(last.value, ast.Name):
            return loops.get(last.value.id, [])
    return []


def _words(node: ast.expr, texts: dict[str, str]) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return texts.get(node.id, "") if isinstance(node, ast.Name) else ""
