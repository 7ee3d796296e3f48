"""What every command does before and around its work: plug-ins, renamed settings, and mistakes told in a line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from darts.config.compose import CONF
from darts.config.registry import load_plugins, named_plugins
from darts.config.renamed import refuse_old_names
from darts.config.run_folder import command_configuration
from darts.runtime.errors import UserError, reported


def cli_command(name: str) -> Callable[[Callable[[Any], Any]], Callable[[], Any]]:
    """Make a function of the composed settings a command; its configuration is conf/NAME.yaml.

    A `UserError` becomes one line on stderr and exit code 2, a signal 128 + its number. Settings under an old name
    are refused with the new one before Hydra composes, and `plugins=[...]` are imported, so that what they register
    can be chosen.
    """

    def decorate(main: Callable[[Any], Any]) -> Callable[[], Any]:
        @functools.wraps(main)
        def run(settings: DictConfig) -> Any:
            command_configuration.set(settings)
            return reported(main)(settings)

        composed = hydra.main(version_base="1.3", config_path=CONF, config_name=name)(run)

        @functools.wraps(main)
        def command() -> Any:
            try:
                given = [argument for argument in sys.argv[1:] if "=" in argument]
                refuse_old_names(given)
                load_plugins(named_plugins(given))
                if {"-h", "--help"} & set(sys.argv[1:]):
                    from darts.config.help import print_help

                    about = sys.modules[main.__module__].__doc__ or ""
                    return print_help(name, about, given, config_folders(sys.argv[1:]))
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)
            return composed()

        del command.__wrapped__  # Hydra looks for the file of what it wraps
        return command

    return decorate


def config_folders(arguments: Sequence[str]) -> list[str]:
    """The folders that `--config-dir FOLDER` (or `-cd`, or with =) names, as absolute paths."""
    found: list[str] = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            following = arguments[place + 1 : place + 2]
            found += [value] if equals else following
    return [str(Path(folder).resolve()) for folder in found]
