"""Data: disjoint stratified halves, order and augmentation as functions of (seed, epoch, index), picture folders."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from darts.runtime.errors import UserError
from darts.runtime.seeding import generator
from darts.tasks import batches as data
from darts.tasks import datasets
from darts.tasks.augmentation import augmentation_draws, crop_and_flip, cut_out, normalisation, normalise
from darts.tasks.settings import Augmentation
from tests.conftest import composed

CPU = torch.device("cpu")


def dataset(*overrides: str):
    return composed("search", *overrides).dataset


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
    return dataset("dataset=image_folder", f"dataset.root={folder}", "dataset.image_size=16", cache, *overrides)


def search_data(settings, seed: int = 0, batch_size: int = 8) -> data.SearchData:
    return data.search_data(settings, 0.5, batch_size, seed, CPU)


def test_the_bundled_set_is_balanced_and_small():
    settings = dataset()
    train, test = datasets.open_training(settings), datasets.open_test(settings)
    assert torch.bincount(train.labels).tolist() == [1000] * 10
    assert torch.bincount(test.labels).tolist() == [200] * 10
    assert train.pixels.shape == (10_000, 1, 32, 32)
    assert datasets.BUNDLED.stat().st_size < 6_000_000


def test_the_bundled_statistics_are_the_measured_ones():
    settings = dataset()
    measured = datasets.channel_statistics(
        dataclasses.replace(settings, mean=None, std=None), datasets.open_training(settings)
    )
    assert settings.mean == pytest.approx(measured[0], abs=1e-3)
    assert settings.std == pytest.approx(measured[1], abs=1e-3)


@pytest.mark.parametrize("counts", [(5, 5, 5), (3, 8, 2), (1001, 7, 2)])
@pytest.mark.parametrize("share", [0.5, 0.3, 0.9])
def test_stratified_parts_are_within_one_of_their_fraction(counts, share):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    first, second = data.stratified(labels, share, generator(0, "test"))
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        own = int((labels[first] == label).sum())
        assert abs(own - share * count) <= 1.5 and 1 <= own < count


def test_a_fraction_is_stratified_and_seeded():
    settings = dataset("dataset.fraction=0.03")
    found = [data.train_data(settings, 0, 16, seed, CPU).train.indices for seed in (0, 0, 1)]
    labels = datasets.open_training(settings).labels
    assert torch.bincount(labels[found[0]]).tolist() == [30] * 10
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_order_is_a_function_of_seed_and_epoch_and_a_later_start_continues_it():
    settings = dataset("dataset.fraction=0.02")
    whole = list(search_data(settings).train.shuffled(3))
    rest = list(search_data(settings).train.shuffled(3, start=5))
    assert len(whole) == 13 and len(rest) == 8
    for first, second in zip(whole[5:], rest, strict=True):
        assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    other = next(search_data(settings).train.shuffled(4))
    assert not torch.equal(whole[0].labels, other.labels)


def test_every_image_comes_once_an_epoch_and_again_in_another_order_when_more_steps_are_asked_for():
    batches = search_data(dataset("dataset.fraction=0.02")).valid
    twice = list(batches.shuffled(0, 0, 2 * len(batches)))
    half = len(batches)
    labels = [torch.cat([batch.labels for batch in part]) for part in (twice[:half], twice[half:])]
    assert torch.equal(labels[0].sort().values, labels[1].sort().values)
    assert not torch.equal(labels[0], labels[1])
    assert torch.equal(next(batches.shuffled(0, half + 2, half + 3)).images, twice[half + 2].images)


def test_a_last_single_image_joins_the_batch_before_it():
    batches = search_data(dataset("dataset.fraction=0.01"), batch_size=7).train  # 50 = 7 * 7 + 1
    assert [len(batch.labels) for batch in batches.shuffled(0)] == [7] * 6 + [8]


def test_augmentation_of_an_image_does_not_depend_on_its_batch():
    settings = dataset("dataset.fraction=0.02")
    small, large = (search_data(settings, batch_size=size).train for size in (4, 25))
    images = [torch.cat([batch.images for batch in part.shuffled(1)]) for part in (small, large)]
    assert torch.equal(images[0], images[1])


def test_each_image_has_its_own_draw():
    pixels = torch.arange(16 * 16, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(400, 1, 1, 1)
    shifted = crop_and_flip(pixels, Augmentation(2, True, 0), augmentation_draws(400, 0, 0))
    assert len({image.numpy().tobytes() for image in shifted}) == 50  # 5 x 5 crops, mirrored or not


def test_crop_and_flip_are_those_of_a_loop():
    pixels = torch.randint(0, 256, (20, 3, 7, 9), dtype=torch.uint8)
    draws = torch.rand(20, 5)
    found = crop_and_flip(pixels, Augmentation(3, True, 0), draws)
    for image, row, out in zip(pixels, draws, found, strict=True):
        padded = torch.nn.functional.pad(image, (3, 3, 3, 3))
        top, left = int(row[0] * 7), int(row[1] * 7)
        expected = padded[:, top : top + 7, left : left + 9]
        assert torch.equal(out, expected if row[2] < 0.5 else expected.flip(2))


def test_cutout_is_a_clipped_square_of_the_mean():
    images = torch.ones(300, 2, 12, 10)
    draws = torch.rand(300, 5)
    found = cut_out(images, Augmentation(0, False, 4), draws)
    for row, out in zip(draws, found, strict=True):
        y, x = int(row[3] * 12), int(row[4] * 10)
        expected = torch.ones(2, 12, 10)
        expected[:, max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = 0
        assert torch.equal(out, expected)


def test_normalisation_is_that_of_torchvision():
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    expected = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalise(pixels, *normalisation(mean, std, torch.device("cpu"))), expected)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_batches_are_those_of_the_memory(workers, folder):
    held = search_data(folder_settings(folder)).train
    streamed = search_data(folder_settings(folder, "dataset.device_megabytes=0", f"dataset.workers={workers}")).train
    assert isinstance(held.images, datasets.ArrayImages) and isinstance(streamed.images, datasets.FileImages)
    for first, second in zip(held.shuffled(2, 1), streamed.shuffled(2, 1), strict=True):
        assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)


def test_statistics_of_a_folder_are_measured_on_training_images_and_cached(folder):
    settings = folder_settings(folder)
    images = datasets.open_training(settings)
    mean, std = datasets.channel_statistics(settings, images)
    values = images.pixels.double().transpose(0, 1).flatten(1) / 255
    assert mean == pytest.approx(values.mean(1).tolist(), abs=1e-5)
    assert std == pytest.approx(values.std(1, correction=0).tolist(), abs=1e-5)
    (cached,) = (folder / "cache").iterdir()
    cached.write_text('{"mean": [1, 2, 3], "std": [4, 5, 6]}')
    assert datasets.channel_statistics(settings, images) == ([1, 2, 3], [4, 5, 6])
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
    with pytest.raises(UserError, match="train and test differ"):
        datasets.open_test(folder_settings(folder))


def test_a_batch_larger_than_its_split_is_refused(folder):
    with pytest.raises(UserError, match=r"search.batch_size is 64; it must be at most \d+"):
        search_data(folder_settings(folder), batch_size=64)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "svhn"])
def test_a_missing_set_names_the_folder_it_looked_in(name, tmp_path):
    settings = dataset(f"dataset={name}", f"dataset.root={tmp_path / 'here'}", "dataset.download=false")
    with pytest.raises(UserError, match=f"dataset {name}: not found in {tmp_path / 'here'}"):
        datasets.open_training(settings)


def test_fashion_mnist_files_are_read_through_torchvision(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = (0x803).to_bytes(4, "big") + b"".join(side.to_bytes(4, "big") for side in pixels.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        header = (0x801).to_bytes(4, "big") + count.to_bytes(4, "big")
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    settings = dataset("dataset=fashion_mnist", f"dataset.root={tmp_path}")
    train, test = datasets.open_training(settings), datasets.open_test(settings)
    assert train.pixels.shape == (40, 1, 32, 32) and len(test.labels) == 20
    assert train.pixels[:, :, :2].sum() == 0 and train.classes[9] == "Ankle boot"
