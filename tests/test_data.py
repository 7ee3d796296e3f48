"""Data: disjoint stratified halves, order and augmentation as functions of (seed, epoch, index), known sets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

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
        assert torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets)
    other = next(search_data(settings).train.shuffled(4))
    assert not torch.equal(whole[0].targets, other.targets)


def test_every_image_comes_once_an_epoch_and_again_in_another_order_when_more_steps_are_asked_for():
    batches = search_data(dataset("dataset.fraction=0.02")).valid
    twice = list(batches.shuffled(0, 0, 2 * len(batches)))
    half = len(batches)
    labels = [torch.cat([batch.targets for batch in part]) for part in (twice[:half], twice[half:])]
    assert torch.equal(labels[0].sort().values, labels[1].sort().values)
    assert not torch.equal(labels[0], labels[1])
    assert torch.equal(next(batches.shuffled(0, half + 2, half + 3)).inputs, twice[half + 2].inputs)


def test_a_last_single_image_joins_the_batch_before_it():
    batches = search_data(dataset("dataset.fraction=0.01"), batch_size=7).train  # 50 = 7 * 7 + 1
    assert [len(batch.targets) for batch in batches.shuffled(0)] == [7] * 6 + [8]


def test_augmentation_of_an_image_does_not_depend_on_its_batch():
    settings = dataset("dataset.fraction=0.02")
    small, large = (search_data(settings, batch_size=size).train for size in (4, 25))
    images = [torch.cat([batch.inputs for batch in part.shuffled(1)]) for part in (small, large)]
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


def test_a_batch_larger_than_its_split_is_refused():
    with pytest.raises(UserError, match=r"search.batch_size is 64; it must be at most 50,"):
        search_data(dataset("dataset.fraction=0.01"), batch_size=64)


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
