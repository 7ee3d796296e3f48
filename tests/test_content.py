"""The digest of the data's content, pictures in two parts, and the classes that a saved network knows."""

from __future__ import annotations

import os
import re
import shutil

import pytest
import torch
from PIL import Image

from darts.runtime.checkpoint import read_state, write_state
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces.published import published
from darts.tasks import content, file_content
from darts.tasks.content import content_digest
from darts.tasks.datasets import ArrayImages, classes_by_name, open_training
from darts.train import retraining as retrain
from darts.train import saved
from tests.conftest import ROOT, TINY_SEARCH, TINY_TRAIN, composed

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path):
    """Bitmaps, all of one size in bytes and each of its own colour, in train and test folders of three classes."""
    root = tmp_path / "pictures"
    for part, first in (("train", 0), ("test", 100)):
        for label, name in enumerate(NAMES):
            (root / part / name).mkdir(parents=True)
            for index in range(6):
                colour = (first + index, 80 * label, 0)
                Image.new("RGB", (16, 16), colour).save(root / part / name / f"{index}.bmp")
    return root


def pictures(folder, *overrides: str) -> list[str]:
    own = [f"dataset.root={folder}", f"dataset.cache={folder.parent / 'cache'}", "dataset.image_size=16"]
    return ["dataset=image_folder", *own, "dataset.fraction=1", *overrides]


def digests(folder) -> list[str]:
    settings = composed("search", *pictures(folder)).dataset
    return [content_digest(settings), content_digest(settings, train=False)]


def black(folder):
    Image.new("RGB", (16, 16)).save(folder / "train" / "bee" / "3.bmp")


def moved(folder):
    (folder / "train" / "bee" / "3.bmp").rename(folder / "train" / "ant" / "9.bmp")


def exchanged(folder):
    (folder / "train" / "bee").rename(folder / "train" / "x")
    (folder / "train" / "ant").rename(folder / "train" / "bee")
    (folder / "train" / "x").rename(folder / "train" / "ant")


def renamed(folder):
    (folder / "train" / "bee" / "3.bmp").rename(folder / "train" / "bee" / "9.bmp")


def removed(folder):
    (folder / "train" / "bee" / "3.bmp").unlink()


@pytest.mark.parametrize("limit", [file_content.WHOLE_BYTES, 0])
@pytest.mark.parametrize("change", [black, moved, exchanged, renamed, removed], ids=lambda change: change.__name__)
def test_what_changes_the_training_part_changes_its_digest_only(change, limit, folder, monkeypatch):
    monkeypatch.setattr(file_content, "WHOLE_BYTES", limit)
    before = digests(folder)
    change(folder)
    after = digests(folder)
    assert re.fullmatch("[0-9a-f]{12}", after[0]) and after[0] != before[0] and after[1] == before[1]


def test_the_folders_place_and_times_do_not_change_the_digests(folder, tmp_path):
    before = digests(folder)
    assert before[0] != before[1]
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(folder, tmp_path / "elsewhere" / "copied")
    (tmp_path / "linked").symlink_to(folder)
    for file in folder.rglob("*.bmp"):
        os.utime(file, (1, 1))
    assert before == digests(folder) == digests(tmp_path / "elsewhere" / "copied") == digests(tmp_path / "linked")


def test_of_large_sets_the_ends_of_files_count_and_the_middle_does_not(folder, monkeypatch):
    monkeypatch.setattr(file_content, "WHOLE_BYTES", 0)
    monkeypatch.setattr(file_content, "END_BYTES", 100)
    before, file = digests(folder)[0], folder / "train" / "ant" / "0.bmp"
    original = file.read_bytes()
    for place, equal in ((200, True), (99, False), (len(original) - 100, False)):
        file.write_bytes(original[:place] + b"\x55" + original[place + 1 :])
        assert (digests(folder)[0] == before) == equal


def test_the_digest_of_a_set_without_a_folder_is_of_pixels_labels_and_classes():
    settings = composed("search").dataset
    images = open_training(settings)
    found = content_digest(settings)
    assert found == content_digest(settings, images=images) != content_digest(settings, train=False)
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[5000, 0, 16, 16] ^= 1
    labels[3] = (labels[3] + 1) % 10
    others = [
        ArrayImages(pixels, images.labels, images.classes),
        ArrayImages(images.pixels, labels, images.classes),
        ArrayImages(images.pixels, images.labels, images.classes[::-1]),
    ]
    assert len({found, *(content_digest(settings, images=other) for other in others)}) == 4


def test_pictures_of_both_parts_are_a_warning_with_an_example(folder, caplog):
    settings = composed("search", *pictures(folder)).dataset
    content.warn_of_shared_examples(settings)
    assert not caplog.records
    for index in (1, 4):
        shutil.copy(folder / "train" / "bee" / f"{index}.bmp", folder / "test" / "cat" / f"copy{index}.bmp")
    content.warn_of_shared_examples(settings)
    told = caplog.records[0].getMessage()
    assert "2 test pictures are training pictures too" in told and "train/bee/1.bmp and test/cat/copy1.bmp" in told


