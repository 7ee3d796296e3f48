"""Bad data is named before the first step, in one line."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.tasks import datasets
from darts.tasks.settings import BundledDataset
from tests.conftest import TINY_SEARCH, composed


def pictures(folder, classes=("a", "b"), count=8):
    for part in ("train", "test"):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (20, 20), (index, 0, 0)).save(folder / part / name / f"{index}.png")


def refused(tmp_path, *overrides: str) -> str:
    given = [*TINY_SEARCH, "dataset.fraction=1", "search.batch_size=4", *overrides]
    with pytest.raises(UserError) as error:
        search.run(composed("search", *given), tmp_path / "run")
    assert not (tmp_path / "run" / "history.jsonl").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def folder(tmp_path, *overrides: str) -> str:
    root = [f"dataset.root={tmp_path / 'pictures'}", f"dataset.cache={tmp_path / 'cache'}", "dataset.image_size=16"]
    return refused(tmp_path, "dataset=image_folder", *root, *overrides)


@pytest.mark.parametrize("streamed", [[], ["dataset.device_megabytes=0"]])
@pytest.mark.parametrize("content", ["truncated", "text", "empty"])
def test_a_file_that_is_no_picture_is_named(content, streamed, tmp_path, injected):
    pictures(tmp_path / "pictures")
    file = tmp_path / "pictures" / "train" / "b" / "3.png"
    file.write_bytes({"truncated": file.read_bytes()[:60], "text": b"no picture", "empty": b""}[content])
    assert str(file) in folder(tmp_path, *streamed)
    injected("bad data")


def test_pictures_of_sixteen_bits_are_scaled_and_of_thirty_two_refused(tmp_path, injected):
    shades = np.linspace(0, 65535, 256).round().reshape(16, 16)
    Image.fromarray(shades.astype(np.uint16)).save(tmp_path / "grey.png")
    found = datasets.Decoder(16, 1)(str(tmp_path / "grey.png"))
    assert found.flatten().tolist() == list(range(256))
    for kind in (np.int32, np.float32):
        Image.fromarray(shades.astype(kind)).save(tmp_path / "grey.tiff")
        with pytest.raises(UserError, match=r"grey\.tiff: pixels of 32 bits"):
            datasets.Decoder(16, 1)(str(tmp_path / "grey.tiff"))
    injected("bad data", 2)


def test_one_class_an_empty_class_and_a_class_of_one(tmp_path, injected):
    pictures(tmp_path / "pictures", ("a",))
    assert "there is one class" in folder(tmp_path)
    for part in ("train", "test"):
        (tmp_path / "pictures" / part / "b").mkdir()
    assert "b" in folder(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "pictures" / "train" / "b" / "0.png")
    assert "class 'b' has 1 training images" in folder(tmp_path)
    injected("bad data", 3)


def test_images_that_the_network_would_reduce_to_nothing(tmp_path, injected):
    with pytest.raises(UserError, match=r"dataset\.image_size is 2; it must be at least 16"):
        composed("search", *TINY_SEARCH, "dataset.image_size=2")
    injected("bad data")


def test_labels_out_of_range(tmp_path, monkeypatch, injected):
    def opened(settings, train):
        return datasets.ArrayImages(
            torch.zeros(20, 1, 32, 32, dtype=torch.uint8), torch.arange(20) % 4, ["a", "b", "c"]
        )

    monkeypatch.setattr(BundledDataset, "images", opened)
    assert "labels go from 0 to 3; there are 3 classes" in refused(tmp_path)
    injected("bad data")


def test_a_damaged_bundled_set(tmp_path, monkeypatch, injected):
    content = datasets.BUNDLED.read_bytes()
    monkeypatch.setattr(datasets, "BUNDLED", tmp_path / "set.npz")
    draws = random.Random(0)
    for length in (0, 100, len(content) // 2, len(content) - 10):
        (tmp_path / "set.npz").write_bytes(content[:length])
        assert "set.npz is damaged" in refused(tmp_path)
    middle = bytearray(content)
    for _ in range(50):  # amid the compressed pixels, where the archive's own checksum tells
        middle[draws.randrange(len(content) // 4, len(content) // 2)] ^= 1 << draws.randrange(8)
    (tmp_path / "set.npz").write_bytes(middle)
    assert "set.npz is damaged" in refused(tmp_path)
    injected("bad data", 5)


def test_damaged_files_of_a_known_set(tmp_path, injected):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = np.zeros((count, 28, 28), dtype=np.uint8)
        header = (0x803).to_bytes(4, "big") + b"".join(side.to_bytes(4, "big") for side in pixels.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes((header + pixels.tobytes())[:-100])
        header = (0x801).to_bytes(4, "big") + count.to_bytes(4, "big")
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(count))
    told = refused(tmp_path, "dataset=fashion_mnist", f"dataset.root={tmp_path}", "dataset.download=false")
    assert "dataset fashion_mnist: " in told
    injected("bad data")
