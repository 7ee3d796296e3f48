"""The front that one search has learnt: cells of many preferences, judged by the supernet and by their cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from darts.blackbox.pareto import front
from darts.methods.preference import AlongFront
from darts.runtime import distributed
from darts.search.epoch_end import path_accuracy
from darts.search.preferences import scores_at
from darts.search.state import SearchState
from darts.spaces.genotype import Genotype

Line = dict[str, Any]


def learnt_front(state: SearchState) -> list[Mapping[str, Any]]:
    """The different cells of all preferences that no other beats in the supernet's accuracy and in cost.

    From the cheapest on; a line holds preference, accuracy (or the task's metric so that more is better), cost, cells.
    Every process returns the same.
    """
    lines = [line_of(state, preference, genotype) for preference, genotype in cells_of_preferences(state).items()]
    return front(lines, [cost_of_front(state)])


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


def cells_of_preferences(state: SearchState) -> dict[float, Genotype]:
    """By the first preference that has it, each different genotype."""
    rule, settings = rule_of(state), state.settings
    found: dict[str, tuple[float, Genotype]] = {}
    for number in range(rule.cells):
        preference = number / (rule.cells - 1)
        with torch.no_grad():
            scores = scores_at(state, preference)
        genotype = settings.method.discretisation.genotype(scores, settings.space)
        found.setdefault(genotype.digest(), (preference, genotype))
    return dict(found.values())


def line_of(state: SearchState, preference: float, genotype: Genotype) -> Line:
    """What is known of a cell without training it."""
    if state.costs is None:
        raise TypeError("a front is of costs")
    costs = distributed.broadcast(state.costs.measured(genotype))
    accuracy = path_accuracy(state, genotype, None)
    cells = {kind: cell.nodes for kind, cell in genotype.cells.items()}
    return {"preference": preference, "accuracy": accuracy, **costs, "cells": cells}
