"""Does alpha's gradient point anywhere? How alike it is over independent batches, and over draws on one batch.

In small trials of the authors' recurrent search the cosine between two batches' gradients was about zero under the
published dropout; where it is, alpha follows noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from darts.models.batch_norm import frozen_statistics
from darts.models.mixture import Moment
from darts.runtime import distributed
from darts.search.state import SearchState
from darts.search.step import bilevel_problem, loss_on
from darts.tasks.task import Batch


def gradient_metrics(state: SearchState, repeats: int) -> dict[str, float]:
    """Measure `repeats` gradients of alpha on different batches and, where a step draws, on one batch by other draws.

    By "batches" and "draws": the mean cosine of every two, and the norm of their mean over the mean of their norms (1
    where all are equal, about 1 / sqrt(repeats) where they are noise). Weights, alpha and statistics stay as they are.
    Every process returns the same.
    """
    pairs = list(itertools.islice(batch_pairs(state), repeats))
    found = alike("batches", [architecture_gradient(state, *pair) for pair in pairs])
    if state.draws():
        repeated = [architecture_gradient(state, *pairs[0], draw=number) for number in range(1, repeats + 1)]
        found |= alike("draws", repeated)
    return found


def batch_pairs(state: SearchState) -> Iterator[tuple[Batch, Batch]]:
    """A training and a validation batch for each repeat, from the beginning of the next epoch; the former twice where
    there is one level.
    """
    joined = state.settings.method.hypergradient.single_level
    train = state.data.joined() if joined else state.data.train
    valid = train if joined else state.data.valid
    following = state.epoch + 1
    for first, second in zip(train.shuffled_raw(following), valid.shuffled_raw(following), strict=False):
        yield train.prepared(first), valid.prepared(second)


def architecture_gradient(state: SearchState, train: Batch, valid: Batch, draw: int = 0) -> Tensor:
    """The gradient by which a step moves alpha, flat, in float64; `draw`: other random numbers than a step's."""
    rule, moment = state.settings.method.hypergradient, _moment(state)
    before, state.inner_step = state.inner_step, draw
    try:
        with frozen_statistics(state.supernet):
            if rule.single_level:
                weights = [weight.detach() for weight in state.supernet.parameters()]
                alpha = list(state.alpha.values())
                loss = loss_on(state, train, moment, regularised=True)(weights, alpha)
                own = list(torch.autograd.grad(loss, alpha, materialize_grads=True))
            else:
                own, _ = rule(bilevel_problem(state, train, valid, moment, []))
    finally:
        state.inner_step = before
    return torch.cat([gradient.detach().flatten().double().cpu() for gradient in distributed.all_reduce(own)])


def _moment(state: SearchState) -> Moment:
    """The end of the present epoch."""
    return state.moment(1)


def alike(over: str, gradients: Sequence[Tensor]) -> dict[str, float]:
    """The mean cosine of every two gradients, and the norm of their mean over the mean of their norms."""
    norms = torch.stack([gradient.norm() for gradient in gradients])
    if len(gradients) < 2 or float(norms.min()) == 0:
        return {}
    units = torch.stack(list(gradients)) / norms[:, None]
    cosines = (units @ units.T)[*torch.triu_indices(len(units), len(units), offset=1)]
    ratio = torch.stack(list(gradients)).mean(0).norm() / norms.mean()
    return {f"gradient/{over}_cosine": float(cosines.mean()), f"gradient/{over}_ratio": float(ratio)}
