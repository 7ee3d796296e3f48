"""Activation checkpointing of a cell: what is computed within it is computed again for the gradient."""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from darts.models.mixture import MixtureWeights
from darts.runtime.device import is_recording

Modes = list[tuple[nn.Module, dict[str, bool]]]  # by layer: what decides how it computes, besides its weights


def _modes(module: nn.Module) -> Modes:
    found: Modes = []
    for layer in module.modules():
        names = [name for name in ("training", "track_running_stats") if hasattr(layer, name)]
        found.append((layer, {name: getattr(layer, name) for name in names}))
    return found


def _set_modes(modes: Modes) -> None:
    for layer, values in modes:
        vars(layer).update(values)


class _AsBefore:
    """Compute within the block in given modes; whatever it does to the module's buffers is undone after it.

    It may be entered again after it was left: for second derivatives a cell is computed more than twice.
    """

    def __init__(self, module: nn.Module, modes: Modes) -> None:
        self.module, self.modes = module, modes

    def __enter__(self) -> None:
        self.now = _modes(self.module)
        self.held = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        _set_modes(self.modes)

    def __exit__(self, *error: object) -> None:
        for buffer, value in self.held:
            buffer.data.copy_(value)  # .data: autograd need not know, the value is the old one
        _set_modes(self.now)


def checkpointed(cell: nn.Module, *inputs: Tensor | MixtureWeights | None) -> Tensor:
    """The cell's output, without keeping what is within: the backward pass computes it again.

    The weights are those that the cell has now, also where `functional_call` lent them to it; the modes of its batch
    norms and the random numbers are those of now as well, also where the backward pass comes later, outside the block
    that set them. The second computation leaves running statistics as they are.
    """
    weights = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}

    def run(*given: Tensor | MixtureWeights | None) -> Tensor:
        return functional_call(cell, weights, given)

    modes = _modes(cell)
    contexts = lambda: (nullcontext(), _AsBefore(cell, modes))  # noqa: E731
    keep_draws = not is_recording()
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=keep_draws, context_fn=contexts)
