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

from darts.blackbox.settings import EvaluationSettings
from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.registry import command_settings
from darts.runtime.errors import UserError, require
from darts.runtime.files import lock_folder, read_json, write_json
from darts.runtime.schema import FINITE, Length, Within
from darts.runtime.seeding import python_generator
from darts.runtime.signals import deferred_signals, pending_signal, raise_if_interrupted, stopped_at_once
from darts.spaces.genotype import Genotype, from_json
from darts.spaces.membership import check_membership
from darts.spaces.variation import canonical, ordered
from darts.tasks.settings import require_labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from darts.spaces.table import Table

log = logging.getLogger("darts")
KIND = "rank correlation"  # what run.json calls it
Points = list[dict[str, Any]]
MEASURED = {"value": Within(-1, 1), "interval": Length(2, Within(-1, 1))}
FOUND = {"cells": int, "kendall_tau": MEASURED, "spearman_rho": MEASURED}  # correlation.json
POINT = {"cell": str, "score": FINITE, "final": Within(0, 1)}  # a line of points.jsonl


@command_settings("correlate")
@dataclass
class CorrelateSettings(EvaluationSettings):
    """The settings of `python -m darts.correlate`."""

    results: list[str]  # folders of trained networks; empty: the table's column is the final accuracy
    samples: int  # cells of the table that are drawn

    def __post_init__(self) -> None:
        self.benchmark.assign(None, None)
        super().__post_init__()
        require(3 <= self.samples <= 100_000, "samples", self.samples, "from 3 to 100000")


def trained_cells(settings: CorrelateSettings) -> list[tuple[Genotype, float]]:
    """The cells of all trained networks with their mean test accuracy; one protocol for all, or `UserError`."""
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
            found.setdefault(canonical(genotype), (genotype, []))[1].append(result["test_accuracy"])
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
    from darts.tasks.batches import search_data

    allowed = "a file, or give results=[FOLDER,...]"
    given = bool(settings.results) or bool(settings.benchmark.table)
    require(given, "benchmark.table", settings.benchmark.table, allowed)
    with stopped_at_once():
        device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
        own = experiment(settings)
        refuse_other_run(folder, KIND, own)
        loop, table = settings.search, load_table(settings.benchmark, settings.space)
        images = require_labelled(settings.dataset)
        data = search_data(images, loop.train_fraction, loop.batch_size, settings.seed, device)
        cells = trained_cells(settings) if settings.results or table is None else drawn_cells(settings, table)
        scorer = settings.evaluator.scorer(EvaluationContext(settings, data, device, table, folder))
        claim_folder(folder, KIND, own, device)
    file = folder / "points.jsonl"
    known = {line["cell"]: line for line in read_lines(file, POINT)}
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


def correlations(points: Points) -> dict[str, Any]:
    """Kendall's tau-b and Spearman's rho of scores and final accuracies, with 95% bootstrap intervals over cells.

    `UserError` where all scores or all accuracies are equal: nothing is ranked then.
    """
    import numpy as np
    from scipy import stats

    scores, finals = (np.array([point[name] for point in points]) for name in ("score", "final"))
    for name, values in (("scores", scores), ("final accuracies", finals)):
        if _constant(values):
            raise UserError(f"all {len(values)} {name} are {values[0]:g}; equal values have no rank correlation")
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


def draw(points: Points, title: str) -> Figure:
    """Final accuracy over score."""
    from darts.loop.plotting import new_figure

    figure = new_figure(5, 3.6)
    axes = figure.subplots()
    shown = ([point["score"] for point in points], [100 * point["final"] for point in points])
    axes.plot(*shown, "o", markersize=4, alpha=0.6)
    axes.set(xlabel="score", ylabel="final accuracy %", title=title)
    figure.tight_layout()
    return figure


@cli_command("correlate")
def main(settings: DictConfig) -> float:
    """Measure and report; returns Kendall's tau."""
    typed = typed_settings(settings, CorrelateSettings)
    from darts.loop.plotting import save_figure
    from darts.loop.record import record_end
    from darts.runtime.device import memory_advice

    folder = Path(HydraConfig.get().runtime.output_dir)
    advice = f"lower evaluator.network ({typed.evaluator.network.channels} channels) or the evaluator's batch size"
    with lock_folder(folder), deferred_signals(), memory_advice(advice):
        found = finished(typed, folder)
        if found is None:
            points = measure(typed, folder)
            found = correlations(points)
            title = f"{len(points)} cells, tau = {found['kendall_tau']['value']:.2f}"
            save_figure(draw(points, title), folder / "correlation")
            write_json(folder / "correlation.json", found)
            record_end(folder)
    for name, label in (("kendall_tau", "Kendall's tau"), ("spearman_rho", "Spearman's rho")):
        low, high = found[name]["interval"]
        log.info("%-14s %.3f  [%.3f, %.3f]", label, found[name]["value"], low, high)
    log.info("result: %s, with its picture", folder / "correlation.json")
    return float(found["kendall_tau"]["value"])


if __name__ == "__main__":
    main()
