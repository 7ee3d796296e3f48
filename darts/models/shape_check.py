"""Plug-ins' operations and layers give maps of the shape that is due, or are refused where they are built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from darts.runtime.errors import UserError

SIDES = (9, 8)  # of the map that is tried: an odd and an even side
OWN = "darts."  # whose modules are held to their shapes by tests


def shape_checked(what: str, build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The constructor of an operation, (channels, stride, affine), or of a layer, (input channels, channels, ...).

    One of a plug-in tries each module on a map of zeros, with the random numbers left as they were, and raises
    `UserError` where another shape comes out. `what` names it. A module that fails on so small a map is left to fail.
    """
    if str(build.__module__).startswith(OWN):
        return build

    def checked(*given: Any) -> nn.Module:
        module = build(*given)
        input_channels, channels, stride = given[0], given[-3], given[-2]
        shape = (1, input_channels, *SIDES)
        due = (1, channels, *(-(-side // stride) for side in SIDES))
        found = _shape_of(module, shape)
        if found not in (None, due):
            raise UserError(f"{what} with stride {stride} makes a map {found} of a map {shape}; it must make {due}")
        return module

    return checked


@torch.no_grad()
def _shape_of(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Of what a module makes of zeros; None where it raises. Modes, statistics and random numbers stay as they are."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            return tuple(module(torch.zeros(shape)).shape)
    except (RuntimeError, ValueError):
        return None
    finally:
        for part, training in modes:
            part.training = training
