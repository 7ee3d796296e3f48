"""From a composed configuration to typed settings."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from darts.config.identity import as_dictionary
from darts.config.registry import load_plugins, named_plugins, typed_overrides
from darts.runtime import distributed
from darts.runtime.errors import UserError, require, unknown

_PACKAGE = Path(__file__).parent.parent
_FOLDERS = (_PACKAGE / "conf", _PACKAGE.parent / "conf")  # where `pip install .` puts it, and in a checkout
CONF = str(next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[1]))
T = TypeVar("T")
LARGEST_FLOAT = 3.4e38  # of float32, in which weights, rates and losses are computed
LARGEST_INTEGER = 2**53


def typed_settings(config: DictConfig, kind: type[T]) -> T:
    """The composed configuration as an object of its settings class, every range checked; `UserError` otherwise."""
    if "plugins" in config:
        _refuse_empty_texts(config.plugins, "plugins")
        _load_plugins(config.plugins)
    _refuse_strays(config, "")
    _refuse_lists_within(config, "")
    try:
        settings = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing; give {error.full_key}=VALUE") from None
    except OmegaConfBaseException as error:
        if missing := re.search(r"missing \d+ required positional arguments?: '(\w+)'", str(error)):
            raise UserError(f"setting {missing[1]!r} is missing; it cannot be removed") from None
        place = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{place}{' '.join(str(error).splitlines()[0].split())}") from None
    if not isinstance(settings, kind):
        raise TypeError(f"the configuration is of {type(settings).__name__}, not {kind.__name__}")
    _refuse_empty_texts(config, "")
    _refuse_what_tensors_cannot_hold(as_dictionary(settings), "")
    if HydraConfig.initialized():
        refuse_unused(settings, typed_overrides())
    if not hasattr(settings, "parallel"):
        distributed.require_single_process("this command")
    return settings


def _holds(node: DictConfig | ListConfig) -> bool:
    return not (node._is_none() or node._is_missing() or node._is_interpolation())


def _refuse_lists_within(config: DictConfig, prefix: str) -> None:
    """`UserError` for a list of names or numbers that holds lists or mappings, which OmegaConf lets pass."""
    for key in config:
        name, node = f"{prefix}{key!s}", config._get_node(key)
        if isinstance(node, DictConfig) and _holds(node):
            _refuse_lists_within(node, f"{name}.")
        elif isinstance(node, ListConfig) and _holds(node) and node._metadata.element_type in (str, int, float):
            strange = [item for item in node._iter_ex(resolve=False) if isinstance(item, DictConfig | ListConfig)]
            kind = "names" if node._metadata.element_type is str else "numbers"
            require(not strange, name, OmegaConf.to_container(node), f"a list of {kind}")


def refuse_unused(settings: Any, overrides: Sequence[str]) -> None:
    """`UserError` for an override, as typed, that settings, or their space, do not use; `refuse_unused` says so."""
    parts: list[Any] = [settings, getattr(settings, "space", None)]
    for part in parts:
        for override in overrides if hasattr(part, "refuse_unused") else []:
            part.refuse_unused(dotted_key(override))


def dotted_key(override: str) -> str:
    """The setting or group that an override names, with dots: "method/channels=x" gives method.channels."""
    return override.lstrip("+~").partition("=")[0].split("@")[0].replace("/", ".")


def is_among(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted setting is one of these, or within one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")


def quoted(text: str, always: bool = False) -> str:
    """A text as a value in Hydra's grammar: in quotes where anything in it could mean something else.

    Within quotes a backslash means itself, unless it stands before a quote, at the end, or before `${`, which would
    begin an interpolation; there it is doubled.
    """
    if PLAIN.fullmatch(text) and not always:
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    within = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    return "'" + re.sub(r"(\\+)$", r"\1\1", within) + "'"


def _load_plugins(names: Sequence[str]) -> None:
    """Import the plug-ins, which nobody has done yet in a launcher's process; no file may name them."""
    if HydraConfig.initialized():
        typed = named_plugins(typed_overrides())
        strange = [name for name in names if name not in typed]
        if strange:
            raise UserError(f"plugins: {', '.join(strange)} stands in a configuration file; give it when you type")
    load_plugins(names)


def _refuse_empty_texts(value: Any, name: str) -> None:
    """`UserError` for a text that says nothing, whatever setting it stands in: a path, a name, one of a list.

    A settings class names the fields that may be empty in `MAY_BE_EMPTY`.
    """
    if OmegaConf.is_dict(value):
        exempt = getattr(OmegaConf.get_type(value), "MAY_BE_EMPTY", ())
        for key in value:
            if key not in exempt:
                _refuse_empty_texts(value[key], f"{name}.{key!s}".lstrip("."))
    elif OmegaConf.is_list(value):
        for inner in value:
            _refuse_empty_texts(inner, name)
    elif isinstance(value, str) and not value.strip():
        raise UserError(f"{name} is empty; give {name}=VALUE, or leave it out")


def _refuse_what_tensors_cannot_hold(value: Any, name: str) -> None:
    """`UserError` for a number beyond float32, or a whole number beyond float64, whatever setting it stands in."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_what_tensors_cannot_hold(inner, f"{name}.{key!s}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            _refuse_what_tensors_cannot_hold(inner, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) <= LARGEST_INTEGER, name, value, f"from -{LARGEST_INTEGER} to {LARGEST_INTEGER}")
    elif isinstance(value, float) and math.isfinite(value):
        require(abs(value) <= LARGEST_FLOAT, name, value, f"from -{LARGEST_FLOAT} to {LARGEST_FLOAT} (float32), or inf")


def _refuse_strays(config: DictConfig, prefix: str) -> None:
    """Hydra's `+key=value` adds keys that no schema knows; refuse them."""
    kind = OmegaConf.get_type(config)
    known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
    for key in config:
        if known is not None and key not in known:
            what = f"{prefix.rstrip('.')}: setting" if prefix else "setting"
            raise unknown(what, key, known)
        value = config._get_node(key)
        if isinstance(value, DictConfig) and not value._is_missing():
            _refuse_strays(value, f"{prefix}{key!s}.")
