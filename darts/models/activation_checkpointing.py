"""Activation checkpointing of a cell: what is computed within it is computed again for the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from darts.models.mixture import MixtureWeights


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Whatever the block does to them, the module's buffers are after it what they were."""
    held = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in held:
            buffer.data.copy_(value)  # .data: autograd need not know, the value is the old one


def checkpointed(cell: nn.Module, *inputs: Tensor | MixtureWeights | None) -> Tensor:
    """The cell's output, without keeping what is within: the backward pass computes it again.

    The weights are those that the cell has now, also where `functional_call` lent them to it. The second computation
    leaves running statistics as they are.
    """
    weights = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}

    def run(*given: Tensor | MixtureWeights | None) -> Tensor:
        return functional_call(cell, weights, given)

    contexts = lambda: (nullcontext(), _unchanged_buffers(cell))  # noqa: E731
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
