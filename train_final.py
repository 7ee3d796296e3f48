"""Retrain a found cell: python train_final.py [genotype=latest] [experiment=darts_cifar10] [setting=value ...]."""

import logging
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts import config, errors, parallel

config.register()


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="final")
@errors.door
def main(settings: DictConfig) -> float:
    """Train a network in Hydra's folder, or evaluate a saved one; returns the test error, for sweepers."""
    typed = config.typed(settings, config.FinalSettings)
    from darts.genotype_sources import find_genotype

    if typed.weights is None:
        genotype = find_genotype(typed.genotype, typed.space, typed.runs, typed.seed)
    from darts import retrain

    if typed.weights is not None:
        parallel.require_alone("weights=FILE")
        tested = retrain.evaluate_file(typed, Path(typed.weights))
        logging.getLogger("darts").info("test accuracy %.4f, test loss %.4f", tested["accuracy"], tested["loss"])
        return 1 - tested["accuracy"]
    folder = Path(HydraConfig.get().runtime.output_dir)
    with parallel.joined(typed.parallel, typed.device, typed.graphs):
        folder = Path(parallel.said(str(folder)))
        result = retrain.run(typed, genotype, folder)
    retrain.announce(result, folder)
    return 1 - result["test_accuracy"]


if __name__ == "__main__":
    parallel.command(main)
