"""What found networks will cost: on constraints.device, and on each device that alpha is learnt for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from darts.methods.preference import AlongFront
from darts.models.cost import CostModel, tell_of_latency
from darts.models.latency import SETTING, CellLatencies, Latencies, cell_latencies, latencies_of
from darts.runtime.errors import UserError
from darts.search.settings import SearchSettings
from darts.spaces.search_space import InputShape


def cost_model(settings: SearchSettings, shape: InputShape, device: torch.device, folder: Path) -> CostModel | None:
    """What the found network will cost, where that is limited."""
    also = settings.method.preference.costs(by_table=settings.constraints.latency_table is not None)
    if not (settings.constraints.any or also):
        return None
    latencies = latencies_of(settings.constraints, settings.space, shape)
    model = CostModel(settings.constraints, settings.space, shape, device, latencies, also)
    tell_of_latency(model.names, latencies, device)
    model.keep_latency(folder)
    return model


def latencies_by_device(settings: SearchSettings, own: Latencies | None) -> dict[str, CellLatencies]:
    """By device that alpha is learnt for, its latencies; {} where alpha knows no devices.

    `own`: those of constraints.latency_table. `UserError` for a device that it lacks, and for a table of operations.
    """
    rule, setting = settings.method.preference, "method.preference.devices"
    if not isinstance(rule, AlongFront) or not rule.devices:
        return {}
    if not isinstance(own, CellLatencies):
        told = f"[] with a {SETTING} of operations, which are of one machine"
        raise UserError(f"{setting} is {rule.devices!r}; it must be {told}")
    return {name: cell_latencies(own.table, name, settings.space, setting) for name in rule.devices}


def costs_by_device(settings: SearchSettings, costs: CostModel | None) -> dict[str, CostModel]:
    """By device that alpha is learnt for, what networks cost on it; {} where alpha knows no devices."""
    if costs is None:
        return {}
    by_device = latencies_by_device(settings, costs.latencies)
    return {name: dataclasses.replace(costs, latencies=latencies) for name, latencies in by_device.items()}
