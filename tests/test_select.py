"""The choice among several searches: on validation images, resumable, and never with a look at the test."""

from __future__ import annotations

import json

import pytest

from darts import select
from darts.runtime.errors import UserError
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.published import published
from darts.spaces.sources import read_genotype
from darts.train import brief
from darts.train import retraining as retrain
from tests.conftest import ROOT, TINY, composed, run_command

TINY_SELECT = [*TINY, "train.epochs=1", "train.batch_size=16"]


def searches(folder, *names: str):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "genotype.json").write_text(to_json(published(name)))


def test_the_best_on_validation_images_is_chosen_and_equal_cells_are_trained_once(tmp_path, monkeypatch):
    searches(tmp_path / "sweep", "darts_v1", "darts_v2", "snas")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "genotype.json").write_text(to_json(published("snas")))
    trained = []
    by_digest = {published(name).digest(): v for name, v in (("darts_v1", 0.3), ("darts_v2", 0.9), ("snas", 0.5))}

    def accuracy(settings, genotype: Genotype, data, folder, quiet=False) -> float:
        trained.append(genotype.digest())
        return by_digest[genotype.digest()]

    monkeypatch.setattr(brief, "validation_accuracy", accuracy)
    settings = composed("select", *TINY_SELECT, f"searched=[{tmp_path / 'sweep'},{tmp_path / 'again'}]")
    best, accuracies = select.choose(settings, tmp_path / "out")
    assert best.endswith("darts_v2") and len(accuracies) == 4 and len(trained) == len(set(trained)) == 3
    chosen = read_genotype(tmp_path / "out", settings.space)
    assert chosen == published("darts_v2") and chosen.provenance["selected"]["from"] == 4


def test_it_trains_resumes_and_gives_the_same_again_without_the_test_images(tmp_path, monkeypatch):
    searches(tmp_path / "sweep", "darts_v1", "snas")
    monkeypatch.setattr(retrain, "test_batches", None)  # whoever asks for the test images fails
    settings = composed("select", *TINY_SELECT, f"searched=[{tmp_path / 'sweep'}]")
    first = select.choose(settings, tmp_path / "out")
    files = [file.stat().st_mtime_ns for file in sorted((tmp_path / "out").rglob("last.pt"))]
    assert select.choose(settings, tmp_path / "out") == first and len(files) == 2
    assert files == [file.stat().st_mtime_ns for file in sorted((tmp_path / "out").rglob("last.pt"))]
    assert all(0 <= value <= 1 for value in first[1].values())


def test_one_search_is_no_choice(tmp_path):
    searches(tmp_path / "sweep", "snas")
    with pytest.raises(UserError, match=r"searched is .* at least 2 finished searches, not 1"):
        select.choose(composed("select", *TINY_SELECT, f"searched=[{tmp_path / 'sweep'}]"), tmp_path / "out")


def test_from_the_command_line_after_a_sweep(tmp_path):
    small = [*TINY, "search.epochs=1", "search.batch_size=16"]
    done = run_command([str(ROOT / "train_search.py"), "-m", "seed=0,1", *small, "hydra.sweep.dir=sweep"], tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_command(["-m", "darts.select", *TINY_SELECT, "searched=[sweep]", "hydra.run.dir=chosen"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<- chosen" in done.stdout and f"next:   PYTHONPATH={ROOT} python -m darts.train genotype=" in done.stdout
    assert json.loads((tmp_path / "chosen" / "selection.json").read_text())["chosen"].startswith("sweep/")
