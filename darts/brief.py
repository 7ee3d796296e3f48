"""A genotype trained briefly on one half of the training images and judged on the other; no test image is read."""

from __future__ import annotations

from pathlib import Path

from darts import retrain
from darts.commands import BriefSettings
from darts.config import refuse_other_settings
from darts.data import SearchData, TrainData
from darts.genotype import Genotype
from darts.training import evaluate


def validation_accuracy(
    settings: BriefSettings, genotype: Genotype, data: SearchData, folder: Path, quiet: bool = False
) -> float:
    """Train a cell on the one part of the training images; its accuracy on the other. The same folder goes on."""
    train = TrainData(data.shape, data.weights, data.weights.preparation)
    state = retrain.new_state(settings, genotype, train, folder)
    state.tracker.quiet = quiet
    saved = state.checkpoints.load()
    if saved is not None:
        refuse_other_settings(saved["settings"], retrain.protocol(settings, genotype), folder)
        state.restore(saved)
    retrain.run_epochs(state)
    state.tracker.close()
    return evaluate(state.network, state.network, data.architecture.mixed())["accuracy"]
