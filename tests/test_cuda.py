"""Every method on a real GPU, where there is one: against the CPU in float64, and replayed as a graph.

`python -m darts.benchmark gpu=correctness` checks engines, orders, precisions, layouts and resuming.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from darts.benchmark import checks
from darts.models.settings import Engine
from darts.runtime.settings import Precision
from darts.search import loop as search
from tests.conftest import GRADIENT_METHODS, composed
from tests.test_methods import SHORT

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SMALL = (
    *("network.channels=4", "network.cells=5", "dataset.image_size=16", "search.batch_size=8", "space.nodes=2"),
    *("dataset.crop_padding=2",),
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@needs_gpu
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_a_step_of_every_method_is_that_of_the_cpu(name, tmp_path):
    require_step(name, CUDA, tmp_path)


@pytest.mark.parametrize("name", ["darts", "snas"])
def test_the_check_itself_on_the_cpu(name, tmp_path):
    require_step(name, CPU, tmp_path)


def require_step(name, device, folder):
    """The loss and gradients of a step, or finite ones where the step draws: devices draw other numbers."""
    settings = composed("benchmark", *SMALL, f"method={name}", *SHORT.get(name, []))
    if not settings.method.random:
        errors = checks.step_errors(settings, device, folder)
        assert errors["right"], errors
        return
    state = checks.first_state(settings, device, folder)
    before = checks.left_by(state)
    after = checks.take_steps(state, checks.raw_batches(state, 2))
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    moves = search.moves_alpha(state, 1 - 1e-9)
    assert moves == any(not torch.equal(before[key], after[key]) for key in before if key.startswith("alpha"))
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("weight"))


@needs_gpu
@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_replays_of_every_method_that_may_be_recorded(name, engine, tmp_path):
    settings = composed("benchmark", *SMALL, f"method={name}", *SHORT.get(name, []))
    if settings.method.random or not settings.method.stays_on_device:
        pytest.skip("its steps are refused as graphs")
    settings = dataclasses.replace(settings, engine=engine, precision=Precision.fp32)
    found = checks.replays(settings, CUDA, tmp_path)
    assert found["right"], found
