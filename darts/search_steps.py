"""One step of the search: alpha down the validation loss, then the weights down the training loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts import parallel
from darts.bilevel import Loss, Problem, whole
from darts.data import Batch, RawBatch
from darts.execution import Sums, autocast, widened
from darts.mixture import Mixture, Progress
from darts.modules import frozen_statistics
from darts.search_state import SearchState
from darts.synchronised import average_statistics
from darts.training import correct, cross_entropy, require_finite, step_down
from darts.weight_rules import WeightProblem


def search_step(state: SearchState, progress: Progress, train_raw: RawBatch, valid_raw: RawBatch, moves: bool) -> Sums:
    """One step of the alternation, augmentation included; `moves`: alpha does. Plain DARTS never waits for a device."""
    train_batch = state.data.weights.preparation.augmented(train_raw)
    valid_batch = state.data.architecture.preparation.augmented(valid_raw)
    first = architecture_step(state, train_batch, valid_batch, progress) if moves else {}
    return first | weight_step(state, train_batch, valid_batch, progress)


def architecture_step(state: SearchState, train_batch: Batch, valid_batch: Batch, progress: Progress = 0.0) -> Sums:
    """Move alpha down the hypergradient; weights, momentum and running statistics stay as they are."""
    group = state.weight_optimiser.param_groups[0]
    weights, alpha = list(state.supernet.parameters()), list(state.alpha.values())
    problem = Problem(
        train_loss=loss_on(state, train_batch, progress),
        valid_loss=loss_on(state, valid_batch, progress, penalised=True),
        weights=weights,
        alpha=alpha,
        momentum_buffers=[state.weight_optimiser.state[weight].get("momentum_buffer") for weight in weights],
        learning_rate=group["lr"],
        momentum=group["momentum"],
        weight_decay=group["weight_decay"],
    )
    with frozen_statistics(state.supernet):
        slopes, loss = state.settings.method.hypergradient(problem)
    require_finite(loss, "the validation loss")
    require_finite(nn.utils.get_total_norm(slopes), "the norm of alpha's gradient")
    for matrix, slope in zip(alpha, slopes, strict=True):
        matrix.grad = slope
    state.architecture_optimiser.step()
    return {"architecture/loss": loss * len(valid_batch.labels)}


def loss_on(state: SearchState, batch: Batch, progress: Progress = 0.0, penalised: bool = False) -> Loss:
    """The loss of a batch as a function of weights and alpha; `penalised`: with the terms that alpha pays for.

    Random numbers are the same at every evaluation within a step, so that differences of losses make sense.
    """
    names = [name for name, _ in state.supernet.named_parameters()]
    method, space = state.settings.method, state.settings.space

    def loss(weights: Any, alpha: Any) -> Tensor:
        named = dict(zip(state.alpha, alpha, strict=True))
        with state.noise("mixture of alpha"):
            mixture = method.mixture(named, state.masks, progress, space)
        with state.noise("operations for alpha", by_process=True), autocast(state.device, state.settings.precision):
            logits = functional_call(state.supernet, dict(zip(names, weights, strict=True)), (batch.images, mixture))
        penalties = state.penalties(named, progress) if penalised else []
        shares = [penalty / parallel.processes() for penalty in penalties]
        return sum(shares, start=cross_entropy(widened(logits), batch.labels))

    return loss


def weight_step(state: SearchState, batch: Batch, valid_batch: Batch | None = None, progress: Progress = 0.0) -> Sums:
    """Move the weights down the training loss, under the present mixture or what the method makes of it.

    `valid_batch` is for methods that look at both losses' gradients.
    """
    method, weights = state.settings.method, dict(state.supernet.named_parameters())
    first: list[Tensor] = []  # loss and logits of the first evaluation, which is the one that counts
    problem = WeightProblem(
        train_loss=lambda mixture: _loss_under(state, batch, mixture, first),
        valid_loss=lambda mixture: _loss_under(state, valid_batch or batch, mixture, first),
        mixture=_training_mixture(state, batch, progress),
        weights=weights,
        cells=state.cells(),
        to_plain=state.supernet.to_plain,
        progress=progress,
    )
    slopes, state.memory = method.weight_rule.slopes(problem, state.memory)
    require_finite(first[0], "the training loss")
    frozen = state.supernet.marked(method.weight_rule.frozen(state.memory))
    step_down(state.weight_optimiser, weights, slopes, state.settings.weight_optimiser.clip, frozen)
    average_statistics(state.supernet)
    loss, logits = first
    return {"train/loss": loss * len(batch.labels), "train/accuracy": correct(logits, batch.labels)}


def _loss_under(state: SearchState, batch: Batch, mixture: Mapping[str, Any], first: list[Tensor]) -> Tensor:
    """The loss under a mixture; running statistics move by the first evaluation alone."""
    with frozen_statistics(state.supernet) if first else nullcontext():
        logits = _logits(state, batch, mixture)
    loss = cross_entropy(logits, batch.labels)
    if not first:
        first += [whole(loss), logits.detach()]
    return loss


def _logits(state: SearchState, batch: Batch, mixture: Mapping[str, Any]) -> Tensor:
    with state.noise("operations", by_process=True), autocast(state.device, state.settings.precision):
        return widened(state.supernet(batch.images, mixture))


def _training_mixture(state: SearchState, batch: Batch, progress: Progress) -> Mixture:
    """What the weights are trained under, without a gradient."""
    method = state.settings.method
    with torch.no_grad(), state.noise("mixture"):
        mixture = method.mixture(state.alpha, state.masks, progress, state.settings.space)

    def loss_under(other: Mapping[str, Any]) -> Tensor:
        state.supernet.eval()
        loss = cross_entropy(_logits(state, batch, other), batch.labels)
        state.supernet.train()
        return loss

    with state.noise("perturbation"):
        matrices = {kind: weights for kind, weights in mixture.items() if isinstance(weights, Tensor)}
        return method.perturbation(matrices, loss_under, progress) if method.perturbation.changes else mixture
