"""The bilevel search, from typed settings to genotype.json (Liu et al. 2019, algorithm 1)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darts.loop.optimisation import cosine_learning_rate, set_learning_rate
from darts.loop.record import claim_folder, data_record, experiment, refuse_other_run
from darts.loop.run_state import load_checkpoint
from darts.loop.settings import WeightOptimiser
from darts.methods.schedule import Stage
from darts.models.layout import choose_layout
from darts.models.mixture import Moment
from darts.runtime import distributed
from darts.runtime.device import Graphed, Step, map_type, memory_advice, ready_device
from darts.runtime.files import lock_folder, write_bytes
from darts.runtime.signals import deferred_signals, stopped_at_once
from darts.search.build import open_data
from darts.search.compute import counted
from darts.search.costs import cost_model, costs_by_device
from darts.search.ending import KIND, finish, finished
from darts.search.epoch_end import observation, record_epoch
from darts.search.settings import SearchSettings
from darts.search.state import SearchState, dropouts, enter_stage, new_state, stage_schema
from darts.search.step import search_step
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import InputShape
from darts.spaces.table import load_table
from darts.tasks.batches import Batches
from darts.tasks.pieces import Pieces
from darts.tasks.several import SeveralBatches
from darts.tasks.summary import log_summary, summary_of
from darts.tasks.task import StepMetrics
from darts.train.settings import less_memory

log = logging.getLogger(__name__)


def run(settings: SearchSettings, folder: Path) -> Genotype:
    """Search a cell; the same folder again resumes where it was stopped, and answers at once where it had ended."""
    if distributed.broadcast((folder / "genotype.json").exists()):
        return finished(settings, folder)
    advice = less_memory(settings, f"search.batch_size ({settings.search.batch_size})", "engine=fused")
    with lock_folder(folder), deferred_signals(), memory_advice(advice):
        with stopped_at_once(alone=distributed.world_size() == 1):
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
    pieces = training_batches(state)
    steps = pieces.steps(state.epoch)
    if state.step == 0:
        state.carry.clear()  # a text is read from its beginning
    state.task.prepare_epoch(state.tracker.history)
    now = torch.zeros(2, device=state.device)  # progress and epoch, where a CUDA graph reads them
    for raws in state.steps(batches_of_steps(state, state.epoch, state.step, steps), steps):
        rule, within = state.settings.weight_optimiser, state.step / steps
        learning_rate = stage_learning_rate(rule, state.stage, state.epoch, within)
        learning_rate *= pieces.rate_factor(state.epoch, state.step)
        set_learning_rate(state.weight_optimiser, learning_rate)
        set_dropout(state)
        state.passes = 0
        action = step_action(state, moves_alpha(state, state.stage_progress(steps)))
        moment = state.moment(steps)
        now[0].fill_(moment.progress)
        now[1].fill_(moment.epoch)
        with state.located(learning_rate):
            measured = action(now, *[tensor for raw in raws for tensor in raw])
        state.measure(measured, steps)


def training_batches(state: SearchState) -> Batches | Pieces | SeveralBatches:
    """What trains the weights, a batch for each step of an epoch: all images where there is one level."""
    return state.data.joined() if state.settings.method.hypergradient.single_level else state.data.train


def batches_of_steps(state: SearchState, epoch: int, first: int, steps: int) -> Iterator[tuple[Any, ...]]:
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


def step_action(state: SearchState, moves: bool) -> Step:
    """A step as a function of tensors only: (progress, epoch), then the raw batches, the validation batch last."""
    if moves not in state.actions:
        epochs, single = state.settings.search.epochs, state.settings.method.hypergradient.single_level

        def step(now: Tensor, *tensors: Tensor) -> StepMetrics:
            width = len(state.data.raw_type._fields)
            raws = [state.data.raw_type(*tensors[first : first + width]) for first in range(0, len(tensors), width)]
            valid_raw = None if single else raws.pop()
            return search_step(state, Moment(now[0], now[1], epochs), raws, valid_raw, moves)

        state.actions[moves] = counted(state.tracker, Graphed(step, state.settings.graphs))
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
    choose_layout(device, map_type(settings.precision), folder)
    data = open_data(settings, device)
    summary = summary_of(settings.dataset, data)
    table = load_table(settings.benchmark, settings.space)
    costs = cost_model(settings, data.shape, device, folder) if isinstance(data.shape, InputShape) else None
    state = new_state(settings, data, device, folder, saved)
    state.experiment, state.costs, state.table = own, costs, table
    state.devices = costs_by_device(settings, costs)
    if distributed.is_main_process():
        claim_folder(folder, KIND, own, device, data_record(summary, own))
        write_bytes(folder / "split.json", data.split.to_json().encode())
    log_summary(summary)
    if saved is None:
        log.info("search on %s: %s", device, data.told())
    else:
        state.restore(saved)
        log.info("resuming at epoch %d, step %d", state.epoch + 1, state.step + 1)
    return state


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


def set_dropout(state: SearchState) -> None:
    """Give what drops values or edges its probability of this epoch."""
    stage, extras = state.stage, state.settings.method.edge_extras
    epoch, epochs = state.epoch - stage.first, stage.last - stage.first
    for dropout in dropouts(state):
        dropout.probability = extras.dropout(stage.number, epoch, epochs, stage.alpha_frozen_fraction)


def budget_is_spent(state: SearchState) -> bool:
    """Whether budget.minutes or budget.macs is used up; budget.epochs was checked before the first step."""
    budget, tracker = state.settings.budget, state.tracker
    spent = {
        "minutes": (distributed.broadcast(tracker.total_seconds()) / 60, budget.minutes),
        "macs": (tracker.total_macs(), budget.macs),
    }
    for name, (value, limit) in spent.items():
        if limit is not None and value >= limit:
            log.info("budget.%s is reached after epoch %d", name, state.epoch + 1)
            return True
    return False
