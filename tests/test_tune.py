"""Hyperparameters by an Optuna study: proposals become settings, a stopped study goes on, mistakes are named."""

from __future__ import annotations

import copy
import json

import pytest

from darts import tune
from darts.runtime.errors import UserError
from darts.train import brief
from tests.conftest import TINY, configuration, run_command

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
    study = tune.run(plain("trials=30"), tmp_path)
    assert len(known) == 30 and abs(study.best_params["weight_optimiser.learning_rate"] - 0.05) < 0.02
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["accuracy"] == study.best_value and best["values"] == study.best_params


def test_a_stopped_study_resumes_and_ends_the_same(known, tmp_path, monkeypatch):
    tune.run(plain("trials=8"), tmp_path / "whole")
    whole, calls = list(known), []
    known.clear()

    def killed(settings, folder, opened):
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


def test_architectures_and_numbers_are_tuned_together(known, tmp_path):
    study = tune.run(plain("parameters=[genotype darts_v1|darts_v2,train.batch_size 8 32]", "trials=6"), tmp_path)
    for trial in study.trials:
        assert trial.params["genotype"] in ("darts_v1", "darts_v2")
        assert trial.params["train.batch_size"] in range(8, 33)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["parameters=[train.nothing 1 2]"], r"parameters.train.nothing: there is no such setting"),
        (["parameters=[train.epochs 2 1]"], "parameters is 'train.epochs 2 1'"),
        (["parameters=[train.epochs]"], "parameters is 'train.epochs'"),
        (["parameters=[train.epochs 0.5 0.6]"], r"parameters.train.epochs"),
        (["trials=0"], "trials is 0"),
        (["genotype=nothing"], "genotype 'nothing' is unknown"),
    ],
)
def test_wrong_studies_are_refused(known, tmp_path, overrides, named):
    with pytest.raises(UserError, match=named):
        tune.run(plain(*overrides), tmp_path)
    assert not known


def test_the_command_runs_for_real_and_other_settings_are_refused(tmp_path):
    command = ["-m", "darts.tune", *TINY_TUNE, "trials=2", "hydra.run.dir=out"]
    done = run_command(command, tmp_path)
    assert done.returncode == 0 and "next:   python train_final.py weight_optimiser.learning_rate=" in done.stdout, (
        done.stdout + done.stderr
    )
    assert (tmp_path / "out" / "study.db").exists()
    done = run_command([*command, "train.epochs=2"], tmp_path)
    assert done.returncode == 2 and "train.epochs was 1 and is now 2" in done.stderr
