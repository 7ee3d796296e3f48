"""The bilevel search, from typed settings to genotype.json (Liu et al. 2019, algorithm 1)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from darts import parallel, plotting
from darts.checkpoint import Checkpoints
from darts.commands import SearchSettings
from darts.config import digest, identity, refuse_other_settings
from darts.constraints import CostModel
from darts.data import RawBatch, search_data
from darts.diagnostics import collapsed
from darts.errors import UserError
from darts.execution import Graphed, Sums, memory_advice, ready_device
from darts.files import write_bytes
from darts.genotype import Genotype, from_json, to_json
from darts.lock import held
from darts.nasbench201 import truth
from darts.record import announce_cells, environment, write_json
from darts.search_record import observation, record_epoch, recorded_genotype
from darts.search_state import SearchState, go_on, new_state
from darts.search_steps import search_step
from darts.spaces import InputShape
from darts.training import cosine_learning_rate, set_learning_rate

log = logging.getLogger(__name__)


def run(settings: SearchSettings, folder: Path) -> Genotype:
    """Search a cell; the same folder again goes on where it was stopped, and answers at once where it had ended."""
    if parallel.said((folder / "genotype.json").exists()):
        return finished(settings, folder)
    sizes = f"search.batch_size ({settings.search.batch_size}), network.channels or network.cells"
    advice = f"lower {sizes}, or set precision=bf16, memory.checkpoint_cells=true or engine=fused"
    with held(folder), memory_advice(advice):
        state = start_or_resume(settings, folder)
        with state.tracker.redirected():
            for _ in state.epochs(state.tracker.epochs):
                search_epoch(state)
                record_epoch(state)
                decide(state)
                parallel.require_same("alpha", list(state.alpha.values()))
        return finish(state, folder)


def search_epoch(state: SearchState) -> None:
    """Alternate one architecture step and one weight step over the two halves of the training images."""
    settings, data, stage = state.settings, state.data, state.stage
    steps = len(data.weights)
    pairs = zip(
        data.weights.shuffled_raw(state.epoch, state.step),
        data.architecture.shuffled_raw(state.epoch, state.step, steps),
        strict=True,
    )
    for train_raw, valid_raw in state.steps(pairs, steps):
        progress = state.stage_progress(steps)
        learning_rate = cosine_learning_rate(settings.weight_optimiser, progress, stage.last - stage.first)
        set_learning_rate(state.weight_optimiser, learning_rate)
        for skip in state.skip_connections():
            skip.probability = settings.method.beside.skip_dropout(stage.number, progress, stage.frozen)
        moves = progress >= stage.frozen and state.step % settings.method.hypergradient.weight_steps == 0
        done = torch.tensor(state.progress(steps), device=state.device)
        if moves not in state.actions:
            state.actions[moves] = Graphed(step_of(state, moves), settings.graphs)
        with state.located(learning_rate):
            sums = state.actions[moves](done, *train_raw, *valid_raw)
        for name, total in sums.items():
            state.means.add(name, total, len((valid_raw if name.startswith("architecture") else train_raw).labels))


def step_of(state: SearchState, moves: bool) -> Callable[..., Sums]:
    """A step of the search as a function of tensors alone: the share that is done, and the raw batches."""

    def step(progress: Tensor, *raw: Tensor) -> Sums:
        return search_step(state, progress, RawBatch(*raw[:3]), RawBatch(*raw[3:]), moves)

    return step


def decide(state: SearchState) -> None:
    """At the end of an epoch: which candidates are left, whether the search ends here, which stage comes next."""
    settings, done = state.settings, state.epoch + 1
    method, epochs = settings.method, settings.search.epochs
    left, state.memory = method.schedule.decide(observation(state, done), epochs)
    state.chosen_epoch = method.stopping.chosen_epoch(state.tracker.history)
    state.ended = state.chosen_epoch is not None or spent(state)
    stages = method.schedule.stages(epochs, settings.space)
    go_on(state, left, next((stage for stage in stages if stage.first <= done < stage.last), state.stage))


def spent(state: SearchState) -> bool:
    """Whether budget.minutes is used up; budget.epochs was checked before the first step."""
    minutes, seconds = state.settings.budget.minutes, parallel.said(state.tracker.total_seconds())
    if minutes is None or seconds < 60 * minutes:
        return False
    log.info("budget.minutes is reached after epoch %d", state.epoch + 1)
    return True


def start_or_resume(settings: SearchSettings, folder: Path) -> SearchState:
    """Build everything a search needs, in the open, and take up the folder's checkpoint if it has one."""
    plain = Checkpoints(folder).load()
    if plain is not None:
        refuse_other_settings(plain["settings"], identity(settings), folder)
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    loop = settings.search
    data = search_data(settings.dataset, loop.weight_share, loop.batch_size, settings.seed, device)
    state = new_state(settings, data, device, folder, plain)
    state.costs, state.table = cost_model(settings, data.shape, device), truth(settings.benchmark, settings.space)
    if parallel.leading():
        write_json(folder / "run.json", {"settings": identity(settings), "environment": environment(device)})
        write_bytes(folder / "split.json", data.split.to_json().encode())
    if plain is None:
        weights, architecture = len(data.split.weights), len(data.split.architecture)
        log.info("search on %s: %d images for the weights, %d for the architecture", device, weights, architecture)
    else:
        state.restore(plain)
        log.info("going on at epoch %d, step %d", state.epoch + 1, state.step + 1)
    return state


