"""Multiply-adds of a search: against torch's own counter, against closed forms, over engines, resumes and budgets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from darts.blackbox import loop as blackbox
from darts.loop.record import cost_of
from darts.models.cost import count_macs
from darts.models.network import build_network
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search.compute import counted
from darts.search.state import reference_supernet
from darts.spaces.genotype import from_json
from darts.tasks.datasets import shape_of
from tests.conftest import TINY_SCORES, TINY_SEARCH, composed

IMAGES = 50  # of each split, of 100 in all


def state_of(tmp_path, *overrides: str):
    return search.start_or_resume(composed("search", *TINY_SEARCH, *overrides), tmp_path)


def spent(tmp_path: Path, *overrides: str) -> dict[str, float]:
    search.run(composed("search", *TINY_SEARCH, "search.epochs=1", *overrides), tmp_path)
    return cost_of(tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=darts"],
        ["method=pc_darts", "network.channels=8"],
        ["method=p_darts", "network.cells=4"],
        ["method=darts_minus"],
        ["space=nasbench201", "space.nodes=3", "space.candidates=[none,skip_connect,nor_conv_3x3]"],
        ["space=nasnet", "space.candidates=[skip_connect,sep_conv_3x3,dil_conv_5x5]"],
        ["dataset.image_size=[32,45]"],
        ["method=pc_darts", "network.channels=8", "dataset.image_size=[50,33]"],
    ],
)
def test_one_pass_counts_what_torch_counts(tmp_path, overrides):
    """The reference supernet whole, under torch's counter."""
    state = state_of(tmp_path, *overrides)
    mixture, shape = state.deterministic_mixture(), state.data.shape
    image = torch.zeros(1, *shape.map_shape)
    assert state.supernet.macs.of_one_image(mixture) == count_macs(reference_supernet(state), image, mixture) > 0


@pytest.mark.parametrize("method", ["gdas", "proxyless", "random_weight_sharing"])
def test_a_mixture_of_few_candidates_counts_these_only(tmp_path, method):
    state = state_of(tmp_path, f"method={method}")
    alpha = {kind: matrix.detach() for kind, matrix in state.alpha.items()}
    mixture = state.settings.method.mixture(alpha, state.masks, state.moment(0), state.settings.space)
    image = torch.zeros(1, state.data.shape.channels, state.data.shape.size, state.data.shape.size)
    supernet, macs = reference_supernet(state), state.supernet.macs
    assert macs.of_one_image(mixture) == count_macs(supernet, image, mixture) < macs.rest + macs.all_edges


@pytest.mark.parametrize(
    "method, passes",
    [
        ("darts", 3 + 3),  # alpha and the weights, each forward and backward
        ("darts_second_order", 3 + 12),  # alpha: unrolled step, validation loss, two gradients of the training loss
        ("sdarts_rs", 3 + 3),
    ],
)
def test_an_epoch_counts_its_passes(tmp_path, method, passes):
    """In closed form: three for a pass with its gradient, one for the evaluation at the end."""
    cost = spent(tmp_path, f"method={method}")
    macs = state_of(tmp_path / "other", f"method={method}").supernet.macs
    assert cost["macs"] == IMAGES * (passes + 1) * (macs.rest + macs.all_edges)


def test_what_is_counted_is_nearly_what_torch_computes(tmp_path):
    """Under torch's counter of a whole epoch, backward passes included.

    It knows that images have no gradient, and takes the gradient of a depthwise kernel for one of a full one.
    """
    state = state_of(tmp_path, "method=darts", "engine=reference", "network.channels=8")
    with FlopCounterMode(display=False) as counter:
        search.search_epoch(state)
    assert 0.9 < counter.get_total_flops() / 2 / state.tracker.macs < 1.1


def test_both_engines_count_alike_and_so_does_checkpointing(tmp_path):
    counts = [
        spent(tmp_path / str(number), "method=darts", *own)["macs"]
        for number, own in enumerate((["engine=fused"], ["engine=reference"], ["memory.activation_checkpointing=true"]))
    ]
    assert counts[0] == counts[1] == counts[2] > 0


