"""What makes two runs the same experiment: the settings that decide the result, flat, and their digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from darts import __version__
from darts.runtime.errors import UserError
from darts.runtime.schema import one_line

# What may differ between two runs that are still the same experiment.
CIRCUMSTANCES = (
    *(
        "device",
        "engine",
        "graphs",
        "memory",
        "parallel.timeout_minutes",
        "runs",
        "checkpoint",
        "weights",
        "start_from",
    ),
    *("dataset.root", "dataset.download", "dataset.device_megabytes", "dataset.workers", "dataset.cache"),
    *("benchmark.trust_pickle", "logger"),
    *("plan", "power", "allow_underpowered", "trial", "searches_in"),  # of a comparison
)  # full dotted paths; a path stands for all that lies below it

MEMBER = re.compile(r"^dataset\.members\.[^.]+\.")  # of several tasks: whose setting it is
DATA = {
    "dataset.content": "training data",
    "dataset.test_content": "test data",
    "dataset.validation_content": "validation data",
}  # digests among the settings


def as_dictionary(settings: Any) -> Any:
    """Return settings as dictionaries, lists and values; a part carries the name of its class."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        values = {field.name: as_dictionary(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
        is_part = type(settings).__base__ is not object
        return {"part": type(settings).__name__, **values} if is_part else values
    if isinstance(settings, Enum):
        return settings.value
    if isinstance(settings, dict):
        return {key: as_dictionary(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [as_dictionary(value) for value in settings]
    return settings


def identity(settings: Any) -> dict[str, Any]:
    """The settings that decide the result, flat: dotted key -> value."""
    return dict(_flat(as_dictionary(settings), ""))


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        path = f"{prefix}{key}"
        if MEMBER.sub("dataset.", path) in CIRCUMSTANCES:
            continue
        if isinstance(value, dict):
            pairs += _flat(value, f"{path}.")
        else:
            pairs.append((path, value))
    return pairs


def digest(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a flat set of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def refuse_other_experiment(stored: Mapping[str, Any], present: Mapping[str, Any], folder: Path) -> None:
    """Raise `UserError` where a run is of another version, or naming the settings in which it differs.

    `stored` is what the run wrote: its "version" and its flat "settings"; `present` are those of the command.
    """
    refuse_other_version(stored, folder)
    _refuse_other_settings(stored["settings"], present, folder)


def _refuse_other_settings(stored: Mapping[str, Any], present: Mapping[str, Any], folder: Path) -> None:
    """Raise `UserError` naming the settings that differ between a run's folder and the present command."""
    differing = sorted(key for key in stored.keys() | present.keys() if stored.get(key) != present.get(key))
    if differing and set(differing) <= DATA.keys():
        changed = " and ".join(DATA[key] for key in differing)
        raise UserError(
            f"{folder} holds a run on other data: the {changed} have changed since, or dataset.root is a folder of "
            "others; give another hydra.run.dir"
        )
    if differing:
        changes = []
        for key in differing[:5]:
            was, is_now = one_line(stored.get(key)), one_line(present.get(key))
            changes.append(f"{key} was {was} and is now {is_now}")
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(
            f"{folder} holds a run of other settings: {', '.join(changes)}{more}; give another hydra.run.dir"
        )


def refuse_other_version(stored: Mapping[str, Any], folder: Path) -> None:
    """Raise `UserError` naming the version that wrote a run which this one cannot resume.

    Runs of version 0.1.0, whose settings had other names, do not name their version.
    """
    version = stored.get("version", "0.1.0")
    if not isinstance(version, str):
        raise UserError(f"{folder} holds a run whose version is {one_line(version)}; give another hydra.run.dir")
    if version != __version__:
        raise UserError(
            f"{folder} holds a run of version {version}, which version {__version__} cannot resume; give another "
            f"hydra.run.dir (its genotype.json can be read: genotype={folder})"
        )
