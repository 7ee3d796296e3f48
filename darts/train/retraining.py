"""A genotype trained from scratch on the whole training set, tested once at the end: result.json and weights.pt."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darts import __version__
from darts.config.command import CARRIED, SIZES, next_command
from darts.config.compose import quoted
from darts.config.identity import digest, refuse_other_experiment
from darts.loop import plotting
from darts.loop.optimisation import (
    Mean,
    StepMetrics,
    correct,
    cosine_learning_rate,
    cross_entropy,
    descend,
    evaluate,
    set_learning_rate,
    stop_unless_finite,
    weight_optimiser,
)
from darts.loop.optimiser_state import load_optimiser, optimiser_schema
from darts.loop.record import (
    claim_folder,
    data_record,
    environment,
    experiment,
    record_end,
    refuse_other_run,
    require_same_data,
)
from darts.loop.run_state import RunState, load_checkpoint
from darts.loop.tracking import Tracker
from darts.models.batch_norm import average_statistics, synchronise
from darts.models.cost import count_macs, count_parameters, count_parameters_without_auxiliary
from darts.models.network import Network, build_network, drop_path_scales
from darts.runtime import distributed
from darts.runtime.checkpoint import Checkpoints, write_state
from darts.runtime.device import Graphed, autocast, memory_advice, placed, ready_device, widened
from darts.runtime.files import lock_folder, read_json, write_json
from darts.runtime.reduction import whole_loss
from darts.runtime.schema import JSON, At, Schema, Within, like
from darts.runtime.seeding import ambient, generator
from darts.runtime.signals import deferred_signals
from darts.spaces.genotype import Genotype, from_json, to_json
from darts.spaces.membership import next_settings
from darts.spaces.search_space import InputShape
from darts.tasks.batches import RawBatch, TrainData, test_batches, train_data
from darts.tasks.content import warn_of_shared_pictures
from darts.tasks.datasets import classes_by_name, open_test
from darts.tasks.summary import log_summary
from darts.train.saved import EVALUATION_BATCH, described
from darts.train.settings import BriefSettings, FinalSettings

log = logging.getLogger(__name__)
KIND = "retraining"  # what run.json calls it

Result = dict[str, Any]
RESULT = {
    **{"config": {str: JSON}, "genotype": {str: JSON}, "protocol": str, "test_accuracy": Within(0, 1)},
    **{"test_loss": float, "parameters": At(0, 2**53), "macs": At(0, 2**63), "seconds": Within(0, 1e12)},
}  # what result.json must hold


@dataclass(kw_only=True)
class TrainState(RunState):
    """Everything retraining works on; a checkpoint holds exactly what changes."""

    settings: FinalSettings | BriefSettings
    genotype: Genotype
    data: TrainData
    network: Network
    optimiser: torch.optim.Optimizer
    experiment: dict[str, Any] = field(default_factory=dict)  # what must be the same where the training is resumed
    train_step: Graphed = field(init=False)

    def __post_init__(self) -> None:
        self.train_step = Graphed(lambda *raw: train_step(self, RawBatch(*raw[:3]), *raw[3:]), self.settings.graphs)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser, and the settings that must be the same when they are taken up."""
        return {
            "settings": self.experiment,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def schema(self) -> Schema:
        """What a checkpoint of this retraining must hold."""
        return {"network": like(self.network.state_dict()), "optimiser": optimiser_schema(self.optimiser)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.network.load_state_dict(saved["network"])
        load_optimiser(self.optimiser, saved["optimiser"])


def protocol(settings: FinalSettings | BriefSettings, genotype: Genotype) -> dict[str, Any]:
    """What decides the result, flat: settings, content of the data, and the cell itself in place of how it is named."""
    tested = isinstance(settings, FinalSettings)
    return {**experiment(settings, tested), "genotype": genotype.digest()}


def run(settings: FinalSettings, genotype: Genotype, folder: Path) -> Result:
    """Train and test a genotype's network; the same folder again resumes, or answers at once where it had ended."""
    if distributed.broadcast((folder / "result.json").exists()):
        return finished(settings, genotype, folder)
    sizes = f"train.batch_size ({settings.train.batch_size}), network.channels or network.cells"
    advice = f"lower {sizes}, or set precision=bf16 or memory.activation_checkpointing=true"
    with lock_folder(folder), deferred_signals(), memory_advice(advice):
        state = start_or_resume(settings, genotype, folder)
        with state.tracker.open():
            run_epochs(state)
            result = finish(state, folder)
        state.stop_if_asked()
        return result


def run_epochs(state: TrainState) -> None:
    """The epochs that remain."""
    for _ in state.epochs(state.settings.train.epochs):
        train_epoch(state)
        record_epoch(state)
        distributed.require_equal("a weight", list(state.network.parameters()))


def train_epoch(state: TrainState) -> None:
    """One pass over the training images."""
    settings, steps = state.settings, len(state.data.train)
    for raw in state.steps(state.data.train.shuffled_raw(state.epoch, state.step), steps):
        progress = (state.epoch + state.step / steps) / settings.train.epochs
        learning_rate = cosine_learning_rate(settings.weight_optimiser, progress, settings.train.epochs)
        set_learning_rate(state.optimiser, learning_rate)
        with state.located(learning_rate):
            measured = state.train_step(*raw, *drop_path(state, len(raw.labels)))
        for name, mean in measured.items():
            state.means.add(name, mean)


def drop_path(state: TrainState, batch: int) -> tuple[Tensor, ...]:
    """This step's `drop_path_scales` for `batch` images of this process, on the host; nothing where none is dropped."""
    train = state.settings.train
    if train.drop_path == 0:
        return ()
    probability = train.drop_path * state.epoch / train.epochs  # linear, moved once an epoch, as published
    draws = generator(state.settings.seed, "drop path", state.epoch, state.step)
    whole_batch = int(distributed.all_reduce_numbers([batch])[0])
    scales = drop_path_scales(state.network.paths(), whole_batch, probability, draws)
    return (scales[:, distributed.shard(torch.arange(whole_batch))],)


def train_step(state: TrainState, raw: RawBatch, scales: Tensor | None = None) -> StepMetrics:
    """Move the weights down the loss of the classifier plus that of the auxiliary head."""
    train, preparation = state.settings.train, state.data.preparation
    batch = preparation.augmented(raw)
    scales = None if scales is None else scales.to(preparation.device)
    with autocast(preparation.device, state.settings.precision):
        logits, auxiliary_logits = state.network.training_logits(batch.images, scales)
    loss = cross_entropy(widened(logits), batch.labels)
    total = loss
    if auxiliary_logits is not None:
        total = loss + train.auxiliary_weight * cross_entropy(widened(auxiliary_logits), batch.labels)
    parameters = list(state.network.parameters())
    descend(state.optimiser, total, parameters, state.settings.weight_optimiser.clip)
    average_statistics(state.network)
    images = len(batch.labels)
    return {
        "train/loss": Mean.of(whole_loss(loss), images),
        "train/accuracy": Mean(correct(logits, batch.labels), images),
    }


def record_epoch(state: TrainState) -> None:
    """Write the epoch down. There is no validation: all images train, and the test waits for the end."""
    metrics = state.means.means()
    learning_rate = float(state.optimiser.param_groups[0]["lr"])
    stop_unless_finite(metrics, state.epoch, learning_rate, "lower weight_optimiser.learning_rate")
    metrics["learning_rate/weights"] = learning_rate
    state.tracker.record(state.epoch, metrics, len(state.data.train))


def start_or_resume(settings: FinalSettings, genotype: Genotype, folder: Path) -> TrainState:
    """Build everything retraining needs, in the open, and take up the folder's checkpoint if it has one."""
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    own = protocol(settings, genotype)
    refuse_other_run(folder, KIND, own)
    saved = load_checkpoint(folder, own)
    train = settings.train
    data = train_data(settings.dataset, train.cutout, train.batch_size, settings.seed, device)
    log_summary(settings.dataset, data.train.images)
    state = new_state(settings, genotype, data, folder)
    state.experiment = own
    if distributed.is_main_process():
        claim_folder(folder, KIND, own, device, data_record(settings.dataset, data.train.images, own))
        warn_of_shared_pictures(settings.dataset)
    if saved is None:
        size = count_parameters_without_auxiliary(state.network)
        log.info("training on %s: %d images, %s parameters", device, len(data.train.indices), f"{size:,}")
    else:
        state.restore(saved)
        log.info("resuming at epoch %d, step %d", state.epoch + 1, state.step + 1)
    return state


def new_state(settings: FinalSettings | BriefSettings, genotype: Genotype, data: TrainData, folder: Path) -> TrainState:
    """A retraining before its first step."""
    device = data.preparation.device
    with ambient(settings.seed, "weights"):
        network = _network(settings, genotype, data.shape)
    network.activation_checkpointing = settings.memory.activation_checkpointing
    placed(network, device)
    synchronise(network)
    return TrainState(
        settings=settings,
        genotype=genotype,
        data=data,
        network=network,
        optimiser=weight_optimiser(network.parameters(), settings.weight_optimiser, settings.graphs),
        checkpoints=Checkpoints(folder),
        tracker=Tracker(folder, settings.train.epochs, device, settings.logger),
        minutes=settings.checkpoint.minutes,
    )


def finish(state: TrainState, folder: Path) -> Result:
    """Test, and write weights.pt and then result.json: where it exists the run has ended."""
    settings, preparation = state.settings, state.data.preparation
    names = state.data.train.images.classes
    images = classes_by_name(open_test(settings.dataset), names, "the training images")
    tested = evaluate(state.network, state.network, test_batches(images, EVALUATION_BATCH, preparation).in_order())
    require_same_data(state.experiment, settings.dataset)
    shape = state.data.shape
    image = torch.zeros(1, shape.channels, shape.size, shape.size, device=preparation.device)
    flat = state.experiment
    result = {
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
        "class_names": names,
        "data": data_record(settings.dataset, state.data.train.images, flat),
        "config": flat,
        "protocol": digest({key: value for key, value in flat.items() if key not in ("seed", "genotype")}),
        "environment": environment(preparation.device),
    }
    if distributed.is_main_process():
        write_state(folder / "weights.pt", described(state))
        plotting.save_figure(plotting.draw_curves(state.tracker.history), folder / "curves")
        plotting.save_cells(state.genotype, folder / "cells")
        record_end(folder)
        write_json(folder / "result.json", result)
    return result


def read_result(file: Path) -> Result:
    """What a result.json holds; `UserError` where it is damaged."""
    return dict(read_json(file, RESULT, "remove it to train again"))


def finished(settings: FinalSettings, genotype: Genotype, folder: Path, quiet: bool = False) -> Result:
    """The result of a folder whose run has ended, unless it was one of other settings."""
    result = read_result(folder / "result.json")
    refuse_other_experiment({**result, "settings": result["config"]}, protocol(settings, genotype), folder)
    if not quiet:
        log.info("this network has been trained before; nothing is changed")
    return result


def announce(result: Result, folder: Path, cell: str) -> None:
    """Say how good the network is, where it lies and what to type next; `cell`: what names its cell from now on."""
    log.info("")
    size = f"{result['parameters']:,} parameters, {result['macs'] / 1e6:.1f} M multiply-adds"
    log.info("test accuracy %.2f%%, %s, %.0f s", 100 * result["test_accuracy"], size, result["seconds"])
    log.info("result: %s, weights in %s", folder / "result.json", folder / "weights.pt")
    genotype = from_json(json.dumps(result["genotype"]), origin=str(folder / "result.json"))
    own = [f"searched=[{quoted(cell)}]", *next_settings(genotype)]
    log.info("is it any better than a random cell?")
    log.info("next:   %s", next_command("python -m darts.compare", *own, carried=(*CARRIED, *SIZES), without=["space"]))


def _network(settings: FinalSettings | BriefSettings, genotype: Genotype, shape: InputShape) -> Network:
    size, auxiliary = settings.network, settings.train.auxiliary_weight > 0
    return build_network(genotype, size.cells, size.channels, size.stem_reductions, shape, auxiliary)
