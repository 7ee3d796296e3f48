"""The table, and the sentence that says whether the searched cells beat random sampling or the data do not say."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darts.checkpoint import write_bytes
from darts.compare.protocol import RANDOM, SEARCHED, Outcome
from darts.compare.statistics import PairedTest, Spread, paired_permutation_test, relative_improvement, spread

LEVEL = 0.05


@dataclass(frozen=True)
class Report:
    """What a comparison found."""

    outcomes: list[Outcome]
    test: PairedTest
    search_test: PairedTest | None  # with each independent search as one observation; None for a single search
    relative_improvement: float  # percent
    spreads: dict[str, Spread]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self) | {"sentence": sentence(self)}


def make_report(outcomes: Sequence[Outcome], settings: dict[str, Any]) -> Report:
    """Compute the statistics of all trials."""
    searched, drawn = _accuracies(outcomes, SEARCHED), _accuracies(outcomes, RANDOM)
    return Report(
        outcomes=list(outcomes),
        test=paired_permutation_test(searched, drawn),
        search_test=_test_of_searches(outcomes),
        relative_improvement=relative_improvement(statistics.fmean(searched), statistics.fmean(drawn)),
        spreads={group: spread(_by_cell(outcomes, group)) for group in (SEARCHED, RANDOM)},
        settings=settings,
    )


def sentence(report: Report) -> str:
    """Whether the searched cells beat random sampling, and over what that claim extends."""
    test, cells = report.test, list(_by_cell(report.outcomes, SEARCHED))
    what = "the searched cell" if len(cells) == 1 else f"the {len(cells)} searched cells together"
    verb = "is" if len(cells) == 1 else "are"
    figures = (
        f"{100 * test.mean_difference:+.2f} points of accuracy, "
        f"relative improvement {report.relative_improvement:+.2f}%, "
        f"p = {test.p:.4f} ({test.name}, two-sided, {test.pairs} pairs)"
    )
    if test.p > LEVEL:
        claim = f"These data do not show that {what} {verb} better or worse than random sampling: {figures}."
        if test.least_p > LEVEL:
            claim += f" So few pairs cannot: their least p is {test.least_p:.3f}; raise random.samples to 6 or more."
    else:
        direction = "better" if test.mean_difference > 0 else "worse"
        claim = f"{what[0].upper()}{what[1:]} {verb} {direction} than random sampling: {figures}."
    return f"{claim} {_scope(report, len(cells))}"


def write_report(report: Report, folder: Path) -> str:
    """Write report.json and report.md; returns the text of the latter."""
    parts = ("# Searched cells against random sampling", sentence(report), _summary_table(report), _notes(report))
    text = "\n\n".join([*parts, _pair_table(report)]) + "\n"
    write_bytes(folder / "report.json", (json.dumps(report.to_json(), indent=1) + "\n").encode())
    write_bytes(folder / "report.md", text.encode())
    return text


def _scope(report: Report, searches: int) -> str:
    if searches == 1:
        return (
            "This speaks of this one cell; a claim about the search method needs several independent searches "
            "(searched=[RUN,RUN,...])."
        )
    test = report.search_test
    assert test is not None
    reach = "" if test.least_p <= LEVEL else f" ({searches} searches cannot go under p = {test.least_p:.3f})"
    return f"With each independent search as one observation, p = {test.p:.4f}{reach}."


def _test_of_searches(outcomes: Sequence[Outcome]) -> PairedTest | None:
    """The same test with the mean difference of each search as one observation."""
    random_of = {outcome.pair: outcome.test_accuracy for outcome in outcomes if outcome.group == RANDOM}
    means = []
    for cell in _by_cell(outcomes, SEARCHED):
        own = [outcome for outcome in outcomes if outcome.group == SEARCHED and outcome.cell == cell]
        searched = statistics.fmean(outcome.test_accuracy for outcome in own)
        means.append((searched, statistics.fmean(random_of[outcome.pair] for outcome in own)))
    if len(means) < 2:
        return None
    first, second = zip(*means, strict=True)
    return paired_permutation_test(first, second)


def _accuracies(outcomes: Sequence[Outcome], group: str) -> list[float]:
    return [outcome.test_accuracy for outcome in sorted(outcomes, key=lambda o: o.pair) if outcome.group == group]


def _by_cell(outcomes: Sequence[Outcome], group: str) -> dict[str, list[float]]:
    cells: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.group == group:
            cells.setdefault(outcome.cell, []).append(outcome.test_accuracy)
    return cells


def _summary_table(report: Report) -> str:
    rows = [["cells", "number", "trained", "test accuracy %", "std", "std over cells", "std over seeds", "parameters",
             "multiply-adds", "seconds"]]  # fmt: skip
    for group in (SEARCHED, RANDOM):
        own = [outcome for outcome in report.outcomes if outcome.group == group]
        deviations = report.spreads[group]
        rows.append(
            [
                group,
                str(len({outcome.cell for outcome in own})),
                str(len(own)),
                f"{100 * statistics.fmean(outcome.test_accuracy for outcome in own):.2f}",
                *(_points(value) for value in (deviations.total, deviations.over_cells, deviations.over_seeds)),
                f"{statistics.fmean(outcome.parameters for outcome in own):,.0f}",
                f"{statistics.fmean(outcome.macs for outcome in own) / 1e6:.2f} M",
                f"{statistics.fmean(outcome.seconds for outcome in own):.0f}",
            ]
        )
    return _markdown(rows)


def _pair_table(report: Report) -> str:
    rows = [["pair", "seed", "searched cell", "accuracy %", "random cell", "accuracy %", "difference"]]
    by_pair = {(outcome.pair, outcome.group): outcome for outcome in report.outcomes}
    for pair in range(report.test.pairs):
        searched, drawn = by_pair[pair, SEARCHED], by_pair[pair, RANDOM]
        difference = searched.test_accuracy - drawn.test_accuracy
        rows.append(
            [
                str(pair),
                str(searched.seed),
                f"{searched.cell} ({searched.genotype})",
                f"{100 * searched.test_accuracy:.2f}",
                drawn.genotype,
                f"{100 * drawn.test_accuracy:.2f}",
                f"{100 * difference:+.2f}",
            ]
        )
    return _markdown(rows)


def _notes(report: Report) -> str:
    interval = report.test.interval
    bounds = f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}" if interval else "not with fewer than 3 pairs"
    return (
        f"95% interval of the mean difference, in points (Student's t): {bounds}. std over seeds is that of "
        "retrainings of one cell; std over cells is that of the cells' means and, where a cell was trained once, "
        "contains the former. Parameters without the auxiliary head; multiply-adds of one forward pass; seconds of "
        "training."
    )


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
