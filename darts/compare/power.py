"""What a comparison could show, before hours of training: the least p of every claim, and its power for stated effects.

Power is simulated with the tests of the report (darts/compare/statistics.py) on normal accuracies. Where a claim could
show nothing, however large the difference, the comparison is refused, and the message names the cheapest that could.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from darts.compare.plan import RANDOM, SEARCHED
from darts.compare.scale import scale_of
from darts.compare.searches import is_random_search, searched_methods
from darts.compare.settings import CompareSettings, PowerSettings
from darts.compare.statistics import holm, least_rank_p, least_size_p, place_among, rank_p_values
from darts.runtime.errors import UserError
from darts.runtime.files import read_json
from darts.runtime.schema import Within
from darts.tasks.metric import ACCURACY, Metric, metric_of

LEVEL = 0.05
SAMPLING, SEARCH = RANDOM, "random search"  # what a claim is against
DRAWN = 400  # simulated comparisons for each effect: a standard error of at most 0.025
DEALS = 999  # random deals of a simulated test, where there are more ways than that
SPREADS = {"groups": [{"name": str, "cells": int, "spread": {"over_cells": (Within(0, 1e9), None)}}]}
FEWEST = 5, 8  # searches and random cells, below which the tests' error rates do not hold where spreads differ
MOST = 30, 1000  # of both, in looking for the cheapest comparison


@dataclass(frozen=True)
class Design:
    """One claim that a comparison will make: how many observations stand against how many."""

    group: str
    against: str  # SAMPLING or SEARCH
    first: int  # cells of the group, an observation each
    second: int  # random cells, or searches of random search
    comparisons: int  # claims against the same, which are corrected for together
    least: float = 1.0  # the smallest corrected p that there can be, where the other claims have theirs
    power: dict[str, float] = field(default_factory=dict)  # effect, in words -> probability that it is shown

    @property
    def can_show(self) -> bool:
        """Whether any difference, however large, could be shown."""
        return self.least <= LEVEL


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of accuracies, in points."""

    drawn: float  # of random cells, each trained once
    found: float  # of the cells that one method's searches find
    source: str


def designs(settings: CompareSettings) -> list[Design]:
    """Every claim that the report will make, in its order."""
    methods, seeds, samples = searched_methods(settings), len(settings.seeds), settings.random.samples
    groups = dict.fromkeys(methods, seeds)
    if settings.searched:
        groups[SEARCHED] = len(settings.searched)
    found = [Design(name, SAMPLING, cells, samples, len(groups)) for name, cells in groups.items()]
    others = [name for name in methods if not is_random_search(name)]
    against_search = []
    if len(others) < len(methods) and seeds > 1:
        against_search = [Design(name, SEARCH, seeds, seeds, len(others)) for name in others]
    sized = settings.adjust_for is not None
    return [*_with_least(found, sized), *_with_least(against_search, sized)]


def _with_least(claims: Sequence[Design], sized: bool) -> list[Design]:
    """The claims of one kind with the least p that each could have, by Holm's correction of all their least p."""
    own = []
    for claim in claims:
        several = least_size_p if sized else least_rank_p
        own.append(1 / (claim.second + 1) if claim.first == 1 else several(claim.first, claim.second))
    return [replace(claim, least=least) for claim, least in zip(claims, holm(own), strict=True)]


def forecast(settings: CompareSettings) -> list[Design]:
    """The claims with their power for the effects of `power.effects`."""
    spreads = known_spreads(settings.power, metric_of(settings.dataset))
    known: dict[tuple[Any, ...], dict[str, float]] = {}
    found = []
    for design in designs(settings):
        key = design.against, design.first, design.second, design.comparisons
        if key not in known:
            known[key] = {words(effect, spreads): power(design, effect, spreads) for effect in settings.power.effects}
        found.append(replace(design, power=known[key]))
    return found


def words(effect: float, spreads: Spreads | None) -> str:
    """An effect with its unit."""
    unit = "standard deviation" if spreads is None else "point"
    return f"{effect:g} {unit}{'' if effect == 1 else 's'}"


def known_spreads(settings: PowerSettings, metric: Metric = ACCURACY) -> Spreads | None:
    """The spreads that are given, or those of an earlier comparison by the same metric; None where there is neither."""
    measured = None if settings.results is None else measured_spreads(settings.results, metric)
    if measured is None and settings.spread is None:
        return None
    drawn = settings.spread or (measured.drawn if measured else 0.0)
    found = settings.search_spread or (measured.found if measured else drawn)
    given = settings.spread is not None and (measured is None or settings.search_spread is not None)
    sources = [*([] if measured is None or given else [measured.source])]
    sources += [f"power.{name}" for name in ("spread", "search_spread") if getattr(settings, name) is not None]
    return Spreads(drawn, found, ", ".join(sources))


