"""Runs that die on purpose: a warmed process forks them, so that a death costs a second and not the start of PyTorch.

    python victim.py FOLDER JSON

JSON is a list of deaths, each {"name", "overrides", "processes", "fault"}; each run dies by its fault and is begun
again on its folder FOLDER/name. A line of JSON a death says how both ended.
"""

from __future__ import annotations

import builtins
import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch

from darts import checkpoint, parallel, plotting, search, search_steps
from darts.errors import UserError
from darts.settings import ParallelSettings
from tests.conftest import TINY_SEARCH, composed


def die() -> None:
    """At once, as by the system's own hand."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(name: str, number: int) -> None:
    """Before the given call of a step of the search, from 0."""
    original, calls = getattr(search_steps, name), []

    def step(*arguments):
        calls.append(name)
        if len(calls) > number:
            die()
        return original(*arguments)

    setattr(search_steps, name, step)


class HalfWritten:
    """A file that takes half of what it is given."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()


def die_in_write(place: str, number: int) -> None:
    """Within the given write of a checkpoint, from 0."""
    writes, renames = [], []
    flush, replace = os.fsync, Path.replace

    def opened(path, mode="r"):
        if Path(path).name == "fresh.pt.tmp":
            writes.append(path)
            renames.clear()
            if len(writes) > number and place == "before it is opened":
                die()
            if len(writes) > number and place == "half written":
                return HalfWritten(builtins.open(path, mode))
        return builtins.open(path, mode)

    def flushed(handle) -> None:
        now = len(writes) > number
        if now and place == ("before its flush" if not renames else "before the folder's flush"):
            die()
        flush(handle)
        if now and place == ("after its flush" if not renames else "after the folder's flush"):
            die()

    def renamed(self, target):
        found = replace(self, target)
        if self.parent.name == "checkpoints":
            renames.append(target)
            if len(writes) > number and place == f"after rename {len(renames)}":
                die()
        return found

    checkpoint.open, checkpoint.os.fsync, Path.replace = opened, flushed, renamed


WRITES = [
    *("before it is opened", "half written", "before its flush", "after its flush", "after rename 1"),
    *("before the folder's flush", "after the folder's flush", "after rename 2", "after rename 3"),
]


def ran(overrides: list[str], folder: Path, fault, number: int, processes: int, port: int) -> int:
    """A search in a forked process; the number of the signal that ended it, or minus its exit code."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if fault and number == processes - 1:
            {"step": die_at_step, "write": die_in_write}[fault[0]](*fault[1:])
        torchrun = {"WORLD_SIZE": processes, "RANK": number, "LOCAL_RANK": number, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in torchrun.items()}, MASTER_ADDR="127.0.0.1")
        settings = composed("search", *TINY_SEARCH, "search.batch_size=18", *overrides)
        with parallel.joined(ParallelSettings(True, 0.5), "cpu", False):
            search.run(settings, folder)
        code = 0
    except UserError as error:
        code = 2
        (folder / f"error{number}").write_text(str(error))
    finally:
        os._exit(code)


def ends(overrides: list[str], folder: Path, fault, processes: int) -> list[int]:
    """How each process of a run ended: 0, its exit code, or minus a signal's number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [ran(overrides, folder, fault, number, processes, port) for number in range(processes)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder: Path, deaths: list[dict]) -> None:
    torch.set_num_threads(1)
    plotting.save_figure = plotting.save_cells = lambda *arguments: []  # pictures take longer than these runs
    for death in deaths:
        place = folder / death["name"]
        place.mkdir()
        given = death["overrides"], place
        died = ends(*given, death["fault"], death["processes"]) if death["fault"] else None
        there = sorted(path.name for path in (place / "checkpoints").iterdir()) if died and (
            place / "checkpoints").exists() else []  # fmt: skip
        done = (place / "genotype.json").exists()
        ended = ends(*given, None, death["processes"])
        print(json.dumps({"name": death["name"], "died": died, "finished": done, "there": there, "ended": ended}))
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
