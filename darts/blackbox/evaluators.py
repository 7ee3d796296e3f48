"""Scores genotypes: by short training, by a trained supernet's weights, by a table, without training, by several aims.

The settings of each kind are in blackbox/settings.py; their `scorer` methods call what is here.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darts.blackbox.exchange import ANY_SCORE, Scorer
from darts.blackbox.inherited import path_accuracy, path_of, trained_supernet
from darts.blackbox.proxies import PROXIES
from darts.blackbox.settings import (
    BriefTraining,
    EvaluationSettings,
    InheritedWeights,
    MultiObjective,
    TableLookup,
    TextEvaluationSettings,
    ZeroCost,
)
from darts.loop.settings import taken_over
from darts.models.cost import Costs, network_costs
from darts.models.latency import Latencies
from darts.models.network import network_of_size
from darts.models.recurrent import macs_of_a_word
from darts.models.settings import COSTS, LATENCY, NetworkSettings
from darts.models.supernet_macs import DIFFERENTIATED
from darts.runtime.device import placed
from darts.runtime.errors import UserError
from darts.runtime.seeding import ambient
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import RECURRENT, Frame, InputShape
from darts.spaces.table import Table
from darts.spaces.variation import canonical
from darts.tasks.batches import SearchData
from darts.tasks.metric import ACCURACY
from darts.tasks.pieces import TextSearchData, in_columns, train_data_of
from darts.tasks.searched import SearchedData
from darts.tasks.settings import Perplexity
from darts.tasks.several import SeveralSearchData
from darts.tasks.several_settings import SeveralDatasets
from darts.train.brief import BriefData, unless_diverged, validation_score
from darts.train.settings import BriefSettings, TextBriefSettings

FRACTIONS = (ACCURACY.worst_score, ACCURACY.best_score)  # what an accuracy can be


@dataclass(frozen=True)
class EvaluationContext:
    """What evaluations have in common: the settings, the data's two splits, device, table, folder."""

    settings: EvaluationSettings
    data: SearchedData
    device: torch.device
    table: Table | None
    folder: Path
    latencies: Latencies | None = None  # of constraints.latency_table; None: they are measured here


def brief_training(how: BriefTraining, context: EvaluationContext) -> Scorer:
    """Train by a fraction of the epochs, each time from scratch with a whole cosine schedule."""
    if isinstance(context.data, SeveralSearchData):
        return brief_trainings(how, context)
    work = _work_of_text(how, context) if isinstance(context.data, TextSearchData) else _work_of_images(how, context)

    def lasts(fraction: float) -> int:
        return max(1, round(how.train.epochs * fraction))

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        settings = training_settings(context.settings, how, lasts(fraction))
        folder = context.folder / "evaluations" / f"{canonical(genotype)}_{lasts(fraction)}"

        def trained() -> float:
            return validation_score(settings, genotype, work.data, folder, quiet=True)

        found, diverged = unless_diverged(trained, work.data.task.metric)
        shutil.rmtree(folder, ignore_errors=True)  # the score is written down by the search
        return found, {"diverged": 1.0} if diverged else {}

    def macs(genotype: Genotype, fraction: float) -> float:
        return work.macs(genotype, lasts(fraction))

    metric = work.data.task.metric
    return Scorer(
        score,
        lambda fraction: work.part * lasts(fraction),
        macs,
        partial_effort=True,
        effort=lasts,
        limits=(metric.worst_score, metric.best_score),
    )


def brief_trainings(how: BriefTraining, context: EvaluationContext) -> Scorer:
    """Train on each of several tasks; the score is the mean of the accuracies by the tasks' weights."""
    data = context.data
    if not (isinstance(data, SeveralSearchData) and isinstance(context.settings.dataset, SeveralDatasets)):
        raise TypeError("several tasks are opened by settings of several tasks")
    weights = dict(zip(data.members, data.task.fixed_weights, strict=True))
    scorers = {}
    for name, part in context.settings.dataset.parts().items():
        settings = dataclasses.replace(context.settings, dataset=part)
        own = dataclasses.replace(context, settings=settings, data=data.members[name], folder=context.folder / name)
        scorers[name] = brief_training(how, own)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        total = 0.0
        metrics: dict[str, float] = {}
        for name, scorer in scorers.items():
            found, extra = scorer.score(genotype, fraction)
            total += weights[name] * found
            metrics |= {f"{name}/accuracy": found, **extra}
            shutil.rmtree(context.folder / name, ignore_errors=True)
        return total, metrics

    return Scorer(
        score,
        lambda fraction: sum(scorer.epochs(fraction) for scorer in scorers.values()) / len(scorers),
        lambda genotype, fraction: sum(scorer.macs(genotype, fraction) for scorer in scorers.values()),
        partial_effort=True,
        effort=next(iter(scorers.values())).effort,
        limits=FRACTIONS,
    )


@dataclass(frozen=True)
class BriefTrainingJob:
    """What a brief training trains on, and what it costs."""

    data: BriefData
    part: float  # of a pass over all training data, an epoch
    macs: Callable[[Genotype, int], float]  # multiply-adds of a training of so many epochs with its evaluations


