"""One step of the search: alpha down the validation loss, then the weights down the training loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts.loop.optimisation import require_finite, step_down, take_step
from darts.methods.hypergradient import Loss, Problem, SingleLevel, clipped
from darts.methods.perturbation import PerturbationProblem
from darts.methods.weight_gradient import WeightProblem
from darts.models.batch_norm import average_statistics, frozen_statistics
from darts.models.mixture import START, Mixture, Moment, dense_mixture
from darts.runtime import distributed
from darts.runtime.device import autocast
from darts.runtime.reduction import whole_loss
from darts.search.preferences import alpha_of_step, preferred
from darts.search.state import SearchState
from darts.tasks.task import Batch, Mean, StepMetrics


def search_step(
    state: SearchState, moment: Moment, train_raws: Sequence[Any], valid_raw: Any, moves_alpha: bool
) -> StepMetrics:
    """Take one step of the search, augmentation included. With plain DARTS it never waits for the device.

    Raw batches are of the type `state.data.raw_type`.

    Plain DARTS moves alpha by one batch of each split, then the weights by the same training batch. A method with inner
    steps moves the weights by all training batches but the last, then alpha. A single-level method has no validation
    batch and moves both at once.
    """
    train_batches = [state.data.train.prepared(raw) for raw in train_raws]
    if valid_raw is None:
        return joint_step(state, train_batches[0], moment)
    valid_batch = state.data.valid.prepared(valid_raw)
    if len(train_batches) == 1:
        measured = architecture_step(state, train_batches[0], valid_batch, moment) if moves_alpha else {}
        return measured | weight_step(state, train_batches[0], valid_batch, moment)
    measured = inner_steps(state, train_batches[:-1], valid_batch, moment)
    return measured | (architecture_step(state, train_batches[-1], valid_batch, moment) if moves_alpha else {})


def architecture_step(
    state: SearchState, train_batch: Batch, valid_batch: Batch, moment: Moment = START
) -> StepMetrics:
    """Move alpha down the hypergradient; weights, momentum and running statistics stay as they are."""
    left: list[Tensor | None] = []  # what the first evaluation of the validation loss left for the next batch
    problem = bilevel_problem(state, train_batch, valid_batch, moment, left)
    with frozen_statistics(state.supernet):
        own_gradients, own_loss = state.settings.method.hypergradient(problem)
    state.keep_carry("valid", left[0])
    gradients = distributed.all_reduce(own_gradients)
    loss = whole_loss(own_loss)
    require_finite(loss, "the validation loss")
    move_alpha(state, gradients, "mixture of alpha")
    return {"architecture/loss": Mean.of(loss, valid_batch.examples)}


def move_alpha(state: SearchState, gradients: Sequence[Tensor], purpose: str) -> None:
    """One step of alpha's optimiser, and what the method does after it; `purpose` of the mixture that was drawn."""
    method = state.settings.method
    require_finite(nn.utils.get_total_norm(gradients), "the norm of alpha's gradient")
    settles = method.relaxation.rescales or method.schedule.holds_decided
    before = {name: matrix.detach().clone() for name, matrix in state.alpha.items()} if settles else {}
    for matrix, gradient in zip(state.alpha.values(), gradients, strict=True):
        matrix.grad = gradient
    take_step(state.architecture_optimiser, "architecture_optimiser.learning_rate")
    if settles:
        _settle_alpha(state, before, purpose)


def bilevel_problem(
    state: SearchState, train_batch: Batch, valid_batch: Batch, moment: Moment, left: list[Tensor | None]
) -> Problem:
    """The two losses as functions of weights and alpha, and the weight step that would follow.

    `left` takes what the first evaluation of the validation loss leaves for the next batch of a sequence.
    """
    group = state.weight_optimiser.param_groups[0]
    weights = list(state.supernet.parameters())
    optimiser_state = state.weight_optimiser.state
    train_batch = state.continued("train", train_batch)
    valid_batch = state.continued("valid", valid_batch)
    clip = state.settings.weight_optimiser.clip if state.task.clips_unrolled else math.inf
    return Problem(
        train_loss=loss_on(state, train_batch, moment),
        valid_loss=loss_on(state, valid_batch, moment, of_alpha=True, regularised=True, left=left),
        weights=weights,
        alpha=list(state.alpha.values()),
        momentum_buffers=[optimiser_state[weight].get("momentum_buffer") for weight in weights],
        learning_rate=group["lr"],
        momentum=group["momentum"],
        weight_decay=group["weight_decay"],
        all_reduce=distributed.all_reduce,
        clip=clip,
        held=state.fixed_weights_of_unrolled_step(),
    )


