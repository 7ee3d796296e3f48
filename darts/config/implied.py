"""What one choice brings with it: a recurrent cell reads text, a text asks for a recurrent cell, tasks for their data.

Hydra's defaults list cannot say so, for a group that follows from another may not override a third. Values that follow
from a space (sizes, rates) stand in conf/implied/COMMAND/SPACE.yaml, beneath experiments and what is typed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from darts.config.overrides import given_value
from darts.runtime.errors import UserError

FOLLOWING = [  # a choice and one that follows from it
    (("space", "recurrent"), ("dataset", "bible")),
    (("dataset", "bible"), ("space", "recurrent")),
    (("dataset", "text_folder"), ("space", "recurrent")),
    (("space", "recurrent"), ("evaluator", "brief_training_text")),
    (("dataset", "bible"), ("evaluator", "brief_training_text")),
    (("dataset", "text_folder"), ("evaluator", "brief_training_text")),
    (("experiment", "darts_ptb"), ("evaluator", "brief_training_text")),
    (("experiment", "darts_wikitext2"), ("evaluator", "brief_training_text")),
    (("method", "nsga2"), ("evaluator", "multi_objective")),
    (("experiment", "pc_darts_imagenet"), ("method", "pc_darts")),
]
IGNORED_IF_IMPLIED = ("evaluator=brief_training_text",)  # which a search by gradients ignores, and does not refuse
WITH_DATA = ("search", "final", "compare", "select", "tune", "correlate", "benchmark")  # commands with a data set


OWN_EXPERIMENTS = ("describe",)  # commands without data, whose experiments stand apart: conf/experiment/COMMAND


def own_experiment(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with `experiment=NAME` as the choice that a command without data has for it."""
    if command not in OWN_EXPERIMENTS:
        return list(arguments)
    begin = "experiment="
    return [f"experiment/{command}={a.removeprefix(begin)}" if a.startswith(begin) else a for a in arguments]


def task_names(tasks: Sequence[Any]) -> dict[str, str]:
    """By task its data set: of tasks=[...], whose items are the names of data sets, or TASK:NAME."""
    pairs = [str(item).rpartition(":") for item in tasks]
    return {task or name: name for task, _, name in pairs}


def members_of(typed: Mapping[str, Any]) -> list[str]:
    """What tasks=[...] brings with it: a data set of several, and a member of it for each task."""
    tasks = typed.get("tasks")
    if not isinstance(tasks, list) or not tasks or "dataset" in typed:
        return []
    members = task_names(tasks)
    if len(members) < len(tasks):
        raise UserError(f"tasks is {tasks}; the tasks must have different names: TASK:DATASET gives one a name")
    for task in members:
        if not task.isidentifier():
            raise UserError(f"tasks is {tasks}; {task!r} is no name of letters, digits and _")
    return ["dataset=several", *(f"+dataset@dataset.members.{task}={name}" for task, name in members.items())]


def alone(task: str, overrides: Sequence[str]) -> list[str]:
    """The settings typed for several tasks as those of one of them: its data set, and its own settings of that."""
    found = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == f"dataset@dataset.members.{task}":
            found.append(f"dataset={value}")
        elif key.startswith(f"dataset.members.{task}."):
            found.append(f"dataset.{key.removeprefix(f'dataset.members.{task}.')}={value}")
        elif key == "dataset.fraction" or not (key == "tasks" or key.split(".")[0].split("@")[0] == "dataset"):
            found.append(override)
    return [*others(found), *fraction_of(found)]


def others(overrides: Sequence[str]) -> list[str]:
    """The settings but for the fraction of the data."""
    return [override for override in overrides if not override.startswith("dataset.fraction=")]


def fraction_of(overrides: Sequence[str]) -> list[str]:
    """The fraction of one task's data as one setting: what is typed for all tasks times what is typed for this one."""
    given = [override.partition("=")[2] for override in overrides if override.startswith("dataset.fraction=")]
    if len(given) < 2:
        return [f"dataset.fraction={value}" for value in given]
    try:
        return [f"dataset.fraction={math.prod(map(float, given)):.12g}"]
    except ValueError:
        return [f"dataset.fraction={given[-1]}"]


def implied_choices(command: str, overrides: Sequence[str]) -> list[str]:
    """The choices, `group=name`, that follow from typed ones and are not typed themselves."""
    typed = {}
    for override in overrides:
        key, _, _ = override.lstrip("+").partition("=")
        typed[key] = given_value(override)
    if command not in WITH_DATA:
        return []
    found = members_of(typed) if command in ("search", "compare") else []
    tasks = typed.get("tasks")
    if command == "compare" and tasks and typed.get("dataset", "several") != "several":
        raise UserError(f"tasks is {tasks}; it must be given without dataset= beside it")
    if command == "compare" and isinstance(tasks, list) and tasks and "hydra.run.dir" not in typed:
        found.append(f"hydra.run.dir='${{runs}}/compare/{'+'.join(task_names(tasks))}'")
    for (group, name), (other, following) in FOLLOWING:
        scoring = command == "search" or (command == "correlate" and other == "evaluator")
        useless = other in ("evaluator", "method") and not scoring
        chosen = typed.get("experiment") not in (None, "quick")  # which chooses data and space; quick changes nothing
        decided = chosen and group != "experiment"
        if typed.get(group) == name and other not in typed and not useless and not decided:
            typed[other] = following
            found.append(f"{other}={following}")
    return found
