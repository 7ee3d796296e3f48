"""A genotype trained from scratch on the whole training set, tested once at the end: result.json and weights.pt."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from darts import __version__
from darts.config.identity import digest
from darts.loop import plotting
from darts.loop.measures import Measures, Tally
from darts.loop.optimisation import descend, evaluate, set_learning_rate, stop_unless_finite
from darts.loop.optimiser_state import load_optimiser, optimiser_schema, optimiser_state_dict
from darts.loop.record import (
    claim_folder,
    data_record,
    environment,
    record_end,
    refuse_other_run,
    require_same_data,
)
from darts.loop.run_state import RunState, load_checkpoint
from darts.loop.tracking import Tracker
from darts.models.batch_norm import average_statistics, synchronise
from darts.models.cost import count_macs, count_parameters, count_parameters_without_auxiliary
from darts.models.layout import choose_layout
from darts.models.network import Network, drop_path_scales, network_of_size
from darts.runtime import distributed
from darts.runtime.checkpoint import Checkpoints, write_state
from darts.runtime.device import (
    Graphed,
    autocast,
    map_type,
    memory_advice,
    placed,
    ready_device,
    sent,
    widened,
)
from darts.runtime.files import lock_folder, write_json
from darts.runtime.reduction import whole_loss
from darts.runtime.schema import At, Schema, Within, like
from darts.runtime.seeding import ambient, generator
from darts.runtime.signals import deferred_signals, stopped_at_once
from darts.spaces.genotype import Genotype, to_json
from darts.tasks.batches import EVALUATION_BATCH, RawBatch, TrainData, test_batches, train_data
from darts.tasks.content import warn_of_shared_examples
from darts.tasks.datasets import classes_by_name, open_test
from darts.tasks.settings import require_labelled
from darts.tasks.summary import log_summary, summary_of
from darts.tasks.task import Mean, StepMetrics, correct
from darts.train import language
from darts.train.language import LanguageState
from darts.train.recipe import averaged, changed_pixels, learning_rate, mixed, recipe_optimiser, target_loss
from darts.train.result import KIND, Result, finished, protocol
from darts.train.saved import described, write_measures
from darts.train.settings import (
    BriefSettings,
    FinalSettings,
    TextFinalSettings,
    less_memory,
    rate_setting,
)
from darts.train.starting import (
    Start,
    read_start,
    take_up,
    train_heads_alone,
    trained_parameters,
    training_mode,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainState(RunState):
    """Everything retraining works on; a checkpoint holds exactly what changes."""

    settings: FinalSettings | BriefSettings
    genotype: Genotype
    data: TrainData
    network: Network
    start: Start | None = None  # the trained network that this one begins with
    experiment: dict[str, Any] = field(default_factory=dict)  # what must be the same where the training is resumed
    average: AveragedModel | None = field(init=False)
    best: dict[str, Any] | None = field(init=False, default=None)  # of the validation images: epoch, accuracy, weights
    heads_alone: bool = field(init=False, default=False)
    trained: list[torch.nn.Parameter] = field(init=False)  # those that the gradient reaches
    optimiser: torch.optim.Optimizer = field(init=False)
    train_step: Graphed = field(init=False)

    def __post_init__(self) -> None:
        self.average = averaged(self.network, self.settings.train.recipe.average)
        self._optimise()
        self.at_epoch(0)

    def at_epoch(self, epoch: int) -> None:
        """Train the heads alone, or everything from `head_epochs` on, by an optimiser that has seen nothing yet."""
        alone = self.start is not None and epoch < self.settings.head_epochs  # type: ignore[union-attr]
        if alone != self.heads_alone:
            self.heads_alone = alone
            self._optimise()

    def _optimise(self) -> None:
        train_heads_alone(self.network, self.heads_alone)
        self.trained = trained_parameters(self.network)
        self.optimiser = recipe_optimiser(self.trained, self.settings)
        self.train_step = Graphed(lambda *raw: train_step(self, RawBatch(*raw[:3]), *raw[3:]), self.settings.graphs)

    def train_epoch(self) -> None:
        """One pass over the training images."""
        train_epoch(self)

    def record_epoch(self) -> None:
        """Write the epoch down."""
        record_epoch(self)

    def finish(self, folder: Path) -> Result:
        """Test, and write the results."""
        return finish(self, folder)

    def tested_network(self) -> Network:
        """The network whose accuracy counts: the moving average where one is kept."""
        return self.network if self.average is None else cast(Network, self.average.module)

    def rate_setting(self) -> str:
        """The setting that gives the learning rate of the weights: the recipe's where it has one."""
        return rate_setting(self.settings.train)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser, and the settings that must be the same when they are taken up."""
        return {
            "settings": self.experiment,
            "network": self.network.state_dict(),
            "optimiser": optimiser_state_dict(self.optimiser),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
        }

    def schema(self) -> Schema:
        """What a checkpoint of this retraining must hold."""
        weights = like(self.network.state_dict())
        kept = {"epoch": At(1, self.settings.train.epochs), "accuracy": Within(0, 1), "weights": weights}
        return {
            "network": weights,
            "optimiser": optimiser_schema(self.optimiser),
            "average": None if self.average is None else like(self.average.state_dict()),
            "best": None if self.data.valid is None else (None, kept),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.network.load_state_dict(saved["network"])
        load_optimiser(self.optimiser, saved["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.best = saved["best"]


def run(settings: FinalSettings, genotype: Genotype, folder: Path) -> Result:
    """Train and test a genotype's network; the same folder again resumes, or answers at once where it had ended."""
    if distributed.broadcast((folder / "result.json").exists()):
        return finished(settings, genotype, folder)
    advice = less_memory(settings, f"train.batch_size ({settings.train.batch_size})")
    with lock_folder(folder), deferred_signals(), memory_advice(advice):
        with stopped_at_once(alone=distributed.world_size() == 1):
            state = opened(settings, genotype, folder)
        with state.tracker.open():
            run_epochs(state)
            result = state.finish(folder)
        state.stop_if_asked()
        return result


