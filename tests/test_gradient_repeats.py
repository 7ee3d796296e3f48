"""How alike alpha's gradients are: against a computation by hand, and without a trace in the search itself."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from darts.runtime.errors import UserError
from darts.search import gradient_repeats
from darts.search import loop as search
from tests.conftest import TINY_SEARCH, composed
from tests.test_text import search_settings, written

NAMES = ("batches_cosine", "batches_ratio", "draws_cosine", "draws_ratio")


def lines_of(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def by_hand(gradients):
    """The two numbers by their definitions, in NumPy."""
    rows = [np.asarray(gradient) for gradient in gradients]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(rows, 2)]
    ratio = np.linalg.norm(np.mean(rows, axis=0)) / np.mean([np.linalg.norm(row) for row in rows])
    return float(np.mean(cosines)), float(ratio)


def test_the_numbers_are_those_of_their_definitions():
    draws = torch.Generator().manual_seed(0)
    gradients = [torch.randn(40, generator=draws).double() + 0.5 for _ in range(5)]
    found = gradient_repeats.alike("batches", gradients)
    cosine, ratio = by_hand(gradients)
    assert found == {"gradient/batches_cosine": pytest.approx(cosine), "gradient/batches_ratio": pytest.approx(ratio)}


def test_equal_gradients_are_alike_and_noise_is_not():
    same = [torch.arange(9.0).double()] * 4
    equal = gradient_repeats.alike("draws", same)
    assert equal == {"gradient/draws_cosine": pytest.approx(1), "gradient/draws_ratio": pytest.approx(1)}
    draws = torch.Generator().manual_seed(0)
    noise = gradient_repeats.alike("draws", [torch.randn(200_000, generator=draws).double() for _ in range(4)])
    assert noise["gradient/draws_cosine"] == pytest.approx(0, abs=0.01)
    assert noise["gradient/draws_ratio"] == pytest.approx(1 / math.sqrt(4), abs=0.01)
    assert gradient_repeats.alike("draws", [torch.zeros(3).double()] * 2) == {}


def test_first_order_gradients_are_those_of_the_validation_loss_on_each_batch(tmp_path):
    state = search.start_or_resume(composed("search", *TINY_SEARCH, "engine=reference"), tmp_path)
    pairs = list(itertools.islice(gradient_repeats.batch_pairs(state), 3))
    found = gradient_repeats.gradient_metrics(state, 3)
    names = [name for name, _ in state.supernet.named_parameters()]
    weights = dict(zip(names, (weight.detach() for weight in state.supernet.parameters()), strict=True))
    gradients = []
    for _, valid in pairs:
        mixture = state.settings.method.mixture(state.alpha, state.masks, state.moment(1), state.settings.space)
        state.supernet.train()
        buffers = {name: value.clone() for name, value in state.supernet.named_buffers()}
        logits = functional_call(state.supernet, weights | buffers, (valid.inputs, mixture))
        own = torch.autograd.grad(F.cross_entropy(logits, valid.targets), list(state.alpha.values()))
        gradients.append(torch.cat([gradient.flatten() for gradient in own]).double().numpy())
    cosine, ratio = by_hand(gradients)
    assert found["gradient/batches_cosine"] == pytest.approx(cosine, abs=1e-4)
    assert found["gradient/batches_ratio"] == pytest.approx(ratio, abs=1e-4)
    assert "gradient/draws_cosine" not in found  # plain DARTS draws nothing


LONGER = ["darts_second_order", "idarts", "drnas"]


@pytest.mark.parametrize(
    "method", ["darts", "gdas", "snas", *(pytest.param(m, marks=pytest.mark.slow) for m in LONGER)]
)
def test_measuring_leaves_no_trace_in_the_search(method, tmp_path):
    for name, own in (("plain", []), ("measured", ["diagnostics.gradient_repeats=2"])):
        search.run(composed("search", *TINY_SEARCH, f"method={method}", "search.epochs=2", *own), tmp_path / name)
    plain, measured = (lines_of(tmp_path / name) for name in ("plain", "measured"))
    for first, second in zip(plain, measured, strict=True):
        own = {key: value for key, value in second.items() if key.startswith("gradient/")}
        assert first == {key: value for key, value in second.items() if key not in own}
        drawing = method in ("gdas", "snas", "drnas")
        assert set(own) == {f"gradient/{name}" for name in (NAMES if drawing else NAMES[:2])}
        assert all(-1 <= value <= 1 + 1e-9 for value in own.values())


def test_dropout_of_a_recurrent_search_is_measured_apart(tmp_path):
    folder = written(tmp_path / "text")
    found = {}
    for rate in (0.0, 0.7):
        dropouts = [f"language.dropout_{name}={rate}" for name in ("inputs", "cell_input", "hidden", "output")]
        settings = search_settings(folder, "search.epochs=1", "diagnostics.gradient_repeats=3", *dropouts)
        search.run(settings, tmp_path / str(rate))
        found[rate] = lines_of(tmp_path / str(rate))[-1]
    assert "gradient/draws_cosine" not in found[0.0]
    assert found[0.7]["gradient/draws_cosine"] < 0.9


@pytest.mark.parametrize("repeats", [-1, 1, 1001])
def test_one_repeat_is_nothing_to_compare(repeats):
    with pytest.raises(
        UserError, match=rf"diagnostics\.gradient_repeats is {repeats}; it must be 0, or from 2 to 1000"
    ):
        composed("search", *TINY_SEARCH, f"diagnostics.gradient_repeats={repeats}")
