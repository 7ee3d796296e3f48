"""Folders of pictures: which files are read, as how many channels, what is left out, and what a run says of them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from darts.loop.optimisation import evaluate
from darts.runtime.errors import UserError
from darts.tasks import batches as data
from darts.tasks import datasets, folders
from darts.tasks.content import content_identity
from darts.tasks.settings import Augmentation
from darts.tasks.summary import summarise
from tests.conftest import composed

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """Colour pictures of several sizes in train and test folders of three classes."""
    numbers = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count + label):
                shape = (20 + index, 25, 3)
                pixels = numbers.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def folder_settings(folder, *overrides: str):
    cache = f"dataset.cache={folder / 'cache'}"
    root = f"dataset.root={folder}"
    return composed("search", "dataset=image_folder", root, "dataset.image_size=16", cache, *overrides).dataset


def search_data(settings) -> data.SearchData:
    return data.search_data(settings, 0.5, 8, 0, CPU)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_batches_are_those_of_the_memory(workers, folder):
    held = search_data(folder_settings(folder)).train
    streamed = search_data(folder_settings(folder, "dataset.device_megabytes=0", f"dataset.workers={workers}")).train
    assert isinstance(held.images, datasets.ArrayImages) and isinstance(streamed.images, datasets.FileImages)
    for first, second in zip(held.shuffled(2, 1), streamed.shuffled(2, 1), strict=True):
        assert torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets)


def test_statistics_of_a_folder_are_measured_on_training_images_and_cached(folder):
    settings = folder_settings(folder)
    images = datasets.open_training(settings)
    mean, std = datasets.channel_statistics(settings, images)
    values = images.pixels.double().transpose(0, 1).flatten(1) / 255
    assert mean == pytest.approx(values.mean(1).tolist(), abs=1e-5)
    assert std == pytest.approx(values.std(1, correction=0).tolist(), abs=1e-5)
    (cached,) = (folder / "cache").iterdir()
    cached.write_text('{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}')
    assert datasets.channel_statistics(settings, images) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    cached.write_text('{"mean": [1, 2')  # torn: measured and written again
    assert datasets.channel_statistics(settings, images) == (mean, std)
    assert list((folder / "cache").iterdir()) == [cached] and json.loads(cached.read_text())["std"] == std


def test_grey_pictures_are_recognised_and_can_be_asked_for(folder, tmp_path):
    assert datasets.open_training(folder_settings(folder)).channels == 3
    assert datasets.open_training(folder_settings(folder, "dataset.channels=1")).channels == 1
    for file in folder.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    assert datasets.open_training(folder_settings(folder)).channels == 1


def test_without_a_test_folder_a_part_is_set_aside_and_stays_the_same(folder):
    root = folder / "train"
    settings = folder_settings(root)
    train, test = datasets.open_training(settings), datasets.open_test(settings)
    assert len(train.labels) + len(test.labels) == 12 + 13 + 14
    assert torch.bincount(test.labels).tolist() == [2, 3, 3]
    hashes = [{image.numpy().tobytes() for image in part.pixels} for part in (train, test)]
    assert not hashes[0] & hashes[1]


def refusal(settings) -> str:
    with pytest.raises(UserError) as error:
        found = search_data(settings)
        list(found.train.shuffled(0)), list(found.valid.shuffled(0))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("streamed", ["", "dataset.device_megabytes=0"])
def test_a_broken_picture_is_named(folder, streamed):
    broken = folder / "train" / "bee" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    overrides = [streamed] if streamed else []
    assert str(broken) in refusal(folder_settings(folder, *overrides))


def test_bad_folders_are_refused_with_their_name(folder, tmp_path):
    assert "is no folder" in refusal(folder_settings(tmp_path / "missing"))
    (folder / "train" / "dog").mkdir()
    assert "dog" in refusal(folder_settings(folder))
    (folder / "train" / "dog").rmdir()
    for name in ("ant", "bee"):
        for file in (folder / "train" / name).iterdir():
            file.unlink()
        (folder / "train" / name).rmdir()
    assert "there is one class" in refusal(folder_settings(folder))


def test_class_folders_of_train_and_test_must_agree(folder):
    (folder / "test" / "cat").rename(folder / "test" / "cow")
    with pytest.raises(UserError, match="train and test differ: only in train: cat; only in test: cow"):
        datasets.open_test(folder_settings(folder))


def plain(path, colour=(0, 0, 0), size=(8, 8)):
    """A picture of one colour, or of one shade of grey where that is a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)
    return path


