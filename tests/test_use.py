"""Trained networks in use: the API and the command answer alike, measures are those of counting and of a library."""

from __future__ import annotations

import copy
import csv
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import darts
from darts.loop.measures import measured
from darts.runtime.errors import UserError
from darts.spaces.published import published
from darts.spaces.sources import find_genotype
from darts.train import retraining
from darts.train.saved import evaluate_file, weights_file
from darts.train.starting import read_start, take_up
from darts.use.answers import pictures_of, predict
from tests.conftest import TINY_TRAIN, composed, run_command

SMALL = ["network.channels=4", "network.cells=3", "train.epochs=1", "train.batch_size=8", "logger=none", "device=cpu"]


def draw_pictures(root: Path, training: int = 8) -> Path:
    """Three classes of noise around a colour of their own, of odd sizes."""
    draws = np.random.default_rng(0)
    for part, number in (("train", training), ("test", 4)):
        for place, name in enumerate(("blue", "green", "red")):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                pixels = draws.integers(0, 120, (20 + 3 * index, 24, 3))
                pixels[..., 2 - place] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a tiny retraining on own pictures, and the pictures."""
    folder = tmp_path_factory.mktemp("trained")
    pictures = draw_pictures(folder / "pictures")
    settings = composed("final", *SMALL, "dataset=image_folder", f"dataset.root={pictures}", "dataset.image_size=16")
    retraining.run(settings, published("darts_v2"), folder / "run")
    return folder / "run", pictures


def test_a_network_is_loaded_by_a_text_a_path_or_its_folder(trained):
    run, _ = trained
    loaded = [darts.load_network(place) for place in (run, str(run), run / "weights.pt", str(run / "weights.pt"))]
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert all(torch.equal(network(image), loaded[0](image)) for network in loaded)
    network = loaded[0]
    assert network.classes == ["blue", "green", "red"] and network.genotype.cells == published("darts_v2").cells
    assert not network.training and (network.shape.channels, network.shape.size) == (3, 16)
    with pytest.raises(UserError, match="No such file"):
        darts.load_network(run / "nothing.pt")


def test_raw_pixels_and_prepared_images_are_answered_alike(trained):
    run, pictures = trained
    network = darts.load_network(run)
    file = pictures / "test" / "red" / "0.png"
    prepared = network.preprocess(file)
    assert prepared.shape == (1, 3, 16, 16) and prepared.dtype is torch.float32
    pixels = ((prepared - network.shift) / network.scale).round().to(torch.uint8)
    torch.testing.assert_close(network(pixels), network(prepared))
    means = torch.tensor(network.described["mean"])[:, None, None]
    deviations = torch.tensor(network.described["std"])[:, None, None]
    torch.testing.assert_close(prepared[0], (pixels[0] / 255 - means) / deviations)
    torch.testing.assert_close(network.network.classifier(network.features(pixels)), network(pixels))
    for wrong in (torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 16, 16)):
        with pytest.raises(UserError, match=r"images are of shape .* use preprocess"):
            network(wrong)


def test_what_names_no_picture_is_told(trained):
    network, pictures = darts.load_network(trained[0]), trained[1]
    file = pictures / "test" / "red" / "0.png"
    assert network.predict([]) == [] and network.predict(iter([file, str(file)])) == network.predict([file, file])
    with Image.open(file) as opened:
        for wrong, words in [
            ([], "pictures is empty"),
            ("nothing.png", "there is no file nothing.png"),
            ("~/nothing.png", "there is no file ~/nothing.png"),
            (pictures, "is no regular file"),
            (opened, "pictures is a PngImageFile; it must be the path of a file"),
            ([opened], "a PngImageFile is no path of a file; pixels that are read already go to the network itself"),
            (torch.zeros(1, 3, 16, 16), "pictures is a Tensor"),
            (None, "pictures is a NoneType"),
        ]:
            with pytest.raises(UserError, match=words):
                network.preprocess(wrong)


def test_images_of_another_type_are_converted_or_refused(trained):
    network = darts.load_network(trained[0])
    prepared = network.preprocess(trained[1] / "test" / "red" / "0.png")
    torch.testing.assert_close(network(prepared.double()), network(prepared))
    with pytest.raises(UserError, match=r"images are of type torch.int64; this network takes uint8 pixels"):
        network(prepared.long())


def test_a_network_and_its_answers_can_be_pickled_and_copied(trained):
    network, files = darts.load_network(trained[0]), pictures_of(trained[1] / "test")[:3]
    expected = network.predict(files)
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):  # noqa: S301
        assert again.predict(files) == expected and again.classes == network.classes
    assert pickle.loads(pickle.dumps(expected)) == expected  # noqa: S301


def test_the_newest_network_and_a_retrained_cell_are_found_by_every_door(trained, tmp_path, monkeypatch):
    """`latest`, a folder and a file name a network everywhere; a retraining's folder or result names its cell."""
    run, _ = trained
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no trained network in"):
        darts.load_network("latest")
    newest = tmp_path / "runs" / "final" / "one" / "weights.pt"
    newest.parent.mkdir(parents=True)
    newest.write_bytes((run / "weights.pt").read_bytes())
    given = {"latest": newest, str(run): run / "weights.pt", str(run / "weights.pt"): run / "weights.pt"}
    assert {name: weights_file(name, "runs").resolve() for name in given} == given
    assert darts.load_network("latest").classes == ["blue", "green", "red"]
    space = composed("final").space
    for place in (run, run / "result.json"):
        assert find_genotype(str(place), space, "runs", 0) == published("darts_v2")
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(UserError, match="is no result of a retraining"):
        find_genotype(str(tmp_path), space, "runs", 0)


