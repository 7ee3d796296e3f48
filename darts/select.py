"""The best of several searches: python -m darts.select "searched=[runs/search/SWEEP]" [train.epochs=3] ...

Each found cell is trained briefly on one part of the training images and judged on the other, or on a text and judged
on its validation part; test data are never read. So Liu et al. 2019 (section 3.2) pick one of four searches before the
final training.
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
from darts.runtime.garbage import import_torch
from darts.runtime.signals import deferred_signals, pending_signal, raise_if_interrupted, stopped_at_once
from darts.spaces.fixed import find_cell, fixed_cells, read_fixed
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.membership import next_settings
from darts.spaces.sources import folders_of_searches, read_genotype
from darts.tasks.metric import Metric, metric_of
from darts.train.settings import AnyBriefSettings, less_memory, rate_setting

if TYPE_CHECKING:
    from darts.train.brief import BriefData

log = logging.getLogger("darts")
KIND = "selection"  # what run.json calls it


@command_settings("select")
@dataclass
class SelectSettings(AnyBriefSettings):
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
    """Write the best cell's genotype.json and the metric of all; returns its name and those."""
    import_torch()
    from darts.loop.record import (
        claim_folder,
        experiment,
        record_end,
        refuse_other_run,
        require_same_data,
        warn_of_other_data,
    )
    from darts.runtime.device import memory_advice, ready_device
    from darts.train.brief import open_brief_data

    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    with lock_folder(folder), deferred_signals(), memory_advice(less_memory(settings, "train.batch_size")):
        with stopped_at_once():
            own = experiment(settings)
            refuse_other_run(folder, KIND, own)
            data = open_brief_data(settings, device)
            found = candidates(settings, folder)
            claim_folder(folder, KIND, own, device)
            for name, genotype in found.items():
                warn_of_other_data(name, genotype, settings)
        scores = scores_of(settings, found, data, folder)
        require_same_data(own, settings.dataset)
        best = keep_best(found, scores, folder, data.task.metric, rate_setting(settings.train))
        record_end(folder)
        return best


def scores_of(settings: SelectSettings, found: dict[str, Genotype], data: BriefData, folder: Path) -> dict[str, float]:
    """By name the score of every cell's brief training; equal cells are trained once."""
    known: dict[str, float] = {}  # by the cell itself
    scores: dict[str, float] = {}
    for number, (name, genotype) in enumerate(found.items(), start=1):
        log.info("%d/%d: %s", number, len(found), name)
        digest = genotype.digest()
        if digest not in known:
            known[digest] = score_of(settings, genotype, data, folder / "trials" / digest)
        scores[name] = known[digest]
        raise_if_interrupted(pending_signal())
    return scores


def score_of(settings: SelectSettings, genotype: Genotype, data: BriefData, folder: Path) -> float:
    """The score of a brief training; the worst where it diverges."""
    from darts.train.brief import unless_diverged, validation_score

    return unless_diverged(lambda: validation_score(settings, genotype, data, folder), data.task.metric)[0]


def keep_best(
    found: dict[str, Genotype], scores: dict[str, float], folder: Path, metric: Metric, rate: str
) -> tuple[str, dict[str, float]]:
    """Write the metric of all cells and, last, the best cell; `UserError` where no training has learned anything."""
    best = max(scores, key=lambda name: scores[name])
    if scores[best] == metric.worst_score:
        raise UserError(f"every training diverged or learned nothing; lower {rate}")
    values = {name: metric.value_of_brief_score(score) for name, score in scores.items()}
    provenance: dict[str, Any] = {**found[best].provenance, "selected": {"from": len(found), metric.plural: values}}
    chosen = Genotype(found[best].space, found[best].cells, provenance)
    write_json(folder / "selection.json", {"chosen": best, f"validation_{metric.name}": values})
    write_bytes(folder / "genotype.json", to_json(chosen).encode())
    return best, values


@cli_command("select")
def main(settings: DictConfig) -> float:
    """Choose; returns the validation error, or perplexity, of the chosen cell."""
    typed = typed_settings(settings, SelectSettings)
    folder = Path(HydraConfig.get().runtime.output_dir)
    best, values = choose(typed, folder)
    metric = metric_of(typed.dataset)
    log.info("")
    for name, value in sorted(values.items(), key=lambda pair: -metric.score(pair[1])):
        log.info("%7s  %s%s", metric.shown(value), name, "  <- chosen" if name == best else "")
    log.info("result: %s", folder / "genotype.json")
    own = [f"genotype={quoted(str(folder))}", *next_settings(read_genotype(folder, typed.space))]
    log.info("next:   %s", next_command("python train_final.py", *own, without=["space"]))
    return metric.loss(values[best])


if __name__ == "__main__":
    main()
