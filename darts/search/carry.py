"""What a search of a text carries from piece to piece, and the dropout masks of its passes; nothing for images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from darts.runtime import distributed
from darts.runtime.schema import Part, Schema, SchemaError, like_tensor
from darts.search.build import SearchedData
from darts.search.settings import SearchSettings, TextSearchSettings
from darts.tasks.pieces import TextSearchData
from darts.tasks.settings import DropoutMasks

if TYPE_CHECKING:
    from darts.search.state import SearchState


def whole_carry(data: SearchedData, carry: Mapping[str, Tensor]) -> dict[str, Any]:
    """The part of a checkpoint: by split what the next piece begins with, of the columns of all processes."""
    if not isinstance(data, TextSearchData):
        return {}
    return {"carry": {split: distributed.unsharded(own, data.train.columns) for split, own in carry.items()}}


def carry_schema(data: SearchedData, settings: SearchSettings) -> Schema:
    """What that part must hold."""
    if not (isinstance(settings, TextSearchSettings) and isinstance(data, TextSearchData)):
        return {}
    one = like_tensor(torch.zeros(data.train.columns, settings.language.units))
    return {"carry": Part({"train": one, "valid": one})}


def own_carry(saved: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Of what a checkpoint holds the columns of this process; `SchemaError` where it holds none within an epoch."""
    carry = saved.get("carry", {})
    if "carry" in saved and "train" not in carry and saved["position"]["step"]:
        raise SchemaError("carry is empty within an epoch")
    return {split: distributed.own_rows(whole).to(device) for split, whole in carry.items()}


def own_pass(state: SearchState) -> list[int]:
    """What tells a pass from the others of its step, where each has dropout masks of its own."""
    settings = state.settings
    if not (isinstance(settings, TextSearchSettings) and settings.language.masks is DropoutMasks.INDEPENDENT):
        return []
    state.passes += 1
    return [state.passes]
