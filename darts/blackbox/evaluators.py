"""Scores genotypes: by short training, by a trained supernet's weights, by a table, without training, by several aims.

The settings of each kind are in darts/settings.py; `evaluator` makes of them what answers.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from darts.blackbox.exchange import Scorer
from darts.blackbox.inherited import path_accuracy, trained_supernet
from darts.blackbox.proxies import PROXIES
from darts.brief import validation_accuracy
from darts.commands import BriefSettings, EvaluationSettings, taken_over
from darts.constraints import network_costs
from darts.data import SearchData
from darts.errors import NotFiniteError, UserError
from darts.execution import placed
from darts.genotype import Genotype
from darts.nasbench201 import Table
from darts.network import build_network
from darts.seeding import ambient
from darts.settings import Evaluator, InheritedWeights, MultiObjective, ShortTraining, TableLookup, ZeroCost
from darts.variation import canonical

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What evaluations have in common: the settings, its two halves of the images, device, table, folder."""

    settings: EvaluationSettings
    data: SearchData
    device: torch.device
    table: Table | None
    folder: Path


@functools.singledispatch
def evaluator(how: Evaluator, setting: Setting) -> Scorer:
    """What answers by the given settings."""
    raise TypeError(type(how))


@evaluator.register
def short_training(how: ShortTraining, setting: Setting) -> Scorer:
    """Train by a share of the epochs, each time anew and by a whole cosine of its own."""
    images = len(setting.data.split.weights) + len(setting.data.split.architecture)
    part = len(setting.data.split.weights) / images

    def lasts(share: float) -> int:
        return max(1, round(how.train.epochs * share))

    def score(genotype: Genotype, share: float) -> tuple[float, dict[str, float]]:
        settings = training_settings(setting.settings, how, lasts(share))
        data = dataclasses.replace(setting.data, weights=setting.data.weights.of(how.train.batch_size))
        folder = setting.folder / "evaluations" / f"{canonical(genotype)}_{lasts(share)}"
        try:
            found: tuple[float, dict[str, float]] = (
                validation_accuracy(settings, genotype, data, folder, quiet=True),
                {},
            )
        except NotFiniteError as error:
            log.warning("a training diverged, and scores 0: %s", error)
            found = 0.0, {"diverged": 1.0}
        shutil.rmtree(folder, ignore_errors=True)  # the score is written down by the search
        return found

    return Scorer(score, lambda share: part * lasts(share), shares=True)


def training_settings(settings: EvaluationSettings, how: ShortTraining, epochs: int) -> BriefSettings:
    """The settings of a brief training within a search."""
    return taken_over(
        BriefSettings,
        settings,
        network=how.network,
        weight_optimiser=how.weight_optimiser,
        train=dataclasses.replace(how.train, epochs=epochs),
        weight_share=settings.search.weight_share,
    )


@evaluator.register
def inherited_weights(how: InheritedWeights, setting: Setting) -> Scorer:
    """Accuracy of the genotype's path through a trained supernet."""
    supernet = trained_supernet(Path(how.supernet), how.network, setting.settings, setting.data, setting.device)

    def score(genotype: Genotype, share: float) -> tuple[float, dict[str, float]]:
        batches = setting.data.architecture.mixed()
        return path_accuracy(supernet, genotype, setting.settings.space, batches, how.batch_statistics), {}

    return Scorer(score)


@evaluator.register
def table_lookup(how: TableLookup, setting: Setting) -> Scorer:
    """What a table says; in the table equal cells have entries of their own."""
    table = setting.table
    if table is None:
        raise UserError("benchmark.table is null; it must be a file with evaluator=table, which reads it")

    def score(genotype: Genotype, share: float) -> tuple[float, dict[str, float]]:
        return table.accuracy(genotype, how.column) / 100, {}

    return Scorer(score, exact=True)


@evaluator.register
def zero_cost(how: ZeroCost, setting: Setting) -> Scorer:
    """A score of the untrained network on one batch of the weights' half."""
    size, shape = how.network, setting.data.shape
    batch = setting.data.weights.first(how.batch_size)

    def score(genotype: Genotype, share: float) -> tuple[float, dict[str, float]]:
        with ambient(setting.settings.seed, "weights"):
            network = build_network(genotype, size.cells, size.channels, size.stem_reductions, shape, False)
        return PROXIES[how.proxy](placed(network, setting.device).train(), batch), {}

    return Scorer(score)


@evaluator.register
def multi_objective(how: MultiObjective, setting: Setting) -> Scorer:
    """Another score, weighed with what the network costs; the figures tell all of them apart."""
    inner = evaluator(how.accuracy, setting)

    def score(genotype: Genotype, share: float) -> tuple[float, dict[str, float]]:
        accuracy, figures = inner.score(genotype, share)
        costs = network_costs(genotype, how.network, setting.data.shape, setting.device)
        weighed = accuracy
        for name, target in how.targets.items():
            weighed *= 1.0 if target is None else (costs[name] / target) ** how.exponent
        return weighed, {**figures, "accuracy": accuracy, **costs}

    return dataclasses.replace(inner, score=score)
