"""One process of several dies, hangs or is asked to stop: the job ends, says so, and goes on to the same end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT, TINY_SEARCH, TORCHRUN, run_command
from tests.faults.leavings import left
from tests.faults.test_signals import wait_for_lines

pytestmark = [pytest.mark.slow(300), pytest.mark.pictures]
SEARCH = [str(ROOT / "train_search.py"), *TINY_SEARCH, "search.epochs=6", "search.batch_size=18",
          "checkpoint.minutes=1e-9", "parallel.timeout_minutes=0.3"]  # fmt: skip


def begun(folder: Path, torchrun: Sequence[str] = TORCHRUN, errors: str = "errors", **extra: str) -> subprocess.Popen:
    """A search under torchrun."""
    command = [sys.executable, *torchrun, *SEARCH, "hydra.run.dir=run"]
    with open(folder / errors, "w") as said:
        return subprocess.Popen(
            command, cwd=folder, env={**ENVIRONMENT, **extra}, stdout=said, stderr=said, start_new_session=True
        )


def started(folder: Path, torchrun: Sequence[str] = TORCHRUN, **extra: str) -> subprocess.Popen:
    """A search on two processes whose first epoch has ended."""
    job = begun(folder, torchrun, **extra)
    wait_for_lines(folder / "run" / "history.jsonl", job)
    assert job.poll() is None
    return job


def children(job: subprocess.Popen) -> list[int]:
    """The process numbers of torchrun's own processes, by their rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) if entry.name.isdigit() else 0
            if parent == job.pid:
                variables = (entry / "environ").read_bytes().split(b"\0")
                found |= {int(v[5:]): int(entry.name) for v in variables if v.startswith(b"RANK=")}
        except OSError:
            continue
    return [found[rank] for rank in sorted(found)]


def alive(process: int) -> bool:
    try:
        return "Z" not in (Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    done = run_command([*TORCHRUN, *SEARCH, "hydra.run.dir=run"], folder)
    assert done.returncode == 0, done.stderr
    return left(folder / "run")


@pytest.mark.parametrize(
    ("fault", "rank", "says"),
    [
        (signal.SIGKILL, 0, ""),
        (signal.SIGKILL, 1, "lost contact with the other processes"),
        (signal.SIGSTOP, 1, "lost contact with the other processes"),
        (signal.SIGTERM, None, "stopped by SIGTERM and saved"),
        (signal.SIGKILL, None, ""),
    ],
)
def test_the_job_ends_with_an_error_and_resumes_to_the_same_end(whole, fault, rank, says, tmp_path, injected):
    job = started(tmp_path)
    processes = children(job)
    if rank is not None:
        os.kill(processes[rank], fault)
    elif fault == signal.SIGKILL:
        os.killpg(job.pid, fault)
        for process in processes:  # torchrun gives each a session of its own
            if alive(process):
                os.kill(process, fault)
    else:
        job.send_signal(fault)
    begun = time.monotonic()
    code = job.wait(timeout=120)
    seconds = time.monotonic() - begun
    assert code != 0
    for _ in range(50):  # what was killed with its parent may take a moment to be gone
        if any(alive(process) for process in processes):
            time.sleep(0.1)
    assert not any(alive(process) for process in processes)
    assert seconds < (60 if fault == signal.SIGSTOP else 30)  # torchrun itself waits 30 s for one that is stopped
    errors = (tmp_path / "errors").read_text()
    assert says in errors
    assert not (tmp_path / "run" / "genotype.json").exists()
    done = run_command([*TORCHRUN, *SEARCH, "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming at epoch" in done.stdout
    assert left(tmp_path / "run") == whole
    injected("a process of a torchrun job killed, hung or stopped", 1, 1)


def test_a_run_of_two_processes_resumes_with_one(tmp_path, injected):
    job = started(tmp_path)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) != 0
    done = run_command([*SEARCH, "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming at epoch" in done.stdout and (tmp_path / "run" / "genotype.json").exists()
    injected("a torchrun job stopped, gone on with one process")


def test_torchrun_starts_a_killed_process_again_by_itself(whole, tmp_path, injected):
    job = started(tmp_path, [*TORCHRUN, "--max-restarts=2"], TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    os.kill(children(job)[1], signal.SIGKILL)
    said = tmp_path / "errors"
    assert job.wait(timeout=120) == 0, said.read_text()
    assert "resuming at epoch" in said.read_text()
    assert left(tmp_path / "run") == whole
    injected("a process killed, torchrun starts it again", 1, 1)


def test_two_machines_are_one_run_and_a_machine_that_goes_ends_it(whole, tmp_path, injected):
    """Two of torchrun's agents, on one host here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"--rdzv_endpoint=127.0.0.1:{free.getsockname()[1]}"
    machine = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", meeting]
    lost = [begun(tmp_path, machine, f"lost{number}") for number in range(2)]
    wait_for_lines(tmp_path / "run" / "history.jsonl", lost[0])
    (child,) = children(lost[1])
    os.killpg(lost[1].pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    lost[1].wait()
    assert lost[0].wait(timeout=120) != 0
    assert not (tmp_path / "run" / "genotype.json").exists()
    found = [begun(tmp_path, machine, f"found{number}") for number in range(2)]
    assert [job.wait(timeout=120) for job in found] == [0, 0], (tmp_path / "found0").read_text()
    assert left(tmp_path / "run") == whole
    injected("a machine of two gone", 1, 1)
