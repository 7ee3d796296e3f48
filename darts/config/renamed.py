"""Settings that have another name since version 0.2.0: the old name is answered with the new one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from darts.runtime.errors import UserError

RENAMED = {
    "memory.checkpoint_cells": "memory.activation_checkpointing",
    "search.weight_share": "search.train_fraction",
    "weight_share": "train_fraction",
    "method.alpha_terms": "method.regularisers",
    "method.beside": "method.edge_extras",
    "method.weight_rule": "method.weight_gradient",
    "method.channels.shares": "method.channels.k",
    "method.schedule.frozen": "method.schedule.alpha_frozen_fraction",
    "method.hypergradient.every": "method.hypergradient.steps",
}
RENAMED_VALUES = {
    "engine": {"plain": "reference"},
    "evaluator": {"short_training": "brief_training"},
    "scored_by": {"short_training": "brief_training"},
    "method.edge_extras": {"nothing": "none"},
}


def refuse_old_names(overrides: Sequence[str]) -> None:
    """Raise `UserError` with the new spelling where an override (`key=value`) uses an old name."""
    for override in overrides:
        new = modern(override)
        if new != override:
            raise UserError(f"{override} has another name since version 0.2.0; give {new}")


def modern(override: str) -> str:
    """An override in today's names; the same where nothing changed."""
    key, equals, value = override.partition("=")
    marks = key[: len(key) - len(key.lstrip("+~"))]
    group, at, package = key.lstrip("+~").partition("@")
    new_group, new_package = _modern_key(group), _modern_key(package)
    if equals:
        value = _modern_value(new_group.replace("/", "."), value)
    return f"{marks}{new_group}{at}{new_package}{equals}{value}"


def _modern_key(key: str) -> str:
    """A setting's or a group's name today; what lies below a renamed one keeps its own name."""
    dotted = key.replace("/", ".")
    for old, new in RENAMED.items():
        if dotted == old or dotted.startswith(f"{old}."):
            found = new + dotted.removeprefix(old)
            return found.replace(".", "/") if "/" in key else found
    return key


def _modern_value(key: str, value: str) -> str:
    """A chosen part's name today; of a comparison's methods, each with its settings after spaces."""
    if key == "methods":
        words = re.split(r"([\s,\[\]\"']+)", value)
        return "".join(modern(word) if "=" in word else word for word in words)
    return RENAMED_VALUES.get(key.removeprefix("searches."), {}).get(value, value)
