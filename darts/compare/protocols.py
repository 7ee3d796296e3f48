"""A comparison under several training protocols: whether cells, and with them methods, rank alike under each.

For every protocol there is a comparison of its own in under_NAME/ beside the searches, which they share. The same cells
are trained under each, found and random ones.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darts.compare.page import move_to_earlier
from darts.compare.power import Design
from darts.compare.report import Report
from darts.compare.settings import CompareSettings
from darts.compare.several import WITHIN, end_of, foretold_each, run_each
from darts.compare.tables import markdown
from darts.config.compose import dotted_key, quoted
from darts.config.registry import typed_overrides
from darts.runtime.errors import UserError
from darts.runtime.files import write_bytes, write_json
from darts.tasks.metric import METRICS

log = logging.getLogger(__name__)
REPLACED = ("protocols", "searches_in", "trial", *WITHIN)  # of what was typed, in each protocol's comparison
OF_TRAINING = ("train", "weight_optimiser", "network", "recipe", "language")  # what searches do not take over
WRITTEN = ("protocols.json", "protocols.md")
DRAWS = 1000  # of a bootstrap over cells


@dataclass(frozen=True)
class Agreement:
    """How alike two protocols rank the same cells."""

    first: str
    second: str
    cells: int
    tau: float | None  # Kendall's tau-b; None where one of them ranks nothing
    interval: tuple[float, float] | None  # 95%, by a bootstrap over cells


def protocols_of(settings: CompareSettings) -> dict[str, list[str]]:
    """By name the settings of each protocol, of NAME: KEY=VALUE KEY=VALUE, or of the settings alone.

    `UserError` for what is no such entry, and for a setting that is not one of training.
    """
    found: dict[str, list[str]] = {}
    for number, entry in enumerate(settings.protocols, start=1):
        head, colon, rest = entry.partition(":")
        named = bool(colon) and head.strip().isidentifier()
        name, text = (head.strip(), rest) if named else (str(number), entry)
        own = text.split()
        wrong = [item for item in own if "=" not in item or dotted_key(item).split(".")[0] not in OF_TRAINING]
        if wrong or not own:
            told = f"{wrong[0]!r} sets none of {', '.join(OF_TRAINING)}" if wrong else "it has no setting"
            raise UserError(f"protocols: {entry!r}: {told}; an entry is NAME: KEY=VALUE KEY=VALUE ...")
        if name in found:
            raise UserError(f"protocols: there are two of the name {name!r}; each must have its own")
        found[name] = own
    return found


def overrides_under(settings: CompareSettings, protocol: Sequence[str], folder: Path) -> list[str]:
    """What would be typed for the comparison under one protocol."""
    kept = [item for item in typed_overrides() if dotted_key(item) not in REPLACED]
    return [*kept, *protocol, f"searches_in={quoted(str(searches_of(settings, folder)))}"]


def searches_of(settings: CompareSettings, folder: Path) -> Path:
    """Where the searches that all protocols share lie."""
    return folder / "searches" if settings.searches_in is None else Path(settings.searches_in).expanduser()


def typed(settings: CompareSettings, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """By protocol what would be typed for its comparison, and its folder."""
    return {
        name: (overrides_under(settings, own, folder), folder / f"under_{name}")
        for name, own in protocols_of(settings).items()
    }


def foretold(settings: CompareSettings, folder: Path) -> dict[str, list[Design]]:
    """By protocol what its comparison could show; `UserError` where one can show nothing."""
    return foretold_each(typed(settings, folder), settings.plan, "under")


def run_all(settings: CompareSettings, folder: Path, planned: Mapping[str, list[Design]]) -> tuple[float, str]:
    """Run the comparison under every protocol; returns the least corrected p, and the summary as Markdown."""
    reports = run_each(typed(settings, folder), folder, planned)
    agreements = agreements_of(reports)
    text = summary(settings, reports, agreements)
    content = {"groups": groups_of(reports), "agreements": [vars(agreement) for agreement in agreements]}
    if (folder / WRITTEN[0]).exists():
        log.info("the earlier summary is kept in %s", move_to_earlier(folder, WRITTEN))
    write_json(folder / WRITTEN[0], content)
    write_bytes(folder / WRITTEN[1], text.encode())
    return end_of(folder, reports), text


def cells_of(report: Report) -> dict[str, float]:
    """The mean score of every cell, by its digest: the metric so that more is better."""
    metric = METRICS[report.metric]
    values: dict[str, list[float]] = {}
    for outcome in report.outcomes:
        values.setdefault(outcome.genotype, []).append(metric.score(outcome.value))
    return {cell: sum(own) / len(own) for cell, own in values.items()}


def agreements_of(reports: Mapping[str, Report]) -> list[Agreement]:
    """How alike every two protocols rank the cells that both have trained."""
    cells = {name: cells_of(report) for name, report in reports.items()}
    found = []
    for first, second in itertools.combinations(cells, 2):
        shared = sorted(cells[first].keys() & cells[second].keys())
        own = np.array([[cells[name][cell] for cell in shared] for name in (first, second)])
        found.append(agreement_of(first, second, own))
    return found


def agreement_of(first: str, second: str, scores: np.ndarray[Any, Any]) -> Agreement:
    """Kendall's tau-b of two rows of scores (2, cells), with its interval."""
    number = scores.shape[1]
    tau = kendall(scores)
    if tau is None:
        return Agreement(first, second, number, None, None)
    rows = np.random.default_rng(0).integers(number, size=(DRAWS, number))
    drawn = [value for value in (kendall(scores[:, chosen]) for chosen in rows) if value is not None]
    low, high = (float(value) for value in np.quantile(drawn, [0.025, 0.975]))
    return Agreement(first, second, number, tau, (low, high))


