"""Search a cell: python train_search.py [experiment=darts_cifar10] [setting=value ...]; --help shows all settings."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.registry import typed_overrides
from darts.runtime import distributed
from darts.runtime.garbage import import_torch
from darts.search.settings import SearchSettings, search_settings


@cli_command("search")
def main(settings: DictConfig) -> float:
    """Run a search in Hydra's folder; returns its error (or minus its score), for sweepers."""
    typed = search_settings(settings, typed_overrides())
    folder = Path(HydraConfig.get().runtime.output_dir)
    import_torch()
    if isinstance(typed, SearchSettings):
        from darts.search import ending, loop

        with distributed.process_group(typed.parallel, typed.device, typed.graphs):
            folder = Path(distributed.broadcast(str(folder)))
            genotype = loop.run(typed, folder)
        ending.announce(genotype, folder)
        return ending.error_of(genotype)
    from darts.blackbox import loop as blackbox

    distributed.require_single_process(f"method={typed.method.name}")
    genotype = blackbox.run(typed, folder)
    blackbox.announce(genotype, folder)
    return -genotype.provenance["score"]


def command() -> None:
    """Run the command, on one process or on those that torchrun started."""
    distributed.run_entry_point(main)


if __name__ == "__main__":
    command()
