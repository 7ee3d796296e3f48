"""Studies killed at every third statement of their database, and begun again until they end.

    python -m tests.faults.killed_studies FOLDER

A line of JSON says how many were killed, and which deaths were not followed by the same study. Trainings are
replaced by a formula: what is tried here is the database.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

import torch

from darts import tune
from tests.conftest import TINY, configuration
from tests.faults.forks import forked
from tests.faults.killed import left

SETTINGS = [*TINY, "genotype=darts_v2", "train.epochs=1", "train.batch_size=16", "trials=1"]


def accuracy(settings, genotype, folder, opened) -> float:
    """In place of a training."""
    return float(1 - abs(settings.weight_optimiser.learning_rate - 0.05))


class Countdown:
    """How many statements are left before the process dies."""

    left = -1

    @classmethod
    def passed(cls) -> None:
        if cls.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        cls.left -= 1


class Cursor(sqlite3.Cursor):
    """Dies before the statement whose turn it is."""

    def execute(self, *arguments):
        Countdown.passed()
        return super().execute(*arguments)


class Connection(sqlite3.Connection):
    """Dies before the commit whose turn it is."""

    def cursor(self, factory=Cursor):
        return super().cursor(factory)

    def commit(self):
        Countdown.passed()
        super().commit()


def study(folder: Path, statements: int) -> int:
    """The exit status of a process that runs the study and dies after so many statements; -1: of none."""

    def whole() -> int:
        Countdown.left = statements
        sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)
        tune.run(configuration("tune", *SETTINGS).copy(), folder)
        return 0

    return os.waitstatus_to_exitcode(os.waitpid(forked(whole), 0)[1])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    tune.score = accuracy
    tune.run(configuration("tune", *SETTINGS).copy(), folder / "warm")  # imports what the forked processes need
    study(folder / "whole", -1)
    expected, statements, others = left("tune", folder / "whole"), 0, []
    killed = 0
    while (code := study(folder / f"{statements}", statements)) == -signal.SIGKILL:
        made = (folder / f"{statements}" / "study.db").exists()
        ended = study(folder / f"{statements}", -1)
        if ended or left("tune", folder / f"{statements}") != expected:
            others.append([statements, ended])
        killed += 1
        statements += 3 if made else 15  # the many statements that lay out the tables leave nothing but a file unused
    print(json.dumps({"killed": killed, "others": others, "last": code}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
