"""What every command does before and around its work: plug-ins, renamed settings, and mistakes told in a line."""

from __future__ import annotations

import functools
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from darts.config.compose import CONF, dotted_key
from darts.config.registry import load_plugins, named_plugins
from darts.config.renamed import refuse_old_names
from darts.config.resume import resumed_arguments
from darts.config.run_folder import keep_configuration
from darts.runtime.errors import UserError, one_line, reported

CELL = re.compile(r"Genotype\s*\(|\|[^\s|]*~|[\[{(]\s*['\"\[(]")  # how a cell as people print it looks


def cli_command(name: str) -> Callable[[Callable[[Any], Any]], Callable[[], Any]]:
    """Make a function of the composed settings a command; its configuration is conf/NAME.yaml.

    A `UserError` becomes one line on stderr and exit code 2, a signal 128 + its number. Settings under an old name
    are refused with the new one before Hydra composes, and `plugins=[...]` are imported, so that what they register
    can be chosen.
    """

    def decorate(main: Callable[[Any], Any]) -> Callable[[], Any]:
        @functools.wraps(main)
        def run(settings: DictConfig) -> Any:
            keep_configuration(settings)
            return reported(main)(settings)

        composed = hydra.main(version_base="1.3", config_path=CONF, config_name=name)(run)

        @functools.wraps(main)
        def command() -> Any:
            try:
                prepare(name)
                if {"-h", "--help"} & set(sys.argv[1:]):
                    from darts.config.help import print_help

                    about = sys.modules[main.__module__].__doc__ or ""
                    return print_help(name, about, settings_given(), config_folders(sys.argv[1:]))
            except UserError as error:
                print(f"error: {one_line(error)}", file=sys.stderr)
                sys.exit(2)
            except KeyboardInterrupt:
                print("\nstopped before the command began; nothing was changed", file=sys.stderr)
                sys.exit(130)
            return composed()

        del command.__wrapped__  # Hydra looks for the file of what it wraps
        return command

    return decorate


def settings_given() -> list[str]:
    """The arguments that give a setting, `key=value`."""
    return [argument for argument in sys.argv[1:] if "=" in argument]


def prepare(name: str) -> None:
    """What happens to a command's arguments before Hydra composes; `UserError` for what it could not answer well."""
    sys.argv[1:] = resumed_arguments(name, sys.argv[1:])
    given = settings_given()
    sweeps = {"-m", "--multirun"} & set(sys.argv[1:])
    if sweeps and any(dotted_key(item) == "hydra.run.dir" for item in given):
        raise UserError(
            "hydra.run.dir is given with -m, which ignores it; give hydra.sweep.dir, the folder of all runs"
        )
    refuse_old_names(given)
    refuse_unquoted_cells(given)
    load_plugins(named_plugins(given))


CARRIED = ("dataset", "space", "experiment", "device", "precision", "runs", "logger", "plugins")
SIZES = ("network", "train", "weight_optimiser", "memory")


def next_command(base: str, *own: str, carried: Sequence[str] = CARRIED, without: Sequence[str] = ()) -> str:
    """A command that follows on this one, ready to be pasted into a shell.

    `own` are settings (`key=value`) of its own; of the settings that were typed for this command those are carried
    over that `carried` names, by their first word or whole, unless `without` names them.
    """
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [item for item in typed if _is_among(dotted_key(item), carried) and not _is_among(dotted_key(item), without)]
    folders = [f"--config-dir={folder}" for folder in config_folders(sys.argv[1:])] if typed else []
    return " ".join([base, *(shlex.quote(item) for item in [*own, *kept, *folders])])


def _is_among(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def refuse_unquoted_cells(arguments: Sequence[str]) -> None:
    """Raise `UserError`, which says how to quote, where the cell that `genotype=` gives as a text is no text to Hydra.

    Hydra has quotes, brackets and calls of its own; a shell has taken its quotes away before.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") in ("genotype", "searched") and CELL.search(value) and not _is_text(argument):
            raise UserError(
                f"{key}: {value[:40]!r}... is no text in Hydra's grammar, which has quotes and brackets of its own; in "
                f'bash type "{key}=\\"CELL\\"" with these backslashes (not for a cell printed with double quotes), or '
                f"write the cell into a file and give {key}=FILE"
            )


def _is_text(argument: str) -> bool:
    """Whether Hydra reads an override's value as a text, as a sweep, or as a list of texts where that is wanted."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    value = override.value()
    if override.is_sweep_override():
        return True
    listed = value if isinstance(value, list) and argument.startswith("searched") else [value]
    return all(isinstance(item, str) for item in listed)


def config_folders(arguments: Sequence[str]) -> list[str]:
    """The folders that `--config-dir FOLDER` (or `-cd`, or with =) names, as absolute paths."""
    found: list[str] = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            following = arguments[place + 1 : place + 2]
            found += [value] if equals else following
    return [str(Path(folder).resolve()) for folder in found]
