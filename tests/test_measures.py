"""Measures of answers: those of scikit-learn, batch by batch as at once, at the end of a retraining as of its files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from darts.loop.measure_plots import draw_confusion
from darts.loop.measures import Measures, Tally, measured
from darts.spaces.published import published
from darts.train import retraining
from darts.train.saved import evaluate_file
from darts.use.answers import pictures_of, predict
from darts.use.trained import load_network
from tests.conftest import composed, run_command
from tests.test_use import SMALL, draw_pictures

NAMES = ["ant", "bee", "cat"]


def random_answers(pictures: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (pictures, 3) and labels, more of the first class than of the last."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), pictures, replacement=True, generator=draws)
    return torch.randn(pictures, 3, generator=draws) + 1.5 * torch.eye(3)[labels], labels


def test_measures_are_those_of_scikit_learn():
    logits, labels = random_answers(300)
    probabilities, answers = logits.double().softmax(1).numpy(), logits.argmax(1).numpy()
    found = measured(probabilities, labels.tolist(), NAMES)
    assert found.accuracy == metrics.accuracy_score(labels, answers)
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, answers), rel=1e-12)
    assert found.confusion == metrics.confusion_matrix(labels, answers).tolist()
    assert list(found.by_class.values()) == pytest.approx(metrics.recall_score(labels, answers, average=None).tolist())
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=[0, 1, 2]), rel=1e-6)


def test_a_tally_of_batches_is_that_of_all_answers_at_once():
    logits, labels = random_answers(157)
    tally = Tally(NAMES)
    for batch in torch.arange(157).split(20):
        tally.add_logits(logits[batch], labels[batch])
    found, expected = tally.measures(), measured(logits.softmax(1).tolist(), labels.tolist(), NAMES)
    assert (found.confusion, found.accuracy, found.by_class) == (
        expected.confusion,
        expected.accuracy,
        expected.by_class,
    )
    assert (found.log_loss, found.calibration_error) == pytest.approx((expected.log_loss, expected.calibration_error))
    assert [row["pictures"] for row in found.bins] == [row["pictures"] for row in expected.bins]


def test_an_answer_is_the_largest_logit_where_probabilities_are_rounded_to_the_same():
    tally = Tally(["a", "b"])
    tally.add_logits(torch.tensor([[1e-9, 2e-9]]), torch.tensor([1]))
    assert tally.measures().accuracy == 1


def of_sizes(*sizes: int) -> Measures:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    return measured(np.eye(len(sizes))[[0] * len(labels)], labels, NAMES[: len(sizes)])


@pytest.mark.parametrize(
    "sizes, unbalanced", [((4, 4, 4), False), ((5, 4), False), ((6, 4), True), ((3, 0), True), ((2, 3, 2), True)]
)
def test_a_set_is_unbalanced_from_one_and_a_half_times_the_smallest_class(sizes, unbalanced):
    found = of_sizes(*sizes)
    assert found.unbalanced() == unbalanced == bool(found.balance_lines())
    assert found.pictures_of() == dict(zip(NAMES, sizes, strict=False))


def test_the_lowest_classes_are_named():
    first, second = of_sizes(6, 4, 2).balance_lines()
    assert first.startswith("the test images are unbalanced (6 of ant, 2 of cat)")
    assert second == "accuracy balanced over classes 33.33%; lowest: bee 0.00% of 4, cat 0.00% of 2, ant 100.00% of 6"


def test_a_thousand_classes_are_drawn():
    figure = draw_confusion(Measures([str(n) for n in range(1000)], 1, 1, 1, {}, np.eye(1000).tolist(), 0, [], 0))
    width, height = figure.get_size_inches() * 150
    assert max(width, height) < 2**16 and math.isclose(width, height, rel_tol=0.1)


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory):
    """Pictures of three classes whose test has four, two and one, and a tiny retraining on them by the command."""
    folder = tmp_path_factory.mktemp("unbalanced")
    pictures = draw_pictures(folder / "pictures")
    for name, kept in (("green", 2), ("red", 1)):
        for file in sorted((pictures / "test" / name).iterdir())[kept:]:
            file.unlink()
    own = [*SMALL, "dataset=image_folder", f"dataset.root={pictures}", "dataset.image_size=16"]
    done = run_command(["-m", "darts.train", *own, "genotype=darts_v2", "hydra.run.dir=run"], folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", pictures, done.stdout, own


def test_a_retraining_measures_what_predict_measures(unbalanced):
    run, pictures, _, own = unbalanced
    network = load_network(run)
    files = pictures_of(pictures / "test")
    answers = predict(network, files)
    expected = measured(
        answers.probabilities, [network.classes.index(file.parent.name) for file in files], network.classes
    )
    found = json.loads((run / "measures.json").read_text())
    for name in ("classes", "pictures", "accuracy", "balanced_accuracy", "by_class", "confusion"):
        assert found[name] == getattr(expected, name), name
    assert found["log_loss"] == pytest.approx(expected.log_loss, rel=1e-5)
    assert found["calibration_error"] == pytest.approx(expected.calibration_error, rel=1e-5)
    result = json.loads((run / "result.json").read_text())
    assert result["balanced_accuracy"] == found["balanced_accuracy"] and result["test_accuracy"] == found["accuracy"]
    again = evaluate_file(composed("final", *own), run / "weights.pt")
    assert again["balanced_accuracy"] == found["balanced_accuracy"]


def test_an_unbalanced_test_is_told_and_drawn(unbalanced):
    run, _, told, _ = unbalanced
    assert "the test images are unbalanced (4 of blue, 1 of red)" in told
    balanced = json.loads((run / "result.json").read_text())["balanced_accuracy"]
    assert f"accuracy balanced over classes {100 * balanced:.2f}%; lowest: " in told
    assert {"confusion.png", "calibration.svg"} <= {file.name for file in run.iterdir()}


def test_a_balanced_test_is_measured_and_not_drawn(tmp_path, caplog):
    own = [*SMALL, "dataset=image_folder", f"dataset.root={draw_pictures(tmp_path / 'pictures')}"]
    caplog.set_level("INFO")
    result = retraining.run(composed("final", *own, "dataset.image_size=16"), published("darts_v2"), tmp_path / "run")
    assert result["balanced_accuracy"] == pytest.approx(result["test_accuracy"])
    assert (tmp_path / "run" / "measures.json").exists() and not (tmp_path / "run" / "confusion.png").exists()
    assert "unbalanced" not in caplog.text
