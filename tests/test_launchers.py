"""Many runs through Hydra's launchers: one that fails or dies stops no other, and what is missing is done again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT, TINY_SEARCH, run_command
from tests.faults.leavings import everything

SEARCH = [str(ROOT / "train_search.py"), *TINY_SEARCH, "search.epochs=8", "checkpoint.minutes=inf"]
SWEEP = [SEARCH[0], "-m", *SEARCH[1:], "seed=0,1", "hydra.sweep.dir=sweep"]
PLUGINS = {"ray": "hydra_plugins.hydra_ray_launcher", "slurm_local": "hydra_plugins.hydra_submitit_launcher"}


def needs(cluster: str) -> None:
    pytest.importorskip(PLUGINS[cluster])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What each seed leaves by itself."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for seed in (0, 1):
        done = run_command([*SEARCH, f"seed={seed}", f"hydra.run.dir={seed}"], folder, pictures=True)
        assert done.returncode == 0, done.stderr
    return {seed: everything(folder / str(seed)) for seed in (0, 1)}


def runs(sweep: Path) -> dict[int, Path]:
    return {seed: sweep / f"{seed}_seed{seed}" for seed in (0, 1)}


def holder(run: Path, process: subprocess.Popen) -> int:
    """The number of the process that is at work in a folder and has left an epoch there."""
    for _ in range(7500):
        if process.poll() is not None:
            break
        if (run / "history.jsonl").exists() and (run / "history.jsonl").read_bytes().count(b"\n"):
            try:
                return int(json.loads((run / "lock").read_text())["process"])
            except (OSError, ValueError):
                pass
        time.sleep(0.02)
    raise AssertionError(f"nothing came of {run}")


def begun(arguments: list[str], folder: Path, **extra: str) -> subprocess.Popen:
    environment = {**ENVIRONMENT, **extra}
    with open(folder / "said", "w") as said:
        return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=said, stderr=said)


def ray_node(arguments: list[str], folder: Path) -> subprocess.Popen:
    """A node of a Ray cluster on this machine, once it has started."""
    ray = str(Path(sys.executable).parent / "ray")
    log = folder / f"ray{len(arguments)}"
    with open(log, "w") as said:
        node = subprocess.Popen(
            [ray, "start", *arguments], cwd=folder, env=ENVIRONMENT, stdout=said, stderr=said, start_new_session=True
        )
    for _ in range(1200):
        if "Ray runtime started" in log.read_text():
            return node
        assert node.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_job_that_fails_stops_no_other_and_is_named(tmp_path):
    given = [SEARCH[0], "-m", *SEARCH[1:], "search.epochs=1", "search.batch_size=16,9999,17", "hydra.sweep.dir=sweep"]
    given.append("hydra.sweep.subdir=${hydra.job.num}")
    done = run_command(given, tmp_path)
    assert done.returncode == 1
    assert "error: job 1: search.batch_size is 9999; it must be at most 50" in done.stderr
    assert "Traceback" not in done.stderr
    assert [(tmp_path / "sweep" / str(job) / "genotype.json").exists() for job in range(3)] == [True, False, True]
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep" / "0").rglob("*.json*")}
    again = run_command(given, tmp_path)  # does what is missing, and nothing twice
    assert again.returncode == 1
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep" / "0").rglob("*.json*")}


@pytest.mark.slow
def test_a_job_that_slurm_preempts_saves_is_queued_again_and_ends_equal(undisturbed, tmp_path):
    needs("slurm_local")
    process = begun([*SWEEP, "+cluster=slurm_local"], tmp_path)
    for seed, run in runs(tmp_path / "sweep").items():
        os.kill(holder(run, process), signal.SIGUSR2 if seed == 0 else signal.SIGTERM)  # preempted; told, and spared
    assert process.wait(timeout=200) == 0, (tmp_path / "said").read_text()
    for seed, run in runs(tmp_path / "sweep").items():
        assert everything(run) == undisturbed[seed]
    logs = "".join(file.read_text() for file in (tmp_path / "sweep" / ".submitit").rglob("*.err"))
    assert "this job is preempted" in logs and "Bypassing signal SIGTERM" in logs


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_ray_worker_that_is_killed_is_replaced_and_the_sweep_ends_equal(undisturbed, tmp_path):
    needs("ray")
    port, node = "26379", ["--num-cpus=1", "--object-store-memory=80000000", "--block"]
    place = f"--temp-dir=/tmp/ray{os.getpid()}"  # a short path: sockets lie in it
    starts = [
        ["--head", f"--port={port}", "--include-dashboard=false", place, *node],
        [f"--address=127.0.0.1:{port}", *node],
    ]
    nodes = []
    try:
        for start in starts:
            nodes.append(ray_node(start, tmp_path))
        process = begun([*SWEEP, "+cluster=ray"], tmp_path, RAY_ADDRESS=f"127.0.0.1:{port}")
        os.kill(holder(runs(tmp_path / "sweep")[0], process), signal.SIGKILL)
        assert process.wait(timeout=240) == 0, (tmp_path / "said").read_text()
    finally:
        for started in reversed(nodes):
            os.killpg(started.pid, signal.SIGTERM)
            started.wait(timeout=60)
        shutil.rmtree(place.split("=")[1], ignore_errors=True)
    for seed, run in runs(tmp_path / "sweep").items():
        assert everything(run) == undisturbed[seed]
