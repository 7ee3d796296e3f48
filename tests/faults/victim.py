"""Runs that die on purpose: a warmed process forks them, so that a death costs a second and not the start of PyTorch.

    python victim.py FOLDER JSON

JSON is a list of deaths, each {"name", "overrides", "processes", "fault"}; each run dies by its fault and is begun
again on its folder, which is left as FOLDER/name. A line of JSON a death says how both ended. The fault is null or
["step", part, number], ["raise", part, number] or ["write", place, number] (the last process dies or fails there),
["leader's write", ...] (the first does), or ["disk", share]: it holds that share of what the first run takes.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

from darts.runtime import distributed, files
from darts.runtime.errors import UserError
from darts.runtime.settings import ParallelSettings
from darts.search import loop as search
from darts.search import step as search_steps
from tests.conftest import TINY_SEARCH, composed
from tests.faults.forks import forked
from tests.forkserver import leave_out_pictures


def die() -> None:
    """At once, as by the system's own hand."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """By a mistake of the program's own."""
    raise RuntimeError("a mistake of the program's own")


def die_at_step(name: str, number: int, end: Callable[[], None] = die) -> None:
    """Before the given call of a step of the search, from 0."""
    original, calls = getattr(search_steps, name), []

    def step(*arguments):
        calls.append(name)
        if len(calls) > number:
            end()
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
    flush, replace, system_open, fdopen = os.fsync, Path.replace, os.open, os.fdopen

    def opened(path, flags, mode=0o777):
        if Path(path).name == "fresh.pt.tmp":
            writes.append(path)
            renames.clear()
            if len(writes) > number and place == "before it is opened":
                die()
        return system_open(path, flags, mode)

    def buffered(handle, mode="r", **reading):
        file = fdopen(handle, mode, **reading)
        checkpoint = len(writes) > number and not renames and place == "half written"
        return HalfWritten(file) if checkpoint and mode == "wb" else file

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

    files.os.open, files.os.fdopen, files.os.fsync, Path.replace = opened, buffered, flushed, renamed


WRITES = [
    *("before it is opened", "half written", "before its flush", "after its flush", "after rename 1"),
    *("before the folder's flush", "after the folder's flush", "after rename 2", "after rename 3"),
]


DEATHS = {
    "step": die_at_step,
    "raise": functools.partial(die_at_step, end=fail),
    "write": die_in_write,
    "leader's write": die_in_write,
}


def ran(death: dict, folder: Path, told: Path, fault, number: int, port: int) -> int:
    """Begin a search in a forked process; its number among the system's."""

    def run() -> int:
        if fault and fault[0] in DEATHS and number == (0 if fault[0] == "leader's write" else death["processes"] - 1):
            DEATHS[fault[0]](*fault[1:])
        torchrun = {"WORLD_SIZE": death["processes"], "RANK": number, "LOCAL_RANK": number, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in torchrun.items()}, MASTER_ADDR="127.0.0.1")
        settings = composed("search", *TINY_SEARCH, "search.epochs=2", "search.batch_size=18", *death["overrides"])
        try:
            with distributed.process_group(ParallelSettings(True, 0.5), "cpu", False):
                search.run(settings, folder)
        except UserError as error:
            told.write_text(str(error))
            return 2
        return 0

    return forked(run)


def ends(death: dict, folder: Path, told: Path, fault) -> list[int]:
    """How each process of a run ended: 0, its exit code, or minus a signal's number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [ran(death, folder, told, fault, number, port) for number in range(death["processes"])]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@contextmanager
def disk(place: Path, size: int):
    """A disk of so many bytes in memory; call what is yielded to make it large."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)
    finally:
        subprocess.run(["umount", place], check=True)


def carried_out(death: dict, folder: Path, run: Path, grown) -> dict:
    """A run that dies and is begun again."""
    fault, told = death["fault"], folder / "told"
    told.write_text("")
    died = ends(death, run, told, fault) if fault else None
    there = sorted(path.name for path in (run / "checkpoints").glob("*"))
    done, why = (run / "genotype.json").exists(), told.read_text()
    grown()
    ended = ends(death, run, told, None)
    return {"name": death["name"], "died": died, "why": why, "finished": done, "there": there, "ended": ended}


def main(folder: Path, deaths: list[dict]) -> None:
    torch.set_num_threads(1)
    small = [bool(death["fault"]) and death["fault"][0] == "disk" for death in deaths]
    if not any(small):  # pictures take longer than these runs, and matter where the disk is full alone
        leave_out_pictures()
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1"), folder / "warm")
    for death, on_small_disk in zip(deaths, small, strict=True):
        if on_small_disk:
            whole = sum(file.stat().st_size for file in (folder / deaths[0]["name"]).rglob("*"))
            with disk(folder / "disk", int(whole * death["fault"][1])) as grown:
                told = carried_out(death, folder, folder / "disk" / "run", grown)
                shutil.copytree(folder / "disk" / "run", folder / death["name"])
        else:
            told = carried_out(death, folder, folder / death["name"], lambda: None)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
