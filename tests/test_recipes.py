"""Retraining beyond the published one: recipes, images held out to watch, and fine-tuning of a trained network."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import darts
from darts.loop.optimisation import evaluate
from darts.runtime.errors import UserError
from darts.spaces.published import published
from darts.tasks.batches import RawBatch, train_data
from darts.train import recipe as recipes
from darts.train import retraining
from darts.train.saved import read_network
from darts.train.starting import started
from tests.conftest import TINY_TRAIN, composed, run_command
from tests.test_use import draw_pictures

CELL = published("darts_v2")
CPU = torch.device("cpu")
WHOLE = ["recipe=modern", "train.drop_path=0.2", "train.auxiliary_weight=0.4"]


def settings_of(*overrides):
    return composed("final", *TINY_TRAIN, *overrides)


def test_the_published_recipe_changes_nothing():
    settings = settings_of("train.epochs=5")
    assert recipes.optimised(settings) == settings.weight_optimiser
    optimiser = recipes.recipe_optimiser([torch.nn.Parameter(torch.ones(2))], settings)
    assert isinstance(optimiser, torch.optim.SGD)
    raw = RawBatch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2), torch.rand(2, 5))
    assert recipes.changed_pixels(raw, settings.train.recipe.randaugment) is raw
    images, target = recipes.mixed(torch.ones(2, 1, 8, 8), torch.arange(2), settings.train.recipe, 10, (0, 0, 0))
    assert torch.equal(images, torch.ones(2, 1, 8, 8)) and target.probabilities is None
    logits = torch.randn(2, 10)
    assert torch.equal(recipes.target_loss(logits, target, 0.0), F.cross_entropy(logits, torch.arange(2)))
    assert recipes.averaged(torch.nn.Linear(2, 2), 0.0) is None


def test_the_learning_rate_rises_over_the_warm_up_and_falls_along_a_cosine():
    settings = settings_of("recipe=modern", "train.epochs=5", "train.recipe.warmup_epochs=2")
    rates = [recipes.learning_rate(settings, epoch, step, 4) for epoch in range(5) for step in range(4)]
    assert rates[:8] == pytest.approx([0.002 * number / 8 for number in range(1, 9)])
    cosine = [0.002 * (1 + math.cos(math.pi * number / 12)) / 2 for number in range(12)]
    assert rates[8:] == pytest.approx(cosine)


def test_label_smoothing_is_its_formula():
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    shares = 0.9 * F.one_hot(labels, 5).double() + 0.1 / 5
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    found = recipes.target_loss(logits, recipes.Target(labels, None), 0.1)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_targets_of_what_they_show(kind):
    """Image i is the constant i: an image's mean tells what it shows of which."""
    recipe = settings_of(f"train.recipe.{kind}=1.0").train.recipe
    constant = torch.arange(4.0)[:, None, None, None].expand(4, 1, 16, 16)
    seen = set()
    for step in range(20):
        images, target = recipes.mixed(constant, torch.arange(4), recipe, 4, (0, 1, step))
        shown = images.mean((1, 2, 3))
        assert torch.allclose(shown, target.probabilities @ torch.arange(4.0), atol=1e-5)
        assert torch.allclose(target.probabilities.sum(1), torch.ones(4))
        assert torch.equal(target.labels, target.probabilities.argmax(1))
        seen.add(round(float(shown[0]), 4))
        again, _ = recipes.mixed(constant, torch.arange(4), recipe, 4, (0, 1, step))
        assert torch.equal(images, again)  # of seed, epoch and step only
    assert len(seen) > 10
    mixes_values = len(images[0].unique()) == 1
    assert mixes_values == (kind == "mixup")


def test_random_operations_of_an_image_depend_on_its_own_draws_only():
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=draws)
    raw = RawBatch(pixels, torch.arange(6), torch.rand(6, 5, generator=draws))
    before = torch.random.get_rng_state()
    whole = recipes.changed_pixels(raw, 9).pixels
    assert torch.equal(before, torch.random.get_rng_state())
    part = recipes.changed_pixels(RawBatch(*(tensor[3:] for tensor in raw)), 9).pixels
    assert torch.equal(whole[3:], part) and whole.dtype is torch.uint8
    assert not torch.equal(whole, pixels)
    grey = recipes.changed_pixels(raw._replace(pixels=pixels[:, :1]), 9).pixels
    assert grey.shape == (6, 1, 16, 16)


