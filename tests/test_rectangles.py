"""Images that are no squares: decoded, cropped, cut out, counted, trained on, saved, predicted and exported."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from PIL import Image

import darts
from darts.models.cost import CostModel, count_macs, network_costs
from darts.models.network import build_network
from darts.models.settings import NetworkSettings
from darts.runtime.errors import UserError
from darts.spaces.published import published
from darts.spaces.search_space import InputShape, is_size, size_of
from darts.tasks.augmentation import crop_and_flip, cut_out
from darts.tasks.datasets import open_training
from darts.tasks.pictures import Decoder, covering_sides
from darts.tasks.settings import Augmentation
from darts.train import retraining
from darts.train.saved import evaluate_file
from darts.use.answers import predict
from darts.use.exporting import export, largest_difference
from tests.conftest import TINY, composed
from tests.test_use import draw_pictures

CPU = torch.device("cpu")
WIDE = "dataset.image_size=[16,28]"


@pytest.mark.parametrize("value", [0, 4097, 2.5, "32", None, [], [32], [32, 0], [32, 32, 32], [32, 1.5], [True, 8]])
def test_what_is_no_size_is_refused_in_a_line(value):
    assert not is_size(value)


def test_a_size_that_is_none_is_named_with_what_is_allowed():
    with pytest.raises(UserError, match=r"dataset\.image_size is \[32, 0\]; it must be from 1 to 4096, or \[height,"):
        composed("search", "dataset.image_size=[32,0]")
    with pytest.raises(UserError, match=r"dataset\.image_size is \(64, 8\); it must be at least 16"):
        composed("search", "dataset.image_size=[64,8]")
    with pytest.raises(UserError, match=r"input\.size is \[0, 32\]; it must be from 1 to 4096, or \[height, width\]"):
        composed("describe", "genotype=darts_v2", "input.size=[0,32]")


def test_a_square_is_one_setting_however_it_is_written():
    written = [composed("search", f"dataset.image_size={text}").dataset for text in ("40", "[40,40]")]
    assert written[0] == written[1] and written[0].size == 40
    assert composed("search", "dataset.image_size=[40,36]").dataset.size == size_of([40, 36]) == (40, 36)


def test_bundled_images_are_padded_to_a_rectangle():
    squares = open_training(composed("search").dataset).pixels[:50]
    wide = open_training(composed("search", "dataset.image_size=[32,45]").dataset).pixels[:50]
    assert wide.shape == (50, 1, 32, 45)
    assert torch.equal(wide[..., 6:38], squares) and not wide[..., :6].any() and not wide[..., 38:].any()


@pytest.mark.parametrize(
    ("sides", "wanted", "expected"),
    [((40, 60), (20, 30), (20, 30)), ((40, 40), (20, 30), (30, 30)), ((10, 99), (20, 30), (20, 198)),
     ((33, 7), (8, 16), (75, 16))],
)  # fmt: skip
def test_a_picture_is_scaled_to_just_cover_a_rectangle(sides, wanted, expected):
    assert covering_sides(sides, wanted) == expected


def test_a_picture_of_the_size_itself_is_read_as_it_is_and_a_larger_one_from_its_middle(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(Decoder((12, 30), 3)(str(tmp_path / "a.png")), torch.from_numpy(pixels).permute(2, 0, 1))
    middle = torch.from_numpy(pixels[:, 7:23]).permute(2, 0, 1)  # the height fits, so that nothing is resized
    assert torch.equal(Decoder((12, 16), 3)(str(tmp_path / "a.png")), middle)


def test_a_very_wide_picture_keeps_its_ends_where_the_network_is_as_wide(tmp_path):
    pixels = np.zeros((8, 96), np.uint8)
    pixels[:, :8], pixels[:, -8:] = 200, 100
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = Decoder((8, 96), 1)(str(tmp_path / "a.png"))[0]
    assert (read[:, :8] == 200).all() and (read[:, -8:] == 100).all()


def test_crop_flip_and_cutout_of_a_rectangle_are_those_of_plain_loops():
    settings, draws = Augmentation(2, True, 5), torch.rand(30, 5, generator=torch.Generator().manual_seed(0))
    pixels = torch.randint(1, 256, (30, 2, 9, 14), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    cropped = crop_and_flip(pixels, settings, draws)
    cut = cut_out(cropped.float(), settings, draws)
    for number in range(30):
        top, left = (int(draw * 5) for draw in draws[number, :2].tolist())
        padded = np.pad(pixels[number].numpy(), ((0, 0), (2, 2), (2, 2)))[:, top : top + 9, left : left + 14]
        expected = padded if draws[number, 2] < 0.5 else padded[:, :, ::-1]
        assert np.array_equal(cropped[number].numpy(), expected)
        row, column = int(draws[number, 3] * 9), int(draws[number, 4] * 14)
        square = expected.astype(np.float32)
        square[:, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 0
        assert np.array_equal(cut[number].numpy(), square)


@pytest.mark.parametrize("size", [(8, 20), (9, 10), (33, 16), (16, 5)])
def test_the_auxiliary_head_takes_maps_that_are_no_squares(size):
    network = build_network(published("darts_v2"), 3, 4, 0, InputShape(3, size, 5))
    logits, auxiliary = network.training_logits(torch.rand(2, 3, *size), None)
    assert logits.shape == auxiliary.shape == (2, 5)


def test_the_costs_of_a_rectangle_are_those_that_torch_counts_and_add_up_over_edges():
    settings = composed("search", "constraints.macs=1", "network.channels=4", "constraints.network.channels=4")
    shape = InputShape(3, (21, 50), 10)
    model = CostModel(settings.constraints, settings.space, shape, CPU)
    for seed in range(3):
        genotype = settings.space.sample(random.Random(seed))
        size = settings.constraints.network
        network = build_network(genotype, size.cells, size.channels, size.stem_reductions, shape, False)
        counted = count_macs(network, torch.zeros(1, 3, 21, 50))
        assert model.measured(genotype)["macs"] == counted == model.rest["macs"] + model._on_edges("macs", genotype)
    small = NetworkSettings(4, 3, 0)
    turned = [network_costs(genotype, small, InputShape(3, sides, 10), CPU, ["macs"]) for sides in ((8, 32), (32, 8))]
    assert turned[0] == turned[1] == network_costs(genotype, small, InputShape(3, 16, 10), CPU, ["macs"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny retraining on own pictures, 16 high and 28 wide."""
    folder = tmp_path_factory.mktemp("wide")
    pictures = draw_pictures(folder / "pictures")
    own = ["dataset=image_folder", f"dataset.root={pictures}", WIDE, f"dataset.cache={folder / 'cache'}"]
    small = ["train.epochs=1", "train.batch_size=8", "train.cutout=6", "train.auxiliary_weight=0.4", "logger=none"]
    settings = composed("final", *TINY, "dataset.fraction=1", *small, *own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("darts.loop.plotting.save_figure", lambda *_: [])
        result = retraining.run(settings, published("darts_v2"), folder / "run")
    return folder / "run", pictures, settings, result


def test_a_network_of_rectangles_is_trained_saved_tested_again_and_asked(trained):
    run, pictures, settings, result = trained
    network = darts.load_network(run)
    assert network.shape.map_shape == (3, 16, 28) and network.described["input"]["size"] == [16, 28]
    assert result["macs"] == count_macs(network.network, torch.zeros(1, 3, 16, 28))
    again = evaluate_file(settings, run / "weights.pt")
    assert again["accuracy"] == result["test_accuracy"]
    files = sorted((pictures / "test").rglob("*.png"))
    answers = predict(network, files)
    right = sum(
        network.classes[max(range(3), key=row.__getitem__)] == file.parent.name
        for file, row in zip(files, answers.probabilities, strict=True)
    )
    assert right / len(files) == result["test_accuracy"]
    with pytest.raises(UserError, match=r"this network takes \(batch, 3, 16, 28\)"):
        network(torch.zeros(1, 3, 28, 16))
    other = dataclasses.replace(settings, dataset=dataclasses.replace(settings.dataset, image_size=16))
    with pytest.raises(UserError, match=r"dataset\.image_size is 16; .* was trained at \(16, 28\)"):
        evaluate_file(other, run / "weights.pt")


@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_an_export_of_rectangles_answers_as_the_network(trained, form, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "pt2": "torch", "safetensors": "safetensors"}[form])
    network = darts.load_network(trained[0])
    pixels = torch.randint(0, 256, (7, 3, 16, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    answer = export(network, form, tmp_path / f"network.{form}", True, False)
    assert largest_difference(network, answer, pixels, True) < 1e-5


def test_a_search_of_rectangles_resumes_and_counts(tmp_path):
    from darts.search import loop as search
    from tests.conftest import TINY_SEARCH

    settings = composed("search", *TINY_SEARCH, "search.epochs=1", "dataset.image_size=[32,40]")
    genotype = search.run(settings, tmp_path)
    assert set(genotype.cells) == {"normal", "reduction"}
