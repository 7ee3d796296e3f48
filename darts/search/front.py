"""The front that one search has learnt: cells of many preferences, judged by the supernet and by their cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from darts.blackbox.pareto import front
from darts.methods.preference import AlongFront
from darts.models.cost import CostModel
from darts.models.settings import LATENCY
from darts.runtime import distributed
from darts.search.epoch_end import path_accuracy
from darts.search.preferences import scores_at
from darts.search.state import SearchState
from darts.spaces.genotype import Genotype


def learnt_fronts(state: SearchState) -> dict[str, list[Mapping[str, Any]]]:
    """By device, constraints.device first, the cells of all preferences that no other beats in accuracy and in cost.

    From the cheapest on; a line holds preference, accuracy by the supernet (or the task's metric so that more is
    better), cost, cells. Every process returns the same.
    """
    if state.costs is None:
        raise TypeError("a front is of costs")
    known: dict[str, float] = {}  # accuracies by genotype: devices share cells
    by_device = {own_device(state): state.costs, **state.devices}
    return {device: front_of(state, costs, known) for device, costs in by_device.items()}


def front_of(state: SearchState, costs: CostModel, known: dict[str, float]) -> list[Mapping[str, Any]]:
    """The front on one device; accuracies that are not `known` are added to it."""
    lines = []
    for preference, genotype in cells_of_preferences(state, costs).items():
        name = genotype.digest()
        if name not in known:
            known[name] = path_accuracy(state, genotype, None)
        own = distributed.broadcast(costs.measured(genotype))
        cells = {kind: cell.nodes for kind, cell in genotype.cells.items()}
        lines.append({"preference": preference, "accuracy": known[name], **own, "cells": cells})
    return front(lines, [cost_of_front(state)])


def own_device(state: SearchState) -> str:
    """constraints.device; "" where it is null."""
    return state.settings.constraints.device or ""


def cost_of_front(state: SearchState) -> str:
    """The cost beside the accuracy."""
    if state.costs is None:
        raise TypeError("a front is of costs")
    return state.costs.also[0]


def rule_of(state: SearchState) -> AlongFront:
    """How the search's alpha follows the preference; `TypeError` where it does not."""
    rule = state.settings.method.preference
    if not isinstance(rule, AlongFront):
        raise TypeError(f"{type(rule).__name__} has one cell")
    return rule


def cells_of_preferences(state: SearchState, costs: CostModel) -> dict[float, Genotype]:
    """By the first preference that has it, each different genotype of the device whose costs these are."""
    rule, settings = rule_of(state), state.settings
    found: dict[str, tuple[float, Genotype]] = {}
    for number in range(rule.cells):
        preference = number / (rule.cells - 1)
        with torch.no_grad():
            scores = scores_at(state, preference, costs.scaled.get(LATENCY))
        genotype = settings.method.discretisation.genotype(scores, settings.space)
        found.setdefault(genotype.digest(), (preference, genotype))
    return dict(found.values())
