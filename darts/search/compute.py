"""How many multiply-adds a search computes, by counting what passes through its supernet.

A pass that is differentiated counts three times. What activation checkpointing computes again does not count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from darts.loop.tracking import Tracker
from darts.models.supernet import SupernetBase
from darts.models.supernet_macs import DIFFERENTIATED
from darts.runtime.device import Outputs, Step, is_recording


def counted(tracker: Tracker, step: Step) -> Step:
    """A step that counts as much as at its last call where it is replayed as a CUDA graph, which calls no supernet."""
    last = 0

    def run(*tensors: Tensor) -> Outputs:
        nonlocal last
        before = tracker.macs
        outputs = step(*tensors)
        last = tracker.macs - before or last
        tracker.macs = before + last
        return outputs

    return run


def count_passes(supernet: SupernetBase, tracker: Tracker) -> None:
    """Add what every call of the supernet computes to the tracker's count of this epoch, over this process's images."""
    macs = supernet.macs
    if macs is None:
        raise TypeError("a supernet that is counted knows its multiply-adds")

    def count(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if is_recording():  # what is recorded has not run yet; `counted` adds it where it is replayed
            return
        times = DIFFERENTIATED if torch.is_grad_enabled() else 1
        tracker.macs += times * macs.of_call(*inputs)

    supernet.register_forward_pre_hook(count)