@pytest.fixture
def blue_and_red(tmp_path):
    """Four blue and four red pictures in each part, the first one of each part grey."""
    root = tmp_path / "pictures"
    for part in ("train", "test"):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            for index in range(4):
                plain(root / part / name / f"{index}.png", colour)
        plain(root / part / "blue" / "0.png", 100)
    return root


def accuracy_by_colour(settings) -> float:
    """Of the rule that a picture is red where its first channel is greater than its last one."""
    preparation = data.Preparation(Augmentation(0, False, 0), [0.0] * 3, [1.0] * 3, CPU)
    batches = data.test_batches(datasets.open_test(settings), 3, preparation)
    return evaluate(lambda images: images.mean((2, 3))[:, [2, 0]], torch.nn.Identity(), batches.in_order())["accuracy"]


def test_grey_first_pictures_among_colour_ones_leave_the_set_in_colour(blue_and_red):
    settings = folder_settings(blue_and_red)
    assert datasets.open_training(settings).channels == datasets.open_test(settings).channels == 3
    assert accuracy_by_colour(settings) == 1.0
    summary = summarise(settings, datasets.open_training(settings))
    assert summary.converted == {"grey to colour": 1} and summary.channels == 3


def test_grey_training_pictures_make_a_colour_test_picture_grey(blue_and_red):
    for file in (blue_and_red / "train").rglob("*.png"):
        plain(file, 7)
    settings = folder_settings(blue_and_red)
    assert datasets.open_training(settings).channels == datasets.open_test(settings).channels == 1


@pytest.mark.parametrize("cache", ["~nobody_of_this_name/x", "/proc/no/such/folder", "FILE/below"])
def test_a_cache_that_cannot_be_written_changes_nothing(cache, folder, monkeypatch):
    monkeypatch.setattr(datasets, "KEPT_HEADERS", 0)
    (folder / "FILE").write_text("")
    settings = folder_settings(folder)
    wanted = datasets.channel_statistics(settings, datasets.open_training(settings))
    settings.cache = cache.replace("FILE", str(folder / "FILE"))
    assert datasets.channel_statistics(settings, datasets.open_training(settings)) == wanted


def test_what_headers_say_is_kept_and_read_again_where_a_file_changed(blue_and_red, monkeypatch):
    monkeypatch.setattr(datasets, "KEPT_HEADERS", 0)
    settings = folder_settings(blue_and_red)
    found = [datasets.open_training(settings).origin.converted for _ in range(2)]
    (kept,) = (blue_and_red / "cache").glob("headers-*.json")
    assert found == [{"grey to colour": 1}] * 2 and json.loads(kept.read_text()) == {"colour": 7}
    plain(blue_and_red / "train" / "red" / "2.png", 50, (9, 9))
    assert datasets.open_training(settings).origin.converted == {"grey to colour": 2}


def loop(top):
    (top / "train" / "red" / "more").symlink_to(top / "train" / "red")
    (top / "train" / "red" / "up").symlink_to(top)


def linked_twice(top):
    (top / "train" / "blue" / "other").symlink_to(top / "train" / "red")


def broken(top):
    (top / "train" / "red" / "a.png").symlink_to(top / "nowhere.png")
    (top / "train" / "red" / "b.png").symlink_to(top / "train" / "red" / "b.png")


def pipe(top):
    os.mkfifo(top / "train" / "red" / "pipe.png")


def copies_by_notebooks(top):
    for place in (top / "train", top / "train" / "red"):
        plain(place / ".ipynb_checkpoints" / "0-checkpoint.png")


