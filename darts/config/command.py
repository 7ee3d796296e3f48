"""What every command does before and around its work: plug-ins, renamed settings, and mistakes told in a line."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from darts.config.arguments import (
    at_home,
    refuse_unquoted_cells,
    refuse_unreadable,
    refuse_wrong_flags,
    refuse_wrong_groups,
    settings_in_a_row,
)
from darts.config.compose import CONF, dotted_key, is_among
from darts.config.implied import alone, implied_choices, own_experiment, task_names
from darts.config.invocation import as_started
from darts.config.overrides import given_value
from darts.config.refused import RAW, in_a_line
from darts.config.registry import load_plugins, named_plugins, typed_overrides
from darts.config.renamed import refuse_old_names
from darts.config.resume import resumed_arguments
from darts.config.run_folder import command_configuration, keep_configuration
from darts.runtime.errors import (
    FailedJobError,
    UserError,
    is_lost_output,
    lost_output,
    one_line,
    reported,
    unknown,
)
from darts.runtime.garbage import end_without_collection, import_torch
from darts.runtime.text import lose_no_line

FULL_ERROR = "HYDRA_FULL_ERROR"
UNKNOWN_SETTING = re.compile(r"Could not (?:override|append to config\. An item is already at) '(?P<name>[^']+)'")
UNKNOWN_CHOICE = re.compile(r"Could not find '(?P<group>[^']+)/(?P<name>[^'/]+)'")


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
        @told_of_output
        def command() -> Any:
            end_without_collection()
            try:
                prepare(name)
                with refusals_in_a_line(name):
                    if {"-h", "--help"} & set(sys.argv[1:]):
                        return show_help(name, sys.modules[main.__module__].__doc__ or "")
                    return composed()
            except UserError as error:
                print(f"error: {one_line(error)}", file=sys.stderr)
                sys.exit(2)
            except KeyboardInterrupt:
                print("\nstopped before the command began; nothing was changed", file=sys.stderr)
                sys.exit(130)

        while hasattr(command, "__wrapped__"):
            del command.__wrapped__  # Hydra looks for the file of what it wraps
        return command

    return decorate


def show_help(name: str, about: str) -> None:
    """Answer -h or --help, with what was typed beside it."""
    from darts.config.help import print_help

    print_help(name, about, settings_given(), config_folders(sys.argv[1:]), topics_given(sys.argv[1:]))


@contextmanager
def refusals_in_a_line(name: str) -> Iterator[None]:
    """Turn what is raised while Hydra composes the command `name` into a `UserError`, with its cause.

    What a command raises once it has begun is no refusal, and is raised as it is, but for Hydra's own errors. The
    failed job of a sweep is told as it is, with exit code 1. With HYDRA_FULL_ERROR=1 everything is raised as it is.
    """
    if os.environ.get(FULL_ERROR):
        yield
        return
    command_configuration.set(None)
    os.environ[FULL_ERROR] = "1"  # else Hydra prints several lines and ends the process itself
    try:
        yield
    except FailedJobError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except UserError:
        raise
    except Exception as error:
        refused = isinstance(error, HydraException | OmegaConfBaseException)
        if not refused and (is_lost_output(error) or command_configuration.get() is not None):
            raise
        if isinstance(error, RAW) and not refused:
            from darts.config.help import composed

            composed(name, settings_given(), config_folders(sys.argv[1:]))  # which raises what is to be said
        told = in_a_line(error)
        raise _unknown_name(name, told) or UserError(told) from None
    finally:
        os.environ.pop(FULL_ERROR, None)


def _unknown_name(name: str, told: str) -> UserError | None:
    """What to say in place of Hydra's own words where a setting or a choice of the command `name` is unknown."""
    setting, choice = UNKNOWN_SETTING.search(told), UNKNOWN_CHOICE.search(told)
    if setting is None and choice is None:
        return None
    from darts.config.help import composed, groups, settings_of, typed_group

    if choice is not None:
        group, given = choice["group"], choice["name"]
        return unknown(typed_group(group), given, groups().get(group, []))
    try:
        known = [described.name for described in settings_of(composed(name))]
    except UserError:
        return None
    given = setting["name"]  # type: ignore[index]
    if given in known or given in groups():
        told = "is no setting of what is chosen beside it, or of this command"
        return UserError(f"setting {given!r} {told}; --help with the same choices lists those that are")
    section = given.rpartition(".")[0]
    siblings = [other for other in known if section and other.startswith(f"{section}.")]
    return unknown("setting", given, siblings or [*known, *groups()])


