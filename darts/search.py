"""The bilevel search, from typed settings to genotype.json (Liu et al. 2019, algorithm 1)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from darts import plotting
from darts.bilevel import Loss, Problem
from darts.checkpoint import Checkpoints, write_bytes
from darts.config import SearchSettings, digest, identity, refuse_other_settings
from darts.data import Batch, RawBatch, SearchData, search_data
from darts.diagnostics import search_figures
from darts.errors import UserError
from darts.execution import (
    Graphed,
    Sums,
    autocast,
    memory_advice,
    placed,
    ready_device,
)
from darts.fused.supernet import FusedSupernet
from darts.genotype import Genotype, from_json, to_json
from darts.operations import frozen_statistics
from darts.progress import RunState
from darts.record import environment, write_json
from darts.seeding import ambient, generator
from darts.settings import Engine
from darts.spaces import CELL_TYPES, InputShape, plan_cells
from darts.supernet import Supernet
from darts.tracking import Tracker
from darts.training import (
    architecture_optimiser,
    correct,
    cosine_learning_rate,
    descend,
    evaluate,
    set_learning_rate,
    stop_unless_finite,
    weight_optimiser,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SearchState(RunState):
    """Everything a search works on; a checkpoint holds exactly what changes."""

    settings: SearchSettings
    data: SearchData
    supernet: Supernet
    alpha: dict[str, nn.Parameter]  # cell type -> (edges, candidates)
    weight_optimiser: torch.optim.Optimizer
    architecture_optimiser: torch.optim.Optimizer
    device: torch.device
    search_step: Graphed = field(init=False)

    def __post_init__(self) -> None:
        def step(*raw: Tensor) -> Sums:
            return search_step(self, RawBatch(*raw[:3]), RawBatch(*raw[3:]))

        self.search_step = Graphed(step, self.settings.graphs)

    def contents(self) -> dict[str, Any]:
        """Weights, alpha and both optimisers, and what must be the same when they are taken up."""
        return {
            "settings": identity(self.settings),
            "split": self.data.split.digest(),
            "supernet": self.supernet.to_plain(self.supernet.state_dict()),
            "alpha": {kind: matrix.detach() for kind, matrix in self.alpha.items()},
            "momentum": self.supernet.to_plain(self.momentum()),
            "architecture_optimiser": self.architecture_optimiser.state_dict(),
        }

    def take(self, contents: dict[str, Any]) -> None:
        """Go on from what `contents` gave; `UserError` where the images on disk are no longer the same."""
        if contents["split"] != self.data.split.digest():
            raise UserError("the training images have changed since this search began; give another hydra.run.dir")
        self.supernet.load_state_dict(self.supernet.from_plain(contents["supernet"]))
        with torch.no_grad():
            for kind, matrix in self.alpha.items():
                matrix.copy_(contents["alpha"][kind])
        momentum = self.supernet.from_plain(contents["momentum"])
        for name, weight in self.supernet.named_parameters():
            if name in momentum:
                held = torch.empty_like(weight).copy_(momentum[name])
                self.weight_optimiser.state[weight]["momentum_buffer"] = held
        self.architecture_optimiser.load_state_dict(contents["architecture_optimiser"])

    def momentum(self) -> dict[str, Tensor]:
        """The momentum of the supernet's weights by name; empty before the first step."""
        state = self.weight_optimiser.state
        held = {name: state[weight].get("momentum_buffer") for name, weight in self.supernet.named_parameters()}
        return {name: buffer for name, buffer in held.items() if buffer is not None}

    def mixture(self) -> dict[str, Tensor]:
        """The present mixture weights, without a gradient."""
        with torch.no_grad():
            return self.settings.method.relaxation.mixture(self.alpha)

    def genotype(self) -> Genotype:
        """The present genotype."""
        method = self.settings.method
        scores = {kind: method.relaxation.scores(matrix.detach()) for kind, matrix in self.alpha.items()}
        return method.discretisation.genotype(scores, self.settings.space)


def run(settings: SearchSettings, folder: Path) -> Genotype:
    """Search a cell; the same folder again goes on where it was stopped, and answers at once where it had ended."""
    if (folder / "genotype.json").exists():
        return finished(settings, folder)
    state = start_or_resume(settings, folder)
    sizes = f"search.batch_size ({settings.search.batch_size}), network.channels or network.cells"
    advice = f"lower {sizes}, or set precision=bf16, memory.checkpoint_cells=true or engine=fused"
    with state.tracker.redirected(), memory_advice(advice):
        for _ in state.epochs(settings.search.epochs):
            search_epoch(state)
            record_epoch(state)
    return finish(state, folder)


