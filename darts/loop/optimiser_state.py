"""What a checkpoint holds of an optimiser, taking it up, and how gradients must lie in memory for one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from darts.runtime.schema import Row, Schema, SchemaError, by_example, like_tensor

# how an optimiser computes, and what a checkpoint says of it
MEANS = {"fused": None, "foreach": None, "capturable": False}


def optimiser_state_dict(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """What a checkpoint holds of an optimiser, which is the same whatever device it runs on, with graphs or without.

    The learning rate is a number and the steps are counted on the host.
    """
    found = optimiser.state_dict()
    for group in found["param_groups"]:
        group.update({name: value for name, value in MEANS.items() if name in group}, lr=float(group["lr"]))
    state = {place: dict(one) for place, one in found["state"].items()}
    for one in state.values():
        if "step" in one:
            one["step"] = one["step"].cpu()
    return {**found, "state": state}


def optimiser_schema(optimiser: torch.optim.Optimizer) -> Schema:
    """What `optimiser_state_dict` may return (runtime/schema.py): nothing for a weight before its first step."""
    groups = optimiser_state_dict(optimiser)["param_groups"]
    tensors = [tensor for group in optimiser.param_groups for tensor in group["params"]]
    adam = isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW)
    own: list[Schema] = []
    for tensor in tensors:
        same = like_tensor(tensor)
        if adam:
            step = like_tensor(torch.zeros(()))
            own.append({"step": step, "exp_avg": same, "exp_avg_sq": same})
        elif isinstance(optimiser, torch.optim.ASGD):
            number = like_tensor(torch.zeros(()))
            own.append({"step": number, "eta": number, "mu": number, "ax": same})
        else:
            own.append({"momentum_buffer": (same, None)})
    return {"state": {int: own}, "param_groups": Row(tuple(by_example(group) for group in groups))}


def load_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take up an optimiser's tensors; its settings stay those that it was made with, and so does what a graph reads.

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
        for weight in group["params"]:
            if weight in optimiser.state:  # one that has taken no step has none, and must not be given an empty one
                optimiser.state[weight].update(_usable(optimiser.state[weight], weight, group))


def _usable(state: dict[str, Any], weight: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    """A weight's part of a state as its optimiser needs it: the count of steps where it is read, and the layout."""
    found = dict(state)
    if "step" in state:
        counted_on = weight.device if group.get("capturable") else "cpu"
        found["step"] = state["step"].to(counted_on)
    for name, value in state.items():
        lies_otherwise = isinstance(value, Tensor) and value.shape == weight.shape and _order(value) != _order(weight)
        if lies_otherwise and weight.device.type != "cpu":
            found[name] = torch.empty_like(weight).copy_(value)
    return found


def lay_out_gradients(weights: Iterable[Tensor]) -> None:
    """Bring gradients into their weights' order in memory, as fused optimisers need it.

    On the CPU they stay: its optimiser takes any order, and sums in another order are other sums.
    """
    lying, laid = [], []
    for weight in weights:
        gradient = weight.grad
        if gradient is not None and weight.device.type != "cpu" and _order(gradient) != _order(weight):
            lying.append(gradient)
            weight.grad = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device=weight.device)
            laid.append(weight.grad)
    if laid:
        torch._foreach_copy_(laid, lying)


def _order(tensor: Tensor) -> list[int]:
    """The strides, but those along sides of 1, which say nothing."""
    return [stride for stride, side in zip(tensor.stride(), tensor.shape, strict=True) if side > 1]
