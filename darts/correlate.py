"""How well an evaluator ranks cells: python -m darts.correlate evaluator=zero_cost results=[runs/compare/fashion_mini].

The final accuracies are those of trained networks (every result.json under `results`, the mean where a cell was trained
several times) or a table's column for cells drawn at random.
"""

from __future__ import annotations

import json
import logging
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.blackbox.settings import UNUSED_WITH_A_TEXT, EvaluationSettings, TextEvaluationSettings
from darts.config.command import cli_command
from darts.config.compose import is_among, typed_settings
from darts.config.registry import command_settings
from darts.loop.settings import check_task, taken_over
from darts.runtime.errors import UserError, require
from darts.runtime.files import lock_folder, read_json, write_json
from darts.runtime.garbage import import_torch
from darts.runtime.schema import FINITE, Length, Within
from darts.runtime.seeding import python_generator
from darts.runtime.signals import deferred_signals, pending_signal, raise_if_interrupted, stopped_at_once
from darts.spaces.genotype import Genotype, from_json
from darts.spaces.membership import check_membership
from darts.spaces.variation import canonical, ordered
from darts.tasks.metric import ACCURACY, Metric, metric_of
from darts.tasks.settings import LanguageSettings

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from darts.spaces.table import Table
    from darts.tasks.searched import SearchedData

log = logging.getLogger("darts")
KIND = "rank correlation"  # what run.json calls it
Points = list[dict[str, Any]]
MEASURED = {"value": Within(-1, 1), "interval": Length(2, Within(-1, 1))}
FOUND = {"cells": int, "kendall_tau": MEASURED, "spearman_rho": MEASURED}  # correlation.json


@dataclass
class CorrelateSettings(EvaluationSettings):
    """The settings of `python -m darts.correlate`."""

    results: list[str]  # folders of trained networks; empty: the table's column is the final accuracy
    samples: int  # cells of the table that are drawn

    def __post_init__(self) -> None:
        self.benchmark.assign(None, None)
        super().__post_init__()
        require(3 <= self.samples <= 100_000, "samples", self.samples, "from 3 to 100000")


@dataclass
class TextCorrelateSettings(CorrelateSettings, TextEvaluationSettings):
    """The same of a text: how well brief trainings rank recurrent cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.results), "results", self.results, "folders of trained language models: a text has no table")


@command_settings("correlate")
@dataclass
class AnyCorrelateSettings(CorrelateSettings):
    """What the command is told, before it is known whether its data are a text."""

    language: LanguageSettings  # of a text

    def __post_init__(self) -> None:
        check_task(self.dataset, self.space)
        super().__post_init__()

    def refuse_unused(self, key: str) -> None:
        """`UserError` for a setting that is not used with these data; `key`: its dotted name."""
        of_text = ("samples", "search.initial_alpha", *UNUSED_WITH_A_TEXT)
        unused = of_text if self.dataset.is_text else ("language",)
        if is_among(key, unused):
            what = "a text" if self.dataset.is_text else "no text"
            raise UserError(f"{key} is given, but dataset={self.dataset.name} is {what}, with which it is not used")

    def narrowed(self) -> CorrelateSettings:
        """The settings of the data's kind only."""
        return taken_over(TextCorrelateSettings if self.dataset.is_text else CorrelateSettings, self)


def trained_cells(settings: CorrelateSettings) -> list[tuple[Genotype, float]]:
    """The cells of all trained networks with their mean test accuracy, of a text their mean perplexity.

    `UserError` where there is more than one protocol.
    """
    from darts.train.result import read_result

    found: dict[str, tuple[Genotype, list[float]]] = {}
    protocols, data = set(), set()
    for folder in settings.results:
        for file in sorted(Path(folder).rglob("result.json")):
            result = read_result(file)
            data.add((_text(result, "dataset.name"), _text(result, "dataset.content")))
            genotype = from_json(json.dumps(result["genotype"]), origin=str(file))
            check_membership(genotype, settings.space, str(file))
            protocols.add(result["protocol"])
            value = result.get(f"test_{metric_of(settings.dataset).name}")
            if value is None:
                raise UserError(f"results: {file} is of another task than dataset={settings.dataset.name}")
            found.setdefault(canonical(genotype), (genotype, []))[1].append(value)
    if len(found) < 3:
        raise UserError(f"results is {settings.results}; a rank correlation needs 3 cells, there are {len(found)}")
    if len(protocols) > 1:
        raise UserError(f"results is {settings.results}; the networks were trained by {len(protocols)} protocols")
    warn_of_data(settings, *data.pop())
    return [(genotype, statistics.fmean(values)) for genotype, values in found.values()]


