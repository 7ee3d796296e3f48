"""What a comparison's searches offer for a device: their fronts of accuracy and latency, beside a table's true one.

A search offers the cells of its own front, by what it was told (pareto.json), or the one cell that it found. Tables
judge them: nothing is chosen by the accuracy that counts.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from darts.compare.searches import RANDOM_SEARCH, finished_searches
from darts.compare.settings import CompareSettings
from darts.compare.statistics import MedianInterval, RankTest, holm, median_interval, rank_test
from darts.models.latency import SETTING, CellLatencies, latencies_of, read_operations
from darts.runtime.errors import UserError, require
from darts.runtime.files import read_json
from darts.runtime.schema import FINITE, JSON
from darts.spaces.fronts import best_within, front, hypervolume
from darts.spaces.genotype import Cell, Edge, Genotype
from darts.spaces.search_space import SearchSpace
from darts.spaces.sources import finished_genotype
from darts.spaces.table import Table, load_table
from darts.tasks.datasets import shape_of
from darts.tasks.settings import require_labelled


class Offered(NamedTuple):
    """A cell that a search offers."""

    cell: str  # as the table names it
    told: float  # what the search was told of it: the more, the better
    accuracy: float  # percent, of the column that counts
    latency: float  # ms


@dataclass(frozen=True)
class Offer:
    """What one search offers."""

    method: str
    seed: int
    cells: list[Offered]  # its own front, from the fastest on
    hypervolume: float  # of these cells, by what counts
    within: dict[str, Offered | None]  # by limit, what the search would take: the best by what it was told


@dataclass(frozen=True)
class Pick:
    """What a method's searches would take within a limit."""

    limit: str  # ms
    searches: int  # those that offer a cell within it
    mean: float | None  # accuracy, percent
    worst: float | None
    best: float | None
    cell: str | None  # the one that most searches would take, of several the best by what they were told


@dataclass(frozen=True)
class OnDevice:
    """The searches of a method on a device."""

    method: str
    searches: int
    hypervolume: float  # the mean
    interval: MedianInterval | None  # of the median of the hypervolumes
    regret: float  # the mean of what the true front's hypervolume is more
    picks: list[Pick]
    test: RankTest | None  # of the hypervolumes, against random search's
    p: float | None  # corrected by Holm's method for the methods


class Point(NamedTuple):
    """A cell of the table."""

    cell: str
    accuracy: float  # percent
    latency: float  # ms


@dataclass(frozen=True)
class Device:
    """What the searches of a comparison offer for a device."""

    name: str
    sources: dict[str, str]  # file -> SHA-256
    column: str  # of the accuracy that counts
    lowest: float  # latency of all cells, ms
    highest: float
    true_front: list[Point]
    hypervolume: float  # of the true front
    within: dict[str, Point | None]  # by limit, the best of all cells
    methods: list[OnDevice]
    offers: list[Offer]