def loss_on(
    state: SearchState,
    batch: Batch,
    moment: Moment = START,
    of_alpha: bool = False,
    regularised: bool = False,
    left: list[Tensor | None] | None = None,
) -> Loss:
    """The loss of a batch as a function of weights and alpha.

    `of_alpha`: as the architecture's validation loss weighs it; `regularised`: with the terms of the architecture loss.
    Random numbers are the same at every evaluation within a step, so that differences of losses make sense. The loss
    is this process's part of the whole batch's. `left` takes what every evaluation leaves for the next batch.
    """
    names = [name for name, _ in state.supernet.named_parameters()]
    method, space = state.settings.method, state.settings.space

    def loss(weights: Any, alpha: Any) -> Tensor:
        named_alpha = alpha_of_step(state, dict(zip(state.alpha, alpha, strict=True)))
        named_weights = dict(zip(names, weights, strict=True))
        with state.noise("mixture of alpha"):
            mixture = method.mixture(named_alpha, state.masks, moment, space)
        with state.noise("operations for alpha", by_process=True), autocast(state.device, state.settings.precision):
            output = functional_call(state.supernet, named_weights, (batch.inputs, mixture))
        loss_of = state.task.architecture_loss if of_alpha else state.task.loss
        total = loss_of(output, batch.targets)
        if left is not None:
            left.append(state.task.carry(output))
        if regularised:
            for term in state.regularisation(named_alpha, moment):
                total = total + term / distributed.world_size()
            total = preferred(state, total, named_alpha)
        return total

    return loss


def weight_step(
    state: SearchState, batch: Batch, valid_batch: Batch | None = None, moment: Moment = START
) -> StepMetrics:
    """Move the weights down the training loss, under the present mixture or the method's perturbed one.

    `valid_batch` is for methods that compare the gradients of both losses.
    """
    method, weights = state.settings.method, dict(state.supernet.named_parameters())
    batch = state.continued("train", batch)
    first: list[Evaluation] = []  # the first evaluation, which is the one that counts
    problem = WeightProblem(
        train_loss=lambda mixture: _loss_under(state, batch, mixture, first),
        valid_loss=lambda mixture: _loss_under(state, valid_batch or batch, mixture, first),
        mixture=_training_mixture(state, batch, moment),
        weights=weights,
        cells=state.cells(),
        to_reference=state.supernet.to_reference,
        moment=moment,
        clip=state.settings.weight_optimiser.clip,
        candidates=state.settings.space.candidates,
        all_reduce=distributed.all_reduce,
    )
    own_gradients, memory = method.weight_gradient.gradients(problem, state.memory["weight_gradient"])
    state.memory["weight_gradient"] = memory
    gradients = distributed.all_reduce(own_gradients)
    require_finite(first[0].loss, "the training loss")
    frozen = state.supernet.marked(method.weight_gradient.frozen(memory))
    step_down(state.weight_optimiser, weights, gradients, state.settings.weight_optimiser.clip, frozen)
    average_statistics(state.supernet)
    state.keep_carry("train", first[0].carry)
    return {f"train/{name}": mean for name, mean in first[0].measured.items()}


class Evaluation(NamedTuple):
    """What one evaluation of the training loss gave."""

    loss: Tensor  # of the whole batch, detached
    measured: StepMetrics
    carry: Tensor | None  # for the next batch of a sequence

    @classmethod
    def of(cls, state: SearchState, output: Any, batch: Batch, loss: Tensor) -> Evaluation:
        """What a supernet's output says; `loss` is this process's part."""
        whole = whole_loss(loss)
        return cls(whole, state.task.measured(output, batch.targets, whole), state.task.carry(output))


def _loss_under(state: SearchState, batch: Batch, mixture: Mixture, first: list[Evaluation]) -> Tensor:
    """The loss under a mixture; running statistics move by the first evaluation only."""
    with frozen_statistics(state.supernet) if first else nullcontext():
        output = _output(state, batch, mixture)
    loss = state.task.loss(output, batch.targets)
    if not first:
        first.append(Evaluation.of(state, output, batch, loss))
    return state.task.training_loss(output, loss)


