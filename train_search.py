"""Search a cell: python train_search.py [experiment=darts_cifar10] [setting=value ...]; --help shows all settings."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts import config, errors

config.register()


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="search")
@errors.door
def main(settings: DictConfig) -> float:
    """Run a search in Hydra's folder; returns the supernet's error on the architecture's half, for sweepers."""
    typed = config.typed(settings, config.SearchSettings)
    from darts import search

    folder = Path(HydraConfig.get().runtime.output_dir)
    genotype = search.run(typed, folder)
    search.announce(genotype, folder)
    return 1 - genotype.provenance["supernet_valid_accuracy"]


if __name__ == "__main__":
    main()
