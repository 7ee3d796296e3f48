"""Plug-ins' operations and layers give maps of the shape that is due, or are refused where they are built."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from darts.runtime.errors import UserError

SHAPE = (2, 9, 8)  # of the map that is tried: images, and an odd and an even side
LEFT = (RuntimeError, ValueError, IndexError, AssertionError, TypeError, KeyError, AttributeError)
OWN = "darts."  # whose modules are held to their shapes by tests


def shape_checked(what: str, build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The constructor of an operation, (channels, stride, affine), or of a layer, (input channels, channels, ...).

    One of a plug-in tries each module on a map of zeros, with the random numbers left as they were, and raises
    `UserError` where something else comes out than a map of the shape that is due. `what` names it. A module that
    raises on so small a map is left to raise where it is used.
    """
    if str(build.__module__).startswith(OWN):
        return build

    def checked(*given: Any) -> nn.Module:
        names = ("input channels", "channels", "stride", "affine")[-len(given) :]
        if not _takes(build, *given):
            raise UserError(f"{what} is a function of other arguments; it must be one of ({', '.join(names)})")
        module = build(*given)
        if not isinstance(module, nn.Module):
            raise UserError(f"{what} returns a {type(module).__name__}; it must return a torch.nn.Module")
        takes_both = _takes(module.forward, None) and _takes(module.forward, None, None)
        if len(given) > 3 and getattr(module, "residual", False) and not takes_both:
            told = "its forward must take a map, and as an optional second argument each sample's factor"
            raise UserError(f"{what} has residual=True; {told}")
        _check_shape(f"{what} with stride {given[-2]}", module, given[0], given[-3], given[-2])
        return module

    return checked


def _takes(function: Callable[..., Any], *given: Any) -> bool:
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        return False
    return True


def _check_shape(what: str, module: nn.Module, input_channels: int, channels: int, stride: int) -> None:
    images, *sides = SHAPE
    shape = (images, input_channels, *sides)
    due = (images, channels, *(-(-side // stride) for side in sides))
    try:
        found = _result(module, shape)
    except LEFT:
        return
    if not isinstance(found, Tensor):
        raise UserError(f"{what} makes a {type(found).__name__} of a map {shape}; it must make a map {due}")
    if found.shape != due:
        raise UserError(f"{what} makes a map {tuple(found.shape)} of a map {shape}; it must make {due}")


@torch.no_grad()
def _result(module: nn.Module, shape: tuple[int, ...]) -> Any:
    """What a copy of a module makes of zeros. Random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        return copy.deepcopy(module).eval()(torch.zeros(shape))
