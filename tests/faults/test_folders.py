"""A folder belongs to its first run, whatever kind, and what a run says of itself is true."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from darts import select, tune
from darts.blackbox import loop as blackbox
from darts.config.resume import resumed_arguments
from darts.loop import record
from darts.runtime import files
from darts.runtime.errors import UserError
from darts.runtime.files import is_locked, lock_folder
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.published import published
from darts.train import retraining as retrain
from tests.conftest import ROOT, TINY, TINY_SCORES, TINY_SEARCH, TINY_TRAIN, composed, configuration, run_command, some
from tests.faults.test_kills import Killed, kill_after

SCORES = [*TINY_SCORES, "method=random", "budget.evaluations=3", "evaluator.network.channels=2",
          "evaluator.train.batch_size=16", "evaluator.train.epochs=1"]  # fmt: skip
BRIEF = [*TINY, "train.epochs=1", "train.batch_size=16"]


def by_gradients(folder: Path) -> None:
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1"), folder)


def by_scores(folder: Path) -> None:
    blackbox.run(composed("search", *SCORES), folder)


def retraining(folder: Path) -> None:
    retrain.run(composed("final", *TINY_TRAIN), published("darts_v2"), folder)


def selection(folder: Path) -> None:
    select.choose(composed("select", *BRIEF, "searched=[darts_v1,darts_v2]"), folder)


def study(folder: Path) -> None:
    tune.run(configuration("tune", *BRIEF, "genotype=darts_v2", "trials=1").copy(), folder)


RUNS = [by_gradients, by_scores, retraining, selection, study]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("first", RUNS, ids=lambda run: run.__name__)
def test_no_other_kind_of_run_takes_over_a_folder(first, tmp_path):
    first(tmp_path)
    before = contents(tmp_path)
    for other in RUNS:
        if other is not first:
            with pytest.raises(UserError, match=r"holds a .*, and this is a "):
                other(tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_of_a_run_killed_before_its_first_checkpoint_is_its_own(tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search_steps, "weight_step", 0)
        search.run(composed("search", *TINY_SEARCH), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(UserError, match=r"seed was 0 and is now 1"):
        search.run(composed("search", *TINY_SEARCH, "seed=1"), tmp_path)
    with pytest.raises(UserError, match="holds a search by gradients, and this is a search by scores"):
        by_scores(tmp_path)


def test_a_mistake_claims_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"search\.batch_size is 5000"):
        search.run(composed("search", *TINY_SEARCH, "search.batch_size=5000"), tmp_path)
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1"), tmp_path)


def test_results_without_the_record_of_their_run_are_not_overwritten(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(UserError, match=r"holds history\.jsonl of a run without its run\.json"):
        by_gradients(tmp_path)
    assert (tmp_path / "history.jsonl").read_text() == '{"epoch": 1}\n'


def test_a_refused_command_changes_nothing_of_the_folders_configuration(tmp_path):
    command = [str(ROOT / "train_search.py"), *TINY_SEARCH, "search.epochs=1", "hydra.run.dir=run"]
    assert run_command(command, tmp_path).returncode == 0
    before = contents(tmp_path / "run" / ".hydra")
    assert set(before) == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    done = run_command([*command, "seed=1"], tmp_path)
    assert done.returncode == 2 and "seed was 0 and is now 1" in done.stderr
    assert contents(tmp_path / "run" / ".hydra") == before


@pytest.mark.parametrize("evaluation", some([1, 2, 3], 2))
@pytest.mark.parametrize(
    "write", ["before history", "half of history", "before timing", "half of timing", "after both"]
)
def test_a_black_box_search_killed_at_any_write_of_its_journal_resumes_equal(
    evaluation, write, tmp_path, monkeypatch, injected
):
    by_scores(tmp_path / "whole")
    original, calls = files.append_line, []
    place, _, name = write.rpartition(" ")

    def append(path: Path, line) -> None:
        calls.append(path.stem)
        here = calls.count(path.stem) == evaluation
        if here and path.stem == name and place == "before":
            raise Killed
        if here and path.stem == name and place.startswith("half"):
            with open(path, "a") as file:
                file.write(json.dumps(line)[:9])
            raise Killed
        original(path, line)
        if here and path.stem == "timing" and name == "both":
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("darts.blackbox.journal.append_line", append)
        by_scores(tmp_path / "killed")
    by_scores(tmp_path / "killed")
    for file in ("history.jsonl", "genotype.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert len((tmp_path / "killed" / "timing.jsonl").read_text().splitlines()) == 3
    injected("run cut off within its process", 1, 1)


def steps_shown(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_tensorboard_shows_every_epoch_of_a_resumed_run_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search, "decide", 1)  # after the second epoch's values, before its checkpoint
        search.run(composed("search", *TINY_SEARCH), tmp_path)
    search.run(composed("search", *TINY_SEARCH), tmp_path)
    assert steps_shown(tmp_path, "valid/loss") == [1, 2, 3]


def test_a_search_whose_trainings_diverge_leaves_no_thread(tmp_path):
    before = threading.active_count()
    wild = ["evaluator.weight_optimiser.learning_rate=1e30", "evaluator.weight_optimiser.clip=inf"]
    with pytest.raises(UserError, match="trainings diverged"):
        blackbox.run(composed("search", *SCORES, *wild), tmp_path)
    assert threading.active_count() == before


def test_a_resume_on_other_threads_is_recorded_and_warned_of(tmp_path, monkeypatch, caplog):
    by_gradients(tmp_path)
    (tmp_path / "genotype.json").unlink()
    known = record.environment
    monkeypatch.setattr(record, "environment", lambda device: {**known(device), "threads": 7, "cpu_capability": "X"})
    by_gradients(tmp_path)
    assert "threads was 1 and is now 7: what follows will not be equal bit for bit" in caplog.text
    assert "cpu_capability was" in caplog.text
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["environment"]["threads"] == 1 and [one["threads"] for one in stored["resumed"]] == [7]


def test_a_lock_on_a_file_that_is_gone_does_not_count(tmp_path, monkeypatch):
    """A process opens the file, its holder removes it, another locks a new one: only one of both may go on."""
    original, opened = os.open, []

    def late(path, flags, mode=0o777):
        handle = original(path, flags, mode)
        if not opened:
            opened.append(handle)
            Path(path).unlink()  # the holder ends here
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", late)
        with lock_folder(tmp_path):
            assert opened and is_locked(tmp_path)
            with pytest.raises(UserError, match="is in use by process"), lock_folder(tmp_path):
                pass
    assert not is_locked(tmp_path)


def test_resume_types_the_runs_own_settings_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, finished in (("old", True), ("newer", False), ("newest", True)):
        folder = tmp_path / "runs" / "search" / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text("- seed=3\n- method=gdas\n- dataset.fraction=0.5\n")
        (folder / "run.json").write_text(json.dumps({"kind": "search by gradients"}))
        if finished:
            (folder / "genotype.json").write_text("{}")
    expected = ["seed=3", "method=gdas", "device=cpu", "dataset.fraction=1", "hydra.run.dir=runs/search/newer"]
    found = resumed_arguments("search", ["device=cpu", "resume=latest", "dataset.fraction=1"])
    assert sorted(found) == sorted(expected)
    with (
        lock_folder(tmp_path / "runs" / "search" / "newer"),
        pytest.raises(UserError, match=r"no run in .* unfinished"),
    ):
        resumed_arguments("search", ["resume=latest"])
    with pytest.raises(UserError, match="left out with -m"):
        resumed_arguments("search", ["resume=latest", "-m"])
    with pytest.raises(UserError, match="this command resumes nothing"):
        resumed_arguments("describe", ["resume=latest"])


STRANGE_ITEMS = [
    *("--config-dir=evil", "-cd=evil", "--help", "-m", "--cfg=job", "", "=x", "seed=1,2", "seed=choice(1,2)"),
    *("resume=latest", "~plugins", "+plugins=[x]", "plugins@a=[x]", " plugins=[x]", "plugins.0=x", " hydra.x=1"),
    *("hydra={callbacks: {}}", "++hydra.callbacks.x=1", "experiment@hydra=x", "experiment@hydra.callbacks.x=y"),
    *("experiment@_global_.hydra=x", "experiment@_global_=x", "experiment=../../evil", "experiment=/tmp/evil"),
    *("experiment=[quick,../evil]", "method=a/../../b", "+evil=../x", "${x}=1", "a..b=1", "space={a: 1}"),
    *("genotype=${oc.decode:x}", "seed=${oc.create:${x}}", "experiment=${hydra:x}", "seed=[" + "[" * 2000),
]


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("- plugins=[mine]\n", r"needs plugins=\[mine\]"),
        ("- hydra/launcher=evil\n", "which no run keeps there"),
        ("- hydra.callbacks.x._target_=os.system\n", "which no run keeps there"),
        *((f"- {json.dumps(item)}\n", "which no run keeps there") for item in STRANGE_ITEMS),
        ('- "plugins=[mine,yours]"\n', r"needs plugins=\[mine,yours\]"),
        ("- benchmark.trust_pickle=true\n", "give benchmark.trust_pickle as well"),
        ('- "+benchmark={trust_pickle: true}"\n', "which no run keeps there|give benchmark.trust_pickle as well"),
        ('- "benchmark={trust_pickle: true}"\n', "give benchmark.trust_pickle as well"),
        ("seed: 1\n", "is no list of settings"),
        ("- {a: 1}\n", "is no list of settings"),
        ("!!python/object/apply:os.system [ls]\n", "is no folder of a run"),
        ("\0", "is no folder of a run"),
    ],
)
def test_what_a_strangers_folder_would_type_is_refused(stored, named, tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(stored)
    with pytest.raises(UserError, match=named):
        resumed_arguments("search", [f"resume={tmp_path}"])


def test_what_runs_keep_is_taken_as_it_was_typed(tmp_path):
    kept = [
        *("dataset=image_folder", "dataset.root=../data/a b", "+experiment=quick", "seed=3", "searched=[a,'b c']"),
        *("dataset.root=${oc.env:HOME}", "genotype='Genotype(x=[])'", "evaluator/train=x", "memory.limit=null"),
    ]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps(kept))
    assert resumed_arguments("search", [f"resume={tmp_path}"])[: len(kept)] == kept
    typed = [f"resume={tmp_path}", "plugins=[mine]", "benchmark.trust_pickle=true"]
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps([*kept, *typed[1:]]))
    assert resumed_arguments("search", typed)[len(kept) : -1] == typed[1:]


def test_a_stopped_search_is_resumed_by_resume_latest_alone(tmp_path):
    command = [str(ROOT / "train_search.py"), *TINY_SEARCH, "search.epochs=2"]
    first = run_command([*command, "checkpoint.minutes=1e-9", "hydra.run.dir='runs/search/a b'"], tmp_path)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "search" / "a b"
    whole = (folder / "genotype.json").read_bytes()
    (folder / "genotype.json").unlink()
    done = run_command([str(ROOT / "train_search.py"), "resume=latest"], tmp_path)
    assert done.returncode == 0 and "begun before" in done.stdout, done.stderr
    assert (folder / "genotype.json").read_bytes() == whole


WRONG_PLACES = [
    ({}, ["hydra.run.dir=afile/x"], "hydra.run.dir is 'afile/x', where nothing can be written: Not a directory"),
    ({}, ["hydra.run.dir=afile"], "hydra.run.dir is 'afile', where nothing can be written: File exists"),
    ({"WORLD_SIZE": "2"}, [], "WORLD_SIZE is 2 in the environment, but RANK, LOCAL_RANK, MASTER_ADDR"),
    ({"WORLD_SIZE": "two"}, [], "WORLD_SIZE in the environment is 'two'; it must be a number"),
    ({}, ["weight_optimiser.learning_rate=1e300"], "weight_optimiser.learning_rate is 1e+300; it must be from"),
    ({}, ["weight_optimiser.weight_decay=1e200"], "weight_optimiser.weight_decay is 1e+200; it must be from"),
    ({}, ["network.channels=100000000000000000000"], "network.channels is 100000000000000000000; it must be"),
]


@pytest.mark.parametrize(("environment", "given", "named"), WRONG_PLACES)
def test_what_a_machine_or_a_number_cannot_be_is_answered_in_a_line(environment, given, named, tmp_path):
    (tmp_path / "afile").write_text("")
    done = run_command([str(ROOT / "train_search.py"), *TINY_SEARCH, *given], tmp_path, **environment)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {named}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_while_the_configuration_is_kept_is_answered_in_a_line(tmp_path):
    (tmp_path / "disk").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4096", "none", tmp_path / "disk"], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        command = [str(ROOT / "train_search.py"), *TINY_SEARCH, "hydra.run.dir=disk/run"]
        done = run_command(command, tmp_path)
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)
    assert done.returncode == 2 and "could not be written to the disk: No space left" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
