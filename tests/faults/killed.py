"""Commands that are killed at random moments, by the system's own signal, and begun again until they end.

    python killed.py FOLDER KIND KILLS

KIND is select, tune, correlate, or a black-box method. A first run ends by itself and is timed; a second one is killed
so many times, each at a random moment of that time, and then ends. A line of JSON says how the deaths went and whether
both left the same. Runs are forked from this process, so that a death costs no start of PyTorch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from darts import correlate, select, tune
from darts.blackbox import loop as blackbox
from darts.runtime.files import lock_folder
from tests.conftest import TINY, TINY_DATA, composed, configuration
from tests.faults.forks import forked
from tests.forkserver import leave_out_pictures

BRIEF = [*TINY, "train.epochs=2", "train.batch_size=16", "checkpoint.minutes=1e-9"]
SCORES = [*TINY_DATA, "evaluator.network.channels=2", "evaluator.train.batch_size=16", "search.batch_size=16",
          "budget.evaluations=5", "space.nodes=2", "checkpoint.minutes=1e-9"]  # fmt: skip
SMALL = {
    "evolution": ["method.population=2", "method.sample=1"],
    "genetic": ["method.population=2", "method.tournament=1", "method.elite=1"],
    "predictor": ["method.start=2", "method.trees=3", "method.batch=2", "method.candidates=4"],
}


def run_select(folder: Path) -> None:
    select.choose(composed("select", *BRIEF, "searched=[darts_v1,darts_v2,snas]"), folder)


def run_tune(folder: Path) -> None:
    tune.run(configuration("tune", *BRIEF, "genotype=darts_v2", "trials=4").copy(), folder)


def run_correlate(folder: Path) -> None:
    table = folder.parent / "table.csv"
    given = ["space=nasbench201", f"benchmark.table={table}", "benchmark.column=final", "samples=60"]
    small = ["evaluator.network.channels=4", "search.batch_size=16"]
    settings = composed("correlate", *TINY_DATA, *given, *small)
    with lock_folder(folder):
        correlate.measure(settings, folder)


def searching(method: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        blackbox.run(composed("search", *SCORES, f"method={method}", *SMALL.get(method, [])), folder)

    return run


COMMANDS = {"select": run_select, "tune": run_tune, "correlate": run_correlate}


def left(kind: str, folder: Path) -> list[object]:
    """What must be the same."""
    if kind == "tune":
        trials = tune.ended_trials(tune.open_study(folder))
        return [json.loads((folder / "best.json").read_text()), [(trial.params, trial.value) for trial in trials]]
    names = {"select": ("selection.json", "genotype.json"), "correlate": ("points.jsonl",)}
    return [(folder / name).read_text() for name in names.get(kind, ("history.jsonl", "genotype.json", "split.json"))]


def begun(run: Callable[[Path], None], folder: Path) -> int:
    """Begin a run in a forked process; its number."""

    def whole() -> int:
        run(folder)
        return 0

    return forked(whole)


def main(folder: Path, kind: str, kills: int) -> None:
    torch.set_num_threads(1)
    leave_out_pictures()
    run = COMMANDS.get(kind) or searching(kind)
    draw = random.Random(kind)
    run(folder / "warm")
    start = time.monotonic()
    ended = os.waitpid(begun(run, folder / "whole"), 0)[1]
    seconds = time.monotonic() - start
    codes = []
    for _ in range(kills):
        child = begun(run, folder / "killed")
        time.sleep(draw.uniform(0.1, 0.5) * seconds)
        os.kill(child, signal.SIGKILL)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    last = os.waitpid(begun(run, folder / "killed"), 0)[1]
    equal = not ended and not last and left(kind, folder / "whole") == left(kind, folder / "killed")
    print(json.dumps({"died": codes, "ended": [ended, last], "equal": equal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
