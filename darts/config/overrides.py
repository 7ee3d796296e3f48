"""A typed setting, `key=value`, as Hydra reads it: its quotes, lists and escapes mean here what they mean there."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


def parsed(override: str) -> Override | None:
    """What Hydra makes of a typed setting; None where it refuses it, as it will say itself."""
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, RecursionError):
        return None


def given_value(override: str) -> Any:
    """The value that a typed setting gives, references to the environment resolved; None where it cannot be told."""
    found = parsed(override)
    if found is None or found.is_sweep_override():
        return None
    try:
        held = OmegaConf.create({"value": found.value()})
        return OmegaConf.to_container(held, resolve=True)["value"]  # type: ignore[call-overload, index]
    except OmegaConfBaseException:
        return None
