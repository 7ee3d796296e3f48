"""One step of the search: alpha down the validation loss, then the weights down the training loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts.loop.optimisation import Mean, StepMetrics, correct, cross_entropy, require_finite, step_down
from darts.methods.hypergradient import Loss, Problem
from darts.methods.perturbation import PerturbationProblem
from darts.methods.weight_gradient import WeightProblem
from darts.models.batch_norm import average_statistics, frozen_statistics
from darts.models.mixture import Mixture, Progress, dense_mixture
from darts.runtime import distributed
from darts.runtime.device import autocast, widened
from darts.runtime.reduction import whole_loss
from darts.search.state import SearchState
from darts.tasks.batches import Batch, RawBatch


def search_step(
    state: SearchState, progress: Progress, train_raw: RawBatch, valid_raw: RawBatch, moves_alpha: bool
) -> StepMetrics:
    """Take one step of the alternation, augmentation included. With plain DARTS it never waits for the device."""
    train_batch = state.data.train.preparation.augmented(train_raw)
    valid_batch = state.data.valid.preparation.augmented(valid_raw)
    measured = architecture_step(state, train_batch, valid_batch, progress) if moves_alpha else {}
    return measured | weight_step(state, train_batch, valid_batch, progress)


def architecture_step(
    state: SearchState, train_batch: Batch, valid_batch: Batch, progress: Progress = 0.0
) -> StepMetrics:
    """Move alpha down the hypergradient; weights, momentum and running statistics stay as they are."""
    alpha = list(state.alpha.values())
    problem = bilevel_problem(state, train_batch, valid_batch, progress)
    with frozen_statistics(state.supernet):
        own_gradients, own_loss = state.settings.method.hypergradient(problem)
    gradients = distributed.all_reduce(own_gradients)
    loss = whole_loss(own_loss)
    require_finite(loss, "the validation loss")
    require_finite(nn.utils.get_total_norm(gradients), "the norm of alpha's gradient")
    for matrix, gradient in zip(alpha, gradients, strict=True):
        matrix.grad = gradient
    state.architecture_optimiser.step()
    return {"architecture/loss": Mean.of(loss, len(valid_batch.labels))}


def bilevel_problem(state: SearchState, train_batch: Batch, valid_batch: Batch, progress: Progress) -> Problem:
    """The two losses as functions of weights and alpha, and the weight step that would follow."""
    group = state.weight_optimiser.param_groups[0]
    weights = list(state.supernet.parameters())
    optimiser_state = state.weight_optimiser.state
    return Problem(
        train_loss=loss_on(state, train_batch, progress),
        valid_loss=loss_on(state, valid_batch, progress, regularised=True),
        weights=weights,
        alpha=list(state.alpha.values()),
        momentum_buffers=[optimiser_state[weight].get("momentum_buffer") for weight in weights],
        learning_rate=group["lr"],
        momentum=group["momentum"],
        weight_decay=group["weight_decay"],
        all_reduce=distributed.all_reduce,
    )


def loss_on(state: SearchState, batch: Batch, progress: Progress = 0.0, regularised: bool = False) -> Loss:
    """The loss of a batch as a function of weights and alpha; `regularised`: with the terms of the architecture loss.

    Random numbers are the same at every evaluation within a step, so that differences of losses make sense. The loss
    is this process's part of the whole batch's.
    """
    names = [name for name, _ in state.supernet.named_parameters()]
    method, space = state.settings.method, state.settings.space

    def loss(weights: Any, alpha: Any) -> Tensor:
        named_alpha = dict(zip(state.alpha, alpha, strict=True))
        named_weights = dict(zip(names, weights, strict=True))
        with state.noise("mixture of alpha"):
            mixture = method.mixture(named_alpha, state.masks, progress, space)
        with state.noise("operations for alpha", by_process=True), autocast(state.device, state.settings.precision):
            logits = functional_call(state.supernet, named_weights, (batch.images, mixture))
        total = cross_entropy(widened(logits), batch.labels)
        if regularised:
            for term in state.regularisation(named_alpha, progress):
                total = total + term / distributed.world_size()
        return total

    return loss


def weight_step(
    state: SearchState, batch: Batch, valid_batch: Batch | None = None, progress: Progress = 0.0
) -> StepMetrics:
    """Move the weights down the training loss, under the present mixture or the method's perturbed one.

    `valid_batch` is for methods that compare the gradients of both losses.
    """
    method, weights = state.settings.method, dict(state.supernet.named_parameters())
    first: list[Tensor] = []  # loss and logits of the first evaluation, which is the one that counts
    problem = WeightProblem(
        train_loss=lambda mixture: _loss_under(state, batch, mixture, first),
        valid_loss=lambda mixture: _loss_under(state, valid_batch or batch, mixture, first),
        mixture=_training_mixture(state, batch, progress),
        weights=weights,
        cells=state.cells(),
        to_reference=state.supernet.to_reference,
        progress=progress,
        all_reduce=distributed.all_reduce,
    )
    own_gradients, memory = method.weight_gradient.gradients(problem, state.memory["weight_gradient"])
    state.memory["weight_gradient"] = memory
    gradients = distributed.all_reduce(own_gradients)
    require_finite(first[0], "the training loss")
    frozen = state.supernet.marked(method.weight_gradient.frozen(memory))
    step_down(state.weight_optimiser, weights, gradients, state.settings.weight_optimiser.clip, frozen)
    average_statistics(state.supernet)
    loss, logits = first
    images = len(batch.labels)
    return {"train/loss": Mean.of(loss, images), "train/accuracy": Mean(correct(logits, batch.labels), images)}


def _loss_under(state: SearchState, batch: Batch, mixture: Mixture, first: list[Tensor]) -> Tensor:
    """The loss under a mixture; running statistics move by the first evaluation only."""
    with frozen_statistics(state.supernet) if first else nullcontext():
        logits = _logits(state, batch, mixture)
    loss = cross_entropy(logits, batch.labels)
    if not first:
        first += [whole_loss(loss), logits.detach()]
    return loss


def _logits(state: SearchState, batch: Batch, mixture: Mixture) -> Tensor:
    with state.noise("operations", by_process=True), autocast(state.device, state.settings.precision):
        return widened(state.supernet(batch.images, mixture))


def _training_mixture(state: SearchState, batch: Batch, progress: Progress) -> Mixture:
    """What the weights are trained under, without a gradient."""
    perturbation = state.settings.method.perturbation
    with torch.no_grad(), state.noise("mixture"):
        mixture = state.settings.method.mixture(state.alpha, state.masks, progress, state.settings.space)
    if not perturbation.changes:
        return mixture

    def loss_under(matrices: Mapping[str, Tensor]) -> Tensor:
        state.supernet.eval()
        logits = _logits(state, batch, dense_mixture(matrices))
        loss = cross_entropy(logits, batch.labels)
        state.supernet.train()
        return loss

    matrices = {kind: weights.weights for kind, weights in mixture.items()}
    with state.noise("perturbation"):
        perturbed = perturbation(matrices, PerturbationProblem(loss_under, distributed.all_reduce), progress)
    return dense_mixture(perturbed)