def search_epoch(state: SearchState) -> None:
    """Alternate one architecture step and one weight step over the two halves of the training images."""
    settings, data = state.settings, state.data
    steps = len(data.weights)
    pairs = zip(
        data.weights.shuffled_raw(state.epoch, state.step),
        data.architecture.shuffled_raw(state.epoch, state.step, steps),
        strict=True,
    )
    for train_raw, valid_raw in state.steps(pairs, steps):
        progress = (state.epoch + state.step / steps) / settings.search.epochs
        learning_rate = cosine_learning_rate(settings.weight_optimiser, progress, settings.search.epochs)
        set_learning_rate(state.weight_optimiser, learning_rate)
        for name, total in state.search_step(*train_raw, *valid_raw).items():
            state.means.add(name, total, len((valid_raw if name.startswith("architecture") else train_raw).labels))


def search_step(state: SearchState, train_raw: RawBatch, valid_raw: RawBatch) -> Sums:
    """One step of the alternation, augmentation included; nothing in it waits for the device."""
    train_batch = state.data.weights.preparation.augmented(train_raw)
    valid_batch = state.data.architecture.preparation.augmented(valid_raw)
    return architecture_step(state, train_batch, valid_batch) | weight_step(state, train_batch)


def architecture_step(state: SearchState, train_batch: Batch, valid_batch: Batch) -> Sums:
    """Move alpha down the hypergradient; weights, momentum and running statistics stay as they are."""
    group = state.weight_optimiser.param_groups[0]
    weights, alpha = list(state.supernet.parameters()), list(state.alpha.values())
    problem = Problem(
        train_loss=loss_on(state, train_batch),
        valid_loss=loss_on(state, valid_batch),
        weights=weights,
        alpha=alpha,
        momentum_buffers=[state.weight_optimiser.state[weight].get("momentum_buffer") for weight in weights],
        learning_rate=group["lr"],
        momentum=group["momentum"],
        weight_decay=group["weight_decay"],
    )
    with frozen_statistics(state.supernet):
        slopes, loss = state.settings.method.hypergradient(problem)
    for matrix, slope in zip(alpha, slopes, strict=True):
        matrix.grad = slope
    state.architecture_optimiser.step()
    return {"architecture/loss": loss * len(valid_batch.labels)}


def weight_step(state: SearchState, batch: Batch) -> Sums:
    """Move the weights down the training loss under the present mixture."""
    mixture = state.mixture()
    with autocast(state.device, state.settings.precision):
        logits = state.supernet(batch.images, mixture).float()
    loss = F.cross_entropy(logits, batch.labels)
    weights = list(state.supernet.parameters())
    descend(state.weight_optimiser, loss, weights, state.settings.weight_optimiser.clip)
    return {"train/loss": loss.detach() * len(batch.labels), "train/accuracy": correct(logits, batch.labels)}


def loss_on(state: SearchState, batch: Batch) -> Loss:
    """The loss of a batch as a function of weights and alpha."""
    names = [name for name, _ in state.supernet.named_parameters()]

    def loss(weights: Any, alpha: Any) -> Tensor:
        mixture = state.settings.method.relaxation.mixture(dict(zip(state.alpha, alpha, strict=True)))
        weights_by_name = dict(zip(names, weights, strict=True))
        with autocast(state.device, state.settings.precision):
            logits = functional_call(state.supernet, weights_by_name, (batch.images, mixture)).float()
        return F.cross_entropy(logits, batch.labels)

    return loss


def record_epoch(state: SearchState) -> None:
    """Evaluate the supernet on the architecture's half and write the epoch down."""
    mixture, genotype = state.mixture(), state.genotype()
    with autocast(state.device, state.settings.precision):
        batches = state.data.architecture.in_order()
        valid = evaluate(lambda images: state.supernet(images, mixture), state.supernet, batches)
    learning_rate = float(state.weight_optimiser.param_groups[0]["lr"])
    figures = state.means.means() | {f"valid/{name}": value for name, value in valid.items()}
    stop_unless_finite(figures, state.epoch, learning_rate, "lower weight_optimiser.learning_rate")
    figures |= search_figures(mixture, genotype)
    figures |= {
        "learning_rate/weights": learning_rate,
        "learning_rate/architecture": state.architecture_optimiser.param_groups[0]["lr"],
    }
    table = {kind: matrix.tolist() for kind, matrix in mixture.items()}
    cells = {kind: [list(edge) for edges in cell.nodes for edge in edges] for kind, cell in genotype.cells.items()}
    state.tracker.record(state.epoch, figures, len(state.data.weights), {"mixture": table, "cells": cells})
    state.tracker.scalars(state.epoch, dict(alpha_figures(state)))
    for kind, cell in genotype.cells.items():
        state.tracker.picture(state.epoch, f"cell/{kind}", plotting.draw_cell(cell, f"{kind} cell"))


def alpha_figures(state: SearchState) -> Iterator[tuple[str, float]]:
    """Every entry of alpha under the name of its edge and candidate; TensorBoard sorts by name: z puts them last."""
    space = state.settings.space
    for kind, matrix in state.alpha.items():
        for (source, node), row in zip(space.edges(), matrix.tolist(), strict=True):
            for name, value in zip(space.candidates, row, strict=True):
                yield f"z_alpha_{kind}/{source}_to_{node + 2}/{name}", value


