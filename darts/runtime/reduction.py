"""Sums over processes that gradients pass through, and gradients and losses of the whole batch.

Each process computes its part of a loss (distributed.py). A part of a method returns its process's part, which
search/step.py sums; one that needs a total before that calls `problem.all_reduce`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from darts.runtime import distributed
from darts.runtime.distributed import all_reduce_, world_size

T = TypeVar("T")


def differentiable_all_reduce(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, differentiable any number of times: gradients are summed as well."""
    return tensor if world_size() == 1 else _AllReduce.apply(tensor)


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        all_reduce_(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return differentiable_all_reduce(grad_outputs[0])


Part = Generator[Tensor, Tensor, T]  # yields a vector of sums, is sent its total over all processes, and returns T


def run_in_step(parts: Sequence[Part[T]]) -> list[T]:
    """Run several parts of a computation at once; what all of them yield in a round is summed in one message."""
    results: dict[int, T] = {}
    pending: dict[int, Any] = dict.fromkeys(range(len(parts)))  # by part, what it is sent next
    while pending:
        yielded = {}
        for index, total in pending.items():
            try:
                yielded[index] = parts[index].send(total)
            except StopIteration as end:
                results[index] = end.value
        pending = _totals(yielded)
    return [results[index] for index in range(len(parts))]


def _totals(yielded: dict[int, Tensor]) -> dict[int, Tensor]:
    """The sums over all processes of the vectors that parts have yielded, by part."""
    if not yielded:
        return {}
    sizes = [len(sums) for sums in yielded.values()]
    total = differentiable_all_reduce(torch.cat(list(yielded.values())))
    return dict(zip(yielded, total.split(sizes), strict=True))


def gradients(loss: Tensor, tensors: Sequence[Tensor], differentiable: bool = False) -> list[Tensor]:
    """Gradients of the whole batch's loss, of which each process has a part; zeros where it does not depend.

    With `differentiable` they can be differentiated again.
    """
    own = torch.autograd.grad(loss, list(tensors), create_graph=differentiable, materialize_grads=True)
    if differentiable:
        return [differentiable_all_reduce(gradient) for gradient in own]
    return distributed.all_reduce(own)


def whole_loss(loss: Tensor) -> Tensor:
    """The loss of the whole batch, detached; each process has a part of it."""
    (total,) = distributed.all_reduce([loss.detach()])
    return total
