"""The best of several searches: python -m darts.select "searched=[runs/search/SWEEP]" [train.epochs=3] ...

Each found cell is trained briefly on one part of the training images and judged on the other; the test images are never
read. So Liu et al. 2019 (section 3.2) pick one of four searches before the final training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command, next_command
from darts.config.compose import quoted, typed_settings
from darts.config.registry import command_settings
from darts.runtime.errors import UserError
from darts.runtime.files import lock_folder, write_bytes, write_json
from darts.runtime.signals import deferred_signals, pending_signal, raise_if_interrupted, stopped_at_once
from darts.spaces.fixed import find_cell, fixed_cells, read_fixed
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.membership import next_settings
from darts.spaces.sources import folders_of_searches, read_genotype
from darts.tasks.settings import require_labelled
from darts.train.settings import LESS_MEMORY, BriefSettings, rate_setting

if TYPE_CHECKING:
    from darts.tasks.batches import SearchData

log = logging.getLogger("darts")
KIND = "selection"  # what run.json calls it


@command_settings("select")
@dataclass
class SelectSettings(BriefSettings):
    """The settings of `python -m darts.select`."""

    searched: list[str]  # folders of searches or of sweeps, published names, files, cells as printed


def candidates(settings: SelectSettings, folder: Path) -> dict[str, Genotype]:
    """The found cells by where they lie: those of all finished searches in the folders, or those that are named.

    What was there when the selection began counts, also when it resumes.
    """
    file = folder / "cells.json"
    names = list(read_fixed(file)) or named_cells(settings)
    if len(names) < 2:
        raise UserError(
            f"searched is {settings.searched}; a choice needs at least 2 finished searches, not {len(names)}"
        )
    found = fixed_cells(file, names, lambda name: find_cell(name, settings.space, settings.runs, settings.seed))
    different = {to_json(cell.genotype) for cell in found.values()}
    if len(different) < 2:
        raise UserError(f"searched is {settings.searched}; all of it is one cell of one search, and a choice needs 2")
    return {cell.origin: cell.genotype for cell in found.values()}


def named_cells(settings: SelectSettings) -> list[str]:
    """The folders of all finished searches below the given ones, and what else is given."""
    names: list[str] = []
    for reference in settings.searched:
        names += folders_of_searches(reference) or [reference]
    return list(dict.fromkeys(names))


def choose(settings: SelectSettings, folder: Path) -> tuple[str, dict[str, float]]:
    """Write the best cell's genotype.json and the accuracies of all; returns its name and those."""
    from darts.loop.record import (
        claim_folder,
        experiment,
        record_end,
        refuse_other_run,
        require_same_data,
        warn_of_other_data,
    )
    from darts.runtime.device import memory_advice, ready_device
    from darts.tasks.batches import search_data

    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    with lock_folder(folder), deferred_signals(), memory_advice(LESS_MEMORY):
        with stopped_at_once():
            own = experiment(settings)
            refuse_other_run(folder, KIND, own)
            data = search_data(
                require_labelled(settings.dataset),
                settings.train_fraction,
                settings.train.batch_size,
                settings.seed,
                device,
                setting="train.batch_size",
            )
            found = candidates(settings, folder)
            claim_folder(folder, KIND, own, device)
            for name, genotype in found.items():
                warn_of_other_data(name, genotype, settings)
        accuracies = accuracies_of(settings, found, data, folder)
        require_same_data(own, settings.dataset)
        best = keep_best(found, accuracies, folder, rate_setting(settings.train))
        record_end(folder)
        return best


def accuracies_of(
    settings: SelectSettings, found: dict[str, Genotype], data: SearchData, folder: Path
) -> dict[str, float]:
    """By name the validation accuracy of every cell; equal cells are trained once."""
    known: dict[str, float] = {}  # by the cell itself
    accuracies: dict[str, float] = {}
    for number, (name, genotype) in enumerate(found.items(), start=1):
        log.info("%d/%d: %s", number, len(found), name)
        digest = genotype.digest()
        if digest not in known:
            known[digest] = accuracy_of(settings, genotype, data, folder / "trials" / digest)
        accuracies[name] = known[digest]
        raise_if_interrupted(pending_signal())
    return accuracies


def accuracy_of(settings: SelectSettings, genotype: Genotype, data: SearchData, folder: Path) -> float:
    """Validation accuracy after a brief training; 0 where it diverges."""
    from darts.train.brief import validation_accuracy, zero_if_diverged

    return zero_if_diverged(lambda: validation_accuracy(settings, genotype, data, folder))[0]


def keep_best(
    found: dict[str, Genotype], accuracies: dict[str, float], folder: Path, rate: str
) -> tuple[str, dict[str, float]]:
    """Write the accuracies and, last, the best cell; `UserError` where no training has learned anything."""
    best = max(accuracies, key=lambda name: accuracies[name])
    if accuracies[best] == 0:
        raise UserError(f"every training diverged or learned nothing; lower {rate}")
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
    own = [f"genotype={quoted(str(folder))}", *next_settings(read_genotype(folder, typed.space))]
    log.info("next:   %s", next_command("python train_final.py", *own, without=["space"]))
    return 1 - accuracies[best]


if __name__ == "__main__":
    main()
