"""A run killed at any step and started again on its folder ends as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.published import published
from darts.train import retraining as retrain
from tests.conftest import ROOT, TINY_SEARCH, TINY_TRAIN, composed, some
from tests.faults.leavings import left, saved

STEPS = 3 * 4  # epochs times steps an epoch: 50 images of a half in batches of 16


def settings(method: str, minutes: str = "inf", *overrides: str):
    return composed("search", *TINY_SEARCH, f"method={method}", f"checkpoint.minutes={minutes}", *overrides)


@pytest.fixture(scope="module", params=["darts", "darts_second_order"])
def uninterrupted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    search.run(settings(request.param), folder)
    return request.param, left(folder)


class Killed(BaseException):
    """Nobody catches this: what was not written is lost, as when a process is killed."""


def kill_after(monkeypatch, module, step_name: str, steps: int, error: BaseException | type[Killed] = Killed) -> None:
    """Let a step of a loop end the run, with an error, before it begins the (`steps` + 1)-th time."""
    original = getattr(module, step_name)
    done = 0

    def step(*arguments, **named):
        nonlocal done
        if done == steps:
            raise error
        done += 1
        return original(*arguments, **named)

    monkeypatch.setattr(module, step_name, step)


@pytest.mark.parametrize(
    "moment",
    some(
        [  # minutes=1e-9: a checkpoint at every step; inf: at the ends of epochs alone
            (0, "architecture_step", "inf"),
            (1, "weight_step", "inf"),
            (4, "weight_step", "inf"),
            (STEPS - 1, "weight_step", "inf"),
            (1, "weight_step", "1e-9"),
            (6, "architecture_step", "1e-9"),
        ],
        (4, "weight_step", "inf"),
        (6, "architecture_step", "1e-9"),
    ),
)
def test_a_search_killed_at_any_step_resumes_bit_for_bit(uninterrupted, moment, tmp_path, injected):
    steps, step_name, minutes = moment
    method, expected = uninterrupted
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search_steps, step_name, steps)
        search.run(settings(method, minutes), tmp_path)
    assert not (tmp_path / "genotype.json").exists()
    search.run(settings(method, minutes), tmp_path)
    assert left(tmp_path) == expected
    injected("run cut off within its process", 1, 1)


def test_a_search_killed_after_every_single_step_resumes_bit_for_bit(uninterrupted, tmp_path, injected):
    method, expected = uninterrupted
    for _ in range(STEPS):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, search_steps, "weight_step", 1)
            search.run(settings(method, "1e-9"), tmp_path)
            raise Killed  # the last part ends by itself
    search.run(settings(method, "1e-9"), tmp_path)
    assert left(tmp_path) == expected
    injected("run cut off within its process", 12, 1)


def test_lines_of_a_run_killed_before_its_first_checkpoint_are_dropped(uninterrupted, tmp_path, injected):
    method, expected = uninterrupted
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search, "decide", 0)  # after the first epoch's line, before its checkpoint
        search.run(settings(method), tmp_path)
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 1 and not (tmp_path / "checkpoints").exists()
    search.run(settings(method), tmp_path)
    assert left(tmp_path) == expected
    injected("run cut off within its process", 1, 1)


def test_a_finished_search_answers_and_changes_nothing(uninterrupted, tmp_path):
    method, _ = uninterrupted
    genotype = search.run(settings(method), tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert search.run(settings(method), tmp_path) == genotype
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_a_folder_of_other_settings_is_refused_and_the_setting_named(tmp_path):
    search.run(settings("darts", "inf", "search.epochs=1"), tmp_path)
    message = r"search\.epochs was 1 and is now 3"
    with pytest.raises(UserError, match=message):
        search.run(settings("darts"), tmp_path)
    (tmp_path / "genotype.json").unlink()
    with pytest.raises(UserError, match=message):
        search.run(settings("darts"), tmp_path)


def test_a_search_whose_images_have_changed_is_not_continued(tmp_path):
    def folder_settings(epochs: int):
        pictures = ["dataset=image_folder", f"dataset.root={tmp_path}", f"dataset.cache={tmp_path / 'cache'}"]
        return composed("search", *TINY_SEARCH, *pictures, "dataset.fraction=1", "search.batch_size=4",
                        f"search.epochs={epochs}", "dataset.image_size=16")  # fmt: skip

    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "test" / name).mkdir(parents=True)
        for index in range(8):
            Image.new("RGB", (16, 16), (index, 0, 0)).save(tmp_path / "train" / name / f"{index}.png")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search_steps, "weight_step", 3)
        search.run(folder_settings(3), tmp_path / "run")
    (tmp_path / "train" / "a" / "7.png").unlink()
    with pytest.raises(UserError, match="the training data have changed"):
        search.run(folder_settings(3), tmp_path / "run")


def training_settings(minutes: str):
    drops = ["train.drop_path=0.3", "train.cutout=8", "train.auxiliary_weight=0.4"]
    return composed("final", *TINY_TRAIN, *drops, f"checkpoint.minutes={minutes}")


@pytest.mark.parametrize("minutes", ["1e-9", "inf"])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_retraining_killed_at_any_step_resumes_bit_for_bit(steps, minutes, tmp_path, injected):
    genotype = published("darts_v2")
    expected = retrain.run(training_settings(minutes), genotype, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, retrain, "train_step", steps)
        retrain.run(training_settings(minutes), genotype, tmp_path / "killed")
    found = retrain.run(training_settings(minutes), genotype, tmp_path / "killed")
    assert saved(tmp_path / "killed") == saved(tmp_path / "whole")
    histories = [(tmp_path / run / "history.jsonl").read_bytes() for run in ("killed", "whole")]
    assert histories[0] == histories[1]
    assert found["test_loss"] == expected["test_loss"]
    injected("run cut off within its process", 1, 1)


def test_a_process_killed_for_real_resumes_bit_for_bit(tmp_path):
    search.run(settings("darts", "1e-9", "search.epochs=10"), tmp_path / "whole")
    command = [sys.executable, str(ROOT / "train_search.py"), *TINY_SEARCH, "search.epochs=10",
               "checkpoint.minutes=1e-9", f"hydra.run.dir={tmp_path / 'killed'}"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, env={"OMP_NUM_THREADS": "1"})
    history = tmp_path / "killed" / "history.jsonl"
    while not (history.exists() and history.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "genotype.json").exists()
    search.run(settings("darts", "1e-9", "search.epochs=10"), tmp_path / "killed")
    assert left(tmp_path / "killed") == left(tmp_path / "whole")
