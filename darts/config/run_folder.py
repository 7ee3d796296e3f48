"""A run's folder as Hydra sees it: whether it can be made, and the composed configuration that is kept in it.

Hydra itself would write `.hydra/` before a command could say that the folder belongs to another run, and answers a
full disk with a traceback. So conf/*.yaml switch that off, and a run saves its configuration when it claims a folder.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from darts.runtime.errors import one_line
from darts.runtime.files import write_bytes
from darts.runtime.text import encoded

command_configuration: ContextVar[DictConfig | None] = ContextVar("command_configuration", default=None)


def keep_configuration(settings: DictConfig) -> None:
    """Keep a command's composed configuration for `save_configuration`. A function, which launchers can pickle."""
    command_configuration.set(settings)


class OutputFolder(Callback):
    """Make a command's folder before Hydra does; where that fails say why in one line, and exit with code 2."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder of a single run."""
        _refuse_references(config, config.hydra.run, "hydra.run.dir")
        _make(config.hydra.run, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder of a sweep."""
        keep_configuration(config)  # it is composed: what a job raises from here on is no refusal
        _refuse_references(config, config.hydra.sweep, "hydra.sweep.dir")
        _make(config.hydra.sweep, "hydra.sweep.dir")


def _refuse_references(config: DictConfig, place: DictConfig, setting: str) -> None:
    """Exit with code 2 where a path holds "${", which would be looked up once more by what is composed later."""
    typed: Any = OmegaConf.to_container(place, resolve=False)
    paths = {f"{setting.rpartition('.')[0]}.{key}": str(value) for key, value in typed.items()}
    texts = {name: text.replace("\\${", "${") for name, text in paths.items() if "\\${" in text}  # escaped
    try:
        texts |= {"the present folder": str(Path.cwd()), "runs": str(config.get("runs"))}
    except OmegaConfBaseException:
        return  # Hydra raises it again, and then it is told in a line
    for name, text in texts.items():
        if "${" in text:
            allowed = "a folder without ${ in its name, which begins a reference"
            print(f"error: {name} is {one_line(text)!r}; it must be {allowed}", file=sys.stderr)
            sys.exit(2)


def _make(place: DictConfig, setting: str) -> None:
    try:
        folder = Path(place.dir)
    except OmegaConfBaseException:
        return  # Hydra raises it again, and then it is told in a line
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _refuse_links(folder, setting)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"error: {setting} is {str(folder)!r}, where nothing can be written: {reason}", file=sys.stderr)
        sys.exit(2)


def _refuse_links(folder: Path, setting: str) -> None:
    """Exit with code 2 where a file that a run writes is a link: what it leads to would be overwritten."""
    linked = [entry.name for entry in folder.iterdir() if entry.is_symlink() and not entry.is_dir()]
    linked += [".hydra"] if (folder / ".hydra").is_symlink() else []
    if linked:
        print(f"error: {setting} is {str(folder)!r}, where {one_line(linked[0])} is a link to another file; remove it, "
              "or give another folder", file=sys.stderr)  # fmt: skip
        sys.exit(2)


def save_configuration(folder: Path) -> None:
    """Write the composed configuration and the overrides to `folder`/.hydra, where Hydra composed them for it.

    Nothing is written for a run that Python started, or that lies in a folder within the command's.
    """
    if not HydraConfig.initialized() or Path(HydraConfig.get().runtime.output_dir) != folder.absolute():
        return
    hydra = HydraConfig.instance().cfg
    parts = {"config": command_configuration.get(), "hydra": hydra, "overrides": HydraConfig.get().overrides.task}
    for name, part in parts.items():
        write_bytes(folder / ".hydra" / f"{name}.yaml", encoded(OmegaConf.to_yaml(part)))


def own_folder(path: str) -> str:
    """Make a folder that no other run has, and return it: `path`, or that with the first free number after it.

    Two commands may begin within one second, so that a time alone does not tell them apart. Where no folder can be
    made, `path` is returned, and who wants to write there tells why.
    """
    for number in itertools.count(1):
        folder = path if number == 1 else f"{path}_{number}"
        try:
            Path(folder).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            break
        return folder
    return path


OmegaConf.register_new_resolver("own_folder", own_folder, use_cache=True, replace=True)
