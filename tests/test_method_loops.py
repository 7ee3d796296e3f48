"""What methods change in the loop: how often which step is taken, on which images, and what stands still."""

from __future__ import annotations

import json

import pytest
import torch

from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from tests.conftest import TINY_SEARCH, composed
from tests.test_methods import tiny


class Watched:
    """The order of the steps of a search, with the images that each was given."""

    def __init__(self, monkeypatch):
        self.steps: list[tuple[str, torch.Tensor]] = []
        for name in ("weight_step", "architecture_step", "joint_step"):
            monkeypatch.setattr(search_steps, name, self.kept(name, getattr(search_steps, name)))

    def kept(self, name, original):
        def step(state, batch, *others):
            self.steps.append((name, batch.inputs.flatten(1)[:, :50].clone()))
            return original(state, batch, *others)

        return step

    def names(self) -> list[str]:
        return [name for name, _ in self.steps]


def test_plain_darts_moves_alpha_then_the_weights_by_the_same_training_batch(monkeypatch, tmp_path):
    seen = Watched(monkeypatch)
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1"), tmp_path)
    assert seen.names() == ["architecture_step", "weight_step"] * 4  # 50 images of a split in batches of 16
    for (_, for_alpha), (_, for_weights) in zip(seen.steps[::2], seen.steps[1::2], strict=True):
        assert torch.equal(for_alpha, for_weights)


def test_inner_steps_train_the_weights_on_batches_of_their_own_before_alpha(monkeypatch, tmp_path):
    seen = Watched(monkeypatch)
    settings = tiny("idarts", "search.epochs=1")
    search.run(settings, tmp_path)
    assert seen.names() == [*["weight_step"] * 5, "architecture_step"] * 4
    batches = [images for _, images in seen.steps[:6]]
    assert not any(torch.equal(a, b) for i, a in enumerate(batches) for b in batches[:i])
    assert settings.epoch_cost() == pytest.approx(7 * 0.5)  # six training batches and one validation batch a step