def opened(settings: FinalSettings, genotype: Genotype, folder: Path) -> TrainState | LanguageState:
    """The training of a network of images or of a language model, at its start or where it was stopped."""
    if isinstance(settings, TextFinalSettings):
        return language.start_or_resume(settings, genotype, folder, protocol(settings, genotype))
    return start_or_resume(settings, genotype, folder)


def run_epochs(state: TrainState | LanguageState) -> None:
    """The epochs that remain."""
    for _ in state.epochs(state.settings.train.epochs):
        state.train_epoch()
        state.record_epoch()
        distributed.require_equal("a weight", list(state.network.parameters()))


def train_epoch(state: TrainState) -> None:
    """One pass over the training images."""
    settings, steps = state.settings, len(state.data.train)
    training_mode(state.network, state.heads_alone)
    for raw in state.steps(state.data.train.shuffled_raw(state.epoch, state.step), steps):
        rate = learning_rate(settings, state.epoch, state.step, steps)
        set_learning_rate(state.optimiser, rate)
        changed = changed_pixels(raw, settings.train.recipe.randaugment)
        with state.located(rate):
            measured = state.train_step(*changed, *drop_path(state, len(raw.labels)))
        if state.average is not None:
            state.average.update_parameters(state.network)
        state.measure(measured, steps)


def drop_path(state: TrainState, batch: int) -> tuple[Tensor, ...]:
    """This step's `drop_path_scales` for `batch` images of this process; nothing where none is dropped."""
    train = state.settings.train
    if train.drop_path == 0:
        return ()
    probability = train.drop_path * state.epoch / train.epochs  # linear, moved once an epoch, as published
    draws = generator(state.settings.seed, "drop path", state.epoch, state.step)
    whole_batch = int(distributed.all_reduce_numbers([batch])[0])
    scales = drop_path_scales(state.network.paths(), whole_batch, probability, draws)
    own = scales[:, distributed.shard(torch.arange(whole_batch))]
    return (sent(own, state.data.preparation.device),)