def start_or_resume(settings: SearchSettings, folder: Path) -> SearchState:
    """Build everything a search needs, in the open, and take up the folder's checkpoint if it has one."""
    plain = Checkpoints(folder).load()
    if plain is not None:
        refuse_other_settings(plain["settings"], identity(settings), folder)
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    loop = settings.search
    data = search_data(settings.dataset, loop.weight_share, loop.batch_size, settings.seed, device)
    state = new_state(settings, data, device, folder)
    write_json(folder / "run.json", {"settings": identity(settings), "environment": environment(device)})
    write_bytes(folder / "split.json", data.split.to_json().encode())
    if plain is None:
        weights, architecture = len(data.split.weights), len(data.split.architecture)
        log.info("search on %s: %d images for the weights, %d for the architecture", device, weights, architecture)
    else:
        state.restore(plain)
        log.info("going on at epoch %d, step %d", state.epoch + 1, state.step + 1)
    return state


def new_state(settings: SearchSettings, data: SearchData, device: torch.device, folder: Path) -> SearchState:
    """A search before its first step."""
    space = settings.space
    supernet = build_supernet(settings, data.shape)
    placed(supernet, device)
    draws = generator(settings.seed, "alpha")
    shape = len(space.edges()), len(space.candidates)
    alpha = {
        kind: nn.Parameter((settings.search.initial_alpha * torch.randn(shape, generator=draws)).to(device))
        for kind in CELL_TYPES
    }
    return SearchState(
        settings=settings,
        data=data,
        supernet=supernet,
        alpha=alpha,
        weight_optimiser=weight_optimiser(supernet.parameters(), settings.weight_optimiser, settings.graphs),
        architecture_optimiser=architecture_optimiser(alpha.values(), settings.architecture_optimiser, settings.graphs),
        device=device,
        checkpoints=Checkpoints(folder),
        tracker=Tracker(folder, settings.search.epochs, device),
        minutes=settings.checkpoint.minutes,
    )


def build_supernet(settings: SearchSettings, shape: InputShape) -> Supernet:
    """The supernet of the settings, with the weights of their seed; the same weights for both engines."""
    network, space = settings.network, settings.space
    plans = plan_cells(network.cells, network.channels, space.multipliers())
    with ambient(settings.seed, "weights"):
        supernet = Supernet(plans, space, shape, network.stem_reductions)
    if settings.engine is Engine.fused:
        supernet = FusedSupernet(supernet)
    supernet.checkpoint_cells = settings.memory.checkpoint_cells
    return supernet


def finish(state: SearchState, folder: Path) -> Genotype:
    """Discretise, draw, and write genotype.json last: where it stands the search has ended."""
    settings, tracker = state.settings, state.tracker
    found = state.genotype()
    last = tracker.history[-1]
    provenance = {
        "method": settings.method.name,
        "dataset": settings.dataset.name,
        "seed": settings.seed,
        "epochs": settings.search.epochs,
        "settings": digest(identity(settings)),
        "split": state.data.split.digest(),
        "supernet_valid_accuracy": last["valid/accuracy"],
    }
    genotype = Genotype(found.space, found.cells, provenance)
    plotting.save_cells(genotype, folder / "cells")
    plotting.save_figure(plotting.draw_curves(tracker.history), folder / "cells" / "curves")
    for kind in state.alpha:
        mixtures = plotting.draw_mixtures(tracker.history, kind, settings.space)
        plotting.save_figure(mixtures, folder / "cells" / f"mixtures_{kind}")
    cost = {"seconds": round(tracker.total_seconds(), 3), "epochs": len(tracker.history)}
    record = {"settings": identity(settings), "environment": environment(state.device), "cost": cost}
    write_json(folder / "run.json", record)
    write_bytes(folder / "genotype.json", to_json(genotype).encode())
    tracker.close()
    return genotype


def finished(settings: SearchSettings, folder: Path) -> Genotype:
    """The genotype of a folder whose search has ended, unless it was one of other settings."""
    genotype = from_json((folder / "genotype.json").read_text(), origin=str(folder / "genotype.json"))
    plain = Checkpoints(folder).load()
    if plain is None:
        raise UserError(f"{folder} holds a genotype.json but no checkpoint of its search; give another hydra.run.dir")
    refuse_other_settings(plain["settings"], identity(settings), folder)
    log.info("this search has ended before; nothing is changed")
    return genotype


def announce(genotype: Genotype, folder: Path) -> None:
    """Say what was found, where it lies and what to type next."""
    accuracy = 100 * genotype.provenance["supernet_valid_accuracy"]
    log.info("")
    for kind, cell in genotype.cells.items():
        log.info("%-9s cell: %s", kind, cell)
    log.info("supernet accuracy %.1f%% on the architecture's half: no forecast of the cell's own accuracy", accuracy)
    log.info("result: %s, pictures in %s", folder / "genotype.json", folder / "cells")
    log.info("next:   python train_final.py genotype=%s", folder)
