"""The one way to add something: a decorator that names what kind of thing it is and what it is called.

    @register("relaxation", "sparse", temperature=1.0)     # a part, with the values of its settings
    @dataclass
    class Sparse(Relaxation): ...

    @register("operation", "blur")                         # a candidate operation
    def blur(channels, stride, affine): ...

What this package has itself is registered in the same way; the values of its settings stand in conf/. A module of
one's own is named by `plugins=[my_module]` in every command.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from darts.config.overrides import given_value
from darts.runtime.errors import UserError, unknown

T = TypeVar("T")

METHOD_PLACES = (
    *("relaxation", "preference", "channels", "edge_extras", "regularisers", "perturbation", "hypergradient"),
    *("weight_gradient", "schedule", "stopping", "discretisation"),
)
GROUPS = {
    **{place: f"method/{place}" for place in METHOD_PLACES},
    **{"method": "method", "strategy": "method"},
    **{kind: kind for kind in ("space", "dataset", "evaluator", "logger", "recipe")},
}  # by kind of part: the configuration group that its name is chosen from
_NAME = re.compile(r"[\w.-]+")
KINDS = (*GROUPS, "operation", "activation", "layer")

operations: dict[str, tuple[Any, dict[str, Any]]] = {}  # name -> its constructor, and how it is treated
activations: dict[str, Any] = {}  # name -> the function of a tensor, entry by entry
layers: dict[str, tuple[Any, dict[str, Any]]] = {}  # the same of a chain's layers
choices: dict[str, list[str]] = {}  # by configuration group, the names that plug-ins have added
_modules: dict[tuple[str, str], str] = {}  # (kind, name) -> the module that registered it
_loading: list[str] = []  # the plug-in that is being imported, if any
_plugins: dict[tuple[str, str], str] = {}  # (kind, name) -> the plug-in that brought it


def register(kind: str, name: str, /, **values: Any) -> Callable[[T], T]:
    """Make a class or function known to the configuration under a name; returns a decorator.

    `kind`: a place of a method ("relaxation", "schedule", ...), "strategy", "space", "dataset", "evaluator", "logger",
    "operation", "activation" (a candidate of a recurrent cell: a function of a tensor, entry by entry) or "layer" (a
    candidate of a chain: a function (input channels, channels, stride, affine) -> nn.Module). A part is a
    dataclass whose fields are its settings; with `values` for all of them it can be chosen at once
    (`method/relaxation=sparse`), without them a YAML file under conf/ gives the values; a field `name` is the name. An
    operation is a function (channels, stride, affine) -> nn.Module; its `values` are fields of
    `Candidate`.
    Raises `UserError` for an unknown kind and for a name that is taken.
    """
    if kind not in KINDS:
        raise unknown("register: kind", kind, KINDS)
    article = "an" if kind[0] in "aeo" else "a"
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise UserError(f"register: the name of {article} {kind} is {name!r}; it must be of letters, digits and _ . -")

    def decorate(thing: T) -> T:
        if not callable(thing):
            raise UserError(f"register: {kind} {name!r} is {thing!r}, which is no class or function")
        module = getattr(thing, "__module__", "")
        _claim(kind, name, module)
        if kind == "operation":
            operations[name] = thing, values
        elif kind == "activation":
            activations[name] = thing
        elif kind == "layer":
            layers[name] = thing, values
        else:
            _store(kind, name, thing, values)
        return thing

    return decorate


def command_settings(name: str) -> Callable[[T], T]:
    """Make a dataclass the schema of a command's configuration, conf/NAME.yaml; returns a decorator."""

    def decorate(schema: T) -> T:
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
        return schema

    return decorate


