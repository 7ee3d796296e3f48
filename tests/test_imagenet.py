"""The network and the retraining for ImageNet: counts, the authors' outputs, pictures cut and coloured at random."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import darts
from darts.describe import describe
from darts.loop.measures import Tally
from darts.models.cost import count_macs, count_parameters, count_parameters_without_auxiliary
from darts.models.fused.supernet import FusedSupernet
from darts.models.mixture import MixtureWeights
from darts.models.network import build_network
from darts.models.supernet import Mixing, Supernet
from darts.models.supernet_macs import SupernetMacs
from darts.runtime.errors import UserError
from darts.spaces.published import published
from darts.spaces.search_space import InputShape
from darts.tasks import batches, datasets
from darts.tasks.pictures import Decoder, RandomDecoder
from darts.train.recipe import learning_rate
from tests.conftest import ROOT, composed, run_command, space_of
from tests.golden_inputs import cases, wave
from tests.test_golden_networks import assert_answers, filled

SHAPE = InputShape(3, 224, 1000)
NAMES = {"DARTS_V1": "darts_v1", "DARTS_V2": "darts_v2", "PC_DARTS_image": "pc_darts_imagenet",
         "NASNet": "nasnet", "AmoebaNet": "amoebanet"}  # fmt: skip
COUNTS = {  # parameters, the same with the auxiliary head, multiply-adds: counted on the authors' network
    "darts_v1": (4_510_432, 5_771_208, 505_864_704),
    "darts_v2": (4_718_752, 5_979_528, 529_911_552),
    "snas": (3_939_328, 5_200_104, 438_042_432),
    "pdarts": (4_944_352, 6_205_128, 542_819_328),
    "pc_darts": (5_270_560, 6_531_336, 571_137_408),
    "pc_darts_imagenet": (5_342_464, 6_603_240, 581_627_328),
    "nasnet": (5_564_320, 6_800_520, 604_031_616),
    "amoebanet": (4_627_360, 5_863_560, 526_746_624),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_network_is_counted_to_the_unit(name):
    with torch.device("meta"):
        network = build_network(published(name), 14, 48, "imagenet", SHAPE)
        macs = count_macs(network, torch.zeros(1, *SHAPE.map_shape))
    assert (count_parameters_without_auxiliary(network), count_parameters(network), macs) == COUNTS[name]


@pytest.mark.parametrize("case", cases("imagenet_networks", "networks"), ids=lambda case: case["name"])
def test_golden_imagenet_network(case):
    network = filled(build_network(published(NAMES[case["name"]]), 5, 4, "imagenet", InputShape(3, 224, 10)))
    assert_answers(network, wave((2, 3, 224, 224), 3500), case)


def test_describe_knows_the_published_network(monkeypatch):
    """`experiment=darts_imagenet` of a command without data; the latency is not measured here."""
    monkeypatch.setattr("darts.models.cost.latency_ms", lambda *given: 1.0)
    settings = composed("describe", "experiment/describe=darts_imagenet")
    found = describe(settings, published("darts_v2"))
    counts = found["parameters"], found["parameters_with_auxiliary"], found["macs"]
    assert counts == COUNTS["darts_v2"] and (found["channels"], found["cells"]) == (48, 14)


@pytest.mark.slow
def test_describe_as_it_is_typed(tmp_path):
    typed = ["-m", "darts.describe", "experiment=darts_imagenet", "genotype=darts_v2", "json=true"]
    assert json.loads(run_command(typed, tmp_path).stdout)["macs"] == 529_911_552
    refused = run_command(["-m", "darts.describe", "experiment=darts_imagenett"], tmp_path)
    assert refused.returncode == 2
    assert "experiment 'darts_imagenett' is unknown; did you mean 'darts_imagenet'?" in refused.stderr


def test_the_supernet_for_imagenet_has_the_authors_weights():
    """956,512 parameters: the sum over the tensors of `model_search_imagenet.py` of Xu et al. (2020)."""
    settings = composed("search", "method=pc_darts", "experiment=pc_darts_imagenet", "dataset.root=somewhere")
    size, space = settings.network, settings.space
    with torch.device("meta"):
        plans = space.plan_supernet(size.cells, size.channels, size.stem_reductions)
        supernet = Supernet(plans, space, SHAPE, size.stem_reductions, Mixing(k=settings.method.channels.k[0]))
    assert count_parameters(supernet) == 956_512
    rates = settings.weight_optimiser.learning_rate, settings.architecture_optimiser.learning_rate
    assert (settings.search.batch_size, settings.search.epochs, *rates) == (1024, 50, 0.5, 6e-3)
    fractions = settings.dataset.fraction * 0.8, settings.dataset.fraction * 0.2
    assert fractions == pytest.approx((0.1, 0.025)) and settings.search.train_fraction == 0.8
    assert settings.method.schedule.alpha_frozen_fraction * settings.search.epochs == pytest.approx(35)


def test_both_engines_compute_the_supernet_for_imagenet():
    space = space_of("darts", 2, 2, ["none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"])
    shape = InputShape(3, 40, 5)
    plans = space.plan_supernet(3, 4, "imagenet")
    reference = Supernet(plans, space, shape, "imagenet").double()
    generator = torch.Generator().manual_seed(0)
    edges = len(space.edges())
    mixture = {
        kind: MixtureWeights(torch.rand(edges, 4, generator=generator, dtype=torch.float64).softmax(1))
        for kind in space.cell_types
    }
    images = torch.rand(3, 3, 40, 40, generator=generator, dtype=torch.float64)
    expected = reference(images, mixture)
    fused = FusedSupernet(reference)
    torch.testing.assert_close(fused(images, mixture), expected, rtol=0, atol=1e-10)
    counted = SupernetMacs(plans, space, shape, "imagenet", Mixing()).of_one_image(mixture)
    assert counted == count_macs(reference, images[:1], mixture)


def test_the_learning_rate_falls_by_a_factor_each_epoch_as_torch_says():
    settings = composed("final", "experiment=darts_imagenet", "dataset.root=somewhere", "genotype=darts_v2")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=0.97)
    for epoch in range(settings.train.epochs):
        assert learning_rate(settings, epoch, 7, 10) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimiser.step()
        scheduler.step()
    assert settings.train.epochs == 250 and settings.weight_optimiser.nesterov is False


def test_the_published_retraining_is_what_the_authors_give():
    settings = composed("final", "experiment=darts_imagenet", "dataset.root=somewhere", "genotype=darts_v2")
    data, train, optimiser = settings.dataset, settings.train, settings.weight_optimiser
    assert (train.batch_size, train.cutout, train.drop_path, train.auxiliary_weight) == (128, 0, 0.0, 0.4)
    assert (train.recipe.label_smoothing, optimiser.weight_decay, optimiser.clip) == (0.1, 3e-5, 5.0)
    assert (data.image_size, data.resize, data.random_resized_crop, data.flip) == (224, 256, True, True)
    assert data.colour_jitter == [0.4, 0.4, 0.4, 0.2] and data.test_folder == "val"
    assert data.mean == [0.485, 0.456, 0.406] and data.std == [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    "override, message",
    [
        ("dataset.resize=100", "dataset.resize is 100; it must be from 224, dataset.image_size, to 4096, or null"),
        ("dataset.crop_padding=4", "dataset.crop_padding is 4; it must be 0 with dataset.random_resized_crop"),
        ("dataset.colour_jitter=[0.4,0.4]", "it must be [brightness, contrast, saturation, hue]"),
        ("dataset.colour_jitter=[0.4,0.4,0.4,0.6]", "it must be [brightness, contrast, saturation, hue]"),
        ("train.recipe.rate_decay=1.1", "train.recipe.rate_decay is 1.1; it must be above 0 and at most 1, or null"),
        ("network.stem_reductions=cifar", "network.stem_reductions is 'cifar'; it must be a whole number from 0 to 6"),
        ("dataset.image_size=30", "at least 32: the network halves it 5 times"),
    ],
)
def test_what_cannot_be_meant_is_refused(override, message):
    with pytest.raises(UserError) as refused:
        composed("final", "experiment=darts_imagenet", "dataset.root=somewhere", override)
    assert message in str(refused.value)


def test_a_setting_that_the_decay_replaces_is_refused(tmp_path):
    typed = ["experiment=darts_imagenet", "genotype=darts_v1", "dataset.root=somewhere"]
    refused = run_command([str(ROOT / "train_final.py"), *typed, "weight_optimiser.cosine_unit=EPOCH"], tmp_path)
    assert refused.returncode == 2 and "train.recipe.rate_decay, 0.97, takes the cosine's place" in refused.stderr


def ramp(path, height: int = 90, width: int = 120) -> str:
    """A picture whose red is its column and whose green is its row, of 255."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * columns / (width - 1), 255 * rows / (height - 1), 0 * rows], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return str(path)


