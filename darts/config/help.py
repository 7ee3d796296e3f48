"""`--help`: every setting with its value, its choices and its meaning, of the parts that are chosen.

The meaning of a setting is the comment behind its field in the dataclass that declares it: it is written once.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import shutil
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from darts.config.compose import CONF
from darts.config.registry import choices
from darts.runtime.errors import UserError

HIDDEN = ("hydra", "schema")


@cache
def phrases(kind: type) -> dict[str, str]:
    """By field of a settings class, its meaning: the comment behind it; fields without one are left out."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _own_phrases(base)
    return found


def _own_phrases(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").strip()
    body = ast.parse(source).body[0]
    fields = [node for node in getattr(body, "body", []) if isinstance(node, ast.AnnAssign)]
    return {ast.unparse(node.target): comments[node.end_lineno] for node in fields if node.end_lineno in comments}


def settings_of(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every setting as (dotted name, value, meaning), in the order of the schemas."""
    kind = OmegaConf.get_type(config)
    meanings = phrases(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else {}
    for key in config:
        name, node = f"{prefix}{key!s}", config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            first = _docstring(OmegaConf.get_type(node))
            yield name, "", meanings.get(str(key), "") or first
            yield from settings_of(node, f"{name}.")
        else:
            yield name, _shown(node), meanings.get(str(key), "")


def _docstring(kind: Any) -> str:
    text = inspect.getdoc(kind) if dataclasses.is_dataclass(kind) else None
    return (text or "").split("\n\n")[0].replace("\n", " ")


def _shown(node: Any) -> str:
    if node is None or node._is_missing():
        return "???"
    value = OmegaConf.to_container(node) if OmegaConf.is_list(node) else node._value()
    if isinstance(value, Enum):
        members = ", ".join(member.name for member in type(value))
        return f"{value.name}    (one of {members})"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")


def groups() -> dict[str, list[str]]:
    """The configuration groups and what can be chosen in each, plug-ins included."""
    found: dict[str, list[str]] = {}
    folders = sorted(path for path in Path(CONF).rglob("*") if path.is_dir())
    for folder in folders:
        name = folder.relative_to(CONF).as_posix()
        files = sorted(file.stem for file in folder.glob("*.yaml"))
        if files and name.split("/")[0] not in HIDDEN and not name.startswith("experiment/"):
            found[name] = files
    for group, names in choices.items():
        found[group] = sorted({*found.get(group, []), *names})
    return found


def print_help(name: str, about: str, overrides: Sequence[str], folders: Sequence[str] = ()) -> None:
    """Print what a command does, the groups it knows, and every setting of its configuration under these overrides.

    `folders`: further ones with configuration files, as `--config-dir` names them.
    """
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            own = [item for item in overrides if not item.startswith("hydra")]
            searched = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
            config = compose(name, [*own, *searched])
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from None
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [
        about.strip(),
        "",
        "SETTING=VALUE changes one setting, GROUP=NAME chooses a part; -m a=1,2 runs several.",
        "",
    ]
    settings = list(settings_of(config))
    used = {key for key, _, _ in settings}
    for group, names in groups().items():
        if group.replace("/", ".") in used or group in ("experiment", "cluster"):
            shown = f"+{group}" if group == "cluster" else group
            lines += textwrap.wrap(f"{shown}={' | '.join(names)}", width, subsequent_indent="    ")
    lines.append("")
    for setting, value, meaning in settings:
        lines += _lines(setting, value, meaning, width)
    sys.stdout.write("\n".join(lines) + "\n")


def _lines(setting: str, value: str, meaning: str, width: int) -> list[str]:
    """A setting on a line of its own, its meaning beside it or below."""
    head = f"{setting}={value}" if value else f"{setting}:"
    indent = 4 if not value and "." not in setting else 0
    first = [""] if indent else []
    if len(head) + len(meaning) + 4 <= width:
        return [*first, f"{head:<44}  {meaning}".rstrip()]
    return [*first, head, *textwrap.wrap(meaning, width, initial_indent=" " * 8, subsequent_indent=" " * 8)]
