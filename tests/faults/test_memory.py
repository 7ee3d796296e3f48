"""Where memory runs out the settings that lower it are named, and what was saved before stays."""

from __future__ import annotations

import pytest
import torch

from darts.runtime.device import memory_advice
from darts.runtime.errors import UserError
from darts.search import epoch_end as search_record
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.published import published
from darts.train import retraining as retrain
from tests.conftest import TINY_SEARCH, TINY_TRAIN, composed
from tests.faults.test_kills import kill_after

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")


@pytest.mark.parametrize("error", [GPU, CPU])
def test_a_lack_of_memory_names_the_settings(error):
    with (
        pytest.raises(UserError, match=r"out of memory .*lower search.batch_size \(64\)"),
        memory_advice("lower search.batch_size (64)"),
    ):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"), memory_advice("advice"):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("module", "place", "calls"),
    [(search_steps, "architecture_step", 4), (search_steps, "weight_step", 5), (search_record, "evaluate", 1)],
)
def test_a_search_out_of_memory_says_what_to_lower_and_keeps_its_checkpoint(
    module, place, calls, tmp_path, monkeypatch, injected
):
    settings = composed("search", *TINY_SEARCH)  # four steps an epoch, an evaluation after each
    kill_after(monkeypatch, module, place, calls, GPU)
    with pytest.raises(
        UserError, match=r"search.batch_size \(16\), network.channels .*memory.activation_checkpointing=true"
    ):
        search.run(settings, tmp_path)
    monkeypatch.undo()
    state = search.start_or_resume(settings, tmp_path)
    assert (state.epoch, state.step) == (1, 0)
    state.tracker.close()
    injected("memory short")


@pytest.mark.parametrize(("place", "calls"), [("train_step", 5), ("evaluate", 0)])
def test_a_retraining_out_of_memory_says_what_to_lower(place, calls, tmp_path, monkeypatch, injected):
    kill_after(monkeypatch, retrain, place, calls, GPU)
    with pytest.raises(UserError, match=r"train.batch_size \(32\)"):
        retrain.run(composed("final", *TINY_TRAIN), published("darts_v2"), tmp_path)
    monkeypatch.undo()
    state = retrain.start_or_resume(composed("final", *TINY_TRAIN), published("darts_v2"), tmp_path)
    assert state.epoch == (1 if place == "train_step" else 2)
    state.tracker.close()
    injected("memory short")
