"""A genotype trained briefly on the training split and judged on the validation split; test data stay closed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from darts.loop.optimisation import evaluate
from darts.loop.run_state import load_checkpoint
from darts.loop.settings import taken_over
from darts.runtime.errors import NotFiniteError
from darts.spaces.genotype import Genotype
from darts.tasks.batches import SearchData, TrainData, search_data
from darts.tasks.metric import ACCURACY, Metric
from darts.tasks.pieces import TextTrainData, in_columns, text_train_data, train_data_of
from darts.tasks.settings import TextDataset, require_labelled
from darts.train import language, retraining
from darts.train.result import protocol
from darts.train.settings import AnyBriefSettings, BriefSettings, TextBriefSettings

log = logging.getLogger(__name__)
BriefData = SearchData | TextTrainData


def open_brief_data(settings: AnyBriefSettings, device: torch.device) -> BriefData:
    """Open what brief trainings train on and are judged by, in batches of `train.batch_size`."""
    dataset, columns = settings.dataset, settings.train.batch_size
    if isinstance(dataset, TextDataset):
        return text_train_data(dataset, settings.language, columns, settings.seed, device)
    images = require_labelled(dataset)
    opened = search_data(images, settings.train_fraction, columns, settings.seed, device, setting="train.batch_size")
    return in_batches_of(settings, opened)


def in_batches_of(settings: AnyBriefSettings, opened: BriefData) -> BriefData:
    """Opened data in batches, and with the cutout, of these settings; `UserError` for a larger batch than there is."""
    size = settings.train.batch_size
    if isinstance(opened, TextTrainData):
        columns = in_columns(opened.corpus.parts["train"], size, "train.batch_size")
        return train_data_of(opened.corpus, settings.language, columns, settings.seed, opened.device)
    return dataclasses.replace(opened, train=opened.train.of(size).cut_out(settings.train.cutout))


def validation_score(
    settings: BriefSettings, genotype: Genotype, data: BriefData, folder: Path, quiet: bool = False
) -> float:
    """Train a cell by these settings; its score on the validation split, of which more is better.

    Of images the accuracy (0 to 1), of a text the mean log-likelihood of a word in nats, in the best epoch. The same
    folder resumes.
    """
    if isinstance(data, TextTrainData):
        return _log_likelihood(settings, genotype, data, folder, quiet)
    return validation_accuracy(settings, genotype, data, folder, quiet)


def validation_accuracy(
    settings: BriefSettings, genotype: Genotype, data: SearchData, folder: Path, quiet: bool = False
) -> float:
    """Train a cell on the one part of the training images; its accuracy on the other. The same folder resumes."""
    settings = taken_over(BriefSettings, settings)  # of a study that may go on with more trials
    train = TrainData(data.shape, data.train, data.train.preparation)
    own = protocol(settings, genotype)
    saved = load_checkpoint(folder, own)
    state = retraining.new_state(settings, genotype, train, folder)
    _train(state, own, saved, quiet)
    network = state.tested_network()
    return evaluate(network, network, data.valid.mixed())["accuracy"]


def _log_likelihood(
    settings: BriefSettings, genotype: Genotype, data: TextTrainData, folder: Path, quiet: bool
) -> float:
    settings = taken_over(TextBriefSettings, settings)
    own = protocol(settings, genotype)
    saved = load_checkpoint(folder, own)
    state = language.new_state(settings, genotype, data, folder, language.was_averaging(saved))
    _train(state, own, saved, quiet)
    return -float(state.kept()["loss"])


def _train(
    state: retraining.TrainState | language.LanguageState,
    own: dict[str, Any],
    saved: dict[str, Any] | None,
    quiet: bool,
) -> None:
    """Run the epochs that a checkpoint of the same settings, if there is one, has not run."""
    state.experiment = own
    state.tracker.quiet = quiet
    if saved is not None:
        state.restore(saved)
    with state.tracker.open():
        retraining.run_epochs(state)


def unless_diverged(training: Callable[[], float], metric: Metric = ACCURACY) -> tuple[float, bool]:
    """The score that a training gives, the metric's worst with a warning where it diverges, and whether it did."""
    try:
        return max(training(), metric.worst_score), False
    except NotFiniteError as error:
        log.warning("a training diverged, and its score counts as %g: %s", metric.worst_score, error)
        return metric.worst_score, True