def test_random_parts_cover_eight_to_a_hundred_percent_of_a_picture(tmp_path):
    """Against torchvision's draws of the published scale and ratio."""
    from torchvision.transforms import RandomResizedCrop

    file = ramp(tmp_path / "ramp.png")
    picture, expected = Image.open(file), []
    for _ in range(2000):
        _, _, height, width = RandomResizedCrop.get_params(picture, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3])
        expected.append(height * width / (90 * 120))
    decoder = RandomDecoder(32, 3, True, (), Decoder(32, 3))
    draws = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)).tolist()
    areas = []
    for row in draws:
        part = decoder(file, row).float() / 255
        assert part.shape == (3, 32, 32)
        red, green = part[0].max() - part[0].min(), part[1].max() - part[1].min()
        areas.append(float(red * green))
    assert 0.05 < min(areas) < 0.15 and 0.8 < max(areas) <= 1
    assert np.mean(areas) == pytest.approx(np.mean(expected), abs=0.05)  # what is resized loses a little at its edges


def test_equal_numbers_give_equal_pixels_and_leave_the_global_generator_alone(tmp_path):
    file = ramp(tmp_path / "ramp.png")
    decoder = RandomDecoder(24, 3, True, (0.4, 0.4, 0.4, 0.2), Decoder(24, 3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (decoder(file, row) for row in ([0.25, 0.5], [0.25, 0.5], [0.5, 0.25]))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_colours_change_within_what_is_allowed(tmp_path):
    """Brightness alone multiplies a grey picture by 0.6 to 1.4."""
    Image.new("RGB", (40, 30), (100, 100, 100)).save(tmp_path / "grey.png")
    decoder = RandomDecoder(16, 3, False, (0.4, 0.0, 0.0, 0.0), Decoder(16, 3))
    values = [int(decoder(str(tmp_path / "grey.png"), [n / 50, 0.1])[0, 0, 0]) for n in range(50)]
    assert 59 <= min(values) < 75 and 125 < max(values) <= 141


def test_the_centre_of_a_larger_picture_is_tested(tmp_path):
    """As torchvision's Resize and CenterCrop on the whole picture."""
    from torchvision.transforms import v2

    file = ramp(tmp_path / "ramp.png")
    expected = v2.Compose([v2.PILToTensor(), v2.Resize(48, antialias=True), v2.CenterCrop(32)])(Image.open(file))
    assert torch.equal(Decoder(32, 3, 48)(file), expected)
    assert not torch.equal(Decoder(32, 3)(file), expected)


@pytest.fixture
def folder(tmp_path):
    """ImageNet's layout: train and val, three classes of colour pictures."""
    numbers = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = numbers.integers(0, 120, (70, 80 + index, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{index}.png")
    return tmp_path


def small(folder, *overrides: str) -> list[str]:
    """The published retraining with small pictures and a small network."""
    return [
        "experiment=darts_imagenet", f"dataset.root={folder / 'set'}", f"dataset.cache={folder / 'cache'}",
        "dataset.image_size=64", "dataset.resize=72", "dataset.workers=0", "network.channels=4", "network.cells=4",
        "train.batch_size=8", "train.epochs=2", "device=cpu", *overrides,
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_is_the_same_from_any_step_on_with_any_number_of_readers(folder, workers):
    settings = composed("final", *small(folder, f"dataset.workers={workers}"), "genotype=darts_v1").dataset
    data = batches.train_data(settings, 0, 8, 0, torch.device("cpu"))
    assert isinstance(data.train.images, datasets.FileImages)
    whole = [raw.pixels for raw in data.train.shuffled_raw(1)]
    rest = [raw.pixels for raw in data.train.shuffled_raw(1, start=1)]
    draws = [data.preparation.draws(24, 0, epoch, 0) for epoch in (1, 2)]
    one, other = (next(data.train.images.drawn_batches([torch.tensor([3])], own)).images for own in draws)
    for first, second in zip(whole[1:], rest, strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(one, other)  # the same picture in two epochs
    reader = composed("final", *small(folder), "genotype=darts_v1").dataset
    alone = next(iter(batches.train_data(reader, 0, 8, 0, torch.device("cpu")).train.shuffled_raw(1)))
    assert torch.equal(alone.pixels, whole[0])


def test_a_retraining_by_this_recipe_answers_as_it_was_tested(folder):
    """The saved network cuts the centre out of a larger picture, in the test and in predictions alike."""
    found = darts.run_retraining("darts_v1", *small(folder, f"runs={folder / 'runs'}"))
    network = darts.load_network(found.folder)
    files = sorted((folder / "set" / "val").rglob("*.png"))
    answers = zip(network.predict(files), files, strict=True)
    right = [prediction.name == file.parent.name for prediction, file in answers]
    assert np.mean(right) == pytest.approx(found.test_accuracy)
    assert network.described["resize"] == 72 and network.decoder.resize == 72
    assert network.network.stem.older[0].stride == (2, 2)


def test_saved_networks_are_tested_as_they_were_trained(folder):
    found = darts.run_retraining("darts_v1", *small(folder, f"runs={folder / 'runs'}", "train.epochs=1"))
    again = [f"weights={found.folder}", f"runs={folder / 'runs'}", f"dataset.root={folder / 'set'}", "device=cpu"]
    again += ["dataset=image_folder", "dataset.image_size=64", "dataset.test_folder=val"]
    command = [str(ROOT / "train_final.py"), *again]
    told = run_command(command, folder)
    assert told.returncode == 2
    assert "dataset.resize is null" in told.stderr and "was trained with 72" in told.stderr
    tested = run_command([*command, "dataset.resize=72"], folder)
    assert tested.returncode == 0 and f"test accuracy {found.test_accuracy:.4f}" in tested.stdout


def test_top_five_of_many_classes():
    """Against torch.topk, and None of few classes."""
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(400, 120, generator=generator), torch.randint(0, 120, (400,), generator=generator)
    tally = Tally([str(n) for n in range(120)])
    for first in range(0, 400, 90):
        tally.add_logits(logits[first : first + 90], labels[first : first + 90])
    expected = (logits.topk(5, 1).indices == labels[:, None]).any(1).double().mean()
    assert tally.measures().top5_accuracy == pytest.approx(float(expected))
    alike = Tally([str(n) for n in range(120)])
    alike.add_logits(torch.zeros(3, 120), torch.tensor([0, 4, 5]))  # of equal answers the first classes come first
    assert alike.measures().top5_accuracy == pytest.approx(2 / 3)
    few = Tally(["a", "b"])
    few.add_logits(logits[:10, :2], labels[:10] % 2)
    assert few.measures().top5_accuracy is None