def train_step(state: TrainState, raw: RawBatch, scales: Tensor | None = None) -> StepMetrics:
    """Move the weights down the loss of the classifier plus that of the auxiliary head."""
    train, preparation = state.settings.train, state.data.preparation
    batch = preparation.augmented(raw)
    position = state.settings.seed, state.epoch, state.step
    images, target = mixed(batch.inputs, batch.targets, train.recipe, state.data.shape.classes, position)
    with autocast(preparation.device, state.settings.precision):
        logits, auxiliary_logits = state.network.training_logits(images, scales)
    smoothing = train.recipe.label_smoothing
    loss = target_loss(widened(logits), target, smoothing)
    total = loss
    if auxiliary_logits is not None:
        total = loss + train.auxiliary_weight * target_loss(widened(auxiliary_logits), target, smoothing)
    descend(state.optimiser, total, state.trained, state.settings.weight_optimiser.clip)
    average_statistics(state.network)
    number = len(batch.targets)
    right = correct(logits, target.labels)
    return {"train/loss": Mean.of(whole_loss(loss), number), "train/accuracy": Mean(right, number)}


def record_epoch(state: TrainState) -> None:
    """Write the epoch down, with the validation images if any are held out; the test waits for the end."""
    metrics = state.means.means() | validated(state)
    rate = float(state.optimiser.param_groups[0]["lr"])
    stop_unless_finite(metrics, state.epoch, rate, f"lower {state.rate_setting()}")
    metrics["learning_rate/weights"] = rate
    state.tracker.record(state.epoch, metrics, len(state.data.train))


def validated(state: TrainState) -> dict[str, float]:
    """Loss and accuracy on the images that are held out, if any are.

    The weights of the epoch with the highest accuracy are kept, the first of several; they are what is tested.
    """
    if state.data.valid is None:
        return {}
    network = state.tested_network()
    found = evaluate(network, network, state.data.valid.in_order())
    if state.best is None or found["accuracy"] > state.best["accuracy"]:
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        state.best = {"epoch": state.epoch + 1, "accuracy": found["accuracy"], "weights": weights}
    return {f"valid/{name}": value for name, value in found.items()}


def start_or_resume(settings: FinalSettings, genotype: Genotype, folder: Path) -> TrainState:
    """Build everything retraining needs, in the open, and take up the folder's checkpoint if it has one."""
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    own = protocol(settings, genotype)
    refuse_other_run(folder, KIND, own)
    saved = load_checkpoint(folder, own)
    choose_layout(device, map_type(settings.precision), folder)
    train = settings.train
    data = train_data(
        require_labelled(settings.dataset), train.cutout, train.batch_size, settings.seed, device, train.validation
    )
    summary = summary_of(settings.dataset, data)
    log_summary(summary)
    start = None if settings.start_from is None else read_start(Path(settings.start_from))
    state = new_state(settings, genotype, data, folder, start)
    state.experiment = own
    if distributed.is_main_process():
        require_labelled(settings.dataset).check_files()
        claim_folder(folder, KIND, own, device, data_record(summary, own))
        warn_of_shared_examples(settings.dataset)
    if saved is None:
        size = count_parameters_without_auxiliary(state.network)
        noun = require_labelled(settings.dataset).noun
        log.info("training on %s: %d %s, %s parameters", device, len(data.train.indices), noun, f"{size:,}")
    else:
        state.restore(saved)
        log.info("resuming at epoch %d, step %d", state.epoch + 1, state.step + 1)
    return state


