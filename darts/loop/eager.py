"""Optimisers of torch without their preparations for torch.compile, whose first use takes two seconds to import it."""

from __future__ import annotations

import functools
import inspect
from typing import TypeVar

import torch
from torch.optim import Optimizer

O = TypeVar("O", bound=Optimizer)  # noqa: E741
PREPARED = ("add_param_group", "zero_grad", "load_state_dict", "state_dict")  # methods that may import it


@functools.cache
def eager(kind: type[O]) -> type[O]:
    """The same optimiser with the same arithmetic, whose methods are called as they are written.

    torch wraps them: `step` breaks the graph of a compiler, others are hidden from it. Neither matters where nothing is
    compiled.
    """
    methods = {name: inspect.unwrap(getattr(Optimizer, name)) for name in PREPARED}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step, "__doc__": kind.__doc__})