def _work_of_images(how: BriefTraining, context: EvaluationContext) -> BriefTrainingJob:
    whole = images_of(context)
    train, valid = len(whole.split.train), len(whole.split.valid)

    def macs(genotype: Genotype, epochs: int) -> float:
        passes = DIFFERENTIATED * epochs * train + valid
        return passes * _network_macs(genotype, how.network, whole.shape, context.settings.space.frame)

    own_batches = whole.train.of(how.train.batch_size, "evaluator.train.batch_size").cut_out(how.train.cutout)
    return BriefTrainingJob(dataclasses.replace(whole, train=own_batches), train / (train + valid), macs)


def _work_of_text(how: BriefTraining, context: EvaluationContext) -> BriefTrainingJob:
    settings = context.settings
    if not isinstance(settings, TextEvaluationSettings) or not isinstance(context.data, TextSearchData):
        raise TypeError("a text is opened by settings of a text")
    corpus, language = context.data.corpus, settings.language
    columns = in_columns(corpus.parts["train"], how.train.batch_size, "evaluator.train.batch_size")
    data = train_data_of(corpus, language, columns, settings.seed, context.device)
    words, judged = data.train.text.numel(), data.valid.text.numel()

    def macs(genotype: Genotype, epochs: int) -> float:
        nodes = len(genotype.cells[RECURRENT].nodes)
        of_a_word = macs_of_a_word(language.units, data.shape.vocabulary, nodes)
        return float(epochs * (DIFFERENTIATED * words + judged) * of_a_word)

    return BriefTrainingJob(data, 1.0, macs)


def images_of(context: EvaluationContext) -> SearchData:
    """The examples of a search; `TypeError` for a text or several tasks, whose settings allow brief trainings only."""
    if not isinstance(context.data, SearchData):
        raise TypeError("this evaluator scores on images or sounds")
    return context.data


def _network_macs(genotype: Genotype, size: NetworkSettings, shape: InputShape, frame: Frame) -> float:
    """Multiply-adds of one image."""
    return network_costs(genotype, size, shape, torch.device("cpu"), ["macs"], frame)["macs"]


def training_settings(settings: EvaluationSettings, how: BriefTraining, epochs: int) -> BriefSettings:
    """The settings of a brief training within a search."""
    own: dict[str, Any] = {}
    kind: type[BriefSettings] = BriefSettings
    if isinstance(settings, TextEvaluationSettings):
        kind, own = TextBriefSettings, {"language": dataclasses.replace(settings.language, perplexity=Perplexity.EXACT)}
    return taken_over(
        kind,
        settings,
        **own,
        network=how.network,
        weight_optimiser=how.weight_optimiser,
        train=dataclasses.replace(how.train, epochs=epochs),
        train_fraction=settings.search.train_fraction,
    )


def inherited_weights(how: InheritedWeights, context: EvaluationContext) -> Scorer:
    """Accuracy of the genotype's path through a trained supernet."""
    data = images_of(context)
    supernet = trained_supernet(Path(how.supernet), how.network, context.settings, data, context.device)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        batches = data.valid.mixed()
        return path_accuracy(supernet, genotype, context.settings.space, batches, how.batch_statistics), {}

    space = context.settings.space

    def macs(genotype: Genotype, fraction: float) -> float:
        return float(len(data.split.valid) * supernet.macs.of_one_image(path_of(genotype, space)))

    return Scorer(score, macs=macs, limits=FRACTIONS)


def table_lookup(how: TableLookup, context: EvaluationContext) -> Scorer:
    """What a table says; in the table equal cells have entries of their own."""
    table = context.table
    if table is None:
        raise UserError("benchmark.table is null; it must be a file with evaluator=table, which reads it")
    table.require_accuracies(how.column)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        return table.accuracy(genotype, how.column) / 100, {}

    return Scorer(score, exact=True, limits=FRACTIONS)


def zero_cost(how: ZeroCost, context: EvaluationContext) -> Scorer:
    """A score of the untrained network on one batch of the training split."""
    data = images_of(context)
    size, shape, frame = how.network, data.shape, context.settings.space.frame
    batch = data.train.first(how.batch_size)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        with ambient(context.settings.seed, "weights"):
            network = network_of_size(genotype, size, shape, False, frame)
        return PROXIES[how.proxy](placed(network, context.device).train(), batch), {}

    def macs(genotype: Genotype, fraction: float) -> float:
        return float(DIFFERENTIATED * how.batch_size * _network_macs(genotype, size, shape, frame))

    return Scorer(score, macs=macs)


def multi_objective(how: MultiObjective, context: EvaluationContext) -> Scorer:
    """Another score, weighed with what the network costs; the metrics tell all of them apart."""
    inner, shape = how.accuracy.scorer(context), images_of(context).shape
    aimed = {name: target for name, target in how.targets.items() if target is not None}
    names = list(COSTS)
    if context.latencies is not None:  # a look, beside which building every network would be slow
        names = [name for name in COSTS if name in aimed or name == LATENCY]

    every = Costs(how.network, shape, context.device, context.settings.space.frame, context.latencies)

    def score(genotype: Genotype, fraction: float) -> tuple[float, dict[str, float]]:
        accuracy, metrics = inner.score(genotype, fraction)
        costs = every.of(genotype, names)
        weighed = accuracy
        for name, target in aimed.items():
            if costs[name] <= 0:
                raise UserError(f"evaluator.targets.{name}: a cell costs {costs[name]:g}, which no exponent can weigh")
            weighed *= (costs[name] / target) ** how.exponent
        return weighed, {**metrics, "accuracy": accuracy, **costs}

    return dataclasses.replace(inner, score=score, limits=ANY_SCORE, costs=tuple(aimed) or tuple(names))
