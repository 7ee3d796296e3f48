"""Search a cell: python train_search.py [experiment=darts_cifar10] [setting=value ...]; --help shows all settings."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts import config, errors, parallel

config.register()


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="search")
@errors.door
def main(settings: DictConfig) -> float:
    """Run a search in Hydra's folder; returns its error (or minus its score), for sweepers."""
    typed = config.search_settings(settings)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if isinstance(typed, config.SearchSettings):
        from darts import search

        with parallel.joined(typed.parallel, typed.device, typed.graphs):
            folder = Path(parallel.said(str(folder)))
            genotype = search.run(typed, folder)
        search.announce(genotype, folder)
        return 1 - genotype.provenance["supernet_valid_accuracy"]
    from darts.blackbox import search as blackbox

    parallel.require_alone(f"method={typed.method.name}")
    genotype = blackbox.run(typed, folder)
    blackbox.announce(genotype, folder)
    return -genotype.provenance["score"]


if __name__ == "__main__":
    parallel.command(main)
