"""One exception for mistakes of the user, and the wrapper that prints it as one line and exits with 2."""

from __future__ import annotations

import difflib
import errno
import functools
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from darts.runtime.signals import AGAIN, Interrupted

MOST_NAMES = 60  # that a message lists


class UserError(Exception):
    """A mistake of the person who typed the command; its text names setting, value and what is allowed."""


class NotFiniteError(UserError):
    """A training whose loss is NaN or infinite."""


@contextmanager
def about(what: str) -> Iterator[None]:
    """Within the block a `UserError` begins with what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def one_line(text: object) -> str:
    """Return a text whose unprintable characters (a newline, undecodable bytes) are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def require(holds: bool, setting: str, value: object, allowed: str) -> None:
    """Raise `UserError` naming the setting, its value and what is allowed, unless `holds`."""
    if not holds:
        raise UserError(f"{setting} is {'null' if value is None else repr(value)}; it must be {allowed}")


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """An error for a name that is not in a list: the name, the nearest right one, and all there are if not too many."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(str(name)[:80], names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = str(name) if len(str(name)) <= 80 else str(name)[:77] + "..."
    if len(names) > MOST_NAMES:
        return UserError(f"{what} {shown!r} is unknown; {hint}--help lists all {len(names)}")
    return UserError(f"{what} {shown!r} is unknown; {hint}there are: {', '.join(names)}")


def _in_a_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


class FailedJobError(Exception):
    """The failure of one job of a sweep: Hydra runs the others, and raises this at the end."""


def _failed_job(error: UserError) -> Exception:
    from hydra.core.hydra_config import HydraConfig

    return FailedJobError(f"error: job {HydraConfig.get().job.num}: {one_line(error)}")


def _how_to_resume() -> str:
    from hydra.core.hydra_config import HydraConfig

    folder = HydraConfig.get().runtime.output_dir
    if not (Path(folder) / "run.json").exists() or not (Path(folder) / ".hydra" / "overrides.yaml").exists():
        return "nothing was begun that could be resumed; type the command again"
    return f"the same command with resume={shlex.quote(folder)} goes on from what is saved there"


def is_lost_output(error: BaseException) -> bool:
    """Whether an error says that the output, rather than a file, takes nothing more."""
    return isinstance(error, OSError) and error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC)


@contextmanager
def lost_output() -> Iterator[None]:
    """Where the output is cut off within the block, end as `head` expects; where there is no room for it, say so."""
    try:
        yield
    except OSError as error:
        if not is_lost_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still held back goes nowhere
        if error.errno == errno.EPIPE:
            sys.exit(128 + 13)  # as a process that SIGPIPE ends
        print("error: the output cannot be written: no space left", file=sys.stderr)
        sys.exit(2)


def reported(main: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: a `UserError` becomes one line on stderr and exit code 2, a signal 128 + its number.

    In a sweep (-m) it does not stop the other jobs: they run, then the line is printed, and the exit code is 1.
    """

    @functools.wraps(main)
    def guarded(*args: Any) -> Any:
        logging.raiseExceptions = False  # a log file on a full disk: the run's own files say so, in a line
        try:
            with lost_output():
                return main(*args)
        except UserError as error:
            logging.getLogger("darts").debug("stopped by a mistake of the user", exc_info=True)
            if _in_a_sweep():
                raise _failed_job(error) from None
            rank = os.environ.get("RANK", "0")  # under torchrun
            place = f"process {rank}: " if rank.isdecimal() and rank != "0" else ""
            print(f"{place}error: {one_line(error)}", file=sys.stderr)
            sys.exit(2)
        except Interrupted as stopped:
            if os.environ.get("RANK", "0") == "0":
                when = "and saved" if stopped.saved else "before the first step"
                print(f"\nstopped by {stopped} {when}; {_how_to_resume()}", file=sys.stderr)
            sys.exit(stopped.exit_code)
        except KeyboardInterrupt as stop:
            when = "at once, by a second Ctrl-C" if AGAIN in stop.args else "by Ctrl-C before the first step"
            print(f"\nstopped {when}; {_how_to_resume()}", file=sys.stderr)
            sys.exit(130)

    return guarded


def optional(module: str, what: str, requirements: str = "requirements-export.txt") -> ModuleType:
    """A library that only some uses need; `UserError` naming it and the file that lists it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        told = f"{what} needs {module}, which is not installed: pip install -r {requirements}"
        raise UserError(told) from None
