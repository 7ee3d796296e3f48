"""Hyperparameters by an Optuna study: proposals become settings, a stopped study goes on, mistakes are named."""

from __future__ import annotations

import copy
import json

import pytest

from darts import tune
from darts.config.resume import resumed_arguments
from darts.runtime.errors import NotFiniteError, UserError
from darts.runtime.files import lock_folder
from darts.spaces.genotype import to_json
from darts.spaces.published import published
from darts.train import brief, retraining
from tests.conftest import ROOT, TINY, configuration, run_command
from tests.faults.test_kills import Killed, kill_after

TINY_TUNE = [*TINY, "genotype=darts_v2", "train.epochs=1", "train.batch_size=16"]


def plain(*overrides: str):
    return copy.deepcopy(configuration("tune", *TINY_TUNE, *overrides))


def accuracy_of(settings) -> float:
    return 1 - abs(settings.weight_optimiser.learning_rate - 0.05) - settings.weight_optimiser.weight_decay


@pytest.fixture
def known(monkeypatch):
    seen = []

    def accuracy(settings, genotype, data, folder, quiet=False):
        seen.append(settings.weight_optimiser.learning_rate)
        return accuracy_of(settings)

    monkeypatch.setattr(brief, "validation_accuracy", accuracy)
    return seen


def test_a_study_finds_the_optimum_of_a_known_function(known, tmp_path):
    best = tune.run(plain("trials=30"), tmp_path)
    assert len(known) == 30 and abs(best["values"]["weight_optimiser.learning_rate"] - 0.05) < 0.02
    study = tune.open_study(tmp_path)
    assert best["accuracy"] == study.best_value and best["values"] == study.best_params
    assert json.loads((tmp_path / "best.json").read_text()) == best


def test_a_stopped_study_resumes_and_ends_the_same(known, tmp_path, monkeypatch):
    tune.run(plain("trials=8"), tmp_path / "whole")
    whole, calls = list(known), []
    known.clear()

    def killed(settings, genotype, folder, opened):
        calls.append(settings)
        if len(calls) == 4:
            raise KeyboardInterrupt  # a trial under way is left behind
        known.append(settings.weight_optimiser.learning_rate)
        return accuracy_of(settings)

    with monkeypatch.context() as patched:
        patched.setattr(tune, "score", killed)
        with pytest.raises(KeyboardInterrupt):
            tune.run(plain("trials=8"), tmp_path / "again")
    tune.run(plain("trials=8"), tmp_path / "again")
    assert known == whole
    assert json.loads((tmp_path / "again" / "best.json").read_text()) == json.loads(
        (tmp_path / "whole" / "best.json").read_text()
    )
    tune.run(plain("trials=10"), tmp_path / "again")  # asking for more goes on from there
    assert known[:8] == whole and len(known) == 10


def test_a_study_stopped_within_a_trial_goes_on_with_more_trials(tmp_path, monkeypatch):
    tune.run(plain("trials=1"), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, retraining, "train_step", 2)
        tune.run(plain("trials=1", "checkpoint.minutes=1e-9"), tmp_path / "again")
    assert (tmp_path / "again" / "trials" / "0" / "checkpoints" / "last.pt").exists()
    tune.run(plain("trials=2"), tmp_path / "again")
    first = [tune.open_study(tmp_path / name).trials for name in ("whole", "again")]
    assert first[0][0].value in [trial.value for trial in first[1]]


def test_a_study_stopped_between_two_parameters_of_a_trial_goes_on(known, tmp_path):
    tune.run(plain("trials=1"), tmp_path / "whole")
    tune.run(plain("trials=1"), tmp_path / "again")
    trial = tune.open_study(tmp_path / "again").ask()
    trial.suggest_float("weight_optimiser.learning_rate", 0.01, 0.3, log=True)  # and then the process dies
    for name in ("whole", "again"):
        tune.run(plain("trials=2"), tmp_path / name)
    ended = [tune.ended_trials(tune.open_study(tmp_path / name)) for name in ("whole", "again")]
    assert [trial.value for trial in ended[0]] == [trial.value for trial in ended[1]]


