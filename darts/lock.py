"""One run, one folder, one process: a lock that names its holder and dies with it."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darts import parallel
from darts.errors import UserError
from darts.files import writing


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
    path = folder / "lock"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use by {_holder(file.read())}; give another hydra.run.dir") from None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        shown = {"process": os.getpid(), "host": platform.node(), "since": since, "command": " ".join(sys.argv)[:200]}
        with writing(path):
            file.truncate(0)
            os.write(file.fileno(), json.dumps(shown).encode() + b"\n")
        try:
            yield
        finally:
            with suppress(OSError):  # gone with its folder
                path.unlink()


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['process']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
