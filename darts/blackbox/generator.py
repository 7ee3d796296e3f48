"""Draws genotypes by growing them under rules: uniform over all that keep them, or any that does, or why none can.

A cell grows by production rules: a cell is its nodes, a node is a set of inputs, an input is an edge, an edge is an
operation. After every production each rule says whether the part can still become a whole that keeps it, so a branch
that cannot is left at once.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from darts.blackbox.settings import Rules
from darts.runtime.errors import UserError, unknown
from darts.spaces.genotype import Cell, Edge, Genotype
from darts.spaces.search_space import SearchSpace
from darts.spaces.variation import depth, node_choices

TRIES = 20_000  # fresh starts of a uniform draw
STEPS = 200_000  # productions of a draw that goes back


@dataclass(frozen=True)
class Limit:
    """A cost that adds up over edges: `tables` by cell type, (edges, candidates), and `rest`; at most `most`."""

    name: str
    most: float
    rest: float
    tables: Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Lookup:
    """A cost that is known of whole genotypes only, as a table's; at most `most`. The least of all is `least`."""

    name: str
    most: float
    least: float
    cost: Callable[[Genotype], float]


Grown = tuple[tuple[str, tuple[Edge, ...]], ...]  # cell type and edges of the nodes that are there, in order


@dataclass
class Generator:
    """Genotypes of a space that keep the rules and stay within the limits."""

    space: SearchSpace
    rules: Rules
    limits: list[Limit] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # by rule, how often it ended a branch

    def __post_init__(self) -> None:
        for name in ("required", "forbidden"):
            for operation in getattr(self.rules, name):
                if operation not in self.space.candidates:
                    raise unknown(f"rules.{name}: operation", operation, self.space.candidates)
        self._nodes = [(kind, node) for kind in self.space.cell_types for node in range(self.space.nodes)]
        forbidden = self.rules.forbidden
        self._choices = [node_choices(self.space, kind, node, forbidden) for kind, node in self._nodes]
        self._checks = self._kept_rules()
        self._least = {limit.name: self._least_costs(limit) for limit in self.limits}
        for place, choices in zip(self._nodes, self._choices, strict=True):
            if not choices:
                raise UserError(f"rules.forbidden leaves no operation on an edge into node {place[1]} ({place[0]})")
        for limit in self.limits:
            least = limit.rest + self._least[limit.name][0]
            if least > limit.most:
                raise UserError(
                    f"constraints.{limit.name} is {limit.most:,.6g}; the smallest cell that the rules allow needs "
                    f"{least:,.6g}"
                )
        for lookup in self.lookups:
            if lookup.least > lookup.most:
                told = f"{lookup.most:,.6g}; the least in the table is {lookup.least:,.6g}"
                raise UserError(f"constraints.{lookup.name} is {told}")

    def draw(self, random_numbers: random.Random) -> Genotype:
        """A genotype; `UserError` with the rules that stand in the way where there is none."""
        return self._uniform(random_numbers) if self.rules.uniform else self._any(random_numbers)

    def valid(self, genotype: Genotype) -> bool:
        """Whether a genotype keeps all rules."""
        grown: Grown = tuple((kind, edges) for kind in self.space.cell_types for edges in genotype.cells[kind].nodes)
        forbidden = set(self.rules.forbidden)
        if any(edge.operation in forbidden for _, edges in grown for edge in edges):
            return False
        return all(self._broken(grown[:length]) is None for length in range(1, len(grown) + 1))

    @property
    def bounded(self) -> bool:
        """Whether any rule or limit leaves something out."""
        rules = self.rules
        given = (rules.most_skips, rules.least_depth, rules.most_depth)
        costs = [*self.limits, *self.lookups]
        return bool(costs or rules.required or rules.forbidden or any(limit is not None for limit in given))

    def _uniform(self, random_numbers: random.Random) -> Genotype:
        """Grow by productions drawn alike; begin again where a rule breaks, so that all valid genotypes are alike."""
        self.refused.clear()
        for _ in range(TRIES):
            grown: Grown = ()
            for (kind, _), choices in zip(self._nodes, self._choices, strict=True):
                grown = (*grown, (kind, random_numbers.choice(choices)))
                broken = self._broken(grown)
                if broken is not None:
                    self.refused[broken] += 1
                    break
            else:
                return self._genotype(grown)
        if math.prod(map(len, self._choices)) <= STEPS:  # few enough to list all that are valid
            return random_numbers.choice(list(self._walk(random_numbers)))
        raise UserError(f"no valid genotype in {TRIES:,} draws ({self._reasons()}); give rules.uniform=false")

    def _any(self, random_numbers: random.Random) -> Genotype:
        """Grow, and go back where a rule breaks: finds a genotype if there is one."""
        self.refused.clear()
        return next(self._walk(random_numbers))

    def _walk(self, random_numbers: random.Random) -> Iterator[Genotype]:
        """All valid genotypes, by going back where a rule breaks, productions in a random order; at least one."""
        found = 0
        steps = itertools.count(1)
        trail = [self._shuffled(0, random_numbers)]
        grown: Grown = ()  # as long as the trail, but for its end
        while trail:
            if next(steps) > 2 * STEPS and not found:
                raise UserError(f"no valid genotype found in {2 * STEPS:,} productions ({self._reasons()})")
            edges = next(trail[-1], None)
            if edges is None:
                trail.pop()
                grown = grown[:-1]
                continue
            longer: Grown = (*grown, (self._nodes[len(grown)][0], edges))
            broken = self._broken(longer)
            if broken is not None:
                self.refused[broken] += 1
            elif len(longer) == len(self._nodes):
                found += 1
                yield self._genotype(longer)
            else:
                grown = longer
                trail.append(self._shuffled(len(trail), random_numbers))
        if not found:
            raise UserError(f"no genotype of space {self.space.name!r} keeps the rules: {self._reasons()}")

    def _shuffled(self, place: int, random_numbers: random.Random) -> Iterator[tuple[Edge, ...]]:
        choices = self._choices[place]
        return iter(random_numbers.sample(choices, len(choices)))

    def _reasons(self) -> str:
        return ", ".join(f"{name} ended {count:,} branches" for name, count in self.refused.most_common())

    def _least_costs(self, limit: Limit) -> list[float]:
        """By number of nodes that are there, the least that the others can cost."""
        cheapest = [
            min((self._cost(limit, kind, node, edges) for edges in choices), default=0.0)
            for (kind, node), choices in zip(self._nodes, self._choices, strict=True)
        ]
        return [sum(cheapest[place:]) for place in range(len(cheapest) + 1)]

    def _cost(self, limit: Limit, kind: str, node: int, edges: tuple[Edge, ...]) -> float:
        rows, table = self.space.rows(node), limit.tables[kind]
        return sum(table[rows[edge.source]][self.space.candidates.index(edge.operation)] for edge in edges)

    def _broken(self, grown: Grown) -> str | None:
        """The first rule that a beginning cannot keep any more; None where there is none."""
        for name, keeps in self._checks.items():
            if not keeps(grown):
                return name
        return None

    def _kept_rules(self) -> dict[str, Callable[[Grown], bool]]:
        rules = self.rules
        checks: dict[str, Callable[[Grown], bool]] = {}
        if rules.most_skips is not None:
            checks["rules.most_skips"] = self._few_skips
        if rules.required:
            checks["rules.required"] = self._has_required
        if rules.least_depth is not None or rules.most_depth is not None:
            checks["rules.least_depth and rules.most_depth"] = self._right_depth
        for limit in self.limits:
            checks[f"constraints.{limit.name}"] = functools.partial(self._within, limit)
        for lookup in self.lookups:
            checks[f"constraints.{lookup.name}"] = functools.partial(self._looked_up, lookup)
        return checks

    def _last_cell(self, grown: Grown) -> list[tuple[Edge, ...]]:
        """The nodes of the cell that grows at present."""
        kind = grown[-1][0]
        return [edges for other, edges in grown if other == kind]

    def _few_skips(self, grown: Grown) -> bool:
        skips = sum(edge.operation == "skip_connect" for edges in self._last_cell(grown) for edge in edges)
        return skips <= (self.rules.most_skips or 0)

    def _has_required(self, grown: Grown) -> bool:
        nodes = self._last_cell(grown)
        present = {edge.operation for edges in nodes for edge in edges}
        places = sum(self.space.kept(node) for node in range(len(nodes), self.space.nodes))
        return len(set(self.rules.required) - present) <= places

    def _right_depth(self, grown: Grown) -> bool:
        nodes = self._last_cell(grown)
        if len(nodes) < self.space.nodes:
            return True
        found = depth(Cell(tuple(nodes), self.space.joined(), self.space.layout.inputs))
        least, most = self.rules.least_depth, self.rules.most_depth
        return (least is None or found >= least) and (most is None or found <= most)

    def _within(self, limit: Limit, grown: Grown) -> bool:
        spent = limit.rest + self._least[limit.name][len(grown)]
        places: Counter[str] = Counter()
        for kind, edges in grown:
            spent += self._cost(limit, kind, places[kind], edges)
            places[kind] += 1
        return spent <= limit.most * (1 + 1e-9)

    def _looked_up(self, lookup: Lookup, grown: Grown) -> bool:
        return len(grown) < len(self._nodes) or lookup.cost(self._genotype(grown)) <= lookup.most

    def _genotype(self, grown: Grown) -> Genotype:
        cells = {}
        for kind in self.space.cell_types:
            nodes = tuple(edges for other, edges in grown if other == kind)
            cells[kind] = Cell(nodes, self.space.joined(), self.space.layout.inputs)
        return Genotype(self.space.name, cells)
