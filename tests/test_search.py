"""The steps of a search: what they move, what they leave alone, and that they find a known answer."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from darts.methods.discretisation import StrongestEdges
from darts.models.mixture import dense_mixture
from darts.models.operations import OPERATIONS
from darts.models.supernet import Supernet
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.search.state import SearchState
from darts.spaces.search_space import CellPlan, InputShape
from darts.tasks.task import Batch
from tests.conftest import TINY_SEARCH, composed, space_of

METHODS = ["darts", "darts_second_order"]


def tiny_state(tmp_path, *overrides: str) -> SearchState:
    return search.start_or_resume(composed("search", *TINY_SEARCH, *overrides), tmp_path)


def batches(state: SearchState):
    return next(state.data.train.shuffled(0)), next(state.data.valid.shuffled(0))


def snapshot(state: SearchState) -> dict[str, torch.Tensor]:
    """Every tensor of the weights' side, copied: weights, running statistics, momentum."""
    tensors = dict(state.supernet.state_dict())
    for index, weight in enumerate(state.supernet.parameters()):
        buffer = state.weight_optimiser.state[weight].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum {index}"] = buffer
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_an_architecture_step_moves_alpha_and_nothing_else(method, tmp_path):
    state = tiny_state(tmp_path, f"method={method}")
    train_batch, valid_batch = batches(state)
    search_steps.weight_step(state, train_batch)  # so that there is momentum
    before, alpha = snapshot(state), {kind: matrix.detach().clone() for kind, matrix in state.alpha.items()}
    gradients = [None if w.grad is None else w.grad.clone() for w in state.supernet.parameters()]
    for _ in range(3):
        search_steps.architecture_step(state, train_batch, valid_batch)
    assert any(name.startswith("momentum") for name in before)
    assert same_bits(before, snapshot(state))
    after = [w.grad for w in state.supernet.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))
    assert all(not torch.equal(alpha[kind], state.alpha[kind]) for kind in alpha)


def test_a_weight_step_moves_weights_and_statistics_and_leaves_alpha(tmp_path):
    state = tiny_state(tmp_path)
    before, alpha = snapshot(state), {kind: matrix.detach().clone() for kind, matrix in state.alpha.items()}
    search_steps.weight_step(state, batches(state)[0])
    after = snapshot(state)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"classifier.weight", "stem.0.weight", "stem.1.running_mean"} <= moved
    assert all(torch.equal(alpha[kind], state.alpha[kind]) and state.alpha[kind].grad is None for kind in alpha)


def test_alpha_is_in_the_checkpoint_and_in_only_one_optimiser(tmp_path):
    state = tiny_state(tmp_path)
    owned = {id(p) for group in state.weight_optimiser.param_groups for p in group["params"]}
    assert owned == {id(weight) for weight in state.supernet.parameters()}
    groups = state.architecture_optimiser.param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(matrix) for matrix in state.alpha.values()]
    assert all(torch.equal(state.state_dict()["alpha"][kind], matrix) for kind, matrix in state.alpha.items())


def test_alpha_starts_small_and_different_with_every_seed(tmp_path):
    first, second = (tiny_state(tmp_path / str(seed), f"seed={seed}").alpha["normal"] for seed in (0, 1))
    assert 5e-4 < float(first.detach().std()) < 2e-3
    assert not torch.equal(first, second)


