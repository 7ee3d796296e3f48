"""A recurrent cell's language model trained from scratch (Liu et al. 2019, appendix A.1.2, and their code).

SGD until the validation loss stops falling, then averaged SGD (Merity et al. 2018, section 3: NT-ASGD). The weights of
the epoch with the lowest validation loss are kept and tested once at the end.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darts import __version__
from darts.config.identity import digest
from darts.loop import plotting
from darts.loop.eager import eager
from darts.loop.optimisation import (
    descend,
    evaluate,
    set_learning_rate,
    stop_unless_finite,
    weight_optimiser,
)
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
from darts.loop.settings import WeightOptimiser
from darts.loop.tracking import Tracker
from darts.models.cost import count_parameters
from darts.models.recurrent import RecurrentNetwork, dropouts_of, macs_of_a_word
from darts.runtime import distributed
from darts.runtime.checkpoint import Checkpoints, write_state
from darts.runtime.device import autocast, placed, ready_device
from darts.runtime.files import write_json
from darts.runtime.reduction import whole_loss
from darts.runtime.schema import FINITE, At, Schema, SchemaError, like, like_tensor
from darts.runtime.seeding import ambient
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.search_space import RECURRENT
from darts.tasks.content import warn_of_shared_examples
from darts.tasks.pieces import Pieces, RawPiece, TextTrainData, text_test_pieces, text_train_data
from darts.tasks.settings import LanguageSettings, Perplexity
from darts.tasks.summary import log_summary, summary_of
from darts.tasks.task import StepMetrics
from darts.train.result import KIND, Result
from darts.train.settings import TextBriefSettings, TextFinalSettings

log = logging.getLogger(__name__)
LOWER = "lower weight_optimiser.learning_rate"


@dataclass(kw_only=True)
class LanguageState(RunState):
    """Everything the training works on; a checkpoint holds exactly what changes."""

    settings: TextFinalSettings | TextBriefSettings
    genotype: Genotype
    data: TextTrainData
    network: RecurrentNetwork
    device: torch.device
    experiment: dict[str, Any] = field(default_factory=dict)  # what must be the same where the training is resumed
    averaging: bool = False  # whether averaged SGD has taken over
    carry: Tensor | None = None  # the state with which the next piece begins
    losses: list[float] = field(default_factory=list)  # on the validation text, epoch by epoch, before averaging
    best: dict[str, Any] | None = None  # the lowest validation loss: its epoch, loss and weights
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimiser = optimiser_of(self.network, self.settings.weight_optimiser, self.averaging)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and what decides when averaging begins."""
        columns = self.data.train.columns
        carry = None if self.carry is None else distributed.unsharded(self.carry, columns)
        return {
            "settings": self.experiment,
            "network": self.network.state_dict(),
            "optimiser": optimiser_state_dict(self.optimiser),
            "averaging": self.averaging,
            "carry": carry,
            "losses": self.losses,
            "best": self.best,
        }

    def schema(self) -> Schema:
        """What a checkpoint of this training must hold."""
        weights = like(self.network.state_dict())
        carry = torch.zeros(self.data.train.columns, self.settings.language.units)
        return {
            "network": weights,
            "optimiser": optimiser_schema(self.optimiser),
            "averaging": bool,
            "carry": (None, like_tensor(carry)),
            "losses": [FINITE],
            "best": (None, {"epoch": At(1, self.settings.train.epochs), "loss": FINITE, "weights": weights}),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.network.load_state_dict(saved["network"])
        load_optimiser(self.optimiser, saved["optimiser"])
        if saved["carry"] is not None:
            self.carry = distributed.own_rows(saved["carry"]).to(self.device)
        self.losses, self.best = list(saved["losses"]), saved["best"]

    def line_schema(self) -> Schema:
        """What an epoch's line of history.jsonl must hold."""
        return {"epoch": int, "valid/loss": FINITE, "averaging": float}

    def require_possible(self, saved: dict[str, Any]) -> None:
        """`SchemaError` where what a state says does not go together."""
        super().require_possible(saved)
        step, epoch = saved["position"]["step"], saved["position"]["epoch"]
        if step and (saved["carry"] is None or step > self.data.train.steps(epoch)):
            raise SchemaError(f"position.step is {step}, which does not go with carry and the text")
        losses = [line["valid/loss"] for line in saved["history"]]
        lowest = (losses.index(min(losses)) + 1, min(losses)) if losses else None
        best = saved["best"] and (saved["best"]["epoch"], saved["best"]["loss"])
        if best != lowest:
            raise SchemaError(f"best is {best}, and the lowest loss of history is {lowest}")
        before = [line["valid/loss"] for line in saved["history"] if not line["averaging"]]
        begun = len(before) < len(losses) or bool(
            before and averages_next(before[:-1], before[-1], self.settings.language)
        )
        if saved["losses"] != before or saved["averaging"] is not begun:
            raise SchemaError("losses and averaging do not follow from history")
        if begun:
            language = self.settings.language
            longest = max(1.0, (language.piece + language.piece_most_above) / language.piece)
            most = longest * self.settings.weight_optimiser.learning_rate
            require_averaged(saved["optimiser"]["state"], most)
            if not saved["optimiser"]["state"] and (step or len(before) < len(losses)):
                raise SchemaError("optimiser.state is empty, and averaged SGD has taken steps")

    def train_epoch(self) -> None:
        """One pass over the training text."""
        train_epoch(self)

    def record_epoch(self) -> None:
        """Judge the epoch on the validation text and write it down."""
        record_epoch(self)

    def kept(self) -> dict[str, Any]:
        """The epoch of the lowest validation loss, its loss and weights; `TypeError` before the first has ended."""
        if self.best is None:
            raise TypeError("there is a best epoch after the first one")
        return self.best

    def finish(self, folder: Path) -> Result:
        """Test, and write the results."""
        return finish(self, folder)


def require_averaged(state: Mapping[Any, Mapping[str, Tensor]], most: float) -> None:
    """`SchemaError` unless a state is one of averaged SGD that begins at once, with learning rates up to `most`."""
    for place, one in state.items():
        steps = float(one["step"])
        counted = steps == int(steps) and math.isclose(float(one["mu"]), 1 / max(1.0, steps), rel_tol=1e-5)
        if not (counted and 0 < float(one["eta"]) <= most * 1.001):
            raise SchemaError(f"optimiser.state[{place}] is of no averaged SGD with learning rates up to {most:g}")


def optimiser_of(network: nn.Module, rule: WeightOptimiser, averaging: bool) -> torch.optim.Optimizer:
    """SGD, or averaged SGD, whose average begins at once and whose learning rate does not fall."""
    if not averaging:
        return weight_optimiser(network.parameters(), rule)
    decay = rule.weight_decay
    return eager(torch.optim.ASGD)(network.parameters(), lr=rule.learning_rate, lambd=0.0, t0=0.0, weight_decay=decay)


def train_epoch(state: LanguageState) -> None:
    """One pass over the training text, piece by piece; the state carries on from each to the next."""
    rule, pieces = state.settings.weight_optimiser, state.data.train
    steps = pieces.steps(state.epoch)
    if state.step == 0:
        state.carry = None
    state.network.train()
    for raw in state.steps(pieces.shuffled_raw(state.epoch, state.step), steps):
        rate = rule.learning_rate * pieces.rate_factor(state.epoch, state.step)
        set_learning_rate(state.optimiser, rate)
        with state.located(rate):
            measured = train_step(state, raw)
        state.measure(measured, steps)


def train_step(state: LanguageState, raw: RawPiece) -> StepMetrics:
    """Move the weights down the loss of a piece, with the terms on the cell's outputs."""
    task, settings = state.data.task, state.settings
    batch = task.continued(state.data.train.prepared(raw), state.carry)
    with ambient(settings.seed, "dropout", state.epoch, state.step), autocast(state.device, settings.precision):
        output = state.network(batch.inputs)
    loss = task.loss(output, batch.targets)
    total = task.training_loss(output, loss)
    descend(state.optimiser, total, list(state.network.parameters()), settings.weight_optimiser.clip)
    state.carry = task.carry(output)
    measured = task.measured(output, batch.targets, whole_loss(loss))
    return {f"train/{name}": mean for name, mean in measured.items()}


def record_epoch(state: LanguageState) -> None:
    """Evaluate on the validation text, by the averaged weights where there are such; keep the best; write it down."""
    with averaged_weights(state):
        valid = evaluated(state, state.data.valid)
        if state.best is None or valid["loss"] < state.best["loss"]:
            weights = {name: value.clone() for name, value in state.network.state_dict().items()}
            state.best = {"epoch": state.epoch + 1, "loss": valid["loss"], "weights": weights}
    metrics = state.data.task.completed(state.means.means())
    metrics |= {f"valid/{name}": value for name, value in valid.items()}
    rate = state.settings.weight_optimiser.learning_rate
    stop_unless_finite(metrics, state.epoch, rate, LOWER)
    metrics |= {"learning_rate/weights": rate, "averaging": float(state.averaging)}
    state.tracker.record(state.epoch, metrics, state.data.train.steps(state.epoch))
    if not state.averaging:
        if averages_next(state.losses, valid["loss"], state.settings.language):
            log.info("averaged SGD from here on")
            state.averaging = True
            state.optimiser = optimiser_of(state.network, state.settings.weight_optimiser, averaging=True)
        state.losses.append(valid["loss"])


def averages_next(before: Sequence[float], loss: float, language: LanguageSettings) -> bool:
    """Whether averaged SGD begins with the epoch after that of a validation loss; `before`: the losses before it."""
    next_epoch = len(before) + 2
    return begins_averaging(before, loss, language.average_after) or 0 < language.average_from <= next_epoch


def begins_averaging(before: Sequence[float], loss: float, patience: int) -> bool:
    """Whether a validation loss is above the least of all but the last `patience` before it; 0: never.

    Merity et al. 2018, algorithm 1.
    """
    return 0 < patience < len(before) and loss > min(before[:-patience])


@contextmanager
def averaged_weights(state: LanguageState) -> Iterator[None]:
    """Within the block the network has the mean of the weights since averaging began, if it has."""
    if not state.averaging:
        yield
        return
    kept = [weight.detach().clone() for weight in state.network.parameters()]
    with torch.no_grad():
        for weight in state.network.parameters():
            weight.copy_(state.optimiser.state[weight]["ax"])
        try:
            yield
        finally:
            for weight, own in zip(state.network.parameters(), kept, strict=True):
                weight.copy_(own)


def evaluated(state: LanguageState, pieces: Pieces) -> dict[str, float]:
    """Loss and perplexity of the network on a text."""
    with autocast(state.device, state.settings.precision):
        found = evaluate(state.network, state.network, pieces.evaluation(), task=state.data.task)
    if state.settings.language.perplexity is Perplexity.AS_PRINTED:
        rows = len(pieces.text)
        found = state.data.task.completed({"loss": found["loss"] * (rows - 1) / rows})
    return found


def start_or_resume(
    settings: TextFinalSettings, genotype: Genotype, folder: Path, own: dict[str, Any]
) -> LanguageState:
    """Build everything the training needs, and take up the folder's checkpoint if it has one."""
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    refuse_other_run(folder, KIND, own)
    saved = load_checkpoint(folder, own)
    data = text_train_data(settings.dataset, settings.language, settings.train.batch_size, settings.seed, device)
    text_test_pieces(settings.dataset, settings.language, data.corpus.vocabulary, device)  # what is wrong is told now
    summary = summary_of(settings.dataset, data)
    log_summary(summary)
    state = new_state(settings, genotype, data, folder, was_averaging(saved))
    state.experiment = own
    if distributed.is_main_process():
        claim_folder(folder, KIND, own, device, data_record(summary, own))
        warn_of_shared_examples(settings.dataset)
    if saved is None:
        size, words = count_parameters(state.network), data.train.text.numel()
        log.info(
            "training on %s: %d words in %d columns, %s parameters", device, words, data.train.columns, f"{size:,}"
        )
    else:
        state.restore(saved)
        log.info("resuming at epoch %d, step %d", state.epoch + 1, state.step + 1)
    return state


def was_averaging(saved: dict[str, Any] | None) -> bool:
    """Whether a checkpoint, if there is one, is of a training whose averaged SGD had begun."""
    return saved is not None and saved.get("averaging") is True


def new_state(
    settings: TextFinalSettings | TextBriefSettings,
    genotype: Genotype,
    data: TextTrainData,
    folder: Path,
    averaging: bool = False,
) -> LanguageState:
    """A training before its first step, or with the optimiser of a checkpoint."""
    language = settings.language
    with ambient(settings.seed, "weights"):
        network = RecurrentNetwork(genotype, data.shape.vocabulary, language.units, dropouts_of(language))
    placed(network, data.device)
    return LanguageState(
        settings=settings,
        genotype=genotype,
        data=data,
        network=network,
        device=data.device,
        averaging=averaging,
        checkpoints=Checkpoints(folder),
        tracker=Tracker(folder, settings.train.epochs, data.device, settings.logger),
        minutes=settings.checkpoint.minutes,
    )


def finish(state: LanguageState, folder: Path) -> Result:
    """Test the best weights, and write weights.pt and then result.json: where it exists the training has ended."""
    settings, flat = state.settings, state.experiment
    kept = state.kept()
    state.network.load_state_dict(kept["weights"])
    pieces = text_test_pieces(settings.dataset, settings.language, state.data.corpus.vocabulary, state.device)
    log.info("testing on %d words", pieces.text.numel())
    tested = evaluated(state, pieces)
    rate = settings.weight_optimiser.learning_rate
    stop_unless_finite({f"test/{name}": value for name, value in tested.items()}, state.epoch - 1, rate, LOWER)
    require_same_data(flat, settings.dataset)
    units, words = settings.language.units, state.data.shape.vocabulary
    result = {
        "version": __version__,
        "test_perplexity": tested["perplexity"],
        "test_loss": tested["loss"],
        "validation_perplexity": math.exp(kept["loss"]),
        "kept_epoch": kept["epoch"],
        "averaged_from": next((line["epoch"] for line in state.tracker.history if line["averaging"]), None),
        "parameters": count_parameters(state.network),
        "macs": macs_of_a_word(units, words, len(state.genotype.cells[RECURRENT].nodes)),  # of a word
        "seconds": round(state.tracker.total_seconds(), 3),
        "epochs": settings.train.epochs,
        "seed": settings.seed,
        "genotype": json.loads(to_json(state.genotype)),
        "data": data_record(summary_of(settings.dataset, state.data), flat),
        "config": flat,
        "protocol": digest({key: value for key, value in flat.items() if key not in ("seed", "genotype")}),
        "environment": environment(state.device),
    }
    numbers = ("test_perplexity", "test_loss", "parameters", "macs", "seconds")
    state.tracker.results(flat, {name: float(result[name]) for name in numbers})
    if distributed.is_main_process():
        write_state(folder / "weights.pt", described(state))
        plotting.save_figure(plotting.draw_curves(state.tracker.history), folder / "curves")
        plotting.save_cells(state.genotype, folder / "cells")
        record_end(folder)
        write_json(folder / "result.json", result)
    return result


def described(state: LanguageState) -> dict[str, Any]:
    """All that is needed to use the model elsewhere: genotype, size, weights, vocabulary."""
    return {
        "version": __version__,
        "kind": "language model",
        "genotype": to_json(state.genotype),
        "units": state.settings.language.units,
        "vocabulary": list(state.data.corpus.vocabulary.tokens),
        "characters": state.settings.dataset.characters,
        "dataset": state.settings.dataset.name,
        "settings": state.experiment,
        "weights": {name: value.contiguous() for name, value in state.network.state_dict().items()},
    }