def of_the_system(top):
    plain(top / "train" / "__MACOSX" / "red" / "0.png")
    plain(top / "train" / "red" / "._0.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (top / "train" / "red" / name).write_bytes(b"x")


def other_files(top):
    (top / "train" / "red" / "notes.txt").write_text("x")
    (top / "train" / "red" / "movie.MP4").write_text("x")
    (top / "test" / "red" / "README").write_text("x")


def no_class(top):
    plain(top / "train" / "0.png")


def folder_like_a_picture(top):
    (top / "train" / "red" / "x.png").mkdir()


ODD_ENTRIES = {
    loop: {folders.AGAIN: 2},
    linked_twice: {folders.AGAIN: 1},
    broken: {folders.BROKEN: 2},
    pipe: {folders.NOT_REGULAR: 1},
    copies_by_notebooks: {folders.HIDDEN: 2},
    of_the_system: {folders.HIDDEN: 5},
    other_files: {"ending .txt": 1, "ending .mp4": 1, "no ending": 1},
    no_class: {folders.OUTSIDE: 1},
    folder_like_a_picture: {folders.FOLDER_LIKE_A_PICTURE: 1},
}


@pytest.mark.parametrize(("make", "skipped"), ODD_ENTRIES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_picture_of_a_class_is_skipped_and_counted(make, skipped, blue_and_red):
    make(blue_and_red)
    settings = folder_settings(blue_and_red)
    images = datasets.open_training(settings)
    assert images.classes == ["blue", "red"] and images.labels.tolist() == [0] * 4 + [1] * 4
    assert summarise(settings, images).skipped == skipped
    assert len(datasets.open_test(settings).labels) == 8


def test_copies_by_notebooks_bring_no_test_picture_into_training(blue_and_red):
    root = blue_and_red / "train"
    before = folders.list_folder(folder_settings(root))
    shutil.copytree(root / "red", root / "red" / ".ipynb_checkpoints")
    after = folders.list_folder(folder_settings(root))
    assert (after.training, after.test) == (before.training, before.test) and after.skipped == {folders.HIDDEN: 1}


@pytest.mark.parametrize("name", [b"a\nb.png", "Käfer \u2603.png".encode(), b"\xff\xfe.png", b"A.PNG", b"a.png"])
def test_odd_names_are_read_and_a_refusal_of_them_is_one_line(name, blue_and_red):
    plain(blue_and_red / "train" / "red" / "a.PNG")
    file = os.path.join(os.fsencode(blue_and_red / "train" / "red"), name)  # noqa: PTH118
    shutil.copy(blue_and_red / "train" / "red" / "1.png", file)
    settings = folder_settings(blue_and_red)
    assert len(datasets.open_training(settings).labels) == 10
    with open(file, "wb") as opened:
        opened.write(b"no picture")
    told = refusal(settings)
    assert "not a readable image" in told and told.isprintable()


def test_summary_counts_by_hand(folder):
    for index in range(12):
        plain(folder / "train" / f"x{index:02}" / "0.png", index)
        plain(folder / "train" / f"x{index:02}" / "1.png", index)
        plain(folder / "test" / f"x{index:02}" / "0.png", index)
    (folder / "valid").mkdir()
    (folder / "train" / "ant" / "list.csv").write_text("")
    settings = folder_settings(folder)
    summary = summarise(settings, datasets.open_training(settings))
    assert summary.lines() == [
        f"data: image_folder in {folder}, 3 x 16 x 16, 63 training images, 27 test images",
        "15 classes: ant 12, bee 13, cat 14, x00 2, x01 2, x02 2, x03 2, x04 2, x05 2, x06 2, x07 2, x08 2 and 3 more",
        "converted training pictures: 24 grey to colour",
        "skipped: 1 ending .csv",
        "not used: folder valid beside train and test",
    ]
    assert json.loads(json.dumps(summary.to_json()))["classes"]["bee"] == 13


def test_a_set_without_a_folder_says_its_classes_and_leaves_the_test_images_closed():
    settings = composed("search").dataset
    lines = summarise(settings, datasets.open_training(settings)).lines()
    assert lines[0] == "data: fashion_mini, 1 x 32 x 32, 10000 training images"
    assert lines[1].startswith("10 classes: T-shirt/top 1000, Trouser 1000, ") and len(lines) == 2


def test_a_folder_val_without_test_is_answered_with_what_to_do(folder):
    (folder / "test").rename(folder / "val")
    told = refusal(folder_settings(folder))
    assert "no folder test beside it; to use the pictures of val as the test set, give dataset.test_folder=val" in told
    (folder / "val").rename(folder / "test")
    (folder / "train").rename(folder / "training")
    assert "a folder test but no folder train beside it" in refusal(folder_settings(folder))


def test_data_laid_out_as_imagenet_is(folder):
    """train and val: the pictures of val are the test set, those of test before they were renamed."""
    before = datasets.open_test(folder_settings(folder))
    (folder / "test").rename(folder / "val")
    settings = dataclasses.replace(folder_settings(folder), test_folder="val")
    assert torch.equal(datasets.open_test(settings).pixels, before.pixels)
    assert summarise(settings, datasets.open_training(settings)).unused == []


def test_a_validation_folder_is_watched_and_neither_trained_on_nor_tested(folder):
    shutil.copytree(folder / "test", folder / "valid")
    (folder / "valid" / "bee" / "1.png").unlink(missing_ok=True)
    settings = dataclasses.replace(folder_settings(folder), validation_folder="valid")
    plain = data.train_data(folder_settings(folder), 0, 2, 0, torch.device("cpu"))
    watched = data.train_data(settings, 0, 2, 0, torch.device("cpu"))
    assert torch.equal(watched.train.indices, plain.train.indices) and plain.valid is None
    number = len(list((folder / "valid").rglob("*.png")))
    assert len(watched.valid.indices) == number and watched.valid.images is not watched.train.images
    facts = summarise(settings, datasets.open_training(settings))
    assert facts.validation == number and f"validation: {number} pictures, which a retraining watches" in facts.lines()
    identity = content_identity(settings, tested=True)
    (folder / "valid" / "ant" / "more.png").write_bytes(next((folder / "valid" / "ant").glob("*.png")).read_bytes())
    changed = content_identity(settings, tested=True)
    different = {key for key in identity if identity[key] != changed[key]}
    assert different == {"dataset.validation_content"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"validation_folder": "valid"}, "dataset.validation_folder is 'valid'; there is no folder"),
        ({"test_folder": "val"}, "there is a folder train but no folder val beside it"),
        ({"test_folder": "../x"}, "dataset.test_folder is '../x'; it must be the name of a folder beside train"),
        ({"validation_folder": "test"}, "it must be another folder than dataset.test_folder"),
        ({"validation_folder": "Train"}, "it must be the name of a folder beside train"),
    ],
)
def test_a_wrong_part_folder_is_one_line(changes, message, folder):
    with pytest.raises(UserError, match=re.escape(message)):
        datasets.open_training(dataclasses.replace(folder_settings(folder), **changes))


def test_an_empty_class_folder_of_the_test_is_named(folder):
    shutil.rmtree(folder / "test" / "bee")
    (folder / "test" / "bee").mkdir()
    settings = folder_settings(folder)
    lines = summarise(settings, datasets.open_training(settings)).lines()
    assert "no test picture of class bee: a retraining needs some" in lines
    with pytest.raises(UserError, match=r"test: no picture of class bee"):
        datasets.open_test(settings)


def test_two_links_to_one_class_folder_are_refused(folder):
    (folder / "train" / "also").symlink_to(folder / "train" / "bee")
    assert "class folders 'also' and 'bee' are one folder" in refusal(folder_settings(folder))


def test_a_search_reads_no_test_picture(folder):
    for file in (folder / "test").rglob("*.png"):
        file.write_bytes(b"")
    assert len(datasets.open_training(folder_settings(folder)).labels) == 39
