"""Two ways to run a module without its usual side effects: statistics that stand still, maps that are not kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from darts.mixture import Paths


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block batch norms normalise by the batch, as in training, but their running statistics stand still."""
    norms = [layer for layer in module.modules() if getattr(layer, "track_running_stats", False)]
    for layer in norms:
        layer.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in norms:
            layer.track_running_stats = True  # type: ignore[assignment]


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Whatever the block does to them, the module's buffers are after it what they were."""
    held = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in held:
            buffer.data.copy_(value)  # .data: autograd need not know, the value is the old one


def checkpointed(cell: nn.Module, *inputs: Tensor | Paths | None) -> Tensor:
    """The cell's output, without keeping what is within: the backward pass computes it again.

    The weights are those that the cell has now, also where `functional_call` lent them to it. The second computation
    leaves running statistics as they are.
    """
    weights = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}

    def run(*given: Tensor | Paths | None) -> Tensor:
        return functional_call(cell, weights, given)

    contexts = lambda: (nullcontext(), _unchanged_buffers(cell))  # noqa: E731
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