def _text(result: dict[str, Any], key: str) -> str | None:
    """A setting of a trained network that is a text; None for any other, and where there is none."""
    value = result["config"].get(key)
    return value if isinstance(value, str) else None


def warn_of_data(settings: CorrelateSettings, name: str | None, digest: str | None) -> None:
    """Say so where the accuracies are of networks trained on other data than that of the scores."""
    from darts.loop.record import experiment

    own = experiment(settings)
    if digest is None:
        log.warning("results: written by version 0.1.0, which does not say on which images the networks were trained")
    elif digest != own["dataset.content"]:
        other = f"{name}" if name != settings.dataset.name else f"other images of {name}"
        log.warning("results: the networks were trained on %s, and the scores are of dataset %s: the rank correlation "
                    "says how far one ranks the other's cells", other, settings.dataset.name)  # fmt: skip


def drawn_cells(settings: CorrelateSettings, table: Table) -> list[tuple[Genotype, float]]:
    """Different cells drawn uniformly with the table's accuracies."""
    found: dict[str, Genotype] = {}
    draws = python_generator(settings.seed, "correlate")
    number = min(settings.samples, settings.space.count())
    while len(found) < number:
        genotype = settings.space.sample(draws)
        found.setdefault(ordered(genotype).digest(), genotype)
    column = settings.benchmark.column
    return [(genotype, table.accuracy(genotype, column) / 100) for genotype in found.values()]


