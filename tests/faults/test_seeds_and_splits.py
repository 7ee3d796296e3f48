"""One seed, one result, whatever the number of readers; halves that share nothing; test images that no search reads."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from darts.runtime.checkpoint import Checkpoints
from darts.search import loop as search
from darts.tasks import batches as data
from darts.tasks import datasets
from darts.tasks.augmentation import augmentation_draws
from tests.conftest import TINY_SEARCH, composed
from tests.faults.leavings import everything, left

CPU = torch.device("cpu")


def pictures(folder) -> list[str]:
    """Settings of a folder of small pictures that are read as they are needed."""
    for part in ("train", "test"):
        for label, name in enumerate(("a", "b")):
            (folder / part / name).mkdir(parents=True)
            for index in range(12):
                shade = (20 * index, 100 * label, 7 * index)
                Image.new("RGB", (18 + index, 20), shade).save(folder / part / name / f"{index}.png")
    own = [f"dataset.root={folder}", f"dataset.cache={folder / 'cache'}", "dataset.image_size=16"]
    return ["dataset=image_folder", *own, "dataset.fraction=1", "search.batch_size=4"]


@pytest.mark.pictures
@pytest.mark.parametrize("method", ["darts", "darts_second_order", "gdas"])
def test_one_seed_twice_gives_identical_files_and_pictures(method, tmp_path):
    for run in ("first", "second"):
        search.run(composed("search", *TINY_SEARCH, f"method={method}"), tmp_path / run)
    assert everything(tmp_path / "first") == everything(tmp_path / "second")


def test_the_number_of_reading_processes_changes_no_bit(tmp_path, injected):
    given = [*TINY_SEARCH, *pictures(tmp_path / "pictures")]
    found = []
    for readers in (None, 0, 1, 2):  # None: all pictures in memory
        streamed = [] if readers is None else ["dataset.device_megabytes=0", f"dataset.workers={readers}"]
        folder = tmp_path / f"readers {readers}"
        search.run(composed("search", *given, *streamed), folder)
        found.append(left(folder))
    for other in found[1:]:
        assert {name for name in found[0] if found[0][name] != other[name]} <= {
            "state.settings.dataset.device_megabytes",
            "state.settings.dataset.workers",
        }
    injected("another number of readers", 3, 3)


def test_ten_seeds_give_ten_searches(tmp_path):
    hashes = set()
    for seed in range(10):
        settings = composed("search", *TINY_SEARCH, "search.epochs=1", "space.nodes=1", f"seed={seed}")
        search.run(settings, tmp_path / str(seed))
        alpha = Checkpoints(tmp_path / str(seed)).load()["alpha"]
        hashes.add(b"".join(matrix.numpy().tobytes() for matrix in alpha.values()))
        assert json.loads((tmp_path / str(seed) / "genotype.json").read_text())["provenance"]["seed"] == seed
    assert len(hashes) == 10


@pytest.mark.parametrize("seed", [0, 1])
def test_no_augmentation_is_drawn_twice(seed):
    draws = torch.cat([augmentation_draws(5000, seed, epoch, number) for epoch in range(2) for number in range(2)])
    assert len(draws.unique(dim=0)) == len(draws)


def hashes(images: datasets.ImageSet, indices: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for pixels in images.batches([indices]) for image in pixels.images]


def test_splits_are_disjoint_stratified_whole_and_seeded():
    settings = composed("search", "dataset.fraction=0.1").dataset
    found, again, other = (data.search_data(settings, 0.5, 8, seed, CPU) for seed in (0, 0, 1))
    weights, architecture = set(found.split.train.tolist()), set(found.split.valid.tolist())
    assert not weights & architecture
    assert len(weights) == len(architecture) == 500
    labels = found.train.images.labels
    for half in (found.split.train, found.split.valid):
        assert torch.bincount(labels[half]).tolist() == [50] * 10
    assert again.split.digest() == found.split.digest() != other.split.digest()


def test_no_picture_of_the_bundled_set_is_in_two_parts():
    settings = composed("search").dataset
    split = data.search_data(settings, 0.5, 8, 0, CPU).split
    train, test = datasets.open_training(settings), datasets.open_test(settings)
    parts = [hashes(train, split.train), hashes(train, split.valid), hashes(test, torch.arange(2000))]
    assert [len(part) for part in parts] == [5000, 5000, 2000]
    assert len(set().union(*parts)) == 12_000


def test_a_search_never_opens_the_test_images(tmp_path, monkeypatch):
    opened = []
    original = datasets.np.load

    def watching(*arguments, **named):
        archive = original(*arguments, **named)
        read = type(archive).__getitem__
        monkeypatch.setattr(type(archive), "__getitem__", lambda self, key: (opened.append(key), read(self, key))[1])
        return archive

    monkeypatch.setattr(datasets.np, "load", watching)
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1"), tmp_path)
    assert set(opened) == {"train_images", "train_labels"}