def test_the_average_is_its_recurrence():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average, decay = recipes.averaged(network, 0.9), 0.9
    expected = None
    for step in range(4):
        with torch.no_grad():
            network[0].weight.copy_(torch.full((2, 2), float(step + 1)))
            network[1].running_mean.fill_(step)
        average.update_parameters(network)
        now = torch.tensor([step + 1.0, float(step)])
        expected = now if expected is None else decay * expected + (1 - decay) * now
    found = torch.stack([average.module[0].weight[0, 0], average.module[1].running_mean[0]])
    assert torch.allclose(found, expected)


def test_adamw_takes_the_librarys_step():
    settings = settings_of("recipe=modern")
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    reference = torch.optim.AdamW([theirs], lr=0.002, betas=(0.9, 0.999), weight_decay=0.05)
    for weight, optimiser in ((ours, recipes.recipe_optimiser([ours], settings)), (theirs, reference)):
        for _ in range(3):
            optimiser.zero_grad()
            weight.pow(3).sum().backward()
            optimiser.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("extra", [[], ["train.validation=0.25"]], ids=["all images", "held out"])
def test_a_whole_recipe_resumes_bit_for_bit(extra, tmp_path, monkeypatch):
    settings = settings_of(*WHOLE, *extra, "logger=none")
    whole = retraining.run(settings, CELL, tmp_path / "whole")
    record = retraining.record_epoch

    def stopped(state):
        record(state)
        if state.epoch == 0:
            state.epoch, state.step = 1, 0
            state.save()
            raise RuntimeError("killed")

    monkeypatch.setattr(retraining, "record_epoch", stopped)
    with pytest.raises(RuntimeError, match="killed"):
        retraining.run(settings, CELL, tmp_path / "cut")
    monkeypatch.setattr(retraining, "record_epoch", record)
    resumed = retraining.run(settings, CELL, tmp_path / "cut")
    assert resumed["test_loss"] == whole["test_loss"] and resumed["test_accuracy"] == whole["test_accuracy"]
    weights = [read_network(tmp_path / name / "weights.pt")[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_held_out_images_are_of_every_class_and_train_nothing():
    settings = settings_of()
    data = train_data(settings.dataset, 0, 32, 0, CPU, validation=0.2)
    plain = train_data(settings.dataset, 0, 32, 0, CPU)
    trained, watched = set(data.train.indices.tolist()), set(data.valid.indices.tolist())
    assert not trained & watched and trained | watched == set(plain.train.indices.tolist())
    counts = data.train.images.labels[data.valid.indices].bincount(minlength=10)
    assert counts.min() >= 1 and abs(len(watched) - 0.2 * len(plain.train.indices)) < 1
    assert plain.valid is None


def test_the_best_epoch_of_the_held_out_images_is_what_is_tested(tmp_path, monkeypatch):
    settings = settings_of("train.validation=0.25", "train.epochs=4", "logger=none")
    given, kept = iter([0.1, 0.6, 0.6, 0.3]), []

    def scored(network, module, batches, *recorder):
        found = evaluate(network, module, batches, *recorder)
        accuracy = next(given, None)
        if accuracy is None:  # the test
            return found
        kept.append({name: value.clone() for name, value in module.state_dict().items()})
        return {**found, "accuracy": accuracy}

    monkeypatch.setattr(retraining, "evaluate", scored)
    result = retraining.run(settings, CELL, tmp_path)
    assert result["kept_epoch"] == 2 and result["validation_accuracy"] == 0.6
    network, _ = read_network(tmp_path / "weights.pt")
    assert all(torch.equal(value, kept[1][name]) for name, value in network.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["valid/accuracy"] for line in lines] == [0.1, 0.6, 0.6, 0.3]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A tiny network trained on the bundled images, and pictures of three other classes."""
    folder = tmp_path_factory.mktemp("first")
    retraining.run(settings_of("logger=none"), CELL, folder / "run")
    return folder / "run", draw_pictures(folder / "pictures")


def fine_tuning(first, *overrides):
    run, pictures = first
    data = ["dataset=image_folder", f"dataset.root={pictures}", "dataset.image_size=32", "dataset.fraction=1.0"]
    settings = settings_of(*data, f"start_from={run}", "train.batch_size=8", "logger=none", *overrides)
    return started(settings)


def test_the_head_alone_moves_first_and_then_everything(first, tmp_path):
    given, _ = read_network(first[0] / "weights.pt")
    body = {name: value for name, value in given.state_dict().items() if not name.startswith("classifier.")}
    moved = {}
    for name, overrides in (
        ("head", ["train.epochs=2", "head_epochs=2"]),
        ("all", ["train.epochs=2", "head_epochs=1"]),
    ):
        settings, cell = fine_tuning(first, *overrides)
        result = retraining.run(settings, cell, tmp_path / name)
        network, described = read_network(tmp_path / name / "weights.pt")
        after = network.state_dict()
        moved[name] = [key for key, value in body.items() if not torch.equal(value, after[key])]
        assert described["class_names"] == ["blue", "green", "red"] and network.classifier.out_features == 3
        assert result["start_from"]["dataset"] == "fashion_mini" and result["start_from"]["head_epochs"] == int(
            overrides[1][-1]
        )
        assert described["start_from"]["class_names"][0] == "T-shirt/top"
    assert moved["head"] == []
    floating = [key for key, value in body.items() if value.is_floating_point()]
    assert set(floating) <= set(moved["all"])


def test_a_fine_tuning_keeps_cell_size_preparation_and_a_head_of_the_same_classes(first, tmp_path):
    run, _ = first
    given, described = read_network(run / "weights.pt")
    settings, cell = fine_tuning(first)
    assert cell.digest() == CELL.digest() and settings.network.channels == described["network"]["channels"]
    assert settings.dataset.mean == described["mean"] and settings.dataset.channels == 1
    same, cell = started(settings_of(f"start_from={run}", "logger=none"))
    state = retraining.start_or_resume(same, cell, tmp_path)
    assert all(torch.equal(value, given.state_dict()[name]) for name, value in state.network.state_dict().items())


def test_a_fine_tuning_resumes_across_the_end_of_the_heads_own_epochs(first, tmp_path, monkeypatch):
    settings, cell = fine_tuning(first, "train.epochs=3", "head_epochs=2")
    whole = retraining.run(settings, cell, tmp_path / "whole")
    checkpoints = retraining.TrainState.save
    for stop in (1, 2, 3):
        folder = tmp_path / f"cut{stop}"

        def killed(state, stop=stop):
            checkpoints(state)
            if state.epoch == stop:
                raise RuntimeError("killed")

        monkeypatch.setattr(retraining.TrainState, "save", killed)
        with pytest.raises(RuntimeError, match="killed"):
            retraining.run(settings, cell, folder)
        monkeypatch.setattr(retraining.TrainState, "save", checkpoints)
        assert retraining.run(settings, cell, folder)["test_loss"] == whole["test_loss"], stop


def test_another_file_to_start_from_is_another_run(first, tmp_path):
    settings, cell = fine_tuning(first)
    retraining.run(settings, cell, tmp_path / "run")
    shutil.copytree(first[0], tmp_path / "moved")
    moved = replace(settings, start_from=str(tmp_path / "moved" / "weights.pt"))
    assert retraining.run(moved, cell, tmp_path / "run")  # the same file elsewhere
    retraining.run(settings_of("seed=1", "logger=none"), CELL, tmp_path / "other")
    other = replace(settings, start_from=str(tmp_path / "other" / "weights.pt"))
    with pytest.raises(UserError, match=r"start_from\.content was"):
        retraining.run(other, cell, tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["network.channels=8"], "network.channels is given with start_from"),
        (["genotype=darts_v1"], "genotype is given with start_from"),
        (["dataset.channels=3"], "dataset.channels is 3: "),
        (["head_epochs=9"], "head_epochs is 9; it must be at most train.epochs, 1"),
        (["train.recipe.warmup_epochs=1"], "train.recipe.warmup_epochs is 1; it must be below train.epochs, 1"),
    ],
)
def test_what_a_fine_tuning_cannot_do_is_one_line(given, message, first, tmp_path):
    run, pictures = first
    base = [f"start_from={run}", "dataset=image_folder", f"dataset.root={pictures}", "train.epochs=1", "head_epochs=1"]
    done = run_command(["-m", "darts.train", *base, *given], tmp_path)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_fine_tuned_network_is_announced_and_used(first, tmp_path):
    run, pictures = first
    base = [f"start_from={run}", "dataset=image_folder", f"dataset.root={pictures}", "train.batch_size=8", "device=cpu"]
    done = run_command(["-m", "darts.train", *base, "train.epochs=1", "head_epochs=1", "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"fine-tuned from {run / 'weights.pt'}, which was trained on fashion_mini" in done.stdout
    assert "darts.compare" not in done.stdout  # a cell's comparison is of networks trained from scratch
    assert darts.load_network(tmp_path / "out").classes == ["blue", "green", "red"]
