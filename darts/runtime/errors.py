"""One exception for mistakes of the user, and the wrapper that prints it as one line and exits with 2."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import Any

from darts.runtime.signals import AGAIN, Interrupted


class UserError(Exception):
    """A mistake of the person who typed the command; its text names setting, value and what is allowed."""


class NotFiniteError(UserError):
    """A training whose loss is NaN or infinite."""


def one_line(text: object) -> str:
    """Return a text whose unprintable characters (a newline, undecodable bytes) are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def require(holds: bool, setting: str, value: object, allowed: str) -> None:
    """Raise `UserError` naming the setting, its value and what is allowed, unless `holds`."""
    if not holds:
        raise UserError(f"{setting} is {value!r}; it must be {allowed}")


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """An error for a name that is not in a list: the name, the nearest right one, and all there are."""
    names = list(known)
    near = difflib.get_close_matches(str(name)[:80], names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = str(name) if len(str(name)) <= 80 else str(name)[:77] + "..."
    return UserError(f"{what} {shown!r} is unknown; {hint}there are: {', '.join(names)}")


def _in_a_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def _failed_job(error: UserError) -> Exception:
    """What Hydra takes for the failure of one job of a sweep: it runs the others, and says this at the end."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException

    return CompactHydraException(f"error: job {HydraConfig.get().job.num}: {one_line(error)}")


def _how_to_resume() -> str:
    from hydra.core.hydra_config import HydraConfig

    folder = HydraConfig.get().runtime.output_dir
    return f"the same command with resume={shlex.quote(folder)} goes on from what is saved there"


def reported(main: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: a `UserError` becomes one line on stderr and exit code 2, a signal 128 + its number.

    In a sweep (-m) it does not stop the other jobs: they run, then the line is printed, and the exit code is 1.
    """

    @functools.wraps(main)
    def guarded(*args: Any) -> Any:
        logging.raiseExceptions = False  # a log file on a full disk: the run's own files say so, in a line
        try:
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
                print(f"\nstopped by {stopped} and saved; {_how_to_resume()}", file=sys.stderr)
            sys.exit(stopped.exit_code)
        except KeyboardInterrupt as stop:
            when = "at once, by a second Ctrl-C" if AGAIN in stop.args else "by Ctrl-C before the first step"
            print(f"\nstopped {when}; {_how_to_resume()}", file=sys.stderr)
            sys.exit(130)

    return guarded