def test_a_resumed_search_counts_what_the_uninterrupted_one_counts(tmp_path):
    settings = composed("search", *TINY_SEARCH, "method=darts")
    search.run(settings, tmp_path / "whole")
    for name in ("within", "after"):
        state = search.start_or_resume(settings, tmp_path / name)
        search.search_epoch(state)
        if name == "within":
            state.epoch, state.step = 0, 2  # as at a checkpoint within the epoch
            state.tracker.macs //= 2
        else:
            search.record_epoch(state)
            state.epoch, state.step, state.means = 1, 0, type(state.means)()
        state.save()
        kept = state.tracker.macs
        again = search.start_or_resume(settings, tmp_path / name)
        assert again.tracker.macs == kept and again.tracker.total_macs() == state.tracker.total_macs()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "timing.jsonl").read_text().splitlines()]
    assert [line["macs"] for line in lines] == 3 * [cost_of(tmp_path / "whole")["macs"] / 3]


def test_a_step_that_is_replayed_counts_as_at_its_last_call(tmp_path):
    tracker = state_of(tmp_path).tracker
    calls = iter([5, 0, 0, 7])  # what the step itself counts: nothing where a CUDA graph is replayed

    def step() -> dict:
        tracker.macs += next(calls)
        return {}

    run = counted(tracker, step)
    tracker.macs = 0
    totals = []
    for _ in range(4):
        run()
        totals.append(tracker.macs)
    assert totals == [5, 10, 15, 22]


def test_a_budget_ends_a_search_by_gradients_with_its_epoch(tmp_path):
    one = spent(tmp_path / "one", "method=darts")["macs"]
    search.run(composed("search", *TINY_SEARCH, "method=darts", f"budget.macs={1.5 * one}"), tmp_path / "two")
    assert cost_of(tmp_path / "two") == cost_of(tmp_path / "two") | {"macs": 2 * one, "epochs": 2.0}


SCORED = [*TINY_SCORES, "method=random", "evaluator.train.epochs=1", "evaluator.train.batch_size=16",
          "evaluator.network.channels=2", "evaluator.network.cells=3"]  # fmt: skip


def test_a_budget_begins_no_evaluation_beyond_it(tmp_path):
    blackbox.run(composed("search", *SCORED, "budget.evaluations=3"), tmp_path / "three")
    lines = [json.loads(line) for line in (tmp_path / "three" / "history.jsonl").read_text().splitlines()]
    costs = [line["cost/macs"] for line in lines]
    assert cost_of(tmp_path / "three")["macs"] == sum(costs) and min(costs) > 0
    limit = f"budget.macs={costs[0] + costs[1] + 0.5 * costs[2]}"
    blackbox.run(composed("search", *SCORED, "budget.evaluations=null", limit), tmp_path / "two")
    assert cost_of(tmp_path / "two")["evaluations"] == 2


def test_a_brief_training_counts_three_passes_an_epoch_and_its_evaluation(tmp_path):
    found = blackbox.run(composed("search", *SCORED, "budget.evaluations=1"), tmp_path)
    size = composed("search", *SCORED).evaluator.network
    cell = from_json((tmp_path / "genotype.json").read_text())
    shape = shape_of(composed("search", *SCORED).dataset)
    network = build_network(cell, size.cells, size.channels, size.stem_reductions, shape, False)
    image = torch.zeros(1, *shape.map_shape)
    assert cost_of(tmp_path)["macs"] == (3 * IMAGES + IMAGES) * count_macs(network, image)
    assert found.provenance["evaluations"] == 1


def test_multiply_adds_are_no_budget_of_a_table():
    with pytest.raises(UserError, match=re.escape("budget.macs is 1000.0; it must be null with a table")):
        composed("search", "method=random", "space=nasbench201", "evaluator=table", "benchmark.table=x",
                 "budget.macs=1000")  # fmt: skip