def new_state(
    settings: FinalSettings | BriefSettings,
    genotype: Genotype,
    data: TrainData,
    folder: Path,
    start: Start | None = None,
) -> TrainState:
    """A retraining before its first step, or a fine-tuning of the network `start`."""
    device = data.preparation.device
    with ambient(settings.seed, "weights"):
        auxiliary, frame = settings.train.auxiliary_weight > 0, settings.space.frame
        network = network_of_size(genotype, settings.network, data.shape, auxiliary, frame)
    if start is not None:
        take_up(network, start, data.train.images.classes)
    network.activation_checkpointing = settings.memory.activation_checkpointing
    network.train_by_hand()
    placed(network, device)
    synchronise(network)
    return TrainState(
        settings=settings,
        genotype=genotype,
        data=data,
        network=network,
        start=start,
        checkpoints=Checkpoints(folder),
        tracker=Tracker(folder, settings.train.epochs, device, settings.logger),
        minutes=settings.checkpoint.minutes,
    )


def test(state: TrainState) -> tuple[dict[str, float], Measures]:
    """Loss and accuracy of the network that counts on the test images, which are opened here and nowhere before.

    Also returns the measures of its answers, of all processes.
    """
    dataset = require_labelled(state.settings.dataset)
    opened_test = open_test(dataset)
    images = classes_by_name(opened_test, state.data.train.images.classes, "the training images")
    log.info("testing on %d %s", len(images.labels), dataset.noun)
    network = state.tested_network()
    if state.best is not None:
        network.load_state_dict(state.best["weights"])
    batches, tally = test_batches(images, EVALUATION_BATCH, state.data.preparation).in_order(), Tally(images.classes)
    graphed = partial(Graphed, enabled=state.settings.graphs, warm_up=1)
    return evaluate(network, network, batches, graphed, tally.add_logits), tally.measures()


def finish(state: TrainState, folder: Path) -> Result:
    """Test, and write weights.pt, measures.json and then result.json: where it exists the run has ended."""
    tested, measures = test(state)
    require_same_data(state.experiment, state.settings.dataset)
    result = {**_result(state, tested), "balanced_accuracy": measures.balanced_accuracy}
    if measures.top5_accuracy is not None:
        result["top5_accuracy"] = measures.top5_accuracy
    numbers = ("test_accuracy", "test_loss", "balanced_accuracy", "parameters", "macs", "seconds")
    state.tracker.results(state.experiment, {name: float(result[name]) for name in numbers})
    if distributed.is_main_process():
        write_state(folder / "weights.pt", described(state))
        plotting.save_figure(plotting.draw_curves(state.tracker.history), folder / "curves")
        plotting.save_cells(state.genotype, folder / "cells")
        write_measures(measures, folder)
        record_end(folder)
        write_json(folder / "result.json", result)
    return result


def _result(state: TrainState, tested: Mapping[str, float]) -> Result:
    """What result.json says of the run, of its network and of the test."""
    settings, preparation, shape, flat = state.settings, state.data.preparation, state.data.shape, state.experiment
    image = torch.zeros(1, *shape.map_shape, device=preparation.device)
    return {
        "version": __version__,
        "test_accuracy": tested["accuracy"],
        "test_loss": tested["loss"],
        "parameters": count_parameters_without_auxiliary(state.network),
        "parameters_with_auxiliary": count_parameters(state.network),
        "macs": count_macs(state.network, image),
        "seconds": round(state.tracker.total_seconds(), 3),
        "epochs": settings.train.epochs,
        "seed": settings.seed,
        "genotype": json.loads(to_json(state.genotype)),
        "class_names": state.data.train.images.classes,
        **_beyond_the_published(state),
        "data": data_record(summary_of(settings.dataset, state.data), flat),
        "config": flat,
        "protocol": digest({key: value for key, value in flat.items() if key not in ("seed", "genotype")}),
        "environment": environment(preparation.device),
    }


def _beyond_the_published(state: TrainState) -> dict[str, Any]:
    """What the result says of validation and of the network that this one began with, where there are such."""
    found: dict[str, Any] = {}
    if state.best is not None:
        found["kept_epoch"], found["validation_accuracy"] = state.best["epoch"], state.best["accuracy"]
    if state.start is not None:
        head_epochs = state.settings.head_epochs  # type: ignore[union-attr]
        found["start_from"] = {**state.start.to_json(), "head_epochs": head_epochs}
    return found
