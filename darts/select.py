"""The best of several searches: python -m darts.select "searched=[runs/search/SWEEP]" [train.epochs=3] ...

Each found cell is trained briefly on one part of the training images and judged on the other; the test images are never
read. So Liu et al. 2019 (section 3.2) pick one of four searches before the final training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.registry import command_settings
from darts.runtime.errors import UserError
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.membership import next_settings
from darts.spaces.sources import find_genotype, folders_of_searches, read_genotype
from darts.train.settings import BriefSettings

log = logging.getLogger("darts")


@command_settings("select")
@dataclass
class SelectSettings(BriefSettings):
    """The settings of `python -m darts.select`."""

    searched: list[str]  # folders of searches or of sweeps, published names, files, cells as printed


def candidates(settings: SelectSettings) -> dict[str, Genotype]:
    """The found cells by where they lie: those of all finished searches in the folders, or those that are named."""
    found: dict[str, Genotype] = {}
    for reference in settings.searched:
        for name in folders_of_searches(reference) or [reference]:
            found[name] = find_genotype(name, settings.space, settings.runs, settings.seed)
    if len(found) < 2:
        raise UserError(
            f"searched is {settings.searched}; a choice needs at least 2 finished searches, not {len(found)}"
        )
    return found


def choose(settings: SelectSettings, folder: Path) -> tuple[str, dict[str, float]]:
    """Write the best cell's genotype.json and the accuracies of all; returns its name and those."""
    from darts.runtime.device import ready_device
    from darts.runtime.files import write_bytes, write_json
    from darts.tasks.batches import search_data
    from darts.train.brief import validation_accuracy

    found = candidates(settings)
    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    data = search_data(settings.dataset, settings.train_fraction, settings.train.batch_size, settings.seed, device)
    known: dict[str, float] = {}  # by the cell itself: equal cells are trained once
    accuracies: dict[str, float] = {}
    for number, (name, genotype) in enumerate(found.items(), start=1):
        log.info("%d/%d: %s", number, len(found), name)
        digest = genotype.digest()
        if digest not in known:
            known[digest] = validation_accuracy(settings, genotype, data, folder / "trials" / digest)
        accuracies[name] = known[digest]
    best = max(accuracies, key=lambda name: accuracies[name])
    provenance: dict[str, Any] = {**found[best].provenance, "selected": {"from": len(found), "accuracies": accuracies}}
    chosen = Genotype(found[best].space, found[best].cells, provenance)
    write_json(folder / "selection.json", {"chosen": best, "validation_accuracy": accuracies})
    write_bytes(folder / "genotype.json", to_json(chosen).encode())
    return best, accuracies


@cli_command("select")
def main(settings: DictConfig) -> float:
    """Choose; returns the validation error of the chosen cell."""
    typed = typed_settings(settings, SelectSettings)
    folder = Path(HydraConfig.get().runtime.output_dir)
    best, accuracies = choose(typed, folder)
    log.info("")
    for name, accuracy in sorted(accuracies.items(), key=lambda pair: -pair[1]):
        log.info("%6.2f%%  %s%s", 100 * accuracy, name, "  <- chosen" if name == best else "")
    log.info("result: %s", folder / "genotype.json")
    log.info("next:   python train_final.py genotype=%s%s", folder, next_settings(read_genotype(folder, typed.space)))
    return 1 - accuracies[best]


if __name__ == "__main__":
    main()
