"""NSGA-II over genotypes (Deb et al. 2002): generations that spread along the front of several aims."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy

from darts.blackbox.strategy import Asking, Pool, Request, Score, Scored, Strategy, scores
from darts.config.registry import register
from darts.runtime.errors import require
from darts.spaces.fronts import crowding, ranks
from darts.spaces.genotype import Genotype
from darts.spaces.variation import canonical


@dataclass(frozen=True)
class Member:
    """A genotype of a generation with its place in it."""

    scored: Scored
    rank: int  # of its front, 0 for the best
    crowding: float  # how far its neighbours on the front are: the farther, the better

    def beats(self, other: Member) -> bool:
        """The crowded comparison: the better front, on one front the lonelier place (section III B)."""
        return (self.rank, -self.crowding) < (other.rank, -other.crowding)


@register("strategy", "nsga2")
@dataclass
class Nsga2(Strategy):
    """Of parents and children together the best fronts live on, of the last front the least crowded.

    Parents are chosen by tournaments of two, a child takes each node from either parent and is then mutated with chance
    `mutation`. Equal genotypes count once. The score itself, which weighs the aims, decides only which is the result.
    """

    population: int  # genotypes of a generation
    mutation: float  # probability that a child is mutated

    weighs_aims: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.population >= 4, "method.population", self.population, "at least 4")
        require(0 <= self.mutation <= 1, "method.mutation", self.mutation, "from 0 to 1")

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        scored = yield from scores(pool.draws(self.population, generator))
        alive = survivors(scored, self.population)
        while True:
            children: list[Scored] = []
            while len(children) < self.population:
                first, second = tournament(alive, generator), tournament(alive, generator)
                child = pool.crossing(first, second, generator)
                if generator.random() < self.mutation:
                    child = pool.mutation(child, generator)
                children.append(((yield Request(child)), child))
            alive = survivors([*(member.scored for member in alive), *children], self.population)


def tournament(alive: Sequence[Member], generator: random.Random) -> Genotype:
    """The better of two members."""
    first, second = generator.choice(alive), generator.choice(alive)
    winner = second if second.beats(first) else first
    return winner.scored[1]


def survivors(scored: Sequence[Scored], number: int) -> list[Member]:
    """Those that live on, at most `number`: front by front, of the last that fits in part the least crowded."""
    different = list({canonical(genotype): (score, genotype) for score, genotype in scored}.values())
    aims = numpy.array([aims_of(score) for score, _ in different])
    places = ranks(aims)
    members: list[Member] = []
    for rank in range(int(places.max()) + 1):
        front = numpy.flatnonzero(places == rank)
        distances = crowding(aims[front])
        own = [Member(different[at], rank, float(far)) for at, far in zip(front, distances, strict=True)]
        own.sort(key=lambda member: -member.crowding)  # stable
        members += own[: number - len(members)]
    return members


def aims_of(score: float) -> tuple[float, ...]:
    """The aims of a score; `TypeError` for a plain number, which has none."""
    if not isinstance(score, Score) or not score.aims:
        raise TypeError("NSGA-II is told scores with their aims")
    return score.aims
