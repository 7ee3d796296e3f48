"""The bilevel search, from typed settings to genotype.json (Liu et al. 2019, algorithm 1)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from darts.config.identity import digest, identity
from darts.loop import plotting
from darts.loop.optimisation import StepMetrics, cosine_learning_rate, set_learning_rate
from darts.loop.record import (
    announce_cells,
    claim_folder,
    data_record,
    experiment,
    record_end,
    refuse_other_run,
    require_same_data,
)
from darts.loop.run_state import load_checkpoint
from darts.loop.settings import WeightOptimiser
from darts.methods.schedule import Stage
from darts.models.cost import CostModel
from darts.models.mixture import Moment
from darts.runtime import distributed
from darts.runtime.device import Graphed, memory_advice, ready_device
from darts.runtime.files import lock_folder, write_bytes
from darts.runtime.signals import deferred_signals
from darts.search.diagnostics import collapsed
from darts.search.epoch_end import observation, record_epoch, recorded_genotype
from darts.search.settings import SearchSettings
from darts.search.state import SearchState, enter_stage, new_state, stage_schema
from darts.search.step import search_step
from darts.spaces.genotype import Genotype, from_json, to_json
from darts.spaces.nasbench201 import load_table
from darts.spaces.search_space import InputShape
from darts.tasks.batches import Batches, RawBatch, search_data
from darts.tasks.summary import log_summary

log = logging.getLogger(__name__)
KIND = "search by gradients"  # what run.json calls it


def run(settings: SearchSettings, folder: Path) -> Genotype:
    """Search a cell; the same folder again resumes where it was stopped, and answers at once where it had ended."""
    if distributed.broadcast((folder / "genotype.json").exists()):
        return finished(settings, folder)
    sizes = f"search.batch_size ({settings.search.batch_size}), network.channels or network.cells"
    advice = f"lower {sizes}, or set precision=bf16, memory.activation_checkpointing=true or engine=fused"
    with lock_folder(folder), deferred_signals(), memory_advice(advice):
        state = start_or_resume(settings, folder)
        with state.tracker.open():
            for _ in state.epochs(state.tracker.epochs):
                search_epoch(state)
                record_epoch(state)
                decide(state)
                distributed.require_equal("alpha", list(state.alpha.values()))
                distributed.require_equal("a weight", list(state.supernet.parameters()))
            genotype = finish(state, folder)
        state.stop_if_asked()
        return genotype


def search_epoch(state: SearchState) -> None:
    """One epoch of steps, each on a batch, or as many as the method needs, of the two splits of the images."""
    steps = len(training_batches(state))
    for raws in state.steps(batches_of_steps(state, state.epoch, state.step, steps), steps):
        rule, within = state.settings.weight_optimiser, state.step / steps
        learning_rate = stage_learning_rate(rule, state.stage, state.epoch, within)
        set_learning_rate(state.weight_optimiser, learning_rate)
        set_skip_dropout(state)
        action = step_action(state, moves_alpha(state, state.stage_progress(steps)))
        moment = state.moment(steps)
        now = torch.tensor([moment.progress, moment.epoch], device=state.device)
        with state.located(learning_rate):
            measured = action(now, *[tensor for raw in raws for tensor in raw])
        for name, mean in measured.items():
            state.means.add(name, mean)


def training_batches(state: SearchState) -> Batches:
    """The images that train the weights, a batch for each step of an epoch: all images where there is one level."""
    return state.data.joined() if state.settings.method.hypergradient.single_level else state.data.train


def batches_of_steps(state: SearchState, epoch: int, first: int, steps: int) -> Iterator[tuple[RawBatch, ...]]:
    """The raw batches of steps `first` to `steps`: for the weights, then, with two levels, the validation batch."""
    rule = state.settings.method.hypergradient
    each = rule.inner_steps + 1  # training batches of a step
    stream = training_batches(state).shuffled_raw(epoch, first * each, steps * each)
    groups = zip(*[stream] * each, strict=True)
    if rule.single_level:
        yield from groups
        return
    for group, valid_raw in zip(groups, state.data.valid.shuffled_raw(epoch, first, steps), strict=True):
        yield (*group, valid_raw)


def moves_alpha(state: SearchState, stage_progress: float) -> bool:
    """Whether this step moves alpha: after the stage's frozen beginning, once in `alpha_every` steps."""
    return stage_progress >= state.stage.alpha_frozen_fraction and state.step % state.stage.alpha_every == 0


