"""A disk that is full, or gone, ends a run with a line; what was saved before stays, and the run goes on from it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from darts.runtime import files
from darts.runtime.checkpoint import Checkpoints
from darts.runtime.errors import UserError
from darts.runtime.files import write_bytes
from darts.search import loop as search
from darts.search import step as search_steps
from tests.conftest import ENVIRONMENT, ROOT, TINY_SEARCH, composed
from tests.faults.test_processes import assert_resumed_equal, carried_out, undisturbed

FULL = "could not be written to the disk: No space left on device"


def needs_small_disks() -> None:
    """A disk of a few bytes needs a namespace of its own, which not every system gives."""
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    if done.returncode:
        pytest.skip("no small disks for this user")


def test_a_device_without_space_is_named(tmp_path, monkeypatch, injected):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"epoch": 1})
    (tmp_path / "checkpoints" / "fresh.pt.tmp").symlink_to("/dev/full")
    monkeypatch.setattr(files, "REPLACING", os.O_WRONLY)  # otherwise no file is written through a link
    with pytest.raises(UserError, match=rf"fresh\.pt: {FULL}"):
        checkpoints.save({"epoch": 2})
    assert checkpoints.load() == {"epoch": 1}
    injected("disk full")


def test_a_limit_of_size_is_named_and_the_previous_checkpoint_stays(tmp_path, injected):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"fresh\.pt: could not be written to the disk"):
            checkpoints.save({"epoch": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints.load() == {"epoch": 1}
    assert [file.name for file in checkpoints.last.parent.iterdir()] == ["last.pt"]
    injected("disk full")


@pytest.mark.parametrize(
    "shares", [(0.3,), pytest.param([n / 12 + 0.01 for n in range(12)], marks=pytest.mark.slow(60))]
)
def test_a_search_whose_disk_fills_ends_with_a_line_and_resumes_once_there_is_room(shares, tmp_path, injected):
    """Wherever it fills: at the lock, a line of a record, TensorBoard's file, a checkpoint, a picture, the result."""
    needs_small_disks()
    deaths = undisturbed(1)[:1] + [
        {
            "name": f"disk-{share:.2f}",
            "overrides": ["method=darts", "checkpoint.minutes=1e-9"],
            "processes": 1,
            "fault": ["disk", share],
        }
        for share in shares
    ]
    outcomes = carried_out(deaths, tmp_path, ["unshare", "-rm"])
    for outcome in outcomes[1:]:
        assert outcome["died"] == [2] and outcome["why"].endswith(FULL), outcome
        assert not {"fresh.pt.tmp"} & set(outcome["there"])
    assert_resumed_equal(tmp_path, deaths, outcomes)
    injected("disk full", len(shares), len(shares))


def test_the_command_says_in_a_line_that_its_disk_is_full(tmp_path, injected):
    needs_small_disks()
    search_it = [sys.executable, str(ROOT / "train_search.py"), *TINY_SEARCH, "checkpoint.minutes=1e-9"]
    shell = f'mount -t tmpfs -o size=256k none {tmp_path} && "$@" hydra.run.dir={tmp_path / "run"}'
    command = ["unshare", "-rm", "sh", "-c", shell, "sh", *search_it]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.endswith(f"{FULL}\n"), done.stderr
    assert done.stderr.count("\n") == 1
    injected("disk full")


@pytest.mark.parametrize("when", ["within an epoch", "at an epoch's end"])
def test_a_folder_that_vanishes_under_a_run_ends_it_with_a_line(when, tmp_path, monkeypatch, injected):
    steps = []
    original = search_steps.weight_step

    def step(*arguments):
        steps.append(when)
        if len(steps) == 6:
            shutil.rmtree(tmp_path / "run")
        if len(steps) == 6 and when == "within an epoch":
            (tmp_path / "run").write_text("a file where the folder was")  # as root, permissions stop nothing
        return original(*arguments)

    monkeypatch.setattr(search_steps, "weight_step", step)
    minutes = "1e-9" if when == "within an epoch" else "inf"
    with pytest.raises(UserError, match=r"run/.*: could not be written to the disk: N"):
        search.run(composed("search", *TINY_SEARCH, f"checkpoint.minutes={minutes}"), tmp_path / "run")
    injected("folder gone")


def test_an_unwritable_place_is_named(tmp_path, injected):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written to the disk: "):
        write_bytes(tmp_path / "file" / "x", b"")
    with pytest.raises(UserError, match="could not be written to the disk: "):
        search.run(composed("search", *TINY_SEARCH), tmp_path / "file" / "run")
    injected("folder that cannot be written", 2)
