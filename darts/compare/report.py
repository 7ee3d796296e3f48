"""What a comparison found: the figures of every group, the tests, and the sentences that the data allow."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darts.compare.plan import RANDOM, SEARCHED
from darts.compare.statistics import (
    PairedTest,
    Spread,
    UnpairedTest,
    bootstrap_interval,
    holm,
    paired_permutation_test,
    permutation_test,
    relative_improvement,
    spread,
)
from darts.compare.trials import Outcome
from darts.runtime.errors import UserError

LEVEL = 0.05


@dataclass(frozen=True)
class Group:
    """One method, or the cells that were given, or the random ones."""

    name: str
    cells: int
    trained: int
    accuracy: float  # mean over cells of their mean over retrainings
    interval: tuple[float, float] | None  # 95%, studentised bootstrap over cells, or over retrainings of a single cell
    spread: Spread
    parameters: float
    macs: float
    seconds: float  # of one training
    searches: list[dict[str, float]]  # what each search has spent


@dataclass(frozen=True)
class Verdict:
    """A group against the random cells."""

    group: str
    cells: int
    difference: float  # of mean accuracies: over cells, or over the pairs of a single cell
    relative_improvement: float  # percent
    pairs: PairedTest  # of the networks: whether these cells differ from random ones
    searches: UnpairedTest | None  # with a search as one observation: whether the method does; None for a single cell
    corrected: float  # the p-value that decides, corrected for all groups

    @property
    def decides(self) -> float:
        """The p-value of the claim: of the method where there are several searches, else of the cell."""
        return self.pairs.p if self.searches is None else self.searches.p

    @property
    def least(self) -> float:
        """The smallest that the deciding p-value could be."""
        return self.pairs.least_p if self.searches is None else self.searches.least_p


@dataclass(frozen=True)
class Report:
    """Everything that a comparison says."""

    groups: list[Group]
    verdicts: list[Verdict]
    outcomes: list[Outcome]
    settings: dict[str, Any]
    failed: list[str]  # trials that failed twice
    data: dict[str, Any] = field(default_factory=dict)  # what the images are: name, folder, classes, digests

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self) | {"sentences": [sentence(self, verdict) for verdict in self.verdicts]}


def make_report(
    outcomes: Sequence[Outcome],
    settings: dict[str, Any],
    searches: Mapping[str, list[dict[str, float]]] | None = None,
    failed: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> Report:
    """Compute the statistics of all trials; `UserError` where fewer than two pairs are whole."""
    complete_pairs = len({outcome.pair for outcome in outcomes if outcome.group == RANDOM})
    if complete_pairs < 2:
        raise UserError(
            f"{complete_pairs} pairs have all their trials, a spread needs 2; failed: {', '.join(failed) or 'none'}"
        )
    names = [name for name in dict.fromkeys(outcome.group for outcome in outcomes) if name != RANDOM]
    verdicts = [_verdict(outcomes, name) for name in names]
    corrected = holm([verdict.decides for verdict in verdicts])
    return Report(
        groups=[_group(outcomes, name, (searches or {}).get(name, [])) for name in [*names, RANDOM]],
        verdicts=[dataclasses.replace(v, corrected=p) for v, p in zip(verdicts, corrected, strict=True)],
        outcomes=list(outcomes),
        settings=settings,
        failed=list(failed),
        data=dict(data or {}),
    )


def sentence(report: Report, verdict: Verdict) -> str:
    """Whether a group beat random sampling, and over what that claim extends."""
    single, metrics = verdict.searches is None, _figures(verdict)
    what = f"the cell of {verdict.group}" if single else f"{verdict.group} ({verdict.cells} searches)"
    if verdict.group == SEARCHED:
        what = "the searched cell" if single else f"the {verdict.cells} searched cells"
    verb = "are" if verdict.group == SEARCHED and not single else "is"
    correction = f", corrected for {len(report.verdicts)} comparisons" if len(report.verdicts) > 1 else ""
    p = f"p = {verdict.corrected:.4f}{correction}"
    if verdict.corrected > LEVEL:
        claim = f"These data do not show that {what} {verb} better or worse than random sampling: {metrics}, {p}."
        if verdict.least * len(report.verdicts) > LEVEL:
            claim += f" So few observations cannot: the least p is {verdict.least:.3f}; raise random.samples or seeds."
    else:
        direction = "better" if verdict.difference > 0 else "worse"
        subject = "The " + what.removeprefix("the ") if what.startswith("the ") else what
        claim = f"{subject} {verb} {direction} than random sampling: {metrics}, {p}."
    if single:
        claim += (
            " This speaks of this one cell; a claim about the search method needs several independent searches "
            "(methods=[...] with seeds, or searched=[RUN,RUN,...])."
        )
    return claim


def _figures(verdict: Verdict) -> str:
    tests = f"{verdict.pairs.name}, two-sided, {verdict.pairs.pairs} pairs"
    if verdict.searches is not None:
        first, second = verdict.searches.numbers
        tests = f"{verdict.searches.name}, two-sided, {first} searches against {second} random cells"
        tests += f"; a search beats a random cell {100 * verdict.searches.superiority:.0f}% of the time"
    return (
        f"{100 * verdict.difference:+.2f} points of accuracy, relative improvement "
        f"{verdict.relative_improvement:+.2f}% ({tests})"
    )


def _group(outcomes: Sequence[Outcome], name: str, searches: list[dict[str, float]]) -> Group:
    own = [outcome for outcome in outcomes if outcome.group == name]
    cells = by_cell(outcomes, name)
    means = [statistics.fmean(values) for values in cells.values()]
    values = means if len(means) > 1 else [outcome.test_accuracy for outcome in own]
    return Group(
        name=name,
        cells=len(cells),
        trained=len(own),
        accuracy=statistics.fmean(means),
        interval=bootstrap_interval(values),
        spread=spread(cells),
        parameters=statistics.fmean(outcome.parameters for outcome in own),
        macs=statistics.fmean(outcome.macs for outcome in own),
        seconds=statistics.fmean(outcome.seconds for outcome in own),
        searches=searches,
    )


def _verdict(outcomes: Sequence[Outcome], name: str) -> Verdict:
    paired = {outcome.pair: outcome.test_accuracy for outcome in outcomes if outcome.group == name}
    drawn = {outcome.pair: outcome.test_accuracy for outcome in outcomes if outcome.group == RANDOM}
    pairs = sorted(paired.keys() & drawn.keys())
    means = [statistics.fmean(values) for values in by_cell(outcomes, name).values()]
    test = paired_permutation_test([paired[pair] for pair in pairs], [drawn[pair] for pair in pairs])
    return Verdict(
        group=name,
        cells=len(means),
        difference=statistics.fmean(means) - statistics.fmean(drawn.values()),
        relative_improvement=relative_improvement(statistics.fmean(means), statistics.fmean(drawn.values())),
        pairs=test,
        searches=permutation_test(means, list(drawn.values())) if len(means) > 1 else None,
        corrected=1.0,
    )


def by_cell(outcomes: Sequence[Outcome], group: str) -> dict[str, list[float]]:
    """The accuracies of a group's cells."""
    cells: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.group == group:
            cells.setdefault(outcome.cell, []).append(outcome.test_accuracy)
    return cells
