"""A run is one of its data: what they hold decides, not what their folder is called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from darts import correlate
from darts.blackbox import loop as blackbox
from darts.compare.plan import plan_trials, trial_name
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.published import published
from darts.spaces.sources import random_genotype
from darts.train import retraining as retrain
from darts.train.saved import evaluate_file
from tests.conftest import TINY_DATA, TINY_SEARCH, TINY_TRAIN, composed
from tests.faults.test_kills import Killed, kill_after


def pictures(root: Path, shade: int = 0) -> Path:
    """Two classes of eight training and two test pictures of one colour each."""
    for part, count in (("train", 8), ("test", 2)):
        for label, name in enumerate(("a", "b")):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                colour = (index + shade, 100 * label, len(part))
                Image.new("RGB", (16, 16), colour).save(root / part / name / f"{index}.png")
    return root


def on(root: Path) -> list[str]:
    return ["dataset=image_folder", f"dataset.root={root}", f"dataset.cache={root.parent / 'cache'}",
            "dataset.fraction=1", "dataset.image_size=16"]  # fmt: skip


def searching(root: Path, *more: str):
    return composed("search", *TINY_SEARCH, *on(root), "search.batch_size=4", "search.epochs=2", *more)


def training(root: Path, *more: str):
    return composed("final", *TINY_TRAIN, *on(root), "train.batch_size=4", "train.epochs=2", *more)


def blacken(file: Path) -> None:
    """Another picture of the same size in bytes under the same name, with its old time."""
    size, time = file.stat().st_size, file.stat().st_mtime_ns
    Image.new("RGB", (16, 16), (7, 7, 7)).save(file)
    file.write_bytes(file.read_bytes().ljust(size, b"\0")[:size])
    assert file.stat().st_size == size and time


def test_a_search_whose_picture_was_blackened_is_not_resumed(tmp_path):
    root = pictures(tmp_path / "data")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search_steps, "weight_step", 3)
        search.run(searching(root), tmp_path / "run")
    kept = (root / "train" / "a" / "3.png").read_bytes()
    blacken(root / "train" / "a" / "3.png")
    with pytest.raises(UserError, match="the training data have changed since"):
        search.run(searching(root), tmp_path / "run")
    (root / "train" / "a" / "3.png").write_bytes(kept)
    search.run(searching(root), tmp_path / "run")


def test_a_retraining_whose_pictures_moved_between_classes_is_not_resumed(tmp_path):
    root = pictures(tmp_path / "data")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, retrain, "train_step", 3)
        retrain.run(training(root), published("darts_v2"), tmp_path / "run")
    (root / "train" / "a" / "3.png").rename(root / "train" / "b" / "33.png")
    with pytest.raises(UserError, match="the training data have changed since"):
        retrain.run(training(root), published("darts_v2"), tmp_path / "run")


def test_a_retraining_whose_test_picture_was_exchanged_is_another(tmp_path):
    root = pictures(tmp_path / "data")
    retrain.run(training(root), published("darts_v2"), tmp_path / "run")
    blacken(root / "test" / "b" / "1.png")
    with pytest.raises(UserError, match="the test data have changed since"):
        retrain.run(training(root), published("darts_v2"), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["folder"] == str(root.resolve()) and result["data"]["classes"] == {"a": 8, "b": 8}
    assert result["data"]["digest"] == result["config"]["dataset.content"]


@pytest.mark.parametrize("method", ["darts", "random"])
def test_a_finished_search_answers_for_the_same_images_anywhere_and_for_no_others(method, tmp_path):
    root, other = pictures(tmp_path / "data"), pictures(tmp_path / "other", shade=1)
    small = ["evaluator.network.channels=2", "evaluator.train.batch_size=4", "budget.evaluations=1"]
    extra = [f"method={method}", *(small if method == "random" else [])]
    run = search.run if method == "darts" else blackbox.run
    leave = [item for item in TINY_SEARCH if method == "random" and item.startswith(("network.", "search.epochs"))]

    def settings(place: Path):
        given = [item for item in TINY_SEARCH if item not in leave]
        return composed("search", *given, *on(place), "search.batch_size=4", *extra)

    first = run(settings(root), tmp_path / "run")
    shutil.copytree(root, tmp_path / "copied")
    assert run(settings(tmp_path / "copied"), tmp_path / "run") == first
    with pytest.raises(UserError, match="holds a run on other data"):
        run(settings(other), tmp_path / "run")
    assert first.provenance["data"] == json.loads((tmp_path / "run" / "run.json").read_text())["data"]["digest"]


def test_a_comparison_takes_networks_and_searches_of_the_same_images_only(tmp_path):
    root, other = pictures(tmp_path / "data"), pictures(tmp_path / "other", shade=1)
    shutil.copytree(root, tmp_path / "copied")

    def names(place: Path) -> set[str]:
        settings = composed("compare", *TINY_TRAIN, *on(place), "train.batch_size=4", "random.samples=2",
                            "searched=[darts_v2]")  # fmt: skip
        return {trial_name(settings, trial) for trial in plan_trials(settings, tmp_path)}

    assert names(root) == names(tmp_path / "copied")
    assert not names(root) & names(other)


def test_the_bundled_images_have_one_digest_whatever_the_root(tmp_path):
    one, two = (composed("final", *TINY_TRAIN, f"dataset.root={name}") for name in ("here", "there"))
    assert retrain.protocol(one, published("snas")) == retrain.protocol(two, published("snas"))


def test_a_saved_network_tested_on_other_images_is_told(tmp_path, caplog):
    root = pictures(tmp_path / "data")
    result = retrain.run(training(root), published("darts_v2"), tmp_path / "run")
    weights = tmp_path / "run" / "weights.pt"
    caplog.clear()
    assert evaluate_file(training(root), weights)["accuracy"] == result["test_accuracy"] and not caplog.text
    other = shutil.copytree(root, tmp_path / "other")
    blacken(other / "test" / "a" / "0.png")
    evaluate_file(training(other), weights)
    assert "the test images are not those of the end of the training of" in caplog.text
    caplog.clear()
    retrained = shutil.copytree(root, tmp_path / "retrained")
    blacken(retrained / "train" / "a" / "0.png")
    evaluate_file(training(retrained), weights)
    assert "the training images are not those that" in caplog.text
    caplog.clear()
    learnt = tmp_path / "learnt"
    for part in ("train", "test"):
        shutil.copytree(root / "train", learnt / part)
    evaluate_file(training(learnt), weights)
    assert "the accuracy says nothing" in caplog.text and "are training pictures too" in caplog.text


def test_accuracies_on_other_images_than_the_scores_are_told(tmp_path, caplog):
    root, other = pictures(tmp_path / "data"), pictures(tmp_path / "other", shade=1)
    space = training(root).space
    for number in range(3):
        retrain.run(training(root, "train.epochs=1"), random_genotype(space, 0, number), tmp_path / f"runs/{number}")
    scores = ["search.batch_size=4", "evaluator.network.channels=2", "evaluator.batch_size=4"]

    def correlated(*data: str) -> str:
        caplog.clear()
        given = [*TINY_DATA, *data, *scores, f"results=[{tmp_path / 'runs'}]"]
        correlate.trained_cells(composed("correlate", *given))
        return caplog.text

    assert not correlated(*on(root))
    assert "were trained on other images of image_folder, and the scores" in correlated(*on(other))
    assert "were trained on image_folder, and the scores are of dataset fashion_mini" in correlated()