def measure(settings: CorrelateSettings, folder: Path) -> Points:
    """Score every cell; what folder/points.jsonl holds of the same settings is not scored again."""
    from darts.blackbox.evaluators import EvaluationContext
    from darts.blackbox.exchange import finite_score
    from darts.loop.record import claim_folder, experiment, refuse_other_run, require_same_data
    from darts.runtime.device import ready_device
    from darts.runtime.files import append_line, read_lines, write_lines
    from darts.spaces.table import load_table

    allowed = "a file, or give results=[FOLDER,...]"
    given = bool(settings.results) or bool(settings.benchmark.table)
    require(given, "benchmark.table", settings.benchmark.table, allowed)
    with stopped_at_once():
        device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
        own = experiment(settings)
        refuse_other_run(folder, KIND, own)
        table, data = load_table(settings.benchmark, settings.space), opened(settings, device)
        cells = trained_cells(settings) if settings.results or table is None else drawn_cells(settings, table)
        scorer = settings.evaluator.scorer(EvaluationContext(settings, data, device, table, folder))
        claim_folder(folder, KIND, own, device)
    file = folder / "points.jsonl"
    known = {point["cell"]: point for point in read_lines(file, point_schema(metric_of(settings.dataset)))}
    write_lines(file, known.values())
    points: Points = []
    for number, (genotype, final) in enumerate(cells, start=1):
        raise_if_interrupted(pending_signal())
        name = ordered(genotype).digest()
        if name not in known:
            known[name] = {"cell": name, "score": finite_score(name, scorer.score(genotype, 1.0)[0]), "final": final}
            append_line(file, known[name])
        _require_same_accuracy(known[name], final, file)
        points.append(known[name])
        if number % max(1, len(cells) // 10) == 0:
            log.info("%d/%d cells scored", number, len(cells))
    require_same_data(own, settings.dataset)
    return points


def opened(settings: CorrelateSettings, device: torch.device) -> SearchedData:
    """The two splits that scores are of."""
    from darts.tasks.searched import searched_data

    language = settings.language if isinstance(settings, TextCorrelateSettings) else None
    fraction, batch = settings.search.train_fraction, settings.search.batch_size
    return searched_data(settings.dataset, language, fraction, batch, settings.seed, device)


def point_schema(metric: Metric) -> dict[str, Any]:
    """What a line of points.jsonl holds."""
    return {"cell": str, "score": FINITE, "final": Within(metric.least, metric.most)}


def _require_same_accuracy(point: dict[str, Any], final: float, file: Path) -> None:
    if point["final"] != final:
        raise UserError(
            f"{file}: the accuracy of {point['cell']} was {point['final']} when this correlation began, and is now "
            f"{final}; give another hydra.run.dir"
        )


def finished(settings: CorrelateSettings, folder: Path) -> dict[str, Any] | None:
    """What a correlation that has ended found; None where it has not; `UserError` where it was of other settings."""
    from darts.loop.record import experiment, refuse_other_run

    record = refuse_other_run(folder, KIND, experiment(settings))
    if record is None or record.get("ended") is not True or not (folder / "correlation.json").exists():
        return None
    log.info("this correlation has ended before; nothing is changed")
    return dict(read_json(folder / "correlation.json", FOUND, "remove the folder to start again"))


def correlations(points: Points, metric: Metric = ACCURACY) -> dict[str, Any]:
    """Kendall's tau-b and Spearman's rho of scores and final values, with 95% bootstrap intervals over cells.

    1 is the same order from worst to best, of perplexities too. `UserError` where all scores or all final values are
    equal: nothing is ranked then.
    """
    import numpy as np
    from scipy import stats

    scores = np.array([point["score"] for point in points])
    finals = np.array([metric.score(point["final"]) for point in points])
    for name, values in (("scores", scores), (f"final {metric.plural}", finals)):
        if _constant(values):
            raise UserError(f"all {len(values)} {name} are {abs(values[0]):g}; equal values have no rank correlation")
    measures = {
        "kendall_tau": lambda a, b: stats.kendalltau(a, b).statistic,
        "spearman_rho": lambda a, b: stats.spearmanr(a, b).statistic,
    }
    draws = np.random.default_rng(0).integers(len(points), size=(1000, len(points)))
    found: dict[str, Any] = {"cells": len(points)}
    for name, measured in measures.items():
        usable = [rows for rows in draws if not _constant(scores[rows]) and not _constant(finals[rows])]
        low, high = np.quantile([measured(scores[rows], finals[rows]) for rows in usable], [0.025, 0.975])
        found[name] = {"value": float(measured(scores, finals)), "interval": [float(low), float(high)]}
    return found


def _constant(values: Any) -> bool:
    return bool((values == values[0]).all())


def draw(points: Points, title: str, metric: Metric = ACCURACY) -> Figure:
    """Final value over score."""
    from darts.loop.plotting import new_figure

    figure = new_figure(5, 3.6)
    axes = figure.subplots()
    percent = metric is ACCURACY
    finals = [100 * point["final"] if percent else point["final"] for point in points]
    axes.plot([point["score"] for point in points], finals, "o", markersize=4, alpha=0.6)
    label = f"final {metric.name} %" if percent else f"final {metric.name} (lower is better)"
    axes.set(xlabel="score", ylabel=label, title=title)
    figure.tight_layout()
    return figure


@cli_command("correlate")
def main(settings: DictConfig) -> float:
    """Measure and report; returns Kendall's tau."""
    typed = typed_settings(settings, AnyCorrelateSettings).narrowed()
    import_torch()
    from darts.loop.plotting import save_figure
    from darts.loop.record import record_end
    from darts.runtime.device import memory_advice

    folder = Path(HydraConfig.get().runtime.output_dir)
    advice = f"lower evaluator.network ({typed.evaluator.network.channels} channels) or the evaluator's batch size"
    with lock_folder(folder), deferred_signals(), memory_advice(advice):
        found = finished(typed, folder)
        if found is None:
            points = measure(typed, folder)
            metric = metric_of(typed.dataset)
            found = correlations(points, metric)
            title = f"{len(points)} cells, tau = {found['kendall_tau']['value']:.2f}"
            save_figure(draw(points, title, metric), folder / "correlation")
            write_json(folder / "correlation.json", found)
            record_end(folder)
    for name, label in (("kendall_tau", "Kendall's tau"), ("spearman_rho", "Spearman's rho")):
        low, high = found[name]["interval"]
        log.info("%-14s %.3f  [%.3f, %.3f]", label, found[name]["value"], low, high)
    log.info("result: %s, with its picture", folder / "correlation.json")
    return float(found["kendall_tau"]["value"])


if __name__ == "__main__":
    main()