def test_a_single_level_search_trains_on_all_images_once_an_epoch(monkeypatch, tmp_path):
    seen = Watched(monkeypatch)
    settings = tiny("snas", "search.epochs=1")
    search.run(settings, tmp_path)
    assert seen.names() == ["joint_step"] * 7 and sum(len(images) for _, images in seen.steps) == 100
    assert settings.epoch_cost() == 1.0
    (line,) = [json.loads(text) for text in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert "architecture/loss" not in line and line["valid/accuracy"] >= 0


def test_alpha_moves_in_every_fifth_step_after_the_warm_up(monkeypatch, tmp_path):
    seen = Watched(monkeypatch)
    search.run(tiny("proxyless", "search.epochs=4", "search.batch_size=5"), tmp_path)  # 10 steps an epoch
    names = seen.names()
    assert names[:10] == ["weight_step"] * 10  # a quarter of the search is warm-up
    assert names[10:] == [*["architecture_step"], *["weight_step"] * 5] * 6


def test_alpha_of_what_sgas_has_decided_stands_still(tmp_path):
    state = search.start_or_resume(tiny("sgas"), tmp_path)
    rows = [[False, True, False, False], [False] * 4, *[[True] * 4] * 3]
    search.enter_stage(state, dict.fromkeys(state.active, rows), state.stage)
    before = {kind: matrix.detach().clone() for kind, matrix in state.alpha.items()}
    batches = (next(state.data.train.shuffled(0)), next(state.data.valid.shuffled(0)))
    for _ in range(3):
        search_steps.architecture_step(state, *batches)
    for kind, matrix in state.alpha.items():
        assert torch.equal(matrix[:2], before[kind][:2]) and not torch.equal(matrix[2:], before[kind][2:])


def test_how_many_operations_oles_has_frozen_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    search.run(tiny("oles", "method.weight_gradient.threshold=1"), tmp_path)
    lines = [json.loads(text) for text in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines[-1]["frozen_operations"] > 0
    assert f"{lines[-1]['frozen_operations']} of the supernet's operations are frozen" in caplog.text


def test_tuning_of_darts_pt_begins_with_a_tenth_of_the_rate_and_no_momentum(monkeypatch, tmp_path):
    rates, moved = [], []

    def kept(state, *arguments):
        group = state.weight_optimiser.param_groups[0]
        rates.append((state.epoch, group["lr"], bool(state.momentum())))
        return original(state, *arguments)

    def counted(state, *arguments):
        moved.append(state.epoch)
        return alpha_step(state, *arguments)

    original, alpha_step = search_steps.weight_step, search_steps.architecture_step
    monkeypatch.setattr(search_steps, "weight_step", kept)
    monkeypatch.setattr(search_steps, "architecture_step", counted)
    settings = tiny("darts_pt", "search.epochs=2")
    search.run(settings, tmp_path)
    first = next(entry for entry in rates if entry[0] == 2)
    rule = settings.weight_optimiser
    assert first[1] == pytest.approx(rule.learning_rate / 10) and not first[2] and rates[-1][2]
    assert rates[-1][1] < first[1] and set(moved) == {epoch for epoch, _, _ in rates}
    fixed, moved[:] = tiny("darts_pt_fixed", "search.epochs=2"), []
    search.run(fixed, tmp_path / "fixed")
    assert not moved


def test_the_learning_rate_of_drnas_begins_again_with_the_second_stage(tmp_path):
    settings = tiny("drnas_progressive", "search.epochs=4", "weight_optimiser.cosine_unit=EPOCH")
    search.run(settings, tmp_path)
    lines = [json.loads(text) for text in (tmp_path / "history.jsonl").read_text().splitlines()]
    rates = [line["learning_rate/weights"] for line in lines]
    rule = settings.weight_optimiser
    assert rates[::2] == pytest.approx([rule.learning_rate] * 2)
    cosine = (1 + 2**-0.5) / 2  # a quarter of the way: it spans the whole search
    assert rates[1] == pytest.approx(rule.final_learning_rate + (rates[0] - rule.final_learning_rate) * cosine)


def test_the_anchor_of_drnas_takes_the_place_of_weight_decay():
    anchored = ["method=drnas", "+method/regularisers@method.regularisers.anchor=anchor"]
    with pytest.raises(UserError, match=r"architecture_optimiser\.weight_decay is 0\.001; it must be 0 with"):
        composed("search", *anchored)
    assert composed("search", *anchored, "architecture_optimiser.weight_decay=0").method.regularisers.keys() == {
        "anchor"
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=snas", "method/perturbation=random_smoothing"],
        ["method=snas", "method/weight_gradient=frozen_operations"],
        ["method=gdas", "method/hypergradient=single_level"],
    ],
)
def test_what_a_single_level_cannot_have_is_refused(overrides):
    with pytest.raises(UserError, match=r"single_level|draws other paths for the weights"):
        composed("search", *overrides)


def test_smoothing_changes_the_candidates_and_not_the_channels_around_them(monkeypatch, tmp_path):
    """Chen and Hsieh 2020 perturb the softmax of PC-DARTS, before the weights of edges."""
    settings = tiny("pc_darts", "method/perturbation=random_smoothing", "method/schedule=constant")
    state = search.start_or_resume(settings, tmp_path)
    given = []

    def kept(mixture, *arguments):
        given.append({kind: matrix.clone() for kind, matrix in mixture.items()})
        return mixture

    monkeypatch.setattr(type(settings.method.perturbation), "__call__", lambda self, *arguments: kept(*arguments))
    search_steps.weight_step(state, next(state.data.train.shuffled(0)))
    for kind, matrix in given[0].items():
        torch.testing.assert_close(matrix, state.alpha[kind].detach().softmax(-1))
