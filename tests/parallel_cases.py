"""What test_parallel.py runs in one process and, by torchrun, in two: a few steps in float64, and what they lead to."""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

import torch

from darts.runtime import distributed
from darts.runtime.settings import ParallelSettings
from darts.search import epoch_end as search_record
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.published import published
from darts.train import retraining as retrain
from tests.conftest import TINY, TINY_SEARCH, composed

CALM = ["weight_optimiser.learning_rate=2e-3", "architecture_optimiser.learning_rate=3e-3", "search.batch_size=18"]
ENGINES = {
    f"{engine} {method}": [f"method={method}", f"engine={engine}"]
    for engine, method in itertools.product(("reference", "fused"), ("darts", "darts_second_order"))
}
METHODS = {
    name: [f"method={name}", "network.channels=4"]
    for name in (
        "pc_darts",
        "sdarts_adv",
        "drnas",
        "gdas",
        "idarts",
        "oles",
        "fair_darts",
        "darts_minus",
        "darts_front",
    )
}
VARIANTS = {
    "lambda_darts": ["method=lambda_darts", "network.cells=5"],
    "checkpointed cells": ["method=darts_second_order", "memory.activation_checkpointing=true"],
    "limited": ["constraints.parameters=2e4"],
    "a last batch of one image for each process": ["search.batch_size=16"],
    "another space": ["space=nasbench201", "space.nodes=3", "space.candidates=[none,skip_connect,nor_conv_3x3]"],
}
SEARCHES = ENGINES | METHODS | VARIANTS
STEPS = 4  # the last of an epoch, of 14 images, among them


def copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What later changes do not reach."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def searched(overrides: list[str], steps: int = STEPS) -> dict[str, torch.Tensor]:
    """Weights, statistics, momentum and alpha after so many steps, the losses, the supernet's own accuracy."""
    settings = composed("search", *TINY_SEARCH, *CALM, *overrides)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        state = search.start_or_resume(settings, Path(folder))
        state.supernet.double()
        for matrix in state.alpha.values():
            matrix.data = matrix.data.double()
        halves = state.data.train, state.data.valid
        pairs = zip(*(half.shuffled(0, 0, steps) for half in halves), strict=True)
        for step, batches in enumerate(pairs):
            train, valid = (batch._replace(inputs=batch.inputs.double()) for batch in batches)
            state.step = step
            sums = search_steps.architecture_step(state, train, valid) | search_steps.weight_step(state, train, valid)
            for name, mean in sums.items():
                state.means.add(name, mean)
        supernet = state.supernet
        found |= {
            f"state {name}": value for name, value in supernet.to_reference(copied(supernet.state_dict())).items()
        }
        found |= {f"momentum {name}": value for name, value in supernet.to_reference(copied(state.momentum())).items()}
        found |= {f"alpha {name}": value.detach().clone() for name, value in state.alpha.items()}
        found |= {f"mean {name}": torch.tensor(value) for name, value in state.means.means().items()}
        supernet.float()
        for matrix in state.alpha.values():
            matrix.data = matrix.data.float()
        found["valid accuracy"] = torch.tensor(
            search_record.validation_metrics(state, state.deterministic_mixture())["accuracy"]
        )
        state.tracker.close()
    return found


def curvature() -> dict[str, torch.Tensor]:
    """The dominant eigenvalue of a supernet before its first step."""
    settings = composed("search", *TINY_SEARCH, *CALM)
    with tempfile.TemporaryDirectory() as folder:
        state = search.start_or_resume(settings, Path(folder))
        return {"eigenvalue": torch.tensor(search_record.eigenvalue(state))}


def retrained(overrides: list[str]) -> dict[str, torch.Tensor]:
    """Weights, statistics and momentum after an epoch of retraining, all it has: drop path, cutout, auxiliary head."""
    drops = ["train.drop_path=0.3", "train.cutout=8", "train.auxiliary_weight=0.4", "train.epochs=2"]
    settings = composed(
        "final", *TINY, *drops, "train.batch_size=33", "weight_optimiser.learning_rate=2e-3", *overrides
    )
    with tempfile.TemporaryDirectory() as folder:
        state = retrain.start_or_resume(settings, published("darts_v2"), Path(folder))
        state.network.double()
        exact = tuple(value.double() for value in state.data.preparation._normalisation)
        state.data.preparation.__dict__["_normalisation"] = exact
        state.epoch = 1  # from the second epoch on paths are dropped
        for step, raw in enumerate(state.data.train.shuffled_raw(1)):
            state.step = step
            sums = retrain.train_step(state, raw, *retrain.drop_path(state, len(raw.labels)))
            for name, mean in sums.items():
                state.means.add(name, mean)
        found = {f"state {name}": value for name, value in state.network.state_dict().items()}
        momentum = [state.optimiser.state[weight]["momentum_buffer"] for weight in state.network.parameters()]
        found |= {f"momentum {index}": value for index, value in enumerate(momentum)}
        found |= {f"mean {name}": torch.tensor(value) for name, value in state.means.means().items()}
        state.tracker.close()
    return found


def everything(names: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """All cases, or those named."""
    cases = {name: (lambda overrides=overrides: searched(overrides)) for name, overrides in SEARCHES.items()}
    cases |= {"retrained": lambda: retrained([]), "eigenvalue": curvature}
    return {name: case() for name, case in cases.items() if not names or name in names}


if __name__ == "__main__":
    out, apart, *wanted = sys.argv[1:]
    with distributed.process_group(ParallelSettings(apart != "apart", 1.0), "cpu", False):
        torch.save(everything(wanted), f"{out}.{distributed.rank()}")
    distributed.end_at_once(0)