def test_labels_are_numbered_by_the_names_of_their_classes():
    images = ArrayImages(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 1]), ["a", "b", "c"])
    found = classes_by_name(images, ["c", "a", "b"], "weights.pt")
    assert found.labels.tolist() == [1, 2, 0, 2] and found.classes == ["c", "a", "b"]
    assert images.labels.tolist() == [0, 1, 2, 1]


def final(folder, *overrides: str):
    small = [item for item in TINY_TRAIN if not item.startswith(("dataset.", "train.batch_size"))]
    return composed("final", *small, *pictures(folder), "train.batch_size=6", *overrides)


@pytest.fixture
def weights(folder, tmp_path):
    """A network trained a little on the folder, and what it scores there."""
    settings = final(folder, "train.epochs=1")
    result = retrain.run(settings, published("darts_v2"), tmp_path / "run")
    assert result["class_names"] == list(NAMES)
    return tmp_path / "run" / "weights.pt", result


def test_a_saved_network_is_tested_by_the_names_of_its_classes(weights, folder):
    file, result = weights
    settings, stored = final(folder), read_state(file)
    assert stored["class_names"] == list(NAMES)
    order = [2, 0, 1]
    turned = dict(stored["weights"])
    for name in ("classifier.weight", "classifier.bias"):
        turned[name] = turned[name][order]
    write_state(file, {**stored, "class_names": [NAMES[label] for label in order], "weights": turned})
    found = saved.evaluate_file(settings, file)
    assert found["accuracy"] == result["test_accuracy"]
    assert found["loss"] == pytest.approx(result["test_loss"], rel=1e-5)
    for part in ("train", "test"):
        (folder / part / "bee").rename(folder / part / "wasp")
    with pytest.raises(UserError, match=r"different classes: only in weights\.pt: bee; only in the data: wasp"):
        saved.evaluate_file(settings, file)
    for part in ("train", "test"):
        shutil.copytree(folder / part / "wasp", folder / part / "bee")
    with pytest.raises(UserError, match=r"different classes: only in the data: wasp"):
        saved.evaluate_file(settings, file)
    for part in ("train", "test"):
        shutil.rmtree(folder / part / "wasp")
        shutil.rmtree(folder / part / "ant")
    with pytest.raises(UserError, match=r"different classes: only in weights\.pt: ant"):
        saved.evaluate_file(settings, file)


def test_without_names_the_number_of_classes_is_compared_and_a_warning_given(weights, folder, caplog):
    file, result = weights
    stored = read_state(file)
    del stored["class_names"]
    write_state(file, stored)
    assert saved.evaluate_file(final(folder), file)["accuracy"] == result["test_accuracy"]
    assert "holds no class names (version 0.1.0)" in caplog.text
    for part in ("train", "test"):
        shutil.copytree(folder / part / "bee", folder / part / "wasp")
    with pytest.raises(UserError, match="has 3 classes, without names, but dataset has 4"):
        saved.evaluate_file(final(folder), file)


def test_a_saved_network_keeps_its_channels_where_the_pictures_are_grey_now(weights, folder):
    file, _ = weights
    for picture in folder.rglob("*.bmp"):
        Image.open(picture).convert("L").save(picture)
    assert saved.evaluate_file(final(folder), file)["loss"] > 0
    with pytest.raises(UserError, match="takes 3 channels; the images of dataset have 1"):
        saved.evaluate_file(final(folder, "dataset.channels=1"), file)


@pytest.mark.parametrize("command", ["search", "final"])
def test_a_run_is_not_resumed_with_other_classes(command, folder, tmp_path):
    def begun():
        if command == "final":
            return retrain.start_or_resume(final(folder), published("darts_v2"), tmp_path / "run")
        given = [item for item in TINY_SEARCH if not item.startswith(("dataset.", "search.batch_size"))]
        settings = composed("search", *given, *pictures(folder), "search.batch_size=6")
        return search.start_or_resume(settings, tmp_path / "run")

    begun().save()
    begun()
    for part in ("train", "test"):
        (folder / part / "bee").rename(folder / part / "bug")
    with pytest.raises(UserError, match=r"the training data.* have changed since"):
        begun()


def test_a_retraining_refuses_at_its_start_a_class_without_test_pictures(folder, tmp_path):
    for picture in (folder / "test" / "bee").iterdir():
        picture.unlink()
    with pytest.raises(UserError, match="no picture of class bee"):
        retrain.start_or_resume(final(folder), published("darts_v2"), tmp_path / "run")


def test_a_network_of_version_0_1_0_has_no_class_names():
    assert saved.read_network(ROOT / "tests" / "golden" / "final_0_1_0" / "weights.pt")[1]["class_names"] is None
