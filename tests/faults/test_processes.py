"""kill -9 of whole runs and of one process of several, at random steps and within the writing of a checkpoint."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT
from tests.faults.leavings import left
from tests.faults.victim import WRITES

METHODS = ["darts", "darts_second_order"]
STEPS = 2 * 3  # epochs times steps an epoch: 50 images of a half in batches of 18


def deaths_by_step(count: int, processes: int) -> list[dict]:
    """So many different ones, drawn once and for all, over both methods, both parts of a step, and two ways to save."""
    kinds = [
        (method, minutes, part, step)
        for method in METHODS
        for minutes in ("inf", "1e-9")  # a checkpoint an epoch, or a step
        for part in ("architecture_step", "weight_step")
        for step in range(STEPS)
    ]
    return [
        {
            "name": f"{method}-{minutes}-{part}-{step}-{processes}",
            "overrides": [f"method={method}", f"checkpoint.minutes={minutes}"],
            "processes": processes,
            "fault": ["step", part, step],
        }
        for method, minutes, part, step in random.Random(processes).sample(kinds, count)
    ]


def deaths_by_write() -> list[dict]:
    """Each place in a checkpoint's writing, at the fourth one, and the first of all half written."""
    places = [(place, 3) for place in WRITES] + [("half written", 0)]
    return [
        {
            "name": f"{place}-{number}".replace(" ", "-"),
            "overrides": ["method=darts", "checkpoint.minutes=1e-9"],
            "processes": 1,
            "fault": ["write", place, number],
        }
        for place, number in places
    ]


def deaths_of_the_leader_by_write() -> list[dict]:
    """The process that writes for both dies at five places of its fourth checkpoint."""
    places = ("before it is opened", "half written", "after its flush", "after rename 1", "after rename 2")
    return [
        {
            "name": f"leader-{place}".replace(" ", "-"),
            "overrides": ["method=darts", "checkpoint.minutes=1e-9"],
            "processes": 2,
            "fault": ["leader's write", place, 3],
        }
        for place in places
    ]


def undisturbed(processes: int) -> list[dict]:
    overrides = [[f"method={method}", "checkpoint.minutes=inf"] for method in METHODS]
    return [
        {"name": f"whole-{o[0].split('=')[1]}-{processes}", "overrides": o, "processes": processes, "fault": None}
        for o in overrides
    ]


def carried_out(deaths: list[dict], folder: Path, within: Sequence[str] = ()) -> list[dict]:
    """What victim.py says of each death; `within`: a command in which it runs."""
    victim = [*within, sys.executable, str(ROOT / "tests" / "faults" / "victim.py"), str(folder), json.dumps(deaths)]
    done = subprocess.run(victim, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_resumed_equal(folder: Path, deaths: list[dict], outcomes: list[dict]) -> None:
    assert [outcome["name"] for outcome in outcomes] == [death["name"] for death in deaths]
    for death, outcome in zip(deaths, outcomes, strict=True):
        processes = death["processes"]
        assert outcome["ended"] == [0] * processes, death
        if death["fault"]:
            killed = {"disk": [], "raise": [1]}.get(death["fault"][0], [-9])
            assert sorted(outcome["died"]) == killed + [2] * (processes - len(killed)), death  # the others do not hang
            assert not outcome["finished"], death
            method = death["overrides"][0].split("=")[1]
            assert left(folder / death["name"]) == left(folder / f"whole-{method}-{processes}"), death


@pytest.mark.parametrize(
    ("processes", "count"),
    [(1, 4), pytest.param(1, 20, marks=pytest.mark.slow(50)), pytest.param(2, 20, marks=pytest.mark.slow(200))],
)
def test_killed_at_random_steps_a_search_resumes_bit_for_bit(processes, count, tmp_path, injected):
    deaths = undisturbed(processes) + deaths_by_step(count, processes)
    outcomes = carried_out(deaths, tmp_path)
    assert_resumed_equal(tmp_path, deaths, outcomes)
    what = "kill -9 of a whole run at a random step" if processes == 1 else "kill -9 of one process of two"
    injected(what, count, count)


def test_one_process_that_fails_of_itself_ends_the_other_too(tmp_path, injected):
    fault = {"name": "raised", "overrides": ["method=darts", "checkpoint.minutes=1e-9"], "processes": 2}
    deaths = [*undisturbed(2)[:1], {**fault, "fault": ["raise", "weight_step", 4]}]
    outcomes = carried_out(deaths, tmp_path)
    assert "lost contact with the other processes" in outcomes[1]["why"]
    assert_resumed_equal(tmp_path, deaths, outcomes)
    injected("one process of two fails", 1, 1)


@pytest.mark.slow
def test_killed_within_the_writing_of_a_checkpoint_a_search_resumes_bit_for_bit(tmp_path, injected):
    deaths = undisturbed(1)[:1] + deaths_by_write()
    outcomes = carried_out(deaths, tmp_path)
    assert_resumed_equal(tmp_path, deaths, outcomes)
    for death, outcome in zip(deaths[1:], outcomes[1:], strict=True):
        whole = {"last.pt", "previous.pt"} & set(outcome["there"])
        assert whole or death["fault"][2] == 0  # only the first of all leaves none
    injected("kill -9 within the writing of a checkpoint", len(deaths) - 1, len(deaths) - 1)


@pytest.mark.slow
def test_rank_0_killed_within_the_writing_of_a_checkpoint_two_processes_resume_bit_for_bit(tmp_path, injected):
    deaths = undisturbed(2)[:1] + deaths_of_the_leader_by_write()
    assert_resumed_equal(tmp_path, deaths, carried_out(deaths, tmp_path))
    injected("kill -9 of the writing one of two processes", len(deaths) - 1, len(deaths) - 1)


def test_a_reader_process_that_is_killed_ends_the_run_with_an_error(tmp_path, injected):
    for name in ("a", "b"):
        for part in ("train", "test"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
    code = f"""
import os, signal
from pathlib import Path
from PIL import Image
from tests.conftest import TINY_SEARCH, composed
from darts.tasks import datasets
from darts.search import loop as search
for name in "ab":
    for i in range(8):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(Path({str(tmp_path)!r}) / "pictures" / "train" / name / f"{{i}}.png")
def killed(self, path, parent=os.getpid(), decode=datasets.Decoder.__call__):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(self, path)
datasets.Decoder.__call__ = killed
pictures = ["dataset=image_folder", "dataset.root={tmp_path / "pictures"}", "dataset.cache={tmp_path / "cache"}",
            "dataset.fraction=1", "dataset.workers=1", "dataset.device_megabytes=0", "dataset.mean=[0,0,0]",
            "dataset.std=[1,1,1]", "search.batch_size=4", "dataset.image_size=16"]
from darts.runtime.errors import reported
reported(lambda: search.run(composed("search", *TINY_SEARCH, *pictures), Path({str(tmp_path)!r}) / "run"))()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "error: a process that reads images was killed" in done.stderr and "Traceback" not in done.stderr
    injected("reader process killed")