@pytest.mark.parametrize("classes", [["cat", "cat"], ["cat"], "ab", [1, 2], ["\u00e9", "e\u0301"]])
def test_a_head_of_no_different_names_is_refused(trained, classes):
    with pytest.raises(UserError, match="at least 2 different names, each a text"):
        darts.load_network(trained[0]).new_head(classes)


def test_fine_tuning_takes_up_a_classifier_whose_classes_stand_in_another_order(trained):
    start = read_start(trained[0] / "weights.pt")
    network = darts.load_network(trained[0]).network
    pixels = torch.randn(4, 3, 16, 16)
    expected = network(pixels)
    take_up(network, start, ["red", "blue", "green"])
    torch.testing.assert_close(network(pixels), expected[:, [2, 0, 1]])
    take_up(network, start, ["blue", "green", "violet"])  # the classifier stays as it was, the rest is loaded
    torch.testing.assert_close(network(pixels), expected[:, [2, 0, 1]])


def test_a_new_head_keeps_all_else(trained):
    network = darts.load_network(trained[0])
    image = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    before = network.features(image)
    network.new_head(["cat", "dog"])
    assert torch.equal(network.features(image), before) and network(image).shape == (2, 2)
    assert network.classes == ["cat", "dog"] and network.shape.classes == 2
    network(image).sum().backward()
    assert network.network.classifier.weight.grad is not None and network.network.stem[0].weight.grad is not None
    with pytest.raises(UserError, match="at least 2 different names"):
        network.new_head(["cat", "cat"])


def test_predictions_of_files_are_those_of_the_test_of_the_retraining(trained):
    """The command, the API and the test at the end of a retraining count the same right answers."""
    run, pictures = trained
    settings = composed("final", *SMALL, "dataset=image_folder", f"dataset.root={pictures}", "dataset.image_size=16")
    expected = evaluate_file(settings, run / "weights.pt")
    result = json.loads((run / "result.json").read_text())
    network = darts.load_network(run)
    files = pictures_of(pictures / "test")
    answers = predict(network, files, batch_size=5)
    truth = [network.classes.index(Path(file).parent.name) for file in answers.files]
    found = measured(answers.probabilities, truth, network.classes)
    assert found.accuracy == expected["accuracy"] == result["test_accuracy"]
    assert found.log_loss == pytest.approx(expected["loss"], rel=1e-5)
    single = [network.predict(file)[0].probability for file in files[:3]]
    assert single == pytest.approx([max(row) for row in answers.probabilities[:3]], rel=1e-5)