def test_a_study_that_was_asked_for_more_is_unfinished_until_it_has_them(known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["-m", "darts.tune", *TINY_TUNE, "hydra.run.dir=runs/tune/a"]
    assert run_command([*command, "trials=1"], tmp_path).returncode == 0
    with pytest.raises(UserError, match="no run in"):
        resumed_arguments("tune", ["resume=latest"])
    (tmp_path / "runs" / "tune" / "a" / "study.db").write_text("damaged")  # which stops the second command
    assert run_command([*command, "trials=2"], tmp_path).returncode == 2
    assert "trials=2" in resumed_arguments("tune", ["resume=latest"])


def test_architectures_and_numbers_are_tuned_together(known, tmp_path):
    tune.run(plain("parameters=[genotype darts_v1|darts_v2,train.batch_size 8 32]", "trials=6"), tmp_path)
    for trial in tune.open_study(tmp_path).trials:
        assert trial.params["genotype"] in ("darts_v1", "darts_v2")
        assert trial.params["train.batch_size"] in range(8, 33)


def test_every_trial_trains_the_cell_that_latest_named_when_the_study_began(monkeypatch, tmp_path):
    """A search that ends in mid-study is newer; the study keeps its cell, also when it resumes."""
    trained = []

    def finished_search(name: str, cell: str) -> None:
        folder = tmp_path / "runs" / "search" / name
        folder.mkdir(parents=True)
        (folder / "genotype.json").write_text(to_json(published(cell)))

    def accuracy(settings, genotype, data, folder, quiet=False):
        trained.append(genotype)
        if len(trained) == 2:
            finished_search("newer", "darts_v1")
        return 0.5

    monkeypatch.setattr(brief, "validation_accuracy", accuracy)
    finished_search("older", "darts_v2")
    latest = ["genotype=latest", f"runs={tmp_path / 'runs'}"]
    tune.run(plain(*latest, "trials=3"), tmp_path / "study")
    best = tune.run(plain(*latest, "trials=5"), tmp_path / "study")
    assert trained == [published("darts_v2")] * 5
    assert best["cell"] == published("darts_v2").digest() and best["genotype"].endswith("older")


def test_a_training_that_diverges_counts_as_zero_and_is_not_asked_for_again(monkeypatch, tmp_path):
    asked = []

    def accuracy(settings, genotype, data, folder, quiet=False):
        asked.append(settings.weight_optimiser.learning_rate)
        if len(asked) != 3:
            raise NotFiniteError("the loss is not finite")
        return 0.4

    monkeypatch.setattr(brief, "validation_accuracy", accuracy)
    best = tune.run(plain("trials=4"), tmp_path / "one")
    assert len(set(asked)) == 4 and best["accuracy"] == 0.4
    with pytest.raises(UserError, match="all 2 trainings diverged; give ranges with lower rates"):
        tune.run(plain("trials=2"), tmp_path / "none")


@pytest.mark.parametrize("name", ["what?", "a#b", "50%", "file:x&mode=ro", "spaces and 'quotes'"])
def test_a_folder_of_any_name_holds_its_own_study(known, tmp_path, name):
    tune.run(plain("trials=1"), tmp_path / name)
    assert (tmp_path / name / "study.db").is_file() and [path.name for path in tmp_path.iterdir()] == [name]


def test_a_second_process_on_the_same_study_is_refused(known, tmp_path):
    with lock_folder(tmp_path), pytest.raises(UserError, match="is in use by process"):
        tune.run(plain("trials=1"), tmp_path)
    assert not known


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["parameters=[train.nothing 1 2]"], r"parameters.train.nothing: there is no such setting"),
        (["parameters=[train.epochs 2 1]"], "parameters is 'train.epochs 2 1'"),
        (["parameters=[train.epochs]"], "parameters is 'train.epochs'"),
        (["parameters=[train.epochs 0.5 0.6]"], r"parameters.train.epochs"),
        (["parameters=[train.batch_size 8 5000]"], "train.batch_size is 5000; it must be at most"),
        (["parameters=[dataset.root nowhere|elsewhere]", "dataset=image_folder"], "dataset.root"),
        (["trials=0"], "trials is 0"),
        (["genotype=nothing"], "genotype 'nothing' is unknown"),
    ],
)
def test_wrong_studies_are_refused(known, tmp_path, overrides, named):
    with pytest.raises(UserError, match=named):
        tune.run(plain(*overrides), tmp_path)
    assert not known and not (tmp_path / "run.json").exists()


def test_the_command_runs_for_real_and_other_settings_are_refused(tmp_path):
    command = ["-m", "darts.tune", *TINY_TUNE, "trials=2", "hydra.run.dir=out"]
    done = run_command(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f"next:   PYTHONPATH={ROOT} python -m darts.train genotype=darts_v2 weight_optimiser.learning_rate="
        in done.stdout
    )
    assert (tmp_path / "out" / "study.db").exists()
    done = run_command([*command, "train.epochs=2"], tmp_path)
    assert done.returncode == 2 and "train.epochs was 1 and is now 2" in done.stderr
