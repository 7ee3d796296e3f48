"""`--help`: every setting with its value, its choices and its meaning, of the parts that are chosen.

The meaning of a setting is the comment behind its field in the dataclass that declares it: it is written once.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import shutil
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from darts.config import refused
from darts.config.compose import CONF
from darts.config.implied import OWN_EXPERIMENTS
from darts.config.invocation import as_started
from darts.config.ranges import allowed
from darts.config.registry import choices
from darts.runtime.errors import unknown

HIDDEN = ("hydra", "schema")
INTERNAL = ("for_method", "trial")  # settings that the program gives itself
BESIDE = {
    "resume": "latest, or the folder of a run: go on with a stopped run of this command, under its own settings",
    "hydra.run.dir": "the run's folder; the same folder again goes on with the run",
    "hydra.sweep.dir": "with -m, the folder of all runs",
}  # what may be typed and is no setting of a configuration

EXAMPLES = {
    "search": (
        "method=pc_darts search.epochs=10",
        "-m seed=0,1,2 method=darts,drnas",
        "dataset=image_folder dataset.root=PICTURES",
        "resume=latest",
    ),
    "final": (
        "genotype=darts_v2",
        "train.validation=0.1 recipe=modern",
        "start_from=latest dataset=image_folder dataset.root=PICTURES",
        "resume=latest",
    ),
    "compare": (
        "plan=true",
        '"methods=[darts,evolution]" budget.epochs=3',
        '"methods=[darts]" budget.epochs=1 +searches.search.epochs=1',
        '"searched=[runs/search/RUN]"',
    ),
    "describe": ("genotype=darts_v2", "genotype=latest json=true", "experiment=darts_imagenet genotype=darts_v2"),
    "measure": ("space=darts network.channels=16 network.cells=5", "device=cuda batch_size=64"),
    "front": ('table=ACCURACIES.csv costs=LATENCIES.csv "cost=[pixel2]" "limits=[18]"',),
    "predict": ("images=PICTURES/test labels=folders",),
    "export": ("to=onnx", "weights=runs/final/RUN to=pt2 fold=true"),
    "runs": ("kind=search", '"clean=[failed]"'),
    "select": ('"searched=[runs/search/SWEEP]"',),
    "tune": ("genotype=darts_v2 trials=20",),
    "correlate": ("evaluator=zero_cost",),
    "benchmark": ("repetitions=5",),
}  # by command, what may stand after it


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


class Described(NamedTuple):
    """One setting as help shows it."""

    name: str  # dotted
    value: str  # "" of a group
    meaning: str
    allowed: str  # "" where nothing is said


def settings_of(config: DictConfig, prefix: str = "") -> Iterator[Described]:
    """Every setting of a configuration, in the order of the schemas."""
    kind = OmegaConf.get_type(config)
    meanings: dict[str, str] = {}
    ranges: dict[str, str] = {}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        meanings, ranges = phrases(kind), allowed(kind)
    for key in config:
        name, node = f"{prefix}{key!s}", config._get_node(key)
        if name in INTERNAL:
            continue
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            first = _docstring(OmegaConf.get_type(node))
            yield Described(name, "", meanings.get(str(key), "") or first, "")
            yield from settings_of(node, f"{name}.")
        else:
            yield Described(name, _shown(node), meanings.get(str(key), ""), ranges.get(str(key), ""))


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


OF_COMMANDS = {f"experiment/{command}": command for command in OWN_EXPERIMENTS}


def typed_group(group: str) -> str:
    """A group as it is typed: the experiments of a command without data are typed as those of others."""
    return "experiment" if group in OF_COMMANDS else group


def groups() -> dict[str, list[str]]:
    """The configuration groups and what can be chosen in each, plug-ins included."""
    found: dict[str, list[str]] = {}
    folders = sorted(path for path in Path(CONF).rglob("*") if path.is_dir())
    for folder in folders:
        name = folder.relative_to(CONF).as_posix()
        files = sorted(file.stem for file in folder.glob("*.yaml"))
        inner = name.startswith("experiment/") and name not in OF_COMMANDS
        if files and name.split("/")[0] not in HIDDEN and not inner:
            found[name] = files
    for group, names in choices.items():
        found[group] = sorted({*found.get(group, []), *names})
    return found


def print_help(
    name: str, about: str, overrides: Sequence[str], folders: Sequence[str] = (), topics: Sequence[str] = ()
) -> None:
    """Print what a command does, the groups it knows, and every setting of its configuration under these overrides.

    `folders`: further ones with configuration files, as `--config-dir` names them. With `topics`, names of settings or
    groups, only these. `UserError` for a name that is none.
    """
    settings = list(settings_of(composed(name, overrides, folders)))
    width = min(shutil.get_terminal_size().columns, 120)
    if topics:
        lines = []
        for topic in topics:
            own = f"/{name}" if topic == "experiment" and name in OWN_EXPERIMENTS else ""
            lines += _topic(f"{topic}{own}", settings, width)
    else:
        lines = _whole(name, about, settings, width)
    sys.stdout.write("\n".join(lines) + "\n")


def composed(name: str, overrides: Sequence[str] = (), folders: Sequence[str] = ()) -> DictConfig:
    """A command's configuration under overrides; `UserError` for what Hydra refuses."""
    own = [item for item in overrides if not item.startswith("hydra")]
    searched = [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
    with initialize_config_dir(CONF, version_base="1.3"):
        return refused.configuration(name, [*own, *searched])


def _whole(name: str, about: str, settings: Sequence[Described], width: int) -> list[str]:
    command = about.strip()
    lines = [command, "", "SETTING=VALUE changes one setting, GROUP=NAME chooses a part; -m a=1,2 runs several.",
             "-h SETTING explains one setting or group.", ""]  # fmt: skip
    used = {setting.name for setting in settings}
    own = (Path(CONF) / f"{name}.yaml").read_text()
    runs_jobs = "- experiment:" in own  # and may send them to a cluster
    for group, names in groups().items():
        chosen = f"- {group}:" in own or (group == "cluster" and runs_jobs)
        if group.replace("/", ".") in used or chosen:
            shown = f"+{group}" if group == "cluster" else typed_group(group)
            lines += textwrap.wrap(f"{shown}={' | '.join(names)}", width, subsequent_indent="    ")
    lines.append("")
    for setting in settings:
        lines += _lines(setting, width)
    return [*lines, "", "examples:", *(f"  {call_of(name)} {example}" for example in EXAMPLES.get(name, ()))]


def call_of(name: str) -> str:
    """How a command is called."""
    files = {"search": "python train_search.py", "final": "python train_final.py"}
    return as_started(files.get(name, f"python -m darts.{name}"))


def _topic(topic: str, settings: Sequence[Described], width: int) -> list[str]:
    """One setting with what it allows, a section with all its settings, or a group with its choices."""
    if topic in BESIDE:
        return textwrap.wrap(f"{topic}: {BESIDE[topic]}", width, subsequent_indent="    ")
    name, known = topic.replace("/", "."), groups()
    found = [setting for setting in settings if setting.name == name or setting.name.startswith(f"{name}.")]
    lines: list[str] = []
    for setting in found:
        lines += _lines(setting, width)
    chosen = topic.replace(".", "/").lstrip("+")
    if chosen in known:
        lines += ["", f"{typed_group(chosen)}=NAME, one of:"]
        for choice in known[chosen]:
            lines += textwrap.wrap(f"{choice}: {_about(chosen, choice)}", width, initial_indent="  ",
                                   subsequent_indent="      ")  # fmt: skip
    if not lines:
        raise unknown("setting", topic, [*(setting.name for setting in settings), *known])
    return lines


def _about(group: str, choice: str) -> str:
    """The comment at the head of a choice's YAML file."""
    file = Path(CONF, group, f"{choice}.yaml")
    if not file.is_file():
        return "of a plug-in"
    text = file.read_text()
    comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
    about = " ".join(line for line in comments if line and not line.startswith("@package"))
    return about or _about_schema(text)


def _about_schema(text: str) -> str:
    """The first sentence on the class whose settings a YAML file gives."""
    named = re.search(r"/schema/(\w+)/(\w+)", text)
    if named is None:
        return ""
    entry = ConfigStore.instance().repo["schema"].get(named[1], {}).get(f"{named[2]}.yaml")
    return "" if entry is None else _docstring(OmegaConf.get_type(entry.node))


def _lines(setting: Described, width: int) -> list[str]:
    """A setting on a line of its own, its meaning beside it or below, and what it allows."""
    head = f"{setting.name}={setting.value}" if setting.value else f"{setting.name}:"
    indent = 4 if not setting.value and "." not in setting.name else 0
    first = [""] if indent else []
    meaning = setting.meaning
    if setting.allowed:
        meaning = f"{meaning} [{setting.allowed}]".strip()
    if len(head) + len(meaning) + 4 <= width:
        return [*first, f"{head:<44}  {meaning}".rstrip()]
    return [*first, head, *textwrap.wrap(meaning, width, initial_indent=" " * 8, subsequent_indent=" " * 8)]