def test_the_command_writes_what_the_api_answers(trained, tmp_path):
    run, pictures = trained
    done = run_command(["-m", "darts.predict", f"weights={run}", f"images={pictures / 'test'}", "labels=folders",
                        "hydra.run.dir=out", "device=cpu"], tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    network = darts.load_network(run)
    answers = predict(network, pictures_of(pictures / "test"))
    assert rows[0] == ["file", "class", "probability", "blue", "green", "red"] and len(rows) == 13
    for row, file, values in zip(rows[1:], answers.files, answers.probabilities, strict=True):
        assert row[0] == file and [float(value) for value in row[3:]] == pytest.approx(values, abs=1e-6)
        assert row[1] == network.classes[int(np.argmax(values))]
    measures = json.loads((tmp_path / "out" / "measures.json").read_text())
    assert f"accuracy {100 * measures['accuracy']:.2f}% of 12 pictures" in done.stdout
    assert {"confusion.png", "calibration.svg"} <= {file.name for file in (tmp_path / "out").iterdir()}


@pytest.mark.pictures
@pytest.mark.parametrize("labels", ["null", "table.csv"])
def test_a_flat_folder_and_a_single_picture_are_answered(trained, tmp_path, labels):
    run, pictures = trained
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("red", "blue"):
        (flat / f"{name}.png").write_bytes((pictures / "test" / name / "0.png").read_bytes())
    (flat / "broken.png").write_bytes(b"no picture")
    (flat / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "table.csv").write_text("red.png,red\nblue.png,blue\nbroken.png,red\n")
    latest = tmp_path / "runs" / "final" / "one"
    latest.mkdir(parents=True)
    (latest / "weights.pt").write_bytes((run / "weights.pt").read_bytes())
    done = run_command(["-m", "darts.predict", "images=flat", f"labels={labels}", "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out: flat/broken.png: not a readable image" in done.stdout
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["flat/blue.png", "flat/red.png"]
    assert (tmp_path / "out" / ("sheet.png" if labels == "null" else "confusion.png")).exists()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["images=nothing"], "images is nothing, which is neither a picture nor a folder"),
        (["images=empty"], "images is empty, which holds no picture"),
        (["images=test", "labels=other.csv"], "labels is 'other.csv', which cannot be read"),
        (["images=test", "labels=wide.csv"], "line 1 has 3 columns, not file,class"),
        (["images=test", "labels=few.csv"], "which says nothing of test/"),
        (["images=test", "labels=strange.csv"], "is of class 'purple'; the network's are blue, green, red"),
        (["images=test", "weights=latest"], "there is no trained network in"),
        (["images=test", "weights=few.csv"], "weights: few.csv"),
        (
            ["images=both", "labels=folders"],
            "is of class 'test'; the network's are blue, green, red; or give images=both/test",
        ),
        (["images=it's"], "images=it's cannot be read: a text with other signs"),
        (["images=Vögel"], "needs quotes of its own within those of the shell, \"images='Vögel'\""),
        (["images=broken"], "none of the 1 files is a readable picture"),
        ([], "images is missing; give images=VALUE"),
        (["images=test", "batch_size=0"], "batch_size is 0; it must be at least 1"),
    ],
)
def test_wrong_questions_are_answered_in_a_line(trained, tmp_path, overrides, words):
    run, pictures = trained
    (tmp_path / "test").symlink_to(pictures / "test")
    (tmp_path / "both").symlink_to(pictures)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"x")
    (tmp_path / "wide.csv").write_text("a,b,c\n")
    (tmp_path / "few.csv").write_text("x.png,red\n")
    strange = "\n".join(f"{file.relative_to(pictures / 'test')},purple" for file in pictures_of(pictures / "test"))
    (tmp_path / "strange.csv").write_text(strange)
    weights = [] if any(item.startswith("weights") for item in overrides) else [f"weights={run}"]
    done = run_command(["-m", "darts.predict", *weights, *overrides, "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_measures_by_hand_and_by_counting():
    probabilities = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.05, 0.15, 0.8]]
    found = measured(probabilities, [0, 1, 1, 1], ["a", "b", "c"])
    assert found.accuracy == 0.5 and found.balanced_accuracy == pytest.approx((1 + 1 / 3) / 2)
    assert found.by_class == {"a": 1.0, "b": pytest.approx(1 / 3), "c": None}
    assert found.confusion == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert found.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.3) + math.log(0.7) + math.log(0.15)) / 4)
    expected = (abs(1 - 0.9) + abs(0 - 0.6) + abs(1 - 0.7) + abs(0 - 0.8)) / 4  # one picture a bin
    assert found.calibration_error == pytest.approx(expected)


def test_calibration_of_true_probabilities_is_near_zero_and_of_certain_guesses_is_not():
    draws = np.random.default_rng(0)
    certainty = draws.uniform(0.5, 1, 20_000)
    labels = (draws.uniform(size=20_000) > certainty).astype(int)
    rows = np.stack([certainty, 1 - certainty], 1)
    assert measured(rows, labels, ["a", "b"]).calibration_error < 0.01
    certain = np.tile([1.0, 0.0], (20_000, 1))
    assert measured(certain, labels, ["a", "b"]).calibration_error == pytest.approx(labels.mean())


def test_a_network_of_the_bundled_images_takes_grey_pixels(tmp_path):
    settings = composed("final", *TINY_TRAIN, "train.epochs=1", "logger=none")
    retraining.run(settings, published("snas"), tmp_path)
    network = darts.load_network(tmp_path)
    assert network.classes[0] == "T-shirt/top"
    assert network(torch.zeros(2, 1, network.shape.size, network.shape.size, dtype=torch.uint8)).shape == (2, 10)
