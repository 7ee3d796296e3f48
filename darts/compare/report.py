"""What a comparison found: the figures of every group, and the claims that the data are asked about."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from darts.compare.devices import Device
from darts.compare.plan import RANDOM, SEARCHED
from darts.compare.power import LEVEL, SAMPLING, SEARCH, Design
from darts.compare.scale import Scale, scale_of
from darts.compare.searches import is_random_search
from darts.compare.statistics import (
    MedianInterval,
    Place,
    RankTest,
    Spread,
    adjusted,
    holm,
    median_interval,
    place_among,
    rank_test,
    relative_improvement,
    size_adjusted_test,
    spread,
)
from darts.compare.trials import Outcome
from darts.runtime.errors import UserError
from darts.tasks.metric import METRICS


@dataclass(frozen=True)
class Group:
    """One method, or the cells that were given, or the random ones."""

    name: str
    cells: int
    trained: int
    mean: float  # over cells of their mean over retrainings
    median: float  # over the same cells' means
    interval: MedianInterval | None  # of the median over cells; None for too few
    adjusted: float | None  # mean at the random cells' size, as its claim has it, where that was asked for
    spread: Spread
    parameters: float
    macs: float
    seconds: float  # of one training
    searches: list[dict[str, float]]  # what each search has spent


@dataclass(frozen=True)
class Claim:
    """A group against random sampling or against random search, and what the data show of it."""

    group: str
    cells: int
    against: str  # SAMPLING or SEARCH
    difference: float  # of mean scores: positive where the group is better
    relative_improvement: float  # percent
    place: Place | None  # of a single cell among the random cells; one-sided: that it is better
    test: RankTest | None  # of several cells, an observation each; two-sided; neither: of one cell at equal size
    comparisons: int  # claims against the same, those that failed included, which are corrected for together (Holm)
    p: float = 1.0  # corrected
    least: float = 1.0  # the smallest that the corrected p could be

    @property
    def shown(self) -> str:
        """What the data show: "better", "worse" or nothing."""
        if self.p > LEVEL:
            return ""
        return "worse" if self.test is not None and not self.test.better else "better"


@dataclass(frozen=True)
class Pair:
    """One group of several cells against another, by the same test of ranks."""

    first: str
    second: str
    superiority: float  # how often a cell of the first beats one of the second
    p: float  # corrected for all pairs


@dataclass(frozen=True)
class Background:
    """What a report tells beside the accuracies."""

    searches: Mapping[str, list[dict[str, float]]] = field(default_factory=dict)  # by method what each search has spent
    failed: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    planned: Sequence[Design] = ()
    circumstances: Sequence[str] = ()
    terms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    device: Device | None = None


@dataclass(frozen=True)
class Report:
    """Everything that a comparison says."""

    metric: str  # what networks are judged by: accuracy or perplexity
    groups: list[Group]
    claims: list[Claim]
    pairs: list[Pair]  # every group of several cells against every other, the random cells included
    outcomes: list[Outcome]
    settings: dict[str, Any]
    failed: list[str]  # trials that failed twice
    data: dict[str, Any]  # what the images are: name, folder, classes, digests
    planned: list[Design]  # what was foretold of the claims before anything ran
    circumstances: list[str]  # the different hardware and versions of the runs
    terms: dict[str, list[str]]  # the different data, spaces and budgets of the searches, by what they are of
    device: Device | None = None  # what the searches offer for a device, where the comparison is on one

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @property
    def scale(self) -> Scale:
        """How values are compared and shown."""
        return scale_of(self.metric)

    @property
    def adjusted_for(self) -> str | None:
        """The cost at whose equal size accuracies are compared; None: as they are."""
        return self.settings.get("adjust_for")

    def claims_against(self, against: str) -> dict[str, Claim]:
        """By group the claims of one kind."""
        return {claim.group: claim for claim in self.claims if claim.against == against}


def make_report(outcomes: Sequence[Outcome], settings: dict[str, Any], background: Background | None = None) -> Report:
    """Compute the statistics of all trials; `UserError` where fewer than two random cells or no other are there."""
    known = background or Background()
    names = [name for name in dict.fromkeys(outcome.group for outcome in outcomes) if name != RANDOM]
    drawn = by_cell(outcomes, RANDOM)
    if len(drawn) < 2 or not names:
        raise UserError(
            f"{len(drawn)} random cells and {len(names)} groups of found cells were trained, a comparison needs 2 and "
            f"1; failed: {', '.join(known.failed) or 'none'}"
        )
    cost, metric = settings.get("adjust_for"), METRICS[outcomes[0].metric]
    samples = {name: sample(outcomes, name, cost) for name in [*names, RANDOM]}
    several = {name: own for name, own in samples.items() if len(own.values) > 1}
    numbers = Counter(design.against for design in known.planned)
    sampling = _against_sampling(samples, names, numbers[SAMPLING])
    at_one_size = _at_one_size(sampling, samples) if cost else {}
    adjusted_means = {name: metric.score(value) for name, value in at_one_size.items()}
    return Report(
        metric=metric.name,
        groups=[_group(outcomes, name, known, adjusted_means.get(name)) for name in [*names, RANDOM]],
        claims=[*sampling, *_against_search(samples, names, numbers[SEARCH])],
        pairs=_pairs(several),
        outcomes=list(outcomes),
        settings=settings,
        failed=list(known.failed),
        data=dict(known.data),
        planned=list(known.planned),
        circumstances=list(known.circumstances),
        terms={name: list(values) for name, values in known.terms.items()},
        device=known.device,
    )


class Sample(NamedTuple):
    """What is compared of a group: a cell one observation."""

    values: list[float]  # mean score of each cell: the metric so that more is better
    sizes: list[float]  # parameters or multiply-adds of its network; ones where sizes do not count
    sized: bool  # whether they count


def sample(outcomes: Sequence[Outcome], group: str, cost: str | None) -> Sample:
    """A group's cells, with their sizes where scores are compared at equal `cost` (parameters or macs)."""
    metric = METRICS[outcomes[0].metric]
    values = [metric.score(value) for value in cell_means(outcomes, group)]
    if cost is None:
        return Sample(values, [1.0] * len(values), False)
    known = {outcome.cell: float(getattr(outcome, cost)) for outcome in outcomes if outcome.group == group}
    return Sample(values, [known[cell] for cell in by_cell(outcomes, group)], True)


