"""What a command's arguments must be before Hydra composes: flags, groups, folders and cells, each told in a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from darts.config.compose import CONF, dotted_key
from darts.config.overrides import given_value, parsed
from darts.runtime.errors import UserError

CELL = re.compile(r"Genotype\s*\(|\|[^\s|]*~|[\[{(]\s*['\"\[(]")  # how a cell as people print it looks


ALONE = ("-m", "--multirun", "-r", "--run", "--resolve")  # flags without a value
VALUED = ("-cd", "--config-dir", "-cp", "--config-path", "-cn", "--config-name", "-c", "--cfg", "-p", "--package")
ASKING = ("-h", "--help")  # what follows, and is no setting, is to be explained


HOME = re.compile(
    r"""(?P<before>(?:^|[\[,])\s*["']?)~(?=/|["']?(?:$|[\],}]))"""
)  # where a path begins with the home folder


def at_home(arguments: Sequence[str]) -> list[str]:
    """The arguments with `~` at the beginning of a value, or of an item of a list, as the user's home folder.

    No shell does so behind `dataset.root=`. The arguments are as they were where the home folder is not known.
    """
    home = str(Path("~").expanduser())
    found = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and home != "~" and not CELL.search(value):
            argument = f"{key}={HOME.sub(lambda match: match['before'] + home, value)}"
        found.append(argument)
    return found


def settings_in_a_row(arguments: Sequence[str]) -> list[str]:
    """The arguments with flags, and what belongs to them, before the settings: Hydra takes these in one row only."""
    flags: list[str] = []
    asked: list[str] = []
    settings: list[str] = []
    place = settings  # where the next argument goes if it is neither flag nor setting
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before in VALUED:
            flags.append(argument)
        elif argument in ASKING:
            asked.append(argument)
            place = asked
        elif argument in ALONE or argument in VALUED or argument.partition("=")[0] in VALUED:
            flags.append(argument)
            place = settings
        elif "=" in argument or argument.startswith("-"):
            settings.append(argument)
            place = settings
        else:
            place.append(argument)
    return [*flags, *asked, *settings]


def refuse_wrong_flags(arguments: Sequence[str]) -> None:
    """Raise `UserError` for flags that there are not or that do not go together: Hydra's own answer has many lines."""

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args(list(arguments))
    modes = {"--run": given.run, "--multirun": given.multirun, "--cfg": given.cfg, "--info": given.info,
             "--shell-completion": given.shell_completion}  # fmt: skip
    chosen = [name for name, value in modes.items() if value]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} are given together; give one of them")
    if given.experimental_rerun:
        raise UserError("--experimental-rerun opens a pickle, which can run any code; resume=FOLDER goes on with a run")
    if given.resolve and not given.cfg:
        raise UserError("--resolve is given without --cfg, whose output it changes; add --cfg job")


def refuse_wrong_groups(arguments: Sequence[str]) -> None:
    """Raise `UserError` where nothing is named, where a group is set to no option, where a run's folder is empty."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if not dotted_key(argument).strip():
            raise UserError(f"{argument!r} names no setting; it must be SETTING=VALUE")
        group = Path(CONF, *key.lstrip("+").split("@")[0].split("/"))
        number = isinstance(given_value(argument), bool | int | float)
        names = sorted(file.stem for file in group.glob("*.yaml"))
        if (number or value.strip() in ("null", "")) and names:
            raise UserError(f"{key} is {value.strip() or 'empty'}; it must be one of {', '.join(names)}")
        if key in ("hydra.run.dir", "hydra.sweep.dir") and value.strip(" '\"") == "":
            raise UserError(f"{key} is empty; it must be a folder")


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


def refuse_unreadable(arguments: Sequence[str]) -> None:
    """Raise `UserError`, which says how to quote, where Hydra's grammar cannot read a setting."""
    for argument in arguments:
        if parsed(argument) is not None:
            continue
        key, _, value = argument.partition("=")
        example = f"{key}='{value}'"
        if value[:1] in ("[", "{") or "'" in value or not value.isprintable():
            example = f"{key}=['a b','c=d']" if value.startswith("[") else f"{key}='TEXT'"
        plain = "letters from a to z, digits and . _ - /"
        told = f"{argument[:200]} cannot be read: a text with other signs than {plain} needs quotes of its own"
        raise UserError(f'{told} within those of the shell, "{example}"')


def _is_text(argument: str) -> bool:
    """Whether Hydra reads an override's value as a text, as a sweep, or as a list of texts where that is wanted."""
    override = parsed(argument)
    if override is None:
        return False
    if override.is_sweep_override():
        return True
    value = override.value()
    listed = value if isinstance(value, list) and argument.startswith("searched") else [value]
    return all(isinstance(item, str) for item in listed)
