"""When alpha moves, which candidates are active, and how deep the supernet is: a search as a list of stages.

A schedule's settings never change; what it decides is a candidate mask, and what it remembers is its own memory:
values that go in and come out.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from darts.config.registry import register
from darts.runtime.errors import require
from darts.runtime.schema import Length, Schema, exactly
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import SearchSpace

T = TypeVar("T")
CandidateMask = dict[str, list[list[bool]]]  # by cell type, edge and candidate: is it active?
Scores = Mapping[str, Sequence[Sequence[float]]]  # by cell type, edge and candidate


@dataclass(frozen=True)
class Stage:
    """A stretch of a search with one supernet."""

    number: int
    first: int  # epoch
    last: int  # the epoch after it
    more_cells: int = 0  # than network.cells
    fresh: bool = False  # weights and alpha begin again
    fresh_momentum: bool = False  # the weights' momentum begins again
    alpha_frozen_fraction: float = 0.0  # alpha does not move in this fraction at its start
    alpha_every: int = 1  # steps of the weights to one of alpha
    rate: float = 1.0  # of weight_optimiser.learning_rate, at its start
    cosine: tuple[int, int] | None = None  # epochs that half a cosine of the learning rate spans; None: the stage's own


@dataclass(frozen=True)
class Observation:
    """What a schedule may look at when an epoch has ended."""

    epoch: int  # epochs done
    space: SearchSpace
    active: CandidateMask
    scores: Scores
    distributions: Scores  # the relaxation's scores over all of the space's candidates, removed ones included
    memory: Mapping[str, Any]  # what this schedule returned last
    generator: random.Random
    # Of the supernet on the validation images, with these candidates only, normalised by each batch's own statistics:
    accuracy: Callable[[CandidateMask], float]
    # And with only a genotype's operations, each with weight 1, on so many batches of them (None: on all):
    path_accuracy: Callable[[Genotype, int | None], float]


@dataclass
class Schedule:
    """A search of one stage in which alpha moves from the first step and every candidate stays."""

    holds_decided: ClassVar[bool] = False  # alpha of an edge without a choice stands still, weight decay included

    def stages(self, epochs: int, space: SearchSpace) -> list[Stage]:
        """The stages of a search of `search.epochs` epochs; a schedule may add epochs of its own."""
        return [Stage(0, 0, epochs)]

    def decide(self, seen: Observation, epochs: int) -> tuple[CandidateMask, dict[str, Any]]:
        """Return which candidates are active from here on, and what to remember."""
        return seen.active, dict(seen.memory)

    def memory_schema(self, space: SearchSpace) -> Schema:
        """Return what its memory may hold (runtime/schema.py), for checkpoints to be checked against."""
        return {str: object}


@register("schedule", "constant")
@dataclass
class Constant(Schedule):
    """One stage, alpha moves throughout (Liu et al. 2019)."""


@register("schedule", "warm_up")
@dataclass
class WarmUp(Schedule):
    """Alpha is frozen at first and only the weights are trained (Xu et al. 2020: 15 of 50 epochs)."""

    alpha_frozen_fraction: float  # of the search, or of each stage, at its start, in which alpha does not move
    alpha_every: int  # steps of the weights to one of alpha

    def __post_init__(self) -> None:
        fraction = self.alpha_frozen_fraction
        require(0 <= fraction < 1, "method.schedule.alpha_frozen_fraction", fraction, "at least 0 and below 1")
        require(self.alpha_every >= 1, "method.schedule.alpha_every", self.alpha_every, "at least 1")

    def stages(self, epochs: int, space: SearchSpace) -> list[Stage]:
        frozen = self.alpha_frozen_fraction
        return [Stage(0, 0, epochs, alpha_frozen_fraction=frozen, alpha_every=self.alpha_every)]


@register("schedule", "stages")
@dataclass
class Stages(WarmUp):
    """Equal stretches with fewer candidates and deeper supernets (Chen et al. 2019 and 2021: P-DARTS, DrNAS).

    At the end of each but the last the weakest candidates of every edge go. Stages that begin afresh have half a cosine
    of the learning rate each; else one spans the search, scaled so that every stage begins with the whole rate, as the
    authors of DrNAS have it.
    """

    candidates: list[int]  # kept on an edge, one number for each stage after the first; at most those there are
    more_cells: list[int]  # than network.cells, one a stage
    fresh: bool  # weights and alpha begin again with each stage

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.candidates) and min(self.candidates) >= 1, "method.schedule.candidates", self.candidates,
                "numbers from 1, at least one")  # fmt: skip
        length = len(self.candidates) + 1
        sound = len(self.more_cells) == length and min(self.more_cells) >= 0
        require(sound, "method.schedule.more_cells", self.more_cells, f"{length} numbers from 0, one a stage")
        same = self.fresh or not any(self.more_cells)
        require(same, "method.schedule.more_cells", self.more_cells, "zeros, unless fresh is true")

    def stages(self, epochs: int, space: SearchSpace) -> list[Stage]:
        number = len(self.more_cells)
        require(epochs >= number, "search.epochs", epochs, f"at least {number}, the method's stages")
        bounds = [round(index * epochs / number) for index in range(number + 1)]
        found = []
        cosine = None if self.fresh else (0, epochs)
        for i, (first, last) in enumerate(itertools.pairwise(bounds)):
            found.append(Stage(
                number=i,
                first=first,
                last=last,
                more_cells=self.more_cells[i],
                fresh=self.fresh and i > 0,
                alpha_frozen_fraction=self.alpha_frozen_fraction,
                alpha_every=self.alpha_every,
                cosine=cosine,
            ))  # fmt: skip
        return found

    def decide(self, seen: Observation, epochs: int) -> tuple[CandidateMask, dict[str, Any]]:
        for stage in self.stages(epochs, seen.space)[:-1]:
            if seen.epoch == stage.last:
                return weakest_gone(seen, self.candidates[stage.number]), dict(seen.memory)
        return seen.active, dict(seen.memory)


def weakest_gone(seen: Observation, keep: int) -> CandidateMask:
    """On every edge the `keep` strongest of the candidates that are left, and always one that may be chosen."""
    active: CandidateMask = {}
    for kind, rows in seen.active.items():
        active[kind] = []
        for edge, row in enumerate(rows):
            ranked = _ranked(row, seen.scores[kind][edge])
            kept = set(ranked[:keep])
            allowed = seen.space.selectable(kind, edge)
            selectable = [column for column in ranked if column in allowed]
            if selectable and not kept.intersection(selectable):
                kept = {*ranked[: keep - 1], selectable[0]}
            active[kind].append(_only(kept, len(row)))
    return active


def _ranked(row: Sequence[bool], scores: Sequence[float]) -> list[int]:
    """The active columns of an edge, the highest score first."""
    columns = [column for column, is_active in enumerate(row) if is_active]
    columns.sort(key=lambda column: -scores[column])
    return columns


def _only(columns: Collection[int], length: int) -> list[bool]:
    """A row of the candidate mask in which only these columns are active."""
    return [column in columns for column in range(length)]


def _undecided(rows: Sequence[Sequence[bool]]) -> list[int]:
    """The edges with more than one active candidate."""
    return [edge for edge, row in enumerate(rows) if sum(row) > 1]


@register("schedule", "greedy")
@dataclass
class Greedy(Schedule):
    """Edges are decided one by one while the search runs (Li et al. 2020, SGAS, section 3.3).

    From epoch `first` on, every `interval` epochs, the undecided edge of the highest score in each cell type:
    importance (1 - p(none)) times certainty (1 - normalised entropy), with `history` above 0 also times stability (the
    mean overlap with the distributions of so many epochs before; criterion 2), each scaled to 0..1 over the edges. It
    keeps its strongest operation; once a node has its edges, its others go. Their alpha stands still from then on.
    Epochs that this needs beyond search.epochs are added.
    """

    first: int  # epoch after which the first edge is decided
    interval: int  # epochs between two decisions
    history: int  # earlier distributions that the stability looks at; 0: criterion 1

    holds_decided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.first >= 1, "method.schedule.first", self.first, "at least 1")
        require(self.interval >= 1, "method.schedule.interval", self.interval, "at least 1")
        require(self.history >= 0, "method.schedule.history", self.history, "at least 0")

    def stages(self, epochs: int, space: SearchSpace) -> list[Stage]:
        decisions = sum(space.kept(node) for node in range(space.nodes))
        needed = self.first + self.interval * (decisions - 1) + 1
        return [Stage(0, 0, max(epochs, needed))]

    def decide(self, seen: Observation, epochs: int) -> tuple[CandidateMask, dict[str, Any]]:
        before = list(seen.memory.get("distributions", []))
        now = {}
        for kind, rows in seen.distributions.items():
            now[kind] = [_without_none(row, seen.space) for row in rows]
        remembered = [*before, now][-self.history :] if self.history else []
        memory = {"distributions": remembered}
        due = seen.epoch >= self.first and (seen.epoch - self.first) % self.interval == 0
        if not due:
            return seen.active, memory
        return {kind: self._decided(kind, seen, now, before) for kind in seen.active}, memory

    def memory_schema(self, space: SearchSpace) -> Schema:
        edges = Length(len(space.edges()), Length(len(space.candidates), float))
        return ({"distributions": [dict.fromkeys(space.cell_types, edges)]}, exactly({}))

    def _decided(self, kind: str, seen: Observation, now: Scores, past: Sequence[Scores]) -> list[list[bool]]:
        rows = _copied(seen.active[kind])
        undecided = _undecided(rows)
        if not undecided:
            return rows
        importance = [1 - _none(row, seen.space) for row in seen.distributions[kind]]
        certainty = [_certainty(row) for row in now[kind]]
        score = [i * c for i, c in zip(_scaled(importance), _scaled(certainty), strict=True)]
        if self.history:
            stability = [_overlap(row, edge, kind, past) for edge, row in enumerate(now[kind])]
            score = [value * s for value, s in zip(score, _scaled(stability), strict=True)]
        chosen = max(undecided, key=lambda edge: score[edge])
        strength = seen.scores[kind][chosen]
        columns = seen.space.selectable(kind, chosen)
        column = max(columns, key=lambda column: (rows[chosen][column], strength[column]))
        rows[chosen] = _only([column], len(rows[chosen]))
        return without_surplus(rows, seen.space)


def without_surplus(rows: list[list[bool]], space: SearchSpace) -> list[list[bool]]:
    """Where a node has as many decided edges as it keeps, its other edges lose all candidates."""
    for node in range(space.nodes):
        incoming = space.incoming(node)
        decided = [edge for edge in incoming if sum(rows[edge]) == 1]
        if len(decided) == space.kept(node):
            for edge in set(incoming) - set(decided):
                rows[edge] = [False] * len(rows[edge])
    return rows


@register("schedule", "projection")
@dataclass
class Projection(Schedule):
    """After the search operations are chosen by what their removal costs (Wang et al. 2021, DARTS-PT, algorithm 1).

    Every `interval` epochs of tuning the weights, in each cell type: first a random undecided edge keeps the operation
    without which the supernet's validation accuracy is lowest; when all are decided, a random node keeps the edges
    without which it is lowest. Tuning trains alpha on, from a fraction of the learning rate and without the momentum of
    before; the supernet is judged in batches of the search's size, normalised by their own statistics.
    """

    interval: int  # epochs of tuning between two decisions
    alpha_fixed: bool  # alpha is never trained; the search trains weights only
    rate: float  # of weight_optimiser.learning_rate, with which tuning begins

    def __post_init__(self) -> None:
        require(self.interval >= 1, "method.schedule.interval", self.interval, "at least 1")
        require(0 < self.rate <= 1, "method.schedule.rate", self.rate, "above 0 and at most 1")

    def stages(self, epochs: int, space: SearchSpace) -> list[Stage]:
        crowded = sum(len(space.incoming(node)) > space.kept(node) for node in range(space.nodes))
        tuning = self.interval * (len(space.edges()) + crowded - 1) + 1
        frozen, end = float(self.alpha_fixed), epochs + tuning
        first = Stage(0, 0, epochs, alpha_frozen_fraction=frozen)
        return [first, Stage(1, epochs, end, alpha_frozen_fraction=frozen, fresh_momentum=True, rate=self.rate)]

    def decide(self, seen: Observation, epochs: int) -> tuple[CandidateMask, dict[str, Any]]:
        due = seen.epoch >= epochs and (seen.epoch - epochs) % self.interval == 0
        active = seen.active
        for kind in seen.active if due else []:
            active = {**active, kind: self._projected(kind, seen, active)}
        return active, dict(seen.memory)

    def _projected(self, kind: str, seen: Observation, active: CandidateMask) -> list[list[bool]]:
        rows = _copied(active[kind])
        undecided = _undecided(rows)
        if undecided:
            edge = seen.generator.choice(undecided)
            choices = [column for column in seen.space.selectable(kind, edge) if rows[edge][column]]
            accuracy = {c: seen.accuracy({**active, kind: _without(rows, edge, c)}) for c in choices}
            worst = min(choices, key=lambda column: accuracy[column])
            rows[edge] = _only([worst], len(rows[edge]))
            return rows
        nodes = [n for n in range(seen.space.nodes) if len(_alive(rows, seen.space, n)) > seen.space.kept(n)]
        if nodes:
            node = seen.generator.choice(nodes)
            alive = _alive(rows, seen.space, node)
            without = {edge: seen.accuracy({**active, kind: _without(rows, edge, None)}) for edge in alive}
            alive.sort(key=lambda edge: without[edge])
            for edge in alive[seen.space.kept(node) :]:
                rows[edge] = [False] * len(rows[edge])
        return rows


@register("schedule", "best_of_samples")
@dataclass
class BestOfSamples(Schedule):
    """Alpha never moves; the result is the best of random genotypes by the supernet's weights (Li and Talwalkar 2019,
    section 3.3). All are judged on a few batches of the validation images, the best of them on all. It is chosen before
    the last epoch, which trains its path only.
    """

    samples: int  # random genotypes that are judged
    batches: int  # on so many batches
    finalists: int  # the best of them, which are judged again on all

    def __post_init__(self) -> None:
        for name in ("samples", "batches", "finalists"):
            require(getattr(self, name) >= 1, f"method.schedule.{name}", getattr(self, name), "at least 1")

    def stages(self, epochs: int, space: SearchSpace) -> list[Stage]:
        require(epochs >= 2, "search.epochs", epochs, "at least 2 with this method")
        return [Stage(0, 0, epochs, alpha_frozen_fraction=1.0)]

    def decide(self, seen: Observation, epochs: int) -> tuple[CandidateMask, dict[str, Any]]:
        if seen.epoch != epochs - 1:
            return seen.active, dict(seen.memory)
        drawn = [seen.space.sample(seen.generator) for _ in range(self.samples)]
        best = self.best_of(drawn, seen.path_accuracy)
        active: CandidateMask = {}
        for kind, rows in seen.active.items():
            active[kind] = [[False] * len(row) for row in rows]
            for edge, column in seen.space.places(best.cells[kind]):
                active[kind][edge][column] = True
        return active, dict(seen.memory)

    def best_of(self, drawn: Sequence[T], accuracy: Callable[[T, int | None], float]) -> T:
        """Return the best of some genotypes; the first on ties."""
        ranked = sorted(drawn, key=lambda one: -accuracy(one, self.batches))
        return max(ranked[: self.finalists], key=lambda one: accuracy(one, None))


def _alive(rows: Sequence[Sequence[bool]], space: SearchSpace, node: int) -> list[int]:
    return [edge for edge in space.incoming(node) if any(rows[edge])]


def _copied(rows: Sequence[Sequence[bool]]) -> list[list[bool]]:
    return [list(row) for row in rows]


def _without(rows: Sequence[Sequence[bool]], edge: int, column: int | None) -> list[list[bool]]:
    """Return the candidate mask with one candidate, or all of an edge, removed."""
    found = _copied(rows)
    found[edge] = [stays and column is not None and c != column for c, stays in enumerate(rows[edge])]
    return found


def _none(row: Sequence[float], space: SearchSpace) -> float:
    return row[space.candidates.index("none")] if "none" in space.candidates else 0.0


def _without_none(row: Sequence[float], space: SearchSpace) -> list[float]:
    """Return the distribution over the candidates other than none."""
    kept = [value for name, value in zip(space.candidates, row, strict=True) if name != "none"]
    return [value / max(sum(kept), 1e-30) for value in kept]


def _certainty(row: Sequence[float]) -> float:
    """1 - the entropy of a distribution, normalised to 0..1; 1 where there is one candidate."""
    if len(row) == 1:
        return 1.0
    entropy = -sum(value * math.log(value) for value in row if value > 0)
    return 1 - entropy / math.log(len(row))


def _overlap(row: Sequence[float], edge: int, kind: str, past: Sequence[Scores]) -> float:
    """The mean overlap of an edge's distribution with those of earlier epochs; 0 where there are none."""
    if not past:
        return 0.0
    return sum(sum(map(min, row, earlier[kind][edge])) for earlier in past) / len(past)


def _scaled(values: Sequence[float]) -> list[float]:
    """Rescale values to 0..1 over the edges, as in the authors' code."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 1.0 for value in values]
