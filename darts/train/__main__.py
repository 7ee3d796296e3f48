"""Retrain a found cell: python train_final.py [genotype=latest] [experiment=darts_cifar10] [setting=value ...]."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.runtime import distributed
from darts.spaces.fixed import FixedCell, find_cell
from darts.train.settings import FinalSettings

log = logging.getLogger("darts.train")


@cli_command("final")
def main(settings: DictConfig) -> float:
    """Train a network in Hydra's folder, or evaluate a saved one; returns the test error, for sweepers."""
    typed = typed_settings(settings, FinalSettings)
    if typed.weights is not None:
        return evaluate(typed, Path(typed.weights))
    cell = find_cell(typed.genotype, typed.space, typed.runs, typed.seed)
    from darts.loop.record import warn_of_other_data

    warn_of_other_data("the cell", cell.genotype, typed)
    return train(typed, cell, Path(HydraConfig.get().runtime.output_dir))


def evaluate(settings: FinalSettings, weights: Path) -> float:
    """Test a saved network; returns the test error."""
    from darts.train import saved

    distributed.require_single_process("weights=FILE")
    tested = saved.evaluate_file(settings, weights)
    log.info("test accuracy %.4f, test loss %.4f", tested["accuracy"], tested["loss"])
    return 1 - tested["accuracy"]


def train(settings: FinalSettings, cell: FixedCell, folder: Path) -> float:
    """Train and test a cell's network; returns the test error."""
    from darts.train import retraining

    with distributed.process_group(settings.parallel, settings.device, settings.graphs):
        folder = Path(distributed.broadcast(str(folder)))
        result = retraining.run(settings, cell.genotype, folder)
    retraining.announce(result, folder, cell.origin)
    return 1 - result["test_accuracy"]


def command() -> None:
    """Run the command, on one process or on those that torchrun started."""
    distributed.run_entry_point(main)


if __name__ == "__main__":
    command()