def kendall(scores: np.ndarray[Any, Any]) -> float | None:
    """tau-b of two rows; None where one of them is constant."""
    from scipy.stats import kendalltau

    if any((row == row[0]).all() for row in scores):
        return None
    return float(kendalltau(*scores).statistic)


def groups_of(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """A line for each group: by protocol its mean in the metric itself, and its rank among the groups, 1 the best."""
    found = []
    for name in dict.fromkeys(group.name for report in reports.values() for group in report.groups):
        line: dict[str, Any] = {"group": name}
        for protocol, report in reports.items():
            metric = METRICS[report.metric]
            scores = {group.name: metric.score(group.mean) for group in report.groups}
            means = {group.name: group.mean for group in report.groups}
            better = sum(other > scores[name] for other in scores.values()) if name in scores else None
            rank = None if better is None else better + 1
            line[protocol] = {"mean": means.get(name), "rank": rank}
        found.append(line)
    return found


def summary(settings: CompareSettings, reports: Mapping[str, Report], agreements: Sequence[Agreement]) -> str:
    """The groups' means and ranks under each protocol, and how alike the protocols rank the cells, as Markdown."""
    own = protocols_of(settings)
    listed = "\n".join(f"- {name}: `{' '.join(own[name])}`: under_{name}/report.html" for name in reports)
    rows = [["group", *(f"under {name}: mean, rank" for name in reports)]]
    for line in groups_of(reports):
        shown = [_shown(report, line[name]) for name, report in reports.items()]
        rows.append([line["group"], *shown])
    pairs = [["protocols", "cells", "Kendall's tau (95% interval)"]]
    for pair in agreements:
        value = "nothing is ranked"
        if pair.tau is not None and pair.interval is not None:
            value = f"{pair.tau:.2f} ({pair.interval[0]:.2f} to {pair.interval[1]:.2f})"
        pairs.append([f"{pair.first}, {pair.second}", str(pair.cells), value])
    parts = ["# Do cells rank alike under other protocols?", listed, markdown(rows), markdown(pairs)]
    return "\n\n".join(parts) + "\n"


def _shown(report: Report, value: Mapping[str, Any]) -> str:
    return "-" if value["mean"] is None else f"{report.scale.shown(value['mean'])}, {value['rank']}"