def _output(state: SearchState, batch: Batch, mixture: Mixture) -> Any:
    with state.noise("operations", by_process=True), autocast(state.device, state.settings.precision):
        return state.supernet(batch.inputs, mixture)


def _training_mixture(state: SearchState, batch: Batch, moment: Moment) -> Mixture:
    """What the weights are trained under, without a gradient."""
    method, space, masks = state.settings.method, state.settings.space, state.masks
    alpha = alpha_of_step(state, {name: matrix.detach() for name, matrix in state.alpha.items()})
    with torch.no_grad(), state.noise("mixture"):
        candidates = method.training_candidates(alpha, masks, moment, space)
    if method.perturbation.changes:
        candidates = _perturbed(state, batch, candidates, moment)
    return method.completed(candidates, alpha, masks, moment, space)


# Variants


def inner_steps(state: SearchState, batches: Sequence[Batch], valid_batch: Batch, moment: Moment) -> StepMetrics:
    """Move the weights once by each batch; the measured means are over all of them."""
    total: StepMetrics = {}
    for number, batch in enumerate(batches):
        state.inner_step = number
        measured = weight_step(state, batch, valid_batch, moment)
        total = {name: mean.added(total.get(name)) for name, mean in measured.items()}
    state.inner_step = 0
    return total


def joint_step(state: SearchState, batch: Batch, moment: Moment) -> StepMetrics:
    """Move weights and alpha down the training loss by one backward pass (`SingleLevel`)."""
    settings, weights = state.settings, dict(state.supernet.named_parameters())
    rule = settings.method.hypergradient
    if not isinstance(rule, SingleLevel):
        raise TypeError(f"{rule} has two levels")
    with state.noise("mixture"):
        mixture = settings.method.mixture(state.alpha, state.masks, moment, settings.space)
    batch = state.continued("train", batch)
    output = _output(state, batch, mixture)
    loss = state.task.loss(output, batch.targets)
    total = state.task.training_loss(output, loss)
    for term in state.regularisation(state.alpha, moment):
        total = total + term / distributed.world_size()
    tensors = [*weights.values(), *state.alpha.values()]
    own = torch.autograd.grad(total, tensors, allow_unused=True)
    gradients = distributed.all_reduce(list(own))
    found = Evaluation.of(state, output, batch, loss)
    require_finite(found.loss, "the training loss")
    step_down(state.weight_optimiser, weights, gradients[: len(weights)], settings.weight_optimiser.clip, {})
    of_alpha = zip(state.alpha.values(), gradients[len(weights) :], strict=True)
    move_alpha(state, clipped([torch.zeros_like(a) if g is None else g for a, g in of_alpha], rule.clip), "mixture")
    average_statistics(state.supernet)
    state.keep_carry("train", found.carry)
    return {f"train/{name}": mean for name, mean in found.measured.items()}


def _settle_alpha(state: SearchState, before: Mapping[str, Tensor], purpose: str) -> None:
    """Rescale alpha after a step, and undo it where an edge has no choice left, as far as the method does either."""
    method, space = state.settings.method, state.settings.space
    with torch.no_grad(), state.noise(purpose):
        after = method.rescaled(before, state.alpha, state.masks, space)
        for kind, moved in after.items():
            has_choice = state.masks[kind].sum(-1, keepdim=True) > 1
            free = has_choice if method.schedule.holds_decided else torch.ones_like(has_choice)
            state.alpha[kind].copy_(torch.where(free, moved, before[kind]))


def _perturbed(state: SearchState, batch: Batch, candidates: Mixture, moment: Moment) -> Mixture:
    """The candidates' weights as the method's perturbation changes them."""
    method, space, masks = state.settings.method, state.settings.space, state.masks
    alpha = {name: matrix.detach() for name, matrix in state.alpha.items()}

    def loss_under(matrices: Mapping[str, Tensor]) -> Tensor:
        state.supernet.eval()
        mixture = method.completed(dense_mixture(matrices), alpha, masks, moment, space)
        loss = state.task.loss(_output(state, batch, mixture), batch.targets)
        state.supernet.train()
        return loss

    matrices = {kind: weights.weights for kind, weights in candidates.items()}
    problem = PerturbationProblem(loss_under, distributed.all_reduce)
    with state.noise("perturbation"):
        return dense_mixture(method.perturbation(matrices, problem, moment))