def topics_given(arguments: Sequence[str]) -> list[str]:
    """The settings and groups that stand behind -h or --help, which are to be explained."""
    topics: list[str] = []
    for place, argument in enumerate(arguments):
        follows = place > 0 and arguments[place - 1] in ("-h", "--help", *topics)
        if follows and "=" not in argument and not argument.startswith("-"):
            topics.append(argument)
    return topics


def told_of_output(command: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap a command: what it has written but not yet put out is put out before it ends, see `lost_output`."""

    @functools.wraps(command)
    def run() -> Any:
        lose_no_line()
        with lost_output():
            found = command()
            if sys.stdout is not None:
                sys.stdout.flush()
        return found

    return run


def settings_given() -> list[str]:
    """The arguments that give a setting, `key=value`."""
    return [argument for argument in sys.argv[1:] if "=" in argument]


def prepare(name: str) -> None:
    """What happens to a command's arguments before Hydra composes; `UserError` for what it could not answer well."""
    sys.argv[1:] = at_home(settings_in_a_row(sys.argv[1:]))
    refuse_wrong_flags(sys.argv[1:])
    sys.argv[1:] = resumed_arguments(name, sys.argv[1:])
    sys.argv[1:] = own_experiment(name, sys.argv[1:])
    sys.argv[1:] += implied_choices(name, settings_given())
    given = settings_given()
    sweeps = {"-m", "--multirun"} & set(sys.argv[1:])
    if sweeps and any(dotted_key(item) == "hydra.run.dir" for item in given):
        raise UserError(
            "hydra.run.dir is given with -m, which ignores it; give hydra.sweep.dir, the folder of all runs"
        )
    refuse_old_names(given)
    refuse_wrong_groups(given)
    refuse_unquoted_cells(given)
    refuse_unreadable(given)
    plugins = named_plugins(given)
    if plugins:
        import_torch()  # which most of them need
    load_plugins(plugins)


CARRIED = ("dataset", "space", "experiment", "device", "precision", "runs", "logger", "plugins")
SIZES = ("network", "language", "train", "recipe", "weight_optimiser", "memory")


def tasks_of_command() -> list[str | None]:
    """The tasks that were typed for this command; [None] where there is one, which has no name."""
    given = [given_value(item) for item in typed_now() if dotted_key(item) == "tasks"]
    return list(task_names(given[-1])) if given and given[-1] else [None]


def typed_now() -> list[str]:
    """The settings that were typed for this command; none outside a command."""
    return typed_overrides() if HydraConfig.initialized() else []


def next_command(
    base: str, *own: str, carried: Sequence[str] = CARRIED, without: Sequence[str] = (), task: str | None = None
) -> str:
    """A command that follows on this one, ready to be pasted into a shell; `base` as it is called in a checkout.

    `own` are settings (`key=value`) of its own; of the settings that were typed for this command those are carried
    over that `carried` names, by their first word or whole, unless `without` names them. `task`: on which of several
    tasks it follows.
    """
    typed = typed_now() if task is None else alone(task, typed_now())
    kept = [item for item in typed if is_among(dotted_key(item), carried) and not is_among(dotted_key(item), without)]
    folders = [f"--config-dir={folder}" for folder in config_folders(sys.argv[1:])] if typed else []
    return " ".join([as_started(base), *(shlex.quote(item) for item in [*own, *kept, *folders])])


def config_folders(arguments: Sequence[str]) -> list[str]:
    """The folders that `--config-dir FOLDER` (or `-cd`, or with =) names, as absolute paths."""
    found: list[str] = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            following = arguments[place + 1 : place + 2]
            found += [value] if equals else following
    return [str(Path(folder).resolve()) for folder in found]
