"""A genotype trained briefly on the training split and judged on the validation split; no test image is read."""

from __future__ import annotations

from pathlib import Path

from darts.loop.optimisation import evaluate
from darts.loop.run_state import load_checkpoint
from darts.spaces.genotype import Genotype
from darts.tasks.batches import SearchData, TrainData
from darts.train import retraining
from darts.train.settings import BriefSettings


def validation_accuracy(
    settings: BriefSettings, genotype: Genotype, data: SearchData, folder: Path, quiet: bool = False
) -> float:
    """Train a cell on the one part of the training images; its accuracy on the other. The same folder resumes."""
    train = TrainData(data.shape, data.train, data.train.preparation)
    state = retraining.new_state(settings, genotype, train, folder)
    state.tracker.quiet = quiet
    state.experiment = retraining.protocol(settings, genotype)
    saved = load_checkpoint(folder, state.experiment)
    if saved is not None:
        state.restore(saved)
    with state.tracker.open():
        retraining.run_epochs(state)
    return evaluate(state.network, state.network, data.valid.mixed())["accuracy"]
