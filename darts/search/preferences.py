"""Which alpha a search has: the one there is, or that of a preference between loss and cost, which every step draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from darts.methods.preference import AlongFront
from darts.models.settings import LATENCY
from darts.runtime import distributed

if TYPE_CHECKING:
    from darts.search.state import SearchState


def alpha_at(
    state: SearchState,
    parameters: Mapping[str, Tensor],
    preference: Tensor | float | None = None,
    tables: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Alpha, (edges, candidates) by cell type, of a preference; without one, of that by which the search is judged.

    `tables`: the device's costs by cell type, as in `CostModel.scaled`; without them those of constraints.device.
    """
    rule, kinds = state.settings.method.preference, state.settings.space.cell_types
    if not isinstance(rule, AlongFront):
        return dict(parameters)
    wanted = rule.chosen if preference is None else preference
    if tables is None and state.costs is not None:
        tables = state.costs.scaled.get(LATENCY)
    known = tables or {}
    return {
        name: rule.alpha(own, wanted, known.get(name)) if name in kinds else own for name, own in parameters.items()
    }


def alpha_of_step(state: SearchState, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Alpha of the preference, and of the device, that the present step has drawn."""
    device = step_device(state)
    if device is None:
        return alpha_at(state, parameters, step_preference(state))
    tables = {}
    for kind in state.settings.space.cell_types:
        of_all = torch.stack([costs.scaled[LATENCY][kind] for costs in state.devices.values()])
        tables[kind] = of_all.index_select(0, device)[0]
    return alpha_at(state, parameters, step_preference(state), tables)


def step_preference(state: SearchState) -> Tensor | None:
    """The preference of the present step, the same on every process and at every call; None where there is none."""
    if not state.settings.method.preference.draws:
        return None
    with state.noise("preference"):
        return torch.rand((), device=state.device)


def step_device(state: SearchState) -> Tensor | None:
    """The number of the present step's device, (1,), the same on every process and at every call; None without any."""
    if not state.devices:
        return None
    with state.noise("device"):
        return torch.randint(len(state.devices), (1,), device=state.device)


def scores_at(
    state: SearchState, preference: float | None = None, tables: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What discretisation ranks at a preference and on a device, as `alpha_at` takes them."""
    alpha = alpha_at(state, state.alpha, preference, tables)
    return state.settings.method.scores(alpha, state.masks, state.settings.space)


def preferred(state: SearchState, loss: Tensor, alpha: Mapping[str, Tensor]) -> Tensor:
    """This process's part of a loss with the expected cost beside it, as the step's preference weighs the two."""
    method, preference = state.settings.method, step_preference(state)
    rule = method.preference
    if preference is None or state.costs is None or not isinstance(rule, AlongFront):
        return loss
    kinds = state.settings.space.cell_types
    scores = {kind: method.relaxation.scores(alpha[kind], state.masks[kind]) for kind in kinds}
    device, name = step_device(state), state.costs.also[0]
    if device is None:
        cost = state.costs.relative(name, scores)
    else:
        of_all = [costs.relative(name, scores) for costs in state.devices.values()]
        cost = torch.stack(of_all).index_select(0, device)[0]
    return rule.weighed(loss, cost / distributed.world_size(), preference)
