"""Which alpha a search has: the one there is, or that of a preference between loss and cost, which every step draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from darts.methods.preference import AlongFront
from darts.runtime import distributed

if TYPE_CHECKING:
    from darts.search.state import SearchState


def alpha_at(
    state: SearchState, parameters: Mapping[str, Tensor], preference: Tensor | float | None = None
) -> dict[str, Tensor]:
    """Alpha, (edges, candidates) by cell type, of a preference; without one, of that by which the search is judged."""
    rule, kinds = state.settings.method.preference, state.settings.space.cell_types
    if not isinstance(rule, AlongFront):
        return dict(parameters)
    wanted = rule.chosen if preference is None else preference
    return {name: rule.alpha(own, wanted) if name in kinds else own for name, own in parameters.items()}


def alpha_of_step(state: SearchState, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Alpha of the preference that the present step has drawn."""
    return alpha_at(state, parameters, step_preference(state))


def step_preference(state: SearchState) -> Tensor | None:
    """The preference of the present step, the same on every process and at every call; None where there is none."""
    if not state.settings.method.preference.draws:
        return None
    with state.noise("preference"):
        return torch.rand((), device=state.device)


def scores_at(state: SearchState, preference: float | None = None) -> dict[str, Tensor]:
    """What discretisation ranks at a preference; without one, at that by which the search is judged."""
    alpha = alpha_at(state, state.alpha, preference)
    return state.settings.method.scores(alpha, state.masks, state.settings.space)


def preferred(state: SearchState, loss: Tensor, alpha: Mapping[str, Tensor]) -> Tensor:
    """This process's part of a loss with the expected cost beside it, as the step's preference weighs the two."""
    method, preference = state.settings.method, step_preference(state)
    rule = method.preference
    if preference is None or state.costs is None or not isinstance(rule, AlongFront):
        return loss
    kinds = state.settings.space.cell_types
    scores = {kind: method.relaxation.scores(alpha[kind], state.masks[kind]) for kind in kinds}
    cost = state.costs.relative(state.costs.also[0], scores) / distributed.world_size()
    return rule.weighed(loss, cost, preference)
