"""`resume=latest` and `resume=FOLDER`: the command that a run's folder keeps, typed again for the same folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.types import Override

from darts.config.compose import CONF, dotted_key, quoted
from darts.config.invocation import as_started
from darts.config.overrides import given_value, parsed
from darts.config.registry import named_plugins
from darts.runtime.errors import UserError, require
from darts.runtime.files import files_below, is_locked, newest, read_json

RESUMABLE = {
    "search": ("genotype.json", ("search by gradients", "search by scores")),
    "final": ("result.json", ("retraining",)),
    "compare": ("report.json", ("comparison",)),
    "tune": ("best.json", ("study of hyperparameters",)),
    "select": ("genotype.json", ("selection",)),
    "correlate": ("correlation.json", ("rank correlation",)),
}  # by command: the file that it writes last, and how run.json calls it
COMMANDS = {"search": "python train_search.py", "final": "python train_final.py"} | {
    name: f"python -m darts.{name}" for name in ("compare", "tune", "select", "correlate")
}
KEY = re.compile(r"[A-Za-z_][\w-]*([./][\w-]+)*")
PACKAGE = re.compile(r"[a-z]\w*(\.[a-z]\w*)*")
OPTION = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")  # of a group: a file within it, never one outside
HARMLESS_REFERENCE = re.compile(r"\$\{(oc\.env:)?[A-Za-z_][\w.]*\}")


def resumed_arguments(name: str, arguments: Sequence[str]) -> list[str]:
    """A command's arguments with `resume=...` replaced by those that the run began with, and its folder.

    What else is given comes after them and replaces what the run had. `latest` is the newest run under `runs` that
    has neither ended nor is under way. Plug-ins and the trust in a pickle must be typed again: no file may name code
    to run. Raises `UserError` where there is nothing to resume.
    """
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    if not named:
        return list(arguments)
    others = [argument for argument in arguments if not argument.startswith("resume=")]
    if name not in RESUMABLE:
        raise UserError(f"resume is given, but this command resumes nothing; those that do: {', '.join(RESUMABLE)}")
    require(not {"-m", "--multirun"} & set(arguments), "resume", named[-1], "left out with -m, which starts new runs")
    folder = newest_unfinished(name, others) if named[-1] == "latest" else _named_folder(named[-1])
    _refuse_other_kind(name, folder)
    began = _overrides(folder)
    _refuse_lacking_folders(folder, arguments)
    given = {dotted_key(argument) for argument in others}
    kept = [override for override in began if dotted_key(override) not in given]
    lacking = [plugin for plugin in named_plugins(kept) if plugin not in named_plugins(others)]
    if lacking:
        raise UserError(f"resume: the run in {folder} needs plugins=[{','.join(lacking)}]; give that as well")
    trusting = [override for override in kept if "trust_pickle" in override]
    if trusting:
        raise UserError(f"resume: the run in {folder} had {trusting[0][:80]!r}; give benchmark.trust_pickle as well")
    settings = [item for item in others if "=" in item and not item.startswith("-")]
    flags = [item for item in others if item not in settings]  # Hydra takes all settings in one row
    if not any(dotted_key(item) == "hydra.run.dir" for item in settings):
        settings.append(f"hydra.run.dir={quoted(str(folder))}")
    return [*kept, *settings, *flags]


def _named_folder(text: str) -> Path:
    """The folder that `resume=` names, as typed or, where there is none, as Hydra would read its quotes."""
    require(bool(text.strip(" '\"")), "resume", text, "latest or a run's folder")
    folder, value = Path(text).expanduser(), given_value(f"resume={text}")
    return Path(value).expanduser() if isinstance(value, str) and not folder.exists() else folder


def _refuse_other_kind(name: str, folder: Path) -> None:
    """`UserError` where the run in a folder is another command's."""
    kind, _ = _kind_and_end(folder / "run.json")
    if kind and kind not in RESUMABLE[name][1]:
        command = next((other for other, (_, kinds) in RESUMABLE.items() if kind in kinds), None)
        hint = f"; {as_started(COMMANDS[command])} resume=... resumes it" if command else ""
        raise UserError(f"resume: {folder} holds a {kind}{hint}")