def load_plugins(names: Sequence[str]) -> None:
    """Import the modules named by `plugins=[...]`, which register what they add.

    `UserError` where one is missing, and where it cannot be imported: its error, and the line that raised it.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"plugins: {name!r} is no name of a module, as `import` takes it")
        _loading.append(name)
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a module may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name in (name, name.split(".")[0]):
                raise UserError(f"plugins: no module {name!r}; put its folder on PYTHONPATH") from None
            raise UserError(f"plugins: {name} cannot be imported: {_reason(error)}") from None
        finally:
            _loading.pop()


def _reason(error: BaseException) -> str:
    """An error of a plug-in with its place; `python -c "import NAME"` shows all of it."""
    place = ""
    if not isinstance(error, SyntaxError):  # which says its place itself
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({last.filename}, line {last.lineno})"
    return f"{type(error).__name__}: {error}{place}"


def named_plugins(overrides: Sequence[str]) -> list[str]:
    """The modules that `plugins=[a,b]` names among overrides."""
    named: list[str] = []
    for override in overrides:
        if override.lstrip("+").partition("=")[0] == "plugins":
            value = given_value(override)
            named += value if isinstance(value, list) else [value]
    return [str(name) for name in named if name not in (None, "")]


def typed_overrides(kind: str = "task") -> list[str]:
    """The settings that were typed for this command, as typed: what refers to others (`${x}`) stays a reference."""
    given = HydraConfig.instance().cfg.hydra.overrides[kind]  # type: ignore[union-attr]
    return list(OmegaConf.to_container(given, resolve=False))  # type: ignore[arg-type]


def plugins_of(entries: Iterable[tuple[str, str]]) -> list[str]:
    """The plug-ins that registered some of (kind, name), sorted; what this package has itself needs none."""
    found = {_plugins[entry] for entry in entries if entry in _plugins}
    return sorted(found)


def missing_plugins(names: Iterable[str]) -> list[str]:
    """Those of the named plug-ins that have registered nothing in this process."""
    return [name for name in names if name not in _plugins.values()]


def contents_of_plugins(names: Iterable[str]) -> dict[str, str]:
    """By plug-in twelve hexadecimal digits that stand for its source: a module's file, or a package's .py files."""
    found = {}
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file is None:
            continue
        source = Path(file)
        files = sorted(source.parent.rglob("*.py")) if source.name == "__init__.py" else [source]
        try:
            parts = [f"{path.relative_to(source.parent)}\0".encode() + path.read_bytes() for path in files]
        except OSError as error:
            raise UserError(f"plugins: the source of {name} cannot be read ({error}); give it back") from None
        found[name] = hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
    return found


def _claim(kind: str, name: str, module: str) -> None:
    """Note who registers a name; a module may do so again (it may be imported twice, as __main__ and by name).

    What a plug-in has from elsewhere, such as a function of torch, is the plug-in's.
    """
    if _loading and module.split(".")[0] != _loading[-1].split(".")[0] and module != "__main__":
        module = _loading[-1]
    taken = _modules.get((kind, name))
    if taken is not None and taken != module and "__main__" not in (taken, module):
        raise UserError(f"{kind} {name!r} is registered by {taken} already; {module} must choose another name")
    _modules[(kind, name)] = module
    if not _is_own(module):
        own = Path(sys.argv[0]).stem if module == "__main__" else module
        _plugins[(kind, name)] = _loading[-1] if _loading else own


def _is_own(module: str) -> bool:
    """Whether a module is one of this package's, rather than a plug-in's."""
    return module.startswith("darts.")


def _store(kind: str, name: str, part: Any, values: dict[str, Any]) -> None:
    """Tell Hydra a part's schema, and the part itself where the values of its settings are given."""
    store = ConfigStore.instance()
    store.store(group=f"schema/{kind}", name=name, node=part)
    fields = [field.name for field in dataclasses.fields(part)]
    own = _is_own(part.__module__)
    if "name" in fields and not own:
        values = {"name": name, **values}
    if values or not fields:
        needed = [field.name for field in dataclasses.fields(part) if field.default is dataclasses.MISSING]
        missing = [field for field in needed if field not in values]
        if missing:
            raise UserError(f"register: {kind} {name!r} lacks a value for {', '.join(missing)}")
        if not own:
            store.store(group=GROUPS[kind], name=name, node=part(**values))
            choices.setdefault(GROUPS[kind], []).append(name)