@dataclass(frozen=True)
class Judge:
    """The two tables that judge."""

    accuracies: Table
    column: str
    latencies: CellLatencies
    limits: Sequence[float]

    @property
    def quality(self) -> NDArray[numpy.float64]:
        """Accuracies of all cells, percent."""
        return self.accuracies.values(self.column)

    @functools.cached_property
    def cost(self) -> NDArray[numpy.float64]:
        """Latencies of all cells in the order of the accuracies, ms."""
        return self.latencies.table.values_of(self.accuracies.index, self.latencies.device)

    @functools.cached_property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest latency of all cells."""
        return float(self.cost.min()), float(self.cost.max())

    def offered(self, genotype: Genotype, told: float) -> Offered:
        """A cell with what counts."""
        accuracy, latency = self.accuracies.accuracy(genotype, self.column), self.latencies.of(genotype)
        return Offered(self.accuracies.text(genotype), told, accuracy, latency)


def judge_of(settings: CompareSettings) -> Judge | None:
    """The tables of a comparison on a device; None where it is of none. `UserError` for tables that do not fit."""
    if settings.constraints.latency_table is None:
        return None
    accuracies = load_table(settings.benchmark, settings.space)
    path = Path(settings.constraints.latency_table).expanduser()
    whole = accuracies is not None and not (path.is_file() and read_operations(path) is not None)
    allowed = "a table of whole cells in a comparison, which judges cells by it; this one is of operations"
    require(whole, SETTING, settings.constraints.latency_table, allowed)
    shape = shape_of(require_labelled(settings.dataset))
    latencies = latencies_of(settings.constraints, settings.space, shape)
    if accuracies is None or not isinstance(latencies, CellLatencies):
        raise TypeError("a comparison on a device has two tables of cells")
    alone = accuracies.index.keys() ^ latencies.table.index.keys()
    allowed = f"a table of the same cells as benchmark.table; only one of the two has {min(alone, default='')}"
    require(not alone, SETTING, settings.constraints.latency_table, allowed)
    return Judge(accuracies, settings.benchmark.column, latencies, settings.limits)


def on_device(settings: CompareSettings, folder: Path) -> Device | None:
    """What the ended searches of a comparison offer; None where the comparison is of no device."""
    judge = judge_of(settings)
    if judge is None:
        return None
    offers = [
        offer_of(judge, planned.method, planned.seed, place, settings.space)
        for planned, place in finished_searches(settings, folder)
    ]
    texts, quality, cost = list(judge.accuracies.index), judge.quality, judge.cost
    points = [Point(texts[at], float(quality[at]), float(cost[at])) for at in front(quality, cost)]
    within = {}
    for limit in judge.limits:
        best = best_within(quality, cost, limit)
        within[shown(limit)] = None if best is None else Point(texts[best], float(quality[best]), float(cost[best]))
    whole = hypervolume(quality / 100, cost, judge.bounds)
    sources = {str(settings.benchmark.table): judge.accuracies.digest}
    sources[str(settings.constraints.latency_table)] = judge.latencies.table.digest
    return Device(
        name=judge.latencies.device,
        sources=sources,
        column=judge.column,
        lowest=judge.bounds[0],
        highest=judge.bounds[1],
        true_front=points,
        hypervolume=whole,
        within=within,
        methods=methods_of(offers, whole, list(within)),
        offers=offers,
    )


def offer_of(judge: Judge, method: str, seed: int, place: Path, space: SearchSpace) -> Offer:
    """What a search that lies in a folder offers."""
    cells = sorted(cells_of(judge, place, space), key=lambda cell: cell.latency)
    quality, cost = (numpy.array([getattr(cell, name) for cell in cells]) for name in ("accuracy", "latency"))
    within = {shown(limit): taken(cells, limit) for limit in judge.limits}
    return Offer(method, seed, cells, hypervolume(quality / 100, cost, judge.bounds), within)


def shown(limit: float) -> str:
    """A limit as the report names it, with all its digits."""
    return f"{limit:.15g}"


def cells_of(judge: Judge, place: Path, space: SearchSpace) -> list[Offered]:
    """The cells of a search's front, each once, or its one cell."""
    file = place / "pareto.json"
    if not file.exists():
        return [judge.offered(finished_genotype(place), 1.0)]
    remedy = "remove its folder to search again"
    found: dict[str, Offered] = {}
    for line in read_json(file, [{"accuracy": FINITE, "cells": {str: JSON}}], remedy):
        try:
            genotype = genotype_of(line["cells"], space)
        except (ValueError, TypeError):
            raise UserError(f"{file} holds no cells of the space; {remedy}") from None
        own = judge.offered(genotype, float(line["accuracy"]))
        found[own.cell] = own
    return list(found.values())


def genotype_of(cells: Mapping[str, Any], space: SearchSpace) -> Genotype:
    """The genotype whose cells a line of a history holds."""
    found = {}
    for kind, nodes in cells.items():
        edges = tuple(tuple(Edge(str(name), int(source)) for name, source in node) for node in nodes)
        found[kind] = Cell(edges, space.joined(), space.layout.inputs)
    return Genotype(space.name, found)


def taken(cells: Sequence[Offered], limit: float) -> Offered | None:
    """What a search would take within a limit: the best by what it was told; None where it offers none."""
    allowed = [cell for cell in cells if cell.latency <= limit]
    return max(allowed, key=lambda cell: (cell.told, -cell.latency), default=None)


def methods_of(offers: Sequence[Offer], whole: float, limits: Sequence[str]) -> list[OnDevice]:
    """The searches by method, each method of several searches tested against random search."""
    by_method: dict[str, list[Offer]] = {}
    for offer in offers:
        by_method.setdefault(offer.method, []).append(offer)
    volumes = {method: [offer.hypervolume for offer in own] for method, own in by_method.items()}
    baseline = volumes.get(RANDOM_SEARCH, [])
    tests = {}
    for method, own in volumes.items():
        if method != RANDOM_SEARCH and len(own) > 1 and len(baseline) > 1:
            tests[method] = rank_test(own, baseline)
    corrected = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    return [
        OnDevice(
            method=method,
            searches=len(own),
            hypervolume=statistics.fmean(volumes[method]),
            interval=median_interval(volumes[method]),
            regret=whole - statistics.fmean(volumes[method]),
            picks=[pick_of(own, limit) for limit in limits],
            test=tests.get(method),
            p=corrected.get(method),
        )
        for method, own in by_method.items()
    ]


def pick_of(offers: Sequence[Offer], limit: str) -> Pick:
    """What searches would take within a limit."""
    cells = [cell for cell in (offer.within[limit] for offer in offers) if cell is not None]
    if not cells:
        return Pick(limit, 0, None, None, None, None)
    accuracies = [cell.accuracy for cell in cells]
    names = [cell.cell for cell in cells]
    favourite = max(cells, key=lambda cell: (names.count(cell.cell), cell.told))
    mean = statistics.fmean(accuracies)
    return Pick(limit, len(cells), mean, min(accuracies), max(accuracies), favourite.cell)
