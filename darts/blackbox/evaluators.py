"""Scores genotypes: by short training, by a trained supernet's weights, by a table, without training, by several aims.

The settings of each kind are in blackbox/settings.py; their `scorer` methods call what is here.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from darts.blackbox.exchange import Scorer
from darts.blackbox.inherited import path_accuracy, path_of, trained_supernet
from darts.blackbox.proxies import PROXIES
from darts.blackbox.settings import (
    BriefTraining,
    EvaluationSettings,
    InheritedWeights,
    MultiObjective,
    TableLookup,
    ZeroCost,
)
from darts.loop.settings import taken_over
from darts.models.cost import network_costs
from darts.models.network import build_network
from darts.models.settings import NetworkSettings
from darts.models.supernet import Mixing
from darts.models.supernet_macs import DIFFERENTIATED, SupernetMacs
from darts.runtime.device import placed
from darts.runtime.errors import UserError
from darts.runtime.seeding import ambient
from darts.spaces.genotype import Genotype
from darts.spaces.nasbench201 import Table
from darts.spaces.search_space import InputShape, plan_cells
from darts.spaces.variation import canonical
from darts.tasks.batches import SearchData
from darts.train.brief import validation_accuracy, zero_if_diverged
from darts.train.settings import BriefSettings


@dataclass(frozen=True)
class EvaluationContext:
    """What evaluations have in common: the settings, its two splits of the images, device, table, folder."""

    settings: EvaluationSettings
    data: SearchData
    device: torch.device
    table: Table | None
    folder: Path


def brief_training(how: BriefTraining, context: EvaluationContext) -> Scorer:
    """Train by a fraction of the epochs, each time from scratch with a whole cosine schedule."""
    images = len(context.data.split.train) + len(context.data.split.valid)
    part = len(context.data.split.train) / images
    own_batches = context.data.train.of(how.train.batch_size, "evaluator.train.batch_size")
    data = dataclasses.replace(context.data, train=own_batches)

    def lasts(fraction: float) -> int:
        return max(1, round(how.train.epochs * fraction))

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        settings = training_settings(context.settings, how, lasts(fraction))
        folder = context.folder / "evaluations" / f"{canonical(genotype)}_{lasts(fraction)}"
        accuracy, diverged = zero_if_diverged(lambda: validation_accuracy(settings, genotype, data, folder, quiet=True))
        shutil.rmtree(folder, ignore_errors=True)  # the score is written down by the search
        return accuracy, {"diverged": 1.0} if diverged else {}

    def macs(genotype: Genotype, fraction: float) -> float:
        passes = DIFFERENTIATED * lasts(fraction) * len(context.data.split.train) + len(context.data.split.valid)
        return float(passes * _network_macs(genotype, how.network, context.data.shape))

    return Scorer(score, lambda fraction: part * lasts(fraction), macs, partial_effort=True, effort=lasts)


def _network_macs(genotype: Genotype, size: NetworkSettings, shape: InputShape) -> float:
    """Multiply-adds of one image."""
    return network_costs(genotype, size, shape, torch.device("cpu"), ["macs"])["macs"]


def training_settings(settings: EvaluationSettings, how: BriefTraining, epochs: int) -> BriefSettings:
    """The settings of a brief training within a search."""
    return taken_over(
        BriefSettings,
        settings,
        network=how.network,
        weight_optimiser=how.weight_optimiser,
        train=dataclasses.replace(how.train, epochs=epochs),
        train_fraction=settings.search.train_fraction,
    )


def inherited_weights(how: InheritedWeights, context: EvaluationContext) -> Scorer:
    """Accuracy of the genotype's path through a trained supernet."""
    supernet = trained_supernet(Path(how.supernet), how.network, context.settings, context.data, context.device)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        batches = context.data.valid.mixed()
        return path_accuracy(supernet, genotype, context.settings.space, batches, how.batch_statistics), {}

    size, space, shape = how.network, context.settings.space, context.data.shape
    plans = plan_cells(size.cells, size.channels, space.multipliers(), space.layout)
    counts = SupernetMacs(plans, space, shape, size.stem_reductions, Mixing())

    def macs(genotype: Genotype, fraction: float) -> float:
        return float(len(context.data.split.valid) * counts.of_one_image(path_of(genotype, space)))

    return Scorer(score, macs=macs)


def table_lookup(how: TableLookup, context: EvaluationContext) -> Scorer:
    """What a table says; in the table equal cells have entries of their own."""
    table = context.table
    if table is None:
        raise UserError("benchmark.table is null; it must be a file with evaluator=table, which reads it")
    table.require_accuracies(how.column)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        return table.accuracy(genotype, how.column) / 100, {}

    return Scorer(score, exact=True)


def zero_cost(how: ZeroCost, context: EvaluationContext) -> Scorer:
    """A score of the untrained network on one batch of the training split."""
    size, shape = how.network, context.data.shape
    batch = context.data.train.first(how.batch_size)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        with ambient(context.settings.seed, "weights"):
            network = build_network(genotype, size.cells, size.channels, size.stem_reductions, shape, False)
        return PROXIES[how.proxy](placed(network, context.device).train(), batch), {}

    def macs(genotype: Genotype, fraction: float) -> float:
        return float(DIFFERENTIATED * how.batch_size * _network_macs(genotype, size, shape))

    return Scorer(score, macs=macs)


def multi_objective(how: MultiObjective, context: EvaluationContext) -> Scorer:
    """Another score, weighed with what the network costs; the metrics tell all of them apart."""
    inner = how.accuracy.scorer(context)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        accuracy, metrics = inner.score(genotype, fraction)
        costs = network_costs(genotype, how.network, context.data.shape, context.device)
        weighed = accuracy
        for name, target in how.targets.items():
            weighed *= 1.0 if target is None else (costs[name] / target) ** how.exponent
        return weighed, {**metrics, "accuracy": accuracy, **costs}

    return dataclasses.replace(inner, score=score)
