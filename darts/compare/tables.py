"""The tables of a comparison as rows of text, for the page and for Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from darts.compare.plan import RANDOM
from darts.compare.report import Group, Report

Rows = list[list[str]]

NOTES = (
    "Accuracy: mean over cells of the mean over their retrainings; in brackets the 95% studentised bootstrap interval, "
    "over cells, or over retrainings where there is one cell, and not for fewer than 4. std over seeds is that of "
    "retrainings of one cell; std over cells is that of the cells' means and, where a cell was trained once, contains "
    "the former. Relative improvement over random sampling: 100 (found - random) / random (Yang et al. 2020). p: of "
    "the searches against the random cells, or of the pairs where there is one cell, two-sided, corrected by Holm's "
    "method. A12: how often a searched cell beats a random one. Search cost: means; an epoch is one pass over all "
    "training images. Parameters without the auxiliary head; multiply-adds of one image; seconds of one training."
)
HEAD = ["cells", "number", "trained", "test accuracy %", "std over cells", "std over seeds", "relative improvement",
        "p", "A12", "parameters", "multiply-adds", "search cost", "seconds"]  # fmt: skip


def summary(report: Report) -> Rows:
    """A row for each group."""
    rows = [HEAD]
    verdicts = {verdict.group: verdict for verdict in report.verdicts}
    for group in report.groups:
        verdict = verdicts.get(group.name)
        superiority = verdict.searches.superiority if verdict and verdict.searches else None
        rows.append(
            [
                group.name,
                str(group.cells),
                str(group.trained),
                accuracy(group),
                points(group.spread.over_cells),
                points(group.spread.over_seeds),
                f"{verdict.relative_improvement:+.2f}%" if verdict else "-",
                f"{verdict.corrected:.4f}" if verdict else "-",
                "-" if superiority is None else f"{superiority:.2f}",
                f"{group.parameters:,.0f}",
                f"{group.macs / 1e6:.2f} M",
                search_cost(group),
                f"{group.seconds:.0f}",
            ]
        )
    return rows


def accuracy(group: Group) -> str:
    """The mean with its interval."""
    mean = f"{100 * group.accuracy:.2f}"
    return mean if group.interval is None else f"{mean} [{100 * group.interval[0]:.2f}, {100 * group.interval[1]:.2f}]"


def search_cost(group: Group) -> str:
    """What a search took on average."""
    if not group.searches:
        return "none" if group.name == RANDOM else "not known"
    mean = {name: statistics.fmean(search[name] for search in group.searches) for name in group.searches[0]}
    evaluations = f"{mean['evaluations']:.0f} evaluations, " if mean["evaluations"] else ""
    return f"{evaluations}{mean['epochs']:.3g} epochs, {mean['seconds']:.0f} s"


def pairs(report: Report) -> Rows:
    """Every network that was trained."""
    names = [group.name for group in report.groups]
    rows = [["pair", "seed", *(f"{name}: cell, accuracy %" for name in names)]]
    by_place = {(outcome.pair, outcome.group): outcome for outcome in report.outcomes}
    for pair in sorted({outcome.pair for outcome in report.outcomes}):
        row = [str(pair), str(by_place[pair, RANDOM].seed)]
        for name in names:
            outcome = by_place.get((pair, name))
            label = "" if outcome is None or name == RANDOM else f"{outcome.cell} "
            shown = outcome and f"{label}({outcome.genotype}): {100 * outcome.test_accuracy:.2f}"
            row.append(shown or "-")
        rows.append(row)
    return rows


def points(value: float | None) -> str:
    """A fraction as points of percent."""
    return "-" if value is None else f"{100 * value:.2f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    listed = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in listed]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
