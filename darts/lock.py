"""One run, one folder, one process: a lock that names its holder and dies with it."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darts import parallel
from darts.errors import UserError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder within the block; `UserError` naming the holder where another process holds it.

    Where several processes are one run the first of them holds it for all.
    The system lets go of the lock when the process ends, however it ends, so what a dead one held is free.
    """
    if not parallel.leading():
        yield
        return
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder} is in use by {_holder(file.read())}; give another hydra.run.dir") from None
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        shown = {"process": os.getpid(), "host": platform.node(), "since": since, "command": " ".join(sys.argv)[:200]}
        file.write(json.dumps(shown) + "\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['process']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
