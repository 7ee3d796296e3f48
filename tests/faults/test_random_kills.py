"""Studies and searches by scores, killed by SIGKILL at random moments, end as if they had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from darts.spaces.nasbench201 import all_strings
from tests.conftest import ENVIRONMENT, ROOT, TINY_TRAIN, run_command
from tests.test_strategies import STRATEGIES


def table(folder: Path) -> None:
    """Of all cells, with a made-up accuracy each."""
    draw = random.Random(0)
    rows = [f"{cell},{draw.uniform(50, 95):.3f}" for cell in all_strings()]
    (folder / "table.csv").write_text("\n".join(["arch,final", *rows]) + "\n")


@pytest.mark.slow(30)
@pytest.mark.parametrize("kind", ["select", "tune", "correlate", *STRATEGIES])
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(kind, tmp_path, injected):
    if kind == "correlate":
        table(tmp_path)
    kills = 4
    done = run_command(["-m", "tests.faults.killed", str(tmp_path), kind, str(kills)], ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["equal"] and told["ended"] == [0, 0], (told, done.stderr)
    assert -signal.SIGKILL in told["died"] and set(told["died"]) <= {0, -signal.SIGKILL}
    injected("run killed at a random moment", told["died"].count(-signal.SIGKILL), 1)


@pytest.mark.slow(60)
def test_a_study_killed_at_statements_of_its_database_ends_as_if_it_had_not_been(tmp_path, injected):
    done = run_command(["-m", "tests.faults.killed_studies", str(tmp_path)], ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["others"] == [] and told["last"] == 0, (told, done.stderr)
    assert told["killed"] > 20
    injected("study killed at a statement of its database", told["killed"], told["killed"])


pytestmark = pytest.mark.pictures
COMPARE = ["-m", "darts.compare", *TINY_TRAIN, "random.samples=2", "methods=[darts,random]", "seeds=[0]",
           "allow_underpowered=true",
           "+searches.search.batch_size=16", "+searches.evaluator.network.channels=2",
           "+searches.evaluator.train.batch_size=16", "+searches.network.channels=2", "budget.epochs=3"]  # fmt: skip


def outcomes(folder: Path) -> list[dict[str, object]]:
    found = json.loads((folder / "report.json").read_text())["outcomes"]
    return [{key: value for key, value in outcome.items() if key != "seconds"} for outcome in found]


@pytest.mark.slow(120)
def test_a_comparison_killed_at_random_moments_ends_with_the_same_report(tmp_path, injected):
    begun = time.monotonic()
    done = run_command([*COMPARE, "hydra.run.dir=whole"], tmp_path)
    assert done.returncode == 0, done.stderr
    seconds, draw, kills = time.monotonic() - begun, random.Random(0), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, *COMPARE, "hydra.run.dir=killed"], cwd=tmp_path, env=ENVIRONMENT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)  # fmt: skip
        time.sleep(draw.uniform(0.2, 0.7) * seconds)
        kills += process.poll() is None
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run_command([*COMPARE, "hydra.run.dir=killed"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert kills and outcomes(tmp_path / "killed") == outcomes(tmp_path / "whole")
    injected("run killed at a random moment", kills, 1)
