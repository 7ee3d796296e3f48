"""What a checkpoint holds of an optimiser, and taking it up."""

from __future__ import annotations

from typing import Any

import torch

from darts.runtime.schema import Row, Schema, SchemaError, by_example, like_tensor


def optimiser_schema(optimiser: torch.optim.Optimizer) -> Schema:
    """What the optimiser's `state_dict` may hold (runtime/schema.py): nothing for a weight before its first step."""
    groups = optimiser.state_dict()["param_groups"]
    tensors = [tensor for group in optimiser.param_groups for tensor in group["params"]]
    adam = isinstance(optimiser, torch.optim.Adam)
    own: list[Schema] = []
    for tensor in tensors:
        same = like_tensor(tensor)
        if adam:
            step = like_tensor(torch.zeros(()))
            own.append({"step": step, "exp_avg": same, "exp_avg_sq": same})
        else:
            own.append({"momentum_buffer": (same, None)})
    return {"state": {int: own}, "param_groups": Row(tuple(by_example(group) for group in groups))}


def load_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take up an optimiser's tensors; its settings stay those that it was made with.

    `SchemaError` for a number of steps below 1.
    """
    for place, state in saved["state"].items():
        step = state.get("step")
        if step is not None and not float(step) >= 1:
            raise SchemaError(f"optimiser.state[{place}].step is {float(step)}, not at least 1")
    own = [dict(group) for group in optimiser.param_groups]
    optimiser.load_state_dict(saved)
    for group, settings in zip(optimiser.param_groups, own, strict=True):
        group.update(settings)
