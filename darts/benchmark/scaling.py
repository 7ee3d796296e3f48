"""python -m darts.benchmark scaling [setting=value ...]: the search step on one process and on several.

Each count of processes is started again by torchrun, one thread a process, one count after the other and again, so that
a slow spell of the machine meets all alike. The whole batch is that of the settings ("the same work"), or as many times
larger as there are processes ("work that grows along").
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from darts.runtime import errors
from darts.runtime.errors import UserError

COUNTS = (1, 2)
ROUNDS = 2
HEADER = f"{'':50}{'processes':>10}{'ms a step':>12}{'efficiency':>12}{'messages':>10}{'MB a step':>11}"


@errors.reported
def main(overrides: Sequence[str]) -> None:
    """Print a table, and JSON as the last line; `UserError` for what the processes refuse."""
    print(HEADER, flush=True)
    found = []
    for norms in ("true", "false"):
        for grows, title in ((False, "the same work"), (True, "work that grows along")):
            rows = _rows(grows, [*overrides, f"parallel.synchronised_batch_norm={norms}"])
            for row in rows:
                row |= {"title": title, "synchronised": norms == "true"}
                print(_line(row, rows[0]), flush=True)
            found += rows
    print(json.dumps(found))


def _rows(grows: bool, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """By count of processes, the least median over the rounds, and what was sent."""
    best: dict[int, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        for count in COUNTS:
            grown = [f"search.batch_size={best[1]['batch'] * count}"] if grows and count > 1 else []
            one = {"processes": count, **started(count, [*overrides, *grown])}
            if count not in best or one["median_ms"] < best[count]["median_ms"]:
                best[count] = one
    return list(best.values())


def started(count: int, overrides: Sequence[str]) -> dict[str, Any]:
    """What that number of processes measured."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    with tempfile.TemporaryDirectory(prefix="darts-") as folder:
        command = [sys.executable, *torchrun, "-m", "darts.benchmark.processes", *overrides, f"hydra.run.dir={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = next((line.partition("error: ")[2] for line in lines if "error: " in line), lines[0] if lines else "")
        raise UserError(told or f"{count} processes ended with {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _line(row: dict[str, Any], single: dict[str, Any]) -> str:
    """Efficiency: the fraction of the processes' time that one process would need for the same images."""
    speedup = single["median_ms"] / row["median_ms"] * row["batch"] / single["batch"]
    title = f"{row['title']}, {'one' if row['synchronised'] else 'own'} batch norm, batch {row['batch']}"
    sent = row.get("messages", 0), row.get("bytes", 0) / 1e6
    efficiency = speedup / row["processes"]
    return f"{title:50}{row['processes']:10d}{row['median_ms']:12.0f}{efficiency:12.0%}{sent[0]:10d}{sent[1]:11.2f}"
