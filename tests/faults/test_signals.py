"""A polite stop loses nothing, and one folder has one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from darts.runtime import signals
from darts.runtime.errors import UserError
from darts.runtime.files import lock_folder
from darts.runtime.signals import Interrupted
from darts.search import loop as search
from tests.conftest import ENVIRONMENT, ROOT, TINY_SCORES, TINY_SEARCH, TINY_TRAIN, composed, run_command

SEARCH = [str(ROOT / "train_search.py"), *TINY_SEARCH, "search.epochs=6", "checkpoint.minutes=inf"]
FINAL = [str(ROOT / "train_final.py"), *TINY_TRAIN, "train.epochs=8", "genotype=darts_v2", "checkpoint.minutes=inf"]
SCORES = [str(ROOT / "train_search.py"), *TINY_SCORES, "method=random", "budget.evaluations=8",
          "evaluator.network.channels=2", "evaluator.train.batch_size=16", "evaluator.train.epochs=4"]  # fmt: skip


def started(command: list[str], folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def wait_for_lines(file: Path, process: subprocess.Popen, lines: int = 1) -> None:
    for _ in range(1200):
        if process.poll() is not None or (file.exists() and file.read_bytes().count(b"\n") >= lines):
            return
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a command's run that nothing disturbs; each command runs once."""
    folders: dict[str, Path] = {}

    def run(command: list[str]) -> Path:
        key = " ".join(command)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("whole")
            done = run_command([*command, "hydra.run.dir=whole"], folders[key])
            assert done.returncode == 0, done.stderr
        return folders[key] / "whole"

    return run


@pytest.mark.pictures
@pytest.mark.parametrize(
    ("command", "number", "result", "epochs"),
    [
        *(
            pytest.param(SEARCH, number, "genotype.json", epochs, marks=pytest.mark.slow)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
            for epochs in (1, 2, 4)
        ),
        (FINAL, signal.SIGTERM, "curves.svg", 1),
        pytest.param(SCORES, signal.SIGTERM, "genotype.json", 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_at_the_next_step_and_the_run_resumes_to_the_same_end(
    undisturbed, command, number, result, epochs, tmp_path, injected
):
    process = started([*command, "hydra.run.dir=stopped"], tmp_path)
    wait_for_lines(tmp_path / "stopped" / "history.jsonl", process, epochs)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert f"stopped by {signal.Signals(number).name} and saved" in errors and "Traceback" not in errors
    assert not (tmp_path / "stopped" / result).exists() and not (tmp_path / "stopped" / "lock").exists()
    done = run_command([*command, "hydra.run.dir=stopped"], tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("history.jsonl", result):
        assert (tmp_path / "stopped" / name).read_bytes() == (undisturbed(command) / name).read_bytes()
    injected("signal to a run", 1, 1)


def test_within_a_loop_signals_wait_and_outside_they_do_what_they_did():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped, signals.deferred_signals():
        assert signals.pending_signal() == 0
        signals.raise_if_interrupted(signals.pending_signal())
        os.kill(os.getpid(), signal.SIGTERM)
        with signals.deferred_signals():  # an inner loop leaves the outer one's handlers
            assert signals.pending_signal() == signal.SIGTERM
        signals.raise_if_interrupted(signals.pending_signal())
    assert stopped.value.exit_code == 143 and str(stopped.value) == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
    with signals.deferred_signals():
        assert signals.pending_signal() == 0  # what was received before is done with


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_launchers_own_handler_is_called_after_the_run_has_saved_and_may_let_it_continue(number):
    called = []
    before = signal.signal(number, lambda given, frame: called.append(given))
    try:
        with signals.deferred_signals():
            os.kill(os.getpid(), number)
            assert called == [] and signals.pending_signal() == number
            signals.raise_if_interrupted(signals.pending_signal())
            assert called == [number] and signals.pending_signal() == 0
    finally:
        signal.signal(number, before)


def test_a_second_interrupt_stops_at_once():
    with pytest.raises(KeyboardInterrupt), signals.deferred_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_folder_in_use_is_refused_and_its_holder_named(tmp_path):
    settings = composed("search", *TINY_SEARCH, "search.epochs=1")
    with lock_folder(tmp_path), pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on .* since"):
        search.run(settings, tmp_path)
    assert list(tmp_path.iterdir()) == []
    search.run(settings, tmp_path)


def test_what_a_dead_process_held_is_free(tmp_path, injected):
    code = (
        "from pathlib import Path; from darts.runtime.files import lock_folder\n"
        f"with lock_folder(Path({str(tmp_path)!r})): input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE)
    wait_for_lines(tmp_path / "lock", process)
    with pytest.raises(UserError, match=f"in use by process {process.pid}"), lock_folder(tmp_path):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / "lock").exists()
    with lock_folder(tmp_path):
        pass
    injected("lock of a dead process", 1)