def step_action(state: SearchState, moves: bool) -> Graphed:
    """A step as a function of tensors only: (progress, epoch), then the raw batches, the validation batch last."""
    if moves not in state.actions:
        epochs, single = state.settings.search.epochs, state.settings.method.hypergradient.single_level

        def step(now: Tensor, *tensors: Tensor) -> StepMetrics:
            raws = [RawBatch(*tensors[first : first + 3]) for first in range(0, len(tensors), 3)]
            valid_raw = None if single else raws.pop()
            return search_step(state, Moment(now[0], now[1], epochs), raws, valid_raw, moves)

        state.actions[moves] = Graphed(step, state.settings.graphs)
    return state.actions[moves]


def decide(state: SearchState) -> None:
    """Decide, at the end of an epoch, what stays active, whether the search ends, which stage comes next."""
    settings, done = state.settings, state.epoch + 1
    method, epochs = settings.method, settings.search.epochs
    active, state.memory["schedule"] = method.schedule.decide(observation(state, done), epochs)
    state.chosen_epoch = method.stopping.chosen_epoch(state.tracker.history)
    state.ended = state.chosen_epoch is not None or budget_is_spent(state)
    stages = method.schedule.stages(epochs, settings.space)
    following = (stage for stage in stages if stage.first <= done < stage.last)
    enter_stage(state, active, next(following, state.stage))


def start_or_resume(settings: SearchSettings, folder: Path) -> SearchState:
    """Build everything a search needs, and take up the folder's checkpoint if it has one."""
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    own = experiment(settings)
    refuse_other_run(folder, KIND, own)
    saved = load_checkpoint(folder, own, stage_schema(settings))
    lengths = settings.search
    data = search_data(settings.dataset, lengths.train_fraction, lengths.batch_size, settings.seed, device)
    table = load_table(settings.benchmark, settings.space)
    costs = cost_model(settings, data.shape, device)
    state = new_state(settings, data, device, folder, saved)
    state.experiment = own
    state.costs, state.table = costs, table
    if distributed.is_main_process():
        claim_folder(folder, KIND, own, device, data_record(settings.dataset, data.train.images, own))
        write_bytes(folder / "split.json", data.split.to_json().encode())
    log_summary(settings.dataset, data.train.images)
    if saved is None:
        train, valid = len(data.split.train), len(data.split.valid)
        log.info("search on %s: %d images train the weights, %d the architecture", device, train, valid)
    else:
        state.restore(saved)
        log.info("resuming at epoch %d, step %d", state.epoch + 1, state.step + 1)
    return state


def cost_model(settings: SearchSettings, shape: InputShape, device: torch.device) -> CostModel | None:
    """What the found network will cost, where that is limited."""
    return CostModel(settings.constraints, settings.space, shape, device) if settings.constraints.any else None


def finish(state: SearchState, folder: Path) -> Genotype:
    """Discretise, draw, and write genotype.json last: where it exists the search has ended."""
    settings, tracker = state.settings, state.tracker
    require_same_data(state.experiment, settings.dataset)
    last = tracker.history[-1 if state.chosen_epoch is None else state.chosen_epoch - 1]
    found = recorded_genotype(last, settings.space)
    costs = {} if state.costs is None else distributed.broadcast(state.costs.measured(found))
    provenance = {
        "method": settings.method.name,
        "dataset": settings.dataset.name,
        "seed": settings.seed,
        "epochs": last["epoch"],
        "settings": digest(identity(settings)),
        "data": state.experiment["dataset.content"],
        "split": state.data.split.digest(),
        "supernet_valid_accuracy": last["valid/accuracy"],
        "collapsed": collapsed(found),
        **({"costs": costs} if costs else {}),
        **({"table_accuracy": last["table/accuracy"]} if "table/accuracy" in last else {}),
    }
    genotype = Genotype(found.space, found.cells, provenance)
    if distributed.is_main_process():
        write_results(state, genotype, folder)
    if state.costs is not None:
        state.costs.check(costs, str(folder / "genotype.json"))
    return genotype