def _refuse_lacking_folders(folder: Path, arguments: Sequence[str]) -> None:
    """`UserError` where a run was begun with settings in a folder of the user's own that is not given now."""
    try:
        record = read_json(folder / "run.json", {"environment": {"command": str}}, "")
    except UserError:
        return  # whoever resumes it says what is damaged
    command = record["environment"]["command"]
    if "--config-dir" in command and not any(item.startswith(("--config-dir", "-cd")) for item in arguments):
        raise UserError(f"resume: the run in {folder} was begun with --config-dir; give that as well ({command[:300]})")


def newest_unfinished(name: str, arguments: Sequence[str]) -> Path:
    """The run of a command that was begun or resumed last, has not ended, and is not under way."""
    roots = ["runs"]
    for argument in arguments:
        if dotted_key(argument) == "runs":
            value = given_value(argument)
            require(value not in (None, ""), "runs", argument.partition("=")[2], "a folder with resume=latest")
            roots.append(str(value))
    root = Path(roots[-1]) / name
    last_file, kinds = RESUMABLE[name]
    found = []
    for file in files_below(root, "run.json"):
        if is_locked(file.parent):
            continue
        kind, ended = _kind_and_end(file)
        if kind in kinds and not (ended and (file.parent / last_file).exists()):
            found.append(file)
    last = newest(found)
    if last is None:
        raise UserError(f"resume is 'latest', but no run in {root.resolve()} is unfinished and not under way")
    return last.parent


def _kind_and_end(file: Path) -> tuple[str, bool]:
    """What kind of run a run.json is of, and whether it says that it has ended; a damaged one is of no kind."""
    try:
        record = read_json(file, {"kind": str}, "")
    except UserError:
        return "", True
    return record["kind"], record.get("ended") is not False


def _overrides(folder: Path) -> list[str]:
    file = folder / ".hydra" / "overrides.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"resume: {folder} is no folder of a run ({type(error).__name__}: {file})") from None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise UserError(f"resume: {file} is no list of settings")
    foreign = [item for item in found if not _is_setting(item)]
    if foreign:
        raise UserError(f"resume: {file} holds {foreign[0][:80]!r}, which no run keeps there")
    return found


def _is_setting(item: str) -> bool:
    """Whether a text sets or removes one setting of ours, or chooses an option of a group of ours, and nothing else.

    A stranger's folder may hold anything: flags such as --config-dir, Hydra's own settings (a callback is code), a
    group's option outside its group, a sweep, a reference that computes.
    """
    override = parsed(item)
    if override is None:
        return False
    key = override.key_or_group
    ours = KEY.fullmatch(key) is not None and key.partition(".")[0].partition("/")[0] not in ("hydra", "resume")
    if not ours or override.is_sweep_override() or not _is_package_of_ours(override.package):
        return False
    if key.partition(".")[0] == "plugins":
        return item.startswith("plugins=") and override.package is None
    if "${" in HARMLESS_REFERENCE.sub("", item):
        return False
    return _is_option(override) if _is_group(override) else True


def _is_package_of_ours(package: str | None) -> bool:
    return package is None or (PACKAGE.fullmatch(package) is not None and "hydra" not in package.split("."))


def _is_group(override: Override) -> bool:
    key = override.key_or_group
    return "/" in key or (Path(CONF) / key).is_dir() or (override.is_add() and "." not in key)


def _is_option(override: Override) -> bool:
    """Whether what a group is set to lies in the group."""
    value = override.value()
    names = value if isinstance(value, list) else [value]
    return all(name is None or (isinstance(name, str) and OPTION.fullmatch(name)) for name in names)
