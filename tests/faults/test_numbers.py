"""A number that is none stops a run within the step it comes in, is named, and is never saved."""

from __future__ import annotations

import math

import pytest
import torch

from darts.loop.optimisation import RunningMeans
from darts.runtime.checkpoint import Checkpoints
from darts.runtime.errors import NotFiniteError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.published import published
from darts.tasks.batches import Preparation
from darts.tasks.task import Mean
from darts.train import retraining as retrain
from tests.conftest import TINY_SEARCH, TINY_TRAIN, composed, some


def poisoned_images(patch, batches: int):
    """The images of the given augmented batch are NaN."""
    original, seen = Preparation.augmented, []

    def augmented(self, raw):
        seen.append(raw)
        batch = original(self, raw)
        return batch._replace(inputs=batch.inputs * math.nan) if len(seen) == batches else batch

    patch.setattr(Preparation, "augmented", augmented)


def at_second_step(patch, module, name: str, poison):
    """Do something to the state before the second call of a step."""
    original, calls = getattr(module, name), []

    def step(state, *arguments):
        calls.append(name)
        if len(calls) == 2:
            poison(state)
        return original(state, *arguments)

    patch.setattr(module, name, step)


def first(tensors) -> torch.Tensor:
    return next(iter(tensors))


PLACES = {
    "training images": "the training loss",
    "validation images": "the validation loss",
    "weight": "the validation loss",
    "weight's gradient": "the norm of the weights' gradient",
    "alpha": "the validation loss",
    "alpha's gradient": "the norm of alpha's gradient",
}


def plant(patch, place: str):
    steps = "architecture_step"
    if place.endswith("images"):
        return poisoned_images(patch, 3 if place.startswith("training") else 4)  # two a step: training, validation
    if place == "weight":
        return at_second_step(patch, search_steps, steps, lambda s: first(s.supernet.parameters()).data.fill_(math.nan))
    if place == "alpha":
        return at_second_step(patch, search_steps, steps, lambda s: first(s.alpha.values()).data.fill_(math.inf))
    if place == "alpha's gradient":
        return at_second_step(
            patch, search_steps, steps, lambda s: first(s.alpha.values()).register_hook(lambda g: g * math.nan)
        )
    return at_second_step(
        patch, search_steps, "weight_step", lambda s: first(s.supernet.parameters()).register_hook(lambda g: g / 0)
    )


@pytest.mark.parametrize("place", some(PLACES, "weight's gradient", "alpha"))
def test_a_planted_nan_stops_the_search_in_its_step_and_the_checkpoint_before_it_is_whole(
    place, tmp_path, monkeypatch, injected
):
    settings = composed("search", *TINY_SEARCH, "checkpoint.minutes=1e-9")
    plant(monkeypatch, place)
    with pytest.raises(NotFiniteError, match=f"epoch 1, step 2, learning rate .*: {PLACES[place]} is (nan|inf)"):
        search.run(settings, tmp_path)
    saved = Checkpoints(tmp_path).load()
    assert saved["position"] == {"epoch": 0, "step": 1, "ended": False}
    tensors = [*saved["supernet"].values(), *saved["alpha"].values(), *saved["momentum"].values()]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    monkeypatch.undo()
    assert search.run(settings, tmp_path).cells  # and the search goes on from it
    injected("number that is none")


@pytest.mark.parametrize("place", ["images", "weight's gradient"])
def test_a_planted_nan_stops_retraining(place, tmp_path, monkeypatch, injected):
    settings = composed("final", *TINY_TRAIN, "checkpoint.minutes=1e-9")
    if place == "images":
        poisoned_images(monkeypatch, 2)
    else:
        poison = lambda s: first(s.network.parameters()).register_hook(lambda g: g / 0)  # noqa: E731
        at_second_step(monkeypatch, retrain, "train_step", poison)
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 2, learning rate .* is (nan|inf)"):
        retrain.run(settings, published("darts_v2"), tmp_path)
    assert Checkpoints(tmp_path).load()["position"]["step"] == 1
    injected("number that is none")


def test_what_is_not_finite_is_never_saved(tmp_path):
    state = search.start_or_resume(composed("search", *TINY_SEARCH), tmp_path)
    state.save()
    first(state.alpha.values()).data.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="alpha normal is not finite, and is not saved"):
        state.save()
    assert bool(first(Checkpoints(tmp_path).load()["alpha"].values()).isfinite().all())


def test_sums_on_other_devices_are_looked_at_now_and_then():
    means = RunningMeans()
    means.add("train/loss", Mean(torch.tensor(math.inf), 4))
    with pytest.raises(NotFiniteError, match="train/loss is inf"):
        means.require_finite()