def test_the_architecture_step_is_the_published_adam_on_the_validation_gradient(tmp_path):
    state = tiny_state(tmp_path, "architecture_optimiser.learning_rate=0.0003")
    train_batch, valid_batch = batches(state)
    copies = {kind: matrix.detach().clone().requires_grad_() for kind, matrix in state.alpha.items()}
    expected = torch.optim.Adam(copies.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    logits = state.supernet(
        valid_batch.inputs, dense_mixture({kind: matrix.softmax(-1) for kind, matrix in copies.items()})
    )
    F.cross_entropy(logits, valid_batch.targets).backward()
    expected.step()
    search_steps.architecture_step(state, train_batch, valid_batch)
    for kind, matrix in state.alpha.items():
        torch.testing.assert_close(matrix.detach(), copies[kind].detach())


@pytest.mark.pictures
def test_a_search_leaves_what_a_reader_expects(tmp_path):
    genotype = search.run(composed("search", *TINY_SEARCH), tmp_path)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2, 3]
    for name in ("train/loss", "valid/accuracy", "entropy/normal", "skips/reduction", "learning_rate/weights"):
        assert all(isinstance(line[name], int | float) for line in history)
    assert all(abs(sum(row) - 1) < 1e-5 for line in history for row in line["mixture"]["normal"])
    split = json.loads((tmp_path / "split.json").read_text())
    assert not set(split["weights"]) & set(split["architecture"])
    assert genotype.provenance["method"] == "darts" and genotype.provenance["seed"] == 0
    for name in ("cells/normal.png", "cells/reduction.svg", "cells/mixtures_normal.svg", "run.json", "timing.jsonl"):
        assert (tmp_path / name).stat().st_size > 0
    assert list(tmp_path.glob("events.out.*"))


@pytest.mark.pictures
def test_tensorboard_holds_what_it_should(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    search.run(composed("search", *TINY_SEARCH, "search.epochs=1"), tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    scalars, images = events.Tags()["scalars"], events.Tags()["images"]
    for name in ("train/loss", "valid/accuracy", "entropy/normal", "skips/normal", "learning_rate/weights",
                 "time/step_ms", "time/memory_mb", "result/valid_accuracy"):  # fmt: skip
        assert name in scalars
    assert {"cell/normal", "cell/reduction", "alpha/normal", "alpha/reduction"} <= set(images)


def test_a_loss_that_is_not_finite_stops_the_search_and_names_it(tmp_path):
    settings = composed("search", *TINY_SEARCH, "weight_optimiser.learning_rate=1e30", "weight_optimiser.clip=inf")
    with pytest.raises(UserError, match=r"epoch 1, step \d+, learning rate \S+: the .* is (nan|inf).*lower weight_o"):
        search.run(settings, tmp_path)
    assert not (tmp_path / "genotype.json").exists()


class Scrambled(nn.Module):
    """Gives each image another image's features: its size and statistics, nothing of its class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, dims=0)


@pytest.fixture
def known_answer(monkeypatch):
    """A stride-1 space in which only the skip connection carries the signal: none and scrambled destroy it."""
    monkeypatch.setitem(OPERATIONS, "scrambled", (lambda channels, stride, affine: Scrambled(), {}))
    return space_of("toy", 2, 2, ["none", "scrambled", "skip_connect"])


@pytest.mark.parametrize("method", METHODS)
def test_a_search_with_a_known_answer_finds_it_on_every_edge(method, known_answer, tmp_path):
    state = tiny_state(tmp_path, f"method={method}", "space.nodes=2", "architecture_optimiser.learning_rate=0.02")
    space = known_answer
    plans = [CellPlan("normal", 4, (12, 12), False), CellPlan("normal", 4, (12, 8), False)]
    torch.manual_seed(0)
    state.supernet = Supernet(plans, space, InputShape(2, 4, 4), 0)
    state.settings.weight_optimiser.learning_rate = 0.1
    state.weight_optimiser = torch.optim.SGD(state.supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-4)
    state.settings.space = space
    state.masks = {kind: torch.ones(5, 3, dtype=torch.bool) for kind in space.cell_types}
    state.alpha = {kind: nn.Parameter(torch.zeros(5, 3)) for kind in space.cell_types}
    state.architecture_optimiser = torch.optim.Adam(state.alpha.values(), lr=0.02, betas=(0.5, 0.999))
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(4, 2, 4, 4, generator=generator)
    for _ in range(80):
        pair = []
        for _ in range(2):
            labels = torch.randint(0, 4, (32,), generator=generator)
            noise = 0.3 * torch.randn(32, 2, 4, 4, generator=generator)
            pair.append(Batch(patterns[labels] + noise, labels))
        search_steps.architecture_step(state, *pair)
        search_steps.weight_step(state, pair[0])
    scores = state.alpha["normal"].softmax(-1)
    assert (scores.argmax(1) == 2).all(), scores
    found = StrongestEdges().genotype({"normal": scores}, space)
    assert set(found.cells["normal"].operations()) == {"skip_connect"}
