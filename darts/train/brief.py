"""A genotype trained briefly on the training split and judged on the validation split; no test image is read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from darts.loop.optimisation import evaluate
from darts.loop.run_state import load_checkpoint
from darts.loop.settings import taken_over
from darts.runtime.errors import NotFiniteError
from darts.spaces.genotype import Genotype
from darts.tasks.batches import SearchData, TrainData
from darts.train import retraining
from darts.train.result import protocol
from darts.train.settings import BriefSettings

log = logging.getLogger(__name__)


def validation_accuracy(
    settings: BriefSettings, genotype: Genotype, data: SearchData, folder: Path, quiet: bool = False
) -> float:
    """Train a cell on the one part of the training images; its accuracy on the other. The same folder resumes."""
    settings = taken_over(BriefSettings, settings)  # of a study that may go on with more trials
    train = TrainData(data.shape, data.train, data.train.preparation)
    state = retraining.new_state(settings, genotype, train, folder)
    state.tracker.quiet = quiet
    state.experiment = protocol(settings, genotype)
    saved = load_checkpoint(folder, state.experiment)
    if saved is not None:
        state.restore(saved)
    with state.tracker.open():
        retraining.run_epochs(state)
    network = state.tested_network()
    return evaluate(network, network, data.valid.mixed())["accuracy"]


def zero_if_diverged(training: Callable[[], float]) -> tuple[float, bool]:
    """The accuracy that a training gives, 0 with a warning where it diverges, and whether it did."""
    try:
        return training(), False
    except NotFiniteError as error:
        log.warning("a training diverged, and its accuracy counts as 0: %s", error)
        return 0.0, True
