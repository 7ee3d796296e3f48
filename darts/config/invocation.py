"""How a command is typed, so that the next one is typed alike: a file of a checkout, a module, or an installed command.

The commands are named as in a checkout: `python train_search.py`, `python train_final.py`, `python -m darts.NAME`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent  # the folder that `darts` is imported from
FILES = {"train_search.py": "search", "train_final.py": "train"}  # by file of the checkout, the module of `darts`


def as_started(command: str) -> str:
    """A command of a checkout as it is to be typed here, in the way in which this process was started.

    After `darts-search` it is an installed command, after a file in another folder one of that folder, and after
    `python -m darts.search` elsewhere a module. It begins with PYTHONPATH=FOLDER where `darts` would not be found
    otherwise, and with the name by which this interpreter is found, which is all that "python" alone becomes.
    """
    started, last = Path(sys.argv[0]), command.split()[-1]
    if command == "python":
        return _python()
    module = FILES.get(last, last.removeprefix("darts."))
    if started.name.startswith("darts-"):
        return shlex.quote(_findable(started.with_name(f"darts-{module}")))
    if last not in FILES:
        return f"{_path_needed()}{_python()} -m darts.{module}"
    if started.name in FILES:
        return f"{_python()} {shlex.quote(str(started.with_name(last)))}"
    here = Path.cwd() == ROOT
    return f"{_python()} {last}" if here else f"{_path_needed()}{_python()} -m darts.{module}"


def _findable(program: Path) -> str:
    """A program's name where the shell finds that very program by it, else its path."""
    found = shutil.which(program.name)
    return program.name if found is not None and Path(found) == program else str(program)


def _python() -> str:
    """`python`, or what else calls this interpreter."""
    own = Path(sys.executable)
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and Path(found).parent == own.parent:
            return name
    return shlex.quote(str(own))


def _path_needed() -> str:
    """The assignment without which `python -m darts.NAME` does not find this package here; nothing where it does.

    What PYTHONPATH names now may have been given for one command only.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    elsewhere = [place for place in sys.path[1:] if place not in given]  # the first is the folder of what was started
    there = Path.cwd() == ROOT or any(Path(place).resolve() == ROOT for place in elsewhere)
    return "" if there else f"PYTHONPATH={shlex.quote(str(ROOT))} "
