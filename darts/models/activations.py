"""Candidates of a recurrent cell: functions of a tensor, entry by entry, registered by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from darts.config.registry import activations as ACTIVATIONS
from darts.config.registry import register
from darts.runtime.errors import unknown

Activation = Callable[[Tensor], Tensor]


@register("activation", "none")
def _none(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


@register("activation", "identity")
def _identity(x: Tensor) -> Tensor:
    return x


@register("activation", "tanh")
def _tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@register("activation", "relu")
def _relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@register("activation", "sigmoid")
def _sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def all_activations(names: Iterable[str]) -> bool:
    """Whether all names are of registered activations, as those of a recurrent cell are."""
    return set(names) <= set(ACTIVATIONS)


def activation(name: str, place: str = "space.candidates: activation") -> Activation:
    """Return a registered activation; raises `UserError` with the nearest right name for an unknown one."""
    if name not in ACTIVATIONS:
        raise unknown(place, name, ACTIVATIONS)
    found: Activation = ACTIVATIONS[name]
    return found