def tested(first: Sample, second: Sample) -> RankTest:
    """The test of two groups of several cells."""
    if first.sized:
        return size_adjusted_test(first.values, second.values, [*first.sizes, *second.sizes])
    return rank_test(first.values, second.values)


def _at_one_size(claims: Sequence[Claim], samples: Mapping[str, Sample]) -> dict[str, float]:
    """By group the mean score at the size of the random cells, as each claim compares them."""
    mean = statistics.fmean(samples[RANDOM].values)
    return {**{claim.group: mean + claim.difference for claim in claims}, RANDOM: mean}


def _against_sampling(samples: Mapping[str, Sample], names: Sequence[str], planned: int) -> list[Claim]:
    """Every group against the random cells: a single cell by its place, several by a test."""
    number = max(planned, len(names))
    return _corrected([_claim(name, SAMPLING, samples[name], samples[RANDOM], number) for name in names])


def _against_search(samples: Mapping[str, Sample], names: Sequence[str], planned: int) -> list[Claim]:
    """Every method of several searches against the searches of random search, where these are there."""
    baseline = next((name for name in names if is_random_search(name)), None)
    if baseline is None or len(samples[baseline].values) < 2:
        return []
    others = [name for name in names if name not in (baseline, SEARCHED) and len(samples[name].values) > 1]
    number = max(planned, len(others))
    return _corrected([_claim(name, SEARCH, samples[name], samples[baseline], number) for name in others])


def _claim(group: str, against: str, found: Sample, drawn: Sample, comparisons: int) -> Claim:
    level = adjusted({"": found.values, RANDOM: drawn.values}, {"": found.sizes, RANDOM: drawn.sizes}, RANDOM)
    mean, random = statistics.fmean(level[""]), statistics.fmean(level[RANDOM])
    single = len(found.values) == 1
    return Claim(
        group=group,
        cells=len(found.values),
        against=against,
        difference=mean - random,
        relative_improvement=relative_improvement(mean, random),
        place=place_among(found.values[0], drawn.values) if single and not found.sized else None,
        test=None if single else tested(found, drawn),
        comparisons=comparisons,
    )


def _corrected(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with p-values corrected for their number."""
    if not claims:
        return []
    own, least = [], []
    for claim in claims:
        source = claim.place or claim.test
        own.append(1.0 if source is None else source.p)
        least.append(1.0 if source is None else source.least_p)
    number = claims[0].comparisons
    pairs = zip(claims, holm(own, number), holm(least, number), strict=True)
    return [dataclasses.replace(claim, p=p, least=smallest) for claim, p, smallest in pairs]


def _pairs(samples: Mapping[str, Sample]) -> list[Pair]:
    names = list(itertools.combinations(samples, 2))
    tests = [tested(samples[first], samples[second]) for first, second in names]
    corrected = holm([test.p for test in tests])
    return [Pair(*name, test.superiority, p) for name, test, p in zip(names, tests, corrected, strict=True)]


def _group(outcomes: Sequence[Outcome], name: str, known: Background, at_one_size: float | None) -> Group:
    own = [outcome for outcome in outcomes if outcome.group == name]
    cells, means = by_cell(outcomes, name), cell_means(outcomes, name)
    return Group(
        name=name,
        cells=len(cells),
        trained=len(own),
        mean=statistics.fmean(means),
        median=statistics.median(means),
        interval=median_interval(means),
        adjusted=at_one_size,
        spread=spread(cells),
        parameters=statistics.fmean(outcome.parameters for outcome in own),
        macs=statistics.fmean(outcome.macs for outcome in own),
        seconds=statistics.fmean(outcome.seconds for outcome in own),
        searches=list(known.searches.get(name, [])),
    )


def cell_means(outcomes: Sequence[Outcome], group: str) -> list[float]:
    """The mean of each cell of a group, in the metric itself: an observation a search."""
    return [statistics.fmean(values) for values in by_cell(outcomes, group).values()]


def by_cell(outcomes: Sequence[Outcome], group: str) -> dict[str, list[float]]:
    """The values of a group's cells, in the metric itself."""
    cells: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.group == group:
            cells.setdefault(outcome.cell, []).append(outcome.value)
    return cells
