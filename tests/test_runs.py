"""`python -m darts.runs`, and what a sweep says at its end: states, results and costs as the run folders have them."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys

import pytest

from darts.loop.listing import read_run, runs_below, table
from darts.runtime.files import lock_folder
from darts.search import loop as search
from darts.spaces.genotype import to_json
from darts.spaces.published import published
from darts.train import retraining
from tests.conftest import ENVIRONMENT, ROOT, TINY_SEARCH, TINY_TRAIN, composed, run_command

LIST = ["-m", "darts.runs"]


@pytest.fixture
def runs(made, tmp_path):
    """A folder of one's own with the runs of `made`."""
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A search that has ended, one that was stopped, one that failed, and a retraining."""
    root, quiet, monkeypatch = tmp_path_factory.mktemp("made"), ["logger=none", "search.epochs=1"], pytest.MonkeyPatch()
    search.run(composed("search", *TINY_SEARCH, *quiet), root / "search" / "ended")
    record = search.record_epoch

    def ends_by(error):
        def stop(state):
            record(state)
            raise error

        return stop

    for name, error in (("stopped", KeyboardInterrupt()), ("failed", ValueError("out of\nluck"))):
        monkeypatch.setattr(search, "record_epoch", ends_by(error))
        with pytest.raises(type(error)):
            search.run(composed("search", *TINY_SEARCH, *quiet), root / "search" / name)
    monkeypatch.setattr(search, "record_epoch", record)
    retraining.run(composed("final", *TINY_TRAIN, "logger=none"), published("darts_v2"), root / "final" / "trained")
    return root


def test_the_list_says_state_result_and_cost(runs, tmp_path):
    found = {run.folder.name: run for run in runs_below(runs)}
    states = {name: run.state for name, run in found.items()}
    assert states == {"ended": "ended", "stopped": "stopped", "failed": "failed", "trained": "ended"}
    genotype = json.loads((runs / "search" / "ended" / "genotype.json").read_text())
    assert found["ended"].result == {"valid": genotype["provenance"]["supernet_valid_accuracy"]}
    result = json.loads((runs / "final" / "trained" / "result.json").read_text())
    assert found["trained"].result == {"test": result["test_accuracy"]} and len(found["trained"].cell) == 12
    assert found["failed"].reason == "ValueError: out of luck" and found["ended"].cost["epochs"] == 1
    assert all(run.data == "fashion_mini" for run in found.values())
    done = run_command([*LIST, f"runs={runs}"], tmp_path)
    assert done.returncode == 0 and "search/failed failed: ValueError: out of luck" in done.stdout, done.stderr
    shown = json.loads(run_command([*LIST, f"runs={runs}", "json=true", "kind=retraining"], tmp_path).stdout)
    assert [run["kind"] for run in shown] == ["retraining"] and shown[0]["settings"]["train.epochs"] == 2
    only = run_command([*LIST, f"runs={runs}", "state=stopped"], tmp_path).stdout
    assert "search/stopped" in only and "search/ended" not in only
    assert not list(tmp_path.glob("*.log")) and not (tmp_path / ".hydra").exists()


def test_a_run_that_goes_on_has_not_failed(runs):
    folder = runs / "search" / "failed"
    search.run(composed("search", *TINY_SEARCH, "logger=none", "search.epochs=1"), folder)
    run = read_run(folder)
    assert run.state == "ended" and run.reason == ""


def test_a_refused_command_is_no_failure_of_the_run_that_was_there(runs):
    folder = runs / "search" / "stopped"
    before = (folder / "run.json").read_bytes()
    with pytest.raises(Exception, match="another hydra"):
        search.run(composed("search", *TINY_SEARCH, "logger=none", "search.epochs=2"), folder)
    assert (folder / "run.json").read_bytes() == before


def test_the_table_fits_its_width(runs):
    found = runs_below(runs)
    wide, narrow = table(found, runs, 200), table(found, runs, 60)
    assert len(wide) == 1 + len(found) and len(narrow) == 1 + 2 * len(found)
    assert wide[0].split() == ["run", "kind", "state", "cell", "result", "cost", "data"]
    assert "search/ended" in narrow


def test_a_running_one_is_seen_and_kept(runs, tmp_path):
    with lock_folder(runs / "search" / "stopped"):
        assert read_run(runs / "search" / "stopped").state == "running"
        done = run_command([*LIST, f"runs={runs}", "clean=[search/stopped]", "ask=false"], tmp_path)
        assert done.returncode == 2 and "is under way; stop it first" in done.stderr
    assert (runs / "search" / "stopped" / "run.json").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["clean=[search]"], "clean: 'search' is no run in "),
        (["clean=[..]"], "clean: '..' is no run in "),
        (["clean=[search/ended/cells]"], "is no run in "),
        (["clean=[failed]"], "clean asks before it removes, and there is no terminal; give ask=false"),
        (["kind=searches"], "kind is 'searches'; it must be null or one of search, "),
        (["runs=nowhere"], "runs is 'nowhere'; there is no such folder"),
    ],
)
def test_what_cannot_be_listed_or_removed_is_one_line(given, message, runs, tmp_path):
    done = run_command([*LIST, *([] if given[0].startswith("runs") else [f"runs={runs}"]), *given], tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert len(runs_below(runs)) == 4


def test_clean_removes_what_it_names_and_nothing_else(runs, tmp_path):
    done = run_command([*LIST, f"runs={runs}", "clean=[failed,search/stopped]", "ask=false"], tmp_path)
    assert done.returncode == 0 and "removed: 2" in done.stdout, done.stderr
    assert {run.folder.name for run in runs_below(runs)} == {"ended", "trained"}
    assert (runs / "search" / "ended" / "genotype.json").exists()


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 4), (b"\n", 4), (b"y\n", 3)])
def test_clean_asks_at_a_terminal(answer, left, runs, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, *LIST, f"runs={runs}", "clean=[failed]"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, cwd=tmp_path, env=ENVIRONMENT) as process:
        os.write(ours, answer)
        out = process.communicate(timeout=60)[0].decode()
    assert "remove these 1 runs? [y/N]" in out and process.returncode == 0
    assert len(runs_below(runs)) == left


def test_a_cell_of_a_plug_in_that_is_not_loaded_is_listed(tmp_path):
    content = json.loads(to_json(published("darts_v1"))) | {"plugins": ["nowhere"]}
    content["cells"]["normal"]["nodes"][0][0][0] = "their_operation"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "genotype.json").write_text(json.dumps(content))
    record = {"version": "0.2.0", "kind": "search by gradients", "ended": True, "settings": {}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    (run,) = runs_below(tmp_path)
    assert run.state == "ended" and len(run.cell) == 12


def test_a_sweep_ends_with_its_table_and_a_command_that_works(tmp_path):
    small = [item for item in TINY_SEARCH if not item.startswith(("space.candidates", "search.epochs"))]
    given = [*small, "search.epochs=1", "seed=0,1", "logger=none"]
    done = run_command(["-m", "darts.search", "-m", *given], tmp_path)
    assert done.returncode == 0, done.stderr
    end = done.stdout[done.stdout.index("\nsweep: ") :].splitlines()
    assert [line.split()[0] for line in end[3:5]] == ["0_seed0", "1_seed1"]
    launched = [line for line in done.stdout.splitlines() if line.startswith(("\t#0 : ", "\t#1 : "))]
    assert "seed=0" in launched[0].split() and "seed=1" in launched[1].split() and len(launched) == 2
    assert end[-1].startswith(f"next:   PYTHONPATH={ROOT} python -m darts.select ")
    select = shlex.split(end[-1].removeprefix(f"next:   PYTHONPATH={ROOT} python "))
    quick = ["train.epochs=1", "train.batch_size=16", "network.channels=2", "network.cells=3"]
    done = run_command([*select, *quick], tmp_path)
    assert done.returncode == 0, done.stderr
