"""Settings that have another name since version 0.2.0: the old name is answered with the new one."""

from __future__ import annotations

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
}
RENAMED_VALUES = {
    "engine": {"plain": "reference"},
    "evaluator": {"short_training": "brief_training"},
    "scored_by": {"short_training": "brief_training"},
    "method.edge_extras": {"nothing": "none"},
}


def refuse_old_names(overrides: Sequence[str]) -> None:
    """Raise `UserError` naming the new name where an override (`key=value`) uses an old one."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        dotted = key.replace("/", ".").split("@")[0]
        new = new_name(dotted)
        if new is not None:
            shown = new.replace("method.", "method/", 1) if "/" in key else new
            raise UserError(f"{key} is called {shown} since version 0.2.0; give {shown}={value}")
        renamed = RENAMED_VALUES.get(dotted, {})
        if value in renamed:
            raise UserError(f"{key}={value} is called {key}={renamed[value]} since version 0.2.0")


def new_name(dotted: str) -> str | None:
    """The new name of a setting that had another one, or of what lies below it; None where nothing changed."""
    for old, new in RENAMED.items():
        if dotted == old or dotted.startswith(f"{old}."):
            return new + dotted.removeprefix(old)
    return None
