"""What Hydra and OmegaConf refuse while they compose, told as everything else is: setting, value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra import compose
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from darts.runtime.errors import UserError

MERGING = re.compile(r"Error merging override (?P<removed>~?)(?P<key>[^=\s]+)(?:=(?P<value>.*))?", re.DOTALL)
FULL_KEY = re.compile(r"full_key: (\S+)")
ROOT = "Unexpected type for root"  # of a setting below one that is null
ALLOWED = {
    r"could not be converted to Integer": "a whole number",
    r"could not be converted to Float": "a number",
    r"is not a valid bool": "true or false",
    r"Cannot convert .* to string": "a text",
    r"expected one of \[(?P<names>[^\]]*)\]": "one of {names}",
    r"is not a ListConfig, list or tuple": "a list, such as [a,b]",
    r"NoneType is not a subclass of": "without null",
    r"(incompatible with type hint|Incompatible value .* of type) 'int'": "of whole numbers",
    r"Cannot merge DictConfig with ListConfig": "a list, such as [a,b]",
    r"is not a subclass of": "left to its own settings, {key}.NAME=VALUE",
    r"Cannot assign .* to [Dd]ict": "names with values, such as {{NAME: VALUE}}",
    r"is not Optional": "something else than null, as -h {key} says",
}  # a pattern of their words -> what they allow


def in_a_line(error: Exception) -> str:
    """What an error of Hydra or OmegaConf says, with its cause, on one line and in this project's words if they fit."""
    message, cause = _joined(str(error)), _joined(str(error.__cause__ or ""))
    merged = MERGING.fullmatch(message)
    if merged is not None and merged["removed"]:
        return f"~{merged['key']} removes a setting, which is needed"
    if merged is not None:
        for pattern, allowed in ALLOWED.items():
            if found := re.search(pattern, cause):
                told = allowed.format(key=merged["key"], **found.groupdict())
                return f"{merged['key']} is {merged['value']}; it must be {told}"
    if isinstance(error, AttributeError) and (place := FULL_KEY.search(message)):
        return f"{place[1]} is null with what is chosen here, and takes no value where settings are typed"
    return f"{message} {cause}".strip() or type(error).__name__


def configuration(name: str, overrides: Sequence[str], **more: Any) -> DictConfig:
    """The configuration of the command `name`, as Hydra's `compose` makes it; `UserError` for what it refuses."""
    try:
        return compose(name, list(overrides), **more)
    except OverrideParseException as error:
        told = "its brackets and quotes must close, and a text with other signs than letters and digits needs quotes"
        raise UserError(f"{error.override} cannot be read: {told}") from None
    except HydraException as error:
        raise UserError(in_a_line(error)) from None
    except AttributeError as error:
        if not FULL_KEY.search(str(error)):
            raise
        raise UserError(in_a_line(error)) from None
    except AssertionError as error:
        if ROOT not in str(error):
            raise
        choices = [item for item in overrides if "." not in item.partition("=")[0]]
        raise below_null(overrides, compose(name, choices)) or UserError(in_a_line(error)) from None


def below_null(overrides: Iterable[str], config: DictConfig) -> UserError | None:
    """What to say of a typed setting below one that is null in a configuration; None where there is no such."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        sections = [match.start() for match in re.finditer(r"\.", key)]
        for section in (key[:end] for end in sections):
            if OmegaConf.select(config, section, default="absent") is None:
                return UserError(f"setting {key!r}: {section} is null with what is chosen here, and has no settings")
    return None


def _joined(text: str) -> str:
    return " ".join(text.split())
