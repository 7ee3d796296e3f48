"""What a search measures at the end of an epoch: for the record, and for its schedule to decide by."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from darts.loop import plotting
from darts.loop.optimisation import RunningMeans, evaluate, stop_unless_finite
from darts.methods.schedule import CandidateMask, Observation
from darts.models.batch_norm import frozen_statistics
from darts.models.fused.folding import folded_once
from darts.models.mixture import Mixture, MixtureWeights
from darts.runtime import distributed
from darts.runtime.device import Graphed, Step, autocast
from darts.runtime.reduction import gradients
from darts.runtime.seeding import generator, python_generator
from darts.search.compute import counted
from darts.search.diagnostics import discrete_mixture, dominant_eigenvalue, edge_lists, search_metrics
from darts.search.gradient_repeats import gradient_metrics
from darts.search.preferences import alpha_at
from darts.search.state import SearchState, reference_supernet
from darts.search.step import loss_on
from darts.spaces.genotype import Cell, Edge, Genotype, called
from darts.spaces.search_space import SearchSpace
from darts.tasks.task import Batch

log = logging.getLogger(__name__)


def record_epoch(state: SearchState) -> None:
    """Evaluate the supernet on the validation split and write the epoch down."""
    scores, genotype, tracker = state.scores(), state.genotype(), state.tracker
    learning_rate = float(state.weight_optimiser.param_groups[0]["lr"])
    valid = validation_metrics(state, state.deterministic_mixture())
    trained = state.task.completed(state.means.means())
    metrics = trained | {f"valid/{name}": value for name, value in valid.items()}
    stop_unless_finite(metrics, state.epoch, learning_rate, "lower weight_optimiser.learning_rate")
    cells_before = tracker.history[-1]["cells"] if tracker.history else None
    metrics |= search_metrics(scores, genotype, cells_before)
    metrics |= dict(costly_metrics(state, genotype, valid[state.task.metric.name]))
    metrics |= {
        "learning_rate/weights": learning_rate,
        "learning_rate/architecture": state.architecture_optimiser.param_groups[0]["lr"],
    }
    table = {kind: matrix.tolist() for kind, matrix in scores.items()}
    extra = {"mixture": table, "cells": edge_lists(genotype), "operations": state.active_operations()}
    frozen = state.settings.method.weight_gradient.frozen(state.memory["weight_gradient"])
    if frozen:
        extra["frozen_operations"] = len(frozen)
        log.info("%d of the supernet's operations are frozen", len(frozen))
    tracker.record(state.epoch, metrics, state.data.train.steps(state.epoch), extra)
    alpha = alpha_at(state, state.alpha)
    for kind, cell in genotype.cells.items():
        matrix = alpha[kind].tolist()
        tracker.picture(
            state.epoch, f"alpha/{kind}", functools.partial(plotting.draw_alpha, matrix, kind, state.settings.space)
        )
        tracker.text(state.epoch, f"alpha/{kind}", alpha_table(matrix, kind, state.settings.space))
        tracker.picture(state.epoch, f"cell/{kind}", functools.partial(plotting.draw_cell, cell, f"{called(kind)}"))


def observation(state: SearchState, done: int) -> Observation:
    """What a schedule may look at."""
    settings, space = state.settings, state.settings.space
    allowed = {kind: torch.tensor(space.allowed(kind)) for kind in space.cell_types}
    relaxation = settings.method.relaxation
    alpha = alpha_at(state, state.alpha)
    distributions = {kind: relaxation.scores(alpha[kind].detach().cpu(), allowed[kind]) for kind in allowed}

    def accuracy(active: CandidateMask) -> float:
        mixture = {kind: masked(weights, active[kind]) for kind, weights in state.deterministic_mixture().items()}
        return batch_accuracy(state, mixture)

    return Observation(
        epoch=done,
        space=space,
        active=state.active,
        scores={kind: matrix.tolist() for kind, matrix in state.scores().items()},
        distributions={kind: matrix.tolist() for kind, matrix in distributions.items()},
        memory=state.memory["schedule"],
        generator=python_generator(settings.seed, "schedule", done),
        accuracy=accuracy,
        path_accuracy=lambda genotype, batches: path_accuracy(state, genotype, batches),
    )


def masked(mixture: MixtureWeights, active: Sequence[Sequence[bool]]) -> MixtureWeights:
    """The same mixture with weight 0 for what is not active; other columns stay on edges that have a candidate."""
    matrix = mixture.weights
    mask = torch.tensor(active, device=matrix.device)
    others = mask.any(-1, keepdim=True).expand(-1, matrix.shape[-1] - mask.shape[-1])
    return mixture.with_weights(matrix * torch.cat([mask, others], dim=-1))


def batch_accuracy(state: SearchState, mixture: Mixture) -> float:
    """Accuracy on the validation split in batches of the search's size, normalised by their own statistics.

    For a task with another metric: its value so that higher is better.
    """
    if state.task.is_sequence:  # judged as it is evaluated: without dropout, the state carried on
        return state.task.metric.score(evaluated(state, mixture, state.data.judging())[state.task.metric.name])
    means, noise = RunningMeans(), state.noise("evaluation")
    with autocast(state.device, state.settings.precision), noise, frozen_statistics(state.supernet), torch.no_grad():
        for inputs, targets in state.data.judging():
            for name, mean in state.task.evaluated(state.supernet(inputs, mixture), targets).items():
                means.add(name, mean)
    metrics = state.task.completed(means.means())
    return state.task.metric.score(metrics[state.task.metric.name])


def path_accuracy(state: SearchState, genotype: Genotype, batches: int | None) -> float:
    """Accuracy of a genotype's path on so many batches of the validation split, None: on all.

    For a task with another metric: its value so that higher is better.
    """
    mixture, metric = selecting(state, genotype), state.task.metric
    if batches is None:
        return metric.score(validation_metrics(state, mixture)[metric.name])
    return metric.score(evaluated(state, mixture, itertools.islice(state.data.judging(), batches))[metric.name])


def validation_metrics(state: SearchState, mixture: Mixture) -> dict[str, float]:
    """What the task measures of the supernet on the validation split, under a mixture."""
    return evaluated(state, mixture, state.data.evaluation())


def evaluated(state: SearchState, mixture: Mixture, batches: Iterable[Batch]) -> dict[str, float]:
    """What the task measures of the supernet, in evaluation mode, on some batches."""
    supernet = state.supernet

    def graphed(step: Step) -> Step:  # anew for every evaluation: it reads what was folded for this one
        return counted(state.tracker, Graphed(step, state.settings.graphs, warm_up=1))

    with autocast(state.device, state.settings.precision), state.noise("evaluation"), folded_once(supernet):
        return evaluate(lambda inputs: supernet(inputs, mixture), supernet, batches, graphed, task=state.task)


def costly_metrics(state: SearchState, genotype: Genotype, value: float) -> Iterator[tuple[str, float]]:
    """The diagnostics that take time, where they are due, and the table's answer.

    `value`: the metric of the whole supernet; the gap is by how much its discretised cell is worse.
    """
    metric = state.task.metric
    settings, done = state.settings, state.epoch + 1
    wanted, needed = settings.diagnostics.eigenvalue_every, settings.method.stopping.eigenvalue_every
    if (wanted and done % wanted == 0) or (needed and state.epoch % needed == 0):
        yield "eigenvalue", eigenvalue(state)
    if settings.diagnostics.gap_every and done % settings.diagnostics.gap_every == 0:
        discrete = validation_metrics(state, selecting(state, genotype))[metric.name]
        yield "gap", metric.score(value) - metric.score(discrete)
    if settings.diagnostics.gradient_repeats:
        yield from gradient_metrics(state, settings.diagnostics.gradient_repeats).items()
    if state.costs is not None:
        with torch.no_grad():
            yield from (
                (f"expected/{name}", float(value)) for name, value in state.costs.expected(state.scores()).items()
            )
    if state.table is not None:
        yield from state.table.metrics(genotype, settings.benchmark.column).items()


def selecting(state: SearchState, genotype: Genotype) -> Mixture:
    """The mixture that selects a genotype in the supernet."""
    space, method = state.settings.space, state.settings.method
    chosen = discrete_mixture(genotype, space, state.scores())
    candidates = {kind: MixtureWeights(matrix) for kind, matrix in chosen.items()}
    masks = {kind: matrix > 0 for kind, matrix in chosen.items()}
    return method.completed(candidates, None, masks, state.moment(0), space)


def eigenvalue(state: SearchState) -> float:
    """The dominant eigenvalue of the Hessian in alpha of the loss on one validation batch, the same every time.

    By exact products of the Hessian with vectors (Zela et al. 2020, section 4.2), through the reference supernet,
    which has second derivatives.
    """
    batch = next(iter(state.data.judging()))
    supernet = state.supernet
    state.supernet = reference_supernet(state)
    try:
        weights = [weight.detach() for weight in state.supernet.parameters()]
        alpha = [matrix.detach().requires_grad_() for matrix in state.alpha.values()]
        with frozen_statistics(state.supernet):
            loss = loss_on(state, batch, state.moment(0), of_alpha=True)(weights, alpha)
            gradient_of_alpha = _flat(gradients(loss, alpha, differentiable=True))
    finally:
        state.supernet = supernet

    def product(vector: Tensor) -> Tensor:
        own = torch.autograd.grad(gradient_of_alpha @ vector, alpha, retain_graph=True, materialize_grads=True)
        return (
            _flat(distributed.all_reduce(own)) / distributed.world_size()
        )  # each process has the whole of `gradient_of_alpha`

    return dominant_eigenvalue(product, gradient_of_alpha.detach(), generator(state.settings.seed, "eigenvalue"))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def recorded_genotype(line: Mapping[str, Any], space: SearchSpace) -> Genotype:
    """The genotype that an epoch's line of history.jsonl holds."""
    cells = {}
    for kind in space.cell_types:
        nodes: list[list[Edge]] = [[] for _ in range(space.nodes)]
        for node, name, source in line["cells"][kind]:
            nodes[node].append(Edge(name, source))
        cells[kind] = Cell(tuple(map(tuple, nodes)), space.joined(), space.layout.inputs)
    return Genotype(space.name, cells)


def alpha_table(matrix: Sequence[Sequence[float]], kind: str, space: SearchSpace) -> str:
    """Alpha of a cell type as a Markdown table: a row an edge, named as in the pictures, a column a candidate."""
    lines = [f"| {kind} | {' | '.join(space.candidates)} |", "| --- " * (len(space.candidates) + 1) + "|"]
    for edge, row in zip(space.edges(), matrix, strict=True):
        values = " | ".join(f"{value:.4f}" for value in row)
        name = plotting.edge_name(edge, space)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)