def measured_spreads(results: str, metric: Metric = ACCURACY) -> Spreads:
    """Of the random cells, and within the other groups of several cells, of an earlier comparison's report."""
    file = Path(results) if results.endswith(".json") else Path(results) / "report.json"
    remedy = "power.results must be an earlier comparison's folder or report.json"
    content = read_json(file, SPREADS, remedy)
    judged_by = content.get("metric", ACCURACY.name)
    if judged_by != metric.name:
        raise UserError(f"power.results: {file} compares by {judged_by}, and this data set is judged by {metric.name}")
    groups, factor = content["groups"], scale_of(judged_by).factor
    known = [(group["name"], group["cells"] - 1, group["spread"]["over_cells"]) for group in groups]
    spread = [(name, freedom, own) for name, freedom, own in known if freedom > 0 and own]
    drawn = next((own for name, _, own in spread if name == RANDOM), None)
    if drawn is None:
        raise UserError(f"{file} has no random cells with a spread; {remedy}")
    others = [(freedom, own) for name, freedom, own in spread if name != RANDOM]
    squares = sum(freedom * own**2 for freedom, own in others)
    found = math.sqrt(squares / sum(freedom for freedom, _ in others)) if others else drawn
    return Spreads(factor * drawn, factor * found, str(file))


def power(design: Design, effect: float, spreads: Spreads | None) -> float:
    """Probability that a group that is better by `effect` is shown to be better.

    `effect` is in points, or without spreads in standard deviations, which are equal then. The correction is
    Bonferroni's, which is the first step of Holm's: where other methods are better too, the power is higher.
    """
    if not design.can_show:
        return 0.0
    draws, spreads = np.random.default_rng(0), spreads or Spreads(1.0, 1.0, "")
    other = spreads.drawn if design.against == SAMPLING else spreads.found
    own = spreads.drawn if design.first == 1 else spreads.found
    found = effect + own * draws.normal(size=(DRAWN, design.first))
    drawn = other * draws.normal(size=(DRAWN, design.second))
    if design.first == 1:
        shown = [place_among(a[0], list(b)).p for a, b in zip(found, drawn, strict=True)]
        return float(np.mean([p * design.comparisons <= LEVEL for p in shown]))
    p, superiority = rank_p_values(found, drawn, DEALS)
    return float(np.mean((p * design.comparisons <= LEVEL) & (superiority > 0.5)))


def refuse_powerless(settings: CompareSettings, found: Sequence[Design]) -> None:
    """Raise `UserError` where a claim could show nothing, with the cheapest comparison of these groups that could."""
    powerless = [design for design in found if not design.can_show]
    if settings.allow_underpowered or not powerless:
        return
    worst = powerless[0]
    numbers = f"{worst.first} cell{'s' if worst.first > 1 else ''} of {worst.group} against {worst.second}"
    others = "random cells" if worst.against == SAMPLING else "searches of random search"
    more = f" (and {len(powerless) - 1} more claims)" if len(powerless) > 1 else ""
    raise UserError(
        f"{numbers} {others} can show no difference, however large: the least p, corrected for {worst.comparisons} "
        f"comparisons, is {worst.least:.3g}{more}; the cheapest that could: {cheapest(settings)}; or "
        "allow_underpowered=true"
    )


def cheapest(settings: CompareSettings) -> str:
    """The settings of the comparison of the same groups, with the fewest networks, of which all claims can show.

    With at least `FEWEST` searches and random cells.
    """
    methods = searched_methods(settings)
    best: tuple[int, int, int] | None = None
    for seeds in range(FEWEST[0], MOST[0]) if methods else [len(settings.seeds)]:
        samples = _fewest_samples(settings, seeds)
        if samples is None:
            continue
        trained = seeds * len(methods) + samples
        if best is None or trained < best[0]:
            best = trained, seeds, samples
    if best is None:
        raise UserError(f"methods: so many groups ({len(methods)}) cannot be compared with {MOST[1]} random cells")
    _, seeds, samples = best
    listed = f'"seeds=[{",".join(map(str, range(seeds)))}]" ' if methods else ""
    return f"{listed}random.samples={samples}"


def _fewest_samples(settings: CompareSettings, seeds: int) -> int | None:
    """The fewest random cells by which all claims can show something with so many searches a method."""
    for samples in range(FEWEST[1], MOST[1]):
        other = replace(settings, seeds=list(range(seeds)), random=replace(settings.random, samples=samples))
        planned = designs(other)
        if all(design.can_show for design in planned):
            return samples
        if not all(design.can_show for design in planned if design.against == SEARCH):
            return None
    return None


def forecast_lines(settings: CompareSettings, found: Sequence[Design]) -> list[str]:
    """What the console says before anything runs."""
    spreads = known_spreads(settings.power, metric_of(settings.dataset))
    if spreads is None:
        assumed = "no spread is known (power.spread=POINTS or power.results=REPORT gives it): effects in its units"
    else:
        assumed = (
            f"spread of random cells {spreads.drawn:.2f} points, of a method's {spreads.found:.2f} ({spreads.source})"
        )
    lines = [f"what this comparison can show at p <= {LEVEL:g}, corrected; {assumed}"]
    if settings.adjust_for is not None:
        lines.append("  (power of accuracies as they are: that at equal size is lower)")
    alike: dict[tuple[Any, ...], list[Design]] = {}
    for design in found:
        alike.setdefault((design.against, design.first, design.second), []).append(design)
    for (against, first, second), same in alike.items():
        names = ", ".join(design.group for design in same)
        numbers = f"{names} ({first} cell{'s' if first > 1 else ''}) against {against} ({second} cells)"
        shown = ", ".join(f"{effect} {100 * value:.0f}%" for effect, value in same[0].power.items())
        lines.append(f"  {numbers}: least p {same[0].least:.3g}; power for {shown}")
    return lines