def cost_model(settings: SearchSettings, shape: InputShape, device: torch.device) -> CostModel | None:
    """What the found network will cost, where that is limited."""
    return CostModel(settings.constraints, settings.space, shape, device) if settings.constraints.any else None


def finish(state: SearchState, folder: Path) -> Genotype:
    """Discretise, draw, and write genotype.json last: where it stands the search has ended."""
    settings, tracker = state.settings, state.tracker
    last = tracker.history[-1 if state.chosen_epoch is None else state.chosen_epoch - 1]
    found = recorded_genotype(last, settings.space)
    costs = {} if state.costs is None else parallel.said(state.costs.measured(found))
    provenance = {
        "method": settings.method.name,
        "dataset": settings.dataset.name,
        "seed": settings.seed,
        "epochs": last["epoch"],
        "settings": digest(identity(settings)),
        "split": state.data.split.digest(),
        "supernet_valid_accuracy": last["valid/accuracy"],
        "collapsed": collapsed(found),
        **({"costs": costs} if costs else {}),
        **({"table_accuracy": last["table/accuracy"]} if "table/accuracy" in last else {}),
    }
    genotype = Genotype(found.space, found.cells, provenance)
    if parallel.leading():
        leave(state, genotype, folder)
    tracker.close()
    if state.costs is not None:
        state.costs.check(costs, str(folder / "genotype.json"))
    return genotype


def leave(state: SearchState, genotype: Genotype, folder: Path) -> None:
    """The pictures, the record of cost, and last the result."""
    settings, tracker = state.settings, state.tracker
    plotting.save_cells(genotype, folder / "cells")
    plotting.save_figure(plotting.draw_curves(tracker.history), folder / "cells" / "curves")
    plotting.save_figure(plotting.draw_diagnostics(tracker.history), folder / "cells" / "diagnostics")
    for kind in settings.space.cell_types:
        mixtures = plotting.draw_mixtures(tracker.history, kind, settings.space)
        plotting.save_figure(mixtures, folder / "cells" / f"mixtures_{kind}")
    epochs = round(len(tracker.history) * settings.epoch_cost(), 6)  # passes over all training images
    cost = {"evaluations": 0, "epochs": epochs, "seconds": round(tracker.total_seconds(), 3)}
    record = {"settings": identity(settings), "environment": environment(state.device), "cost": cost}
    write_json(folder / "run.json", record)
    write_bytes(folder / "genotype.json", to_json(genotype).encode())


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
    warnings = []
    if genotype.provenance.get("collapsed"):
        warnings.append("half of the normal cell or more is skip connections: a collapsed search; see docs/methods.md")
    accuracy = 100 * genotype.provenance["supernet_valid_accuracy"]
    about = f"supernet accuracy {accuracy:.1f}% on the architecture's half: no forecast of the cell's own accuracy"
    announce_cells(genotype, folder, [*warnings, about])