def write_results(state: SearchState, genotype: Genotype, folder: Path) -> None:
    """Draw the pictures, write the record of cost and, last, the result."""
    settings, tracker = state.settings, state.tracker
    plotting.save_cells(genotype, folder / "cells")
    plotting.save_figure(plotting.draw_curves(tracker.history), folder / "cells" / "curves")
    plotting.save_figure(plotting.draw_diagnostics(tracker.history), folder / "cells" / "diagnostics")
    for kind in settings.space.cell_types:
        mixtures = plotting.draw_mixtures(tracker.history, kind, settings.space)
        plotting.save_figure(mixtures, folder / "cells" / f"mixtures_{kind}")
    epochs = round(len(tracker.history) * settings.epoch_cost(), 6)  # passes over all training images
    cost = {"evaluations": 0, "epochs": epochs, "seconds": round(tracker.total_seconds(), 3)}
    record_end(folder, cost)
    write_bytes(folder / "genotype.json", to_json(genotype).encode())


def finished(settings: SearchSettings, folder: Path) -> Genotype:
    """The genotype of a folder whose search has ended, unless it was one of other settings."""
    genotype = from_json((folder / "genotype.json").read_text(), origin=str(folder / "genotype.json"))
    refuse_other_run(folder, KIND, experiment(settings))
    log.info("this search has ended before; nothing is changed")
    return genotype


def announce(genotype: Genotype, folder: Path) -> None:
    """Say what was found, where it lies and what to type next."""
    warnings = []
    if genotype.provenance.get("collapsed"):
        warnings.append("half of the normal cell or more is skip connections: a collapsed search; see docs/methods.md")
    accuracy = 100 * genotype.provenance["supernet_valid_accuracy"]
    about = f"supernet accuracy {accuracy:.1f}% on the validation split: no forecast of the cell's own accuracy"
    announce_cells(genotype, folder, [*warnings, about])


# Variants


def stage_learning_rate(rule: WeightOptimiser, stage: Stage, epoch: int, within: float) -> float:
    """The learning rate of the weights: half a cosine over the stage, or over the span that it names.

    `within` is the fraction of the epoch that is done. Where the span began before the stage, the rest of the cosine is
    scaled so that the stage begins with its whole rate, as torch's scheduler does it in the code of Chen et al. 2021
    (DrNAS), which carries its state over to an optimiser with the first learning rate.
    """
    highest = stage.rate * rule.learning_rate
    lowest = min(rule.final_learning_rate, highest)
    rule = dataclasses.replace(rule, learning_rate=highest, final_learning_rate=lowest)
    first, last = stage.cosine or (stage.first, stage.last)
    length = last - first
    now = cosine_learning_rate(rule, (epoch + within - first) / length, length)
    if stage.first == first:
        return now
    begin = cosine_learning_rate(rule, (stage.first - first) / length, length)
    return lowest + (now - lowest) * (highest - lowest) / max(begin - lowest, 1e-30)


def set_skip_dropout(state: SearchState) -> None:
    """Give the skip connections that drop values their probability of this epoch."""
    stage, extras = state.stage, state.settings.method.edge_extras
    epoch, epochs = state.epoch - stage.first, stage.last - stage.first
    for skip in state.skip_connections():
        skip.probability = extras.skip_dropout(stage.number, epoch, epochs, stage.alpha_frozen_fraction)


def budget_is_spent(state: SearchState) -> bool:
    """Whether budget.minutes is used up; budget.epochs was checked before the first step."""
    minutes, seconds = state.settings.budget.minutes, distributed.broadcast(state.tracker.total_seconds())
    if minutes is None or seconds < 60 * minutes:
        return False
    log.info("budget.minutes is reached after epoch %d", state.epoch + 1)
    return True
