"""What Hydra and OmegaConf refuse while they compose, told as everything else is: setting, value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from darts.runtime.errors import UserError

MERGING = re.compile(r"Error merging override (?P<removed>~?)\+{0,2}(?P<key>[^=\s]+)(?:=(?P<value>.*))?", re.DOTALL)
FULL_KEY = re.compile(r"full_key: (\S+)")
RAW = (AssertionError, AttributeError, TypeError, ValueError)  # what Hydra and OmegaConf let through, with no setting
OWN_SETTINGS = "left to its own settings, {key}.NAME=VALUE"
ALLOWED = {
    r"could not be converted to Integer": "a whole number",
    r"could not be converted to Float": "a number",
    r"is not a valid bool": "true or false",
    r"Cannot convert .* to string": "a text",
    r"expected one of \[(?P<names>[^\]]*)\]": "one of {names}",
    r"is not a ListConfig, list or tuple\. full_key: \d": "a list of lists, such as [[a,b],[c,d]]",
    r"is not a ListConfig, list or tuple": "a list, such as [a,b]",
    r"NoneType is not a subclass of": "without null",
    r"(incompatible with type hint|Incompatible value .* of type) .*\bint\b": "of whole numbers",
    r"Cannot merge DictConfig with ListConfig.* reference_type=(Optional\[)?List": "a list, such as [a,b]",
    r"Cannot merge DictConfig with ListConfig|is not a subclass of": OWN_SETTINGS,
    r"Cannot assign .* to [Dd]ict": "names with values, such as {{NAME: VALUE}}",
    r"is not Optional": "something else than null, as -h {key} says",
}  # a pattern of their words -> what they allow


def in_a_line(error: Exception) -> str:
    """What an error of Hydra or OmegaConf says, with its cause, on one line: as `ALLOWED` has it, else their words."""
    message, cause = str(error), _joined(str(error.__cause__ or ""))
    merged = MERGING.fullmatch(message)
    if merged is not None and merged["removed"]:
        return f"~{merged['key']} removes a setting, which is needed"
    if merged is not None:
        key, place = merged["key"], FULL_KEY.search(cause)
        if place is not None and "of type 'dict'" in cause and key.startswith(f"{place[1]}."):
            return f"setting {key!r}: {place[1]} is a value and has no settings"
        for pattern, allowed in ALLOWED.items():
            if found := re.search(pattern, cause):
                return f"{key} is {merged['value']}; it must be {allowed.format(key=key, **found.groupdict())}"
    if isinstance(error, AttributeError) and (place := FULL_KEY.search(message)):
        return f"{place[1]} is null with what is chosen here, and takes no value where settings are typed"
    return f"{_joined(message)} {cause}".strip() or type(error).__name__


def configuration(name: str, overrides: Sequence[str], **more: Any) -> DictConfig:
    """The configuration of the command `name`, as Hydra's `compose` makes it; `UserError` for what it refuses."""
    try:
        return compose(name, list(overrides), **more)
    except OverrideParseException as error:
        told = "its brackets and quotes must close, and a text with other signs than letters and digits needs quotes"
        raise UserError(f"{error.override} cannot be read: {told}") from None
    except HydraException as error:
        raise UserError(in_a_line(error)) from None
    except RAW as error:
        raise _without_settings(name, overrides) or UserError(f"{in_a_line(error)}: {' '.join(overrides)}") from None


def _without_settings(name: str, overrides: Sequence[str]) -> UserError | None:
    """What to say of a typed setting below one that is null, a value or a list; None where there is no such."""
    dotted = [item for item in overrides if "." in item.partition("=")[0]]
    if not dotted:
        return None
    choices = configuration(name, [item for item in overrides if item not in dotted])
    for override in dotted:
        key = override.lstrip("+~").partition("=")[0]
        for dot in re.finditer(r"\.", key):
            section = key[: dot.start()]
            value = OmegaConf.select(choices, section, default="absent")
            if value is None:
                return UserError(f"setting {key!r}: {section} is null with what is chosen here, and has no settings")
            if isinstance(value, ListConfig):
                return UserError(f"setting {key!r}: {section} is a list; give it whole, {section}=[...]")
    return None


def _joined(text: str) -> str:
    return " ".join(text.split())
