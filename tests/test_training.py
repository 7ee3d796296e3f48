"""Retraining: schedules at their first, middle and last values, and what a step does."""

from __future__ import annotations

import math

import pytest
import torch

from darts.loop.optimisation import RunningMeans, cosine_learning_rate, evaluate
from darts.models.batch_norm import frozen_statistics
from darts.spaces.genotype import to_json
from darts.spaces.published import published
from darts.tasks.task import Mean
from darts.train import retraining as retrain
from darts.train import saved
from tests.conftest import TINY_TRAIN, composed


def test_the_published_cosine_moves_once_an_epoch():
    settings = composed("search", "experiment=darts_cifar10").weight_optimiser
    assert cosine_learning_rate(settings, 0, 50) == 0.025
    assert cosine_learning_rate(settings, 0.999 / 50, 50) == 0.025
    assert cosine_learning_rate(settings, 25 / 50, 50) == pytest.approx((0.025 + 0.001) / 2)
    last = 0.001 + 0.024 * (1 + math.cos(math.pi * 49 / 50)) / 2
    assert cosine_learning_rate(settings, 49.9 / 50, 50) == pytest.approx(last)
    for epoch in range(50):  # no rounding moves an epoch's value
        assert cosine_learning_rate(settings, epoch / 50, 50) == pytest.approx(
            0.001 + 0.024 * (1 + math.cos(math.pi * epoch / 50)) / 2
        )


def test_the_quick_cosine_moves_every_step():
    settings = composed("final").weight_optimiser
    assert cosine_learning_rate(settings, 0, 10) == settings.learning_rate
    assert cosine_learning_rate(settings, 1, 10) == pytest.approx(settings.final_learning_rate)
    assert cosine_learning_rate(settings, 0.05, 10) < settings.learning_rate


def test_drop_path_grows_from_zero_and_the_auxiliary_loss_has_its_weight(tmp_path, monkeypatch):
    settings = composed("final", *TINY_TRAIN, "train.drop_path=0.4", "train.epochs=4", "train.auxiliary_weight=0.4")
    state = retrain.start_or_resume(settings, published("darts_v2"), tmp_path)
    asked, losses = [], []
    scales, descend = retrain.drop_path_scales, retrain.descend
    monkeypatch.setattr(retrain, "drop_path_scales", lambda n, b, p, g: (asked.append(p), scales(n, b, p, g))[1])
    monkeypatch.setattr(retrain, "descend", lambda o, loss, p, c: (losses.append(loss.item()), descend(o, loss, p, c)))
    batch = next(state.data.train.shuffled_raw(0))
    main = 0.0
    for epoch in range(4):
        state.epoch = epoch
        sums = retrain.train_step(state, batch, *retrain.drop_path(state, len(batch.labels)))
        main += float(sums["train/loss"].total) / sums["train/loss"].count / 4
    assert asked == pytest.approx([0, 0.1, 0.2, 0.3])
    assert sum(losses) / 4 > main  # the auxiliary head's loss comes on top


def test_cutout_reaches_only_the_training_images(tmp_path):
    settings = composed("final", *TINY_TRAIN, "train.cutout=16")
    state = retrain.start_or_resume(settings, published("darts_v2"), tmp_path)
    batch = next(state.data.train.shuffled(0))
    assert ((batch.inputs == 0).flatten(1).sum(1) > 60).all()
    for plain in state.data.train.in_order():
        assert (plain.inputs == 0).sum() == 0


def test_the_whole_training_set_is_used():
    from darts.tasks.batches import train_data

    found = train_data(composed("final").dataset, 0, 32, 0, torch.device("cpu"))
    assert found.train.indices.tolist() == list(range(10_000))


def test_without_an_auxiliary_weight_there_is_no_head(tmp_path):
    settings = composed("final", *TINY_TRAIN, "train.auxiliary_weight=0", "train.epochs=1")
    result = retrain.run(settings, published("darts_v2"), tmp_path)
    assert result["parameters"] == result["parameters_with_auxiliary"]


def test_a_saved_network_describes_itself(tmp_path):
    settings = composed("final", *TINY_TRAIN, "train.epochs=1")
    retrain.run(settings, published("darts_v2"), tmp_path)
    network, described = saved.read_network(tmp_path / "weights.pt")
    assert described["genotype"] == to_json(published("darts_v2"))
    assert described["mean"] == settings.dataset.mean and described["input"]["classes"] == 10
    assert not network.training
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_frozen_statistics_normalise_by_the_batch_and_stand_still():
    norm = torch.nn.BatchNorm2d(3)
    x = 5 + torch.randn(8, 3, 4, 4)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with frozen_statistics(norm):
        out = norm(x)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    torch.testing.assert_close(out, norm(x))
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_running_means_are_over_images_and_continue_from_their_state():
    means = RunningMeans()
    means.add("loss", Mean(torch.tensor(3.0), 2))
    means = RunningMeans(means.state_dict())
    means.add("loss", Mean(torch.tensor(5.0), 1))
    assert means.means() == {"loss": 8 / 3}


def test_evaluation_counts_every_image_and_leaves_the_network_as_it_was(tmp_path):
    state = retrain.start_or_resume(composed("final", *TINY_TRAIN), published("darts_v2"), tmp_path)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    found = evaluate(state.network, state.network, state.data.train.in_order())
    network = state.network.eval()
    with torch.no_grad():
        right = sum(
            int((network(batch.inputs).argmax(1) == batch.targets).sum()) for batch in state.data.train.in_order()
        )
    assert found["accuracy"] == pytest.approx(right / 100)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
