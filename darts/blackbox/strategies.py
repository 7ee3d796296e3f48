"""The classic strategies over genotypes, each a screen: random, local, hill climbing, evolution, genetic, enumeration.

All of them maximise. None remembers what it has asked: asking twice costs nothing (exchange.py).
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from darts.blackbox.strategy import Asking, Pool, Request, Scored, Strategy, scores
from darts.config.registry import register
from darts.runtime.errors import require
from darts.spaces.genotype import Genotype
from darts.spaces.variation import ordered


@register("strategy", "random_search")
@dataclass
class RandomSearch(Strategy):
    """Independent draws (Li and Talwalkar 2019)."""

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        while True:
            yield Request(pool.draw(generator))


@register("strategy", "local_search")
@dataclass
class LocalSearch(Strategy):
    """From a random genotype to its best neighbour until none is better, then again (White, Nolen, Savani 2021)."""

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        while True:
            here = pool.draw(generator)
            score = yield Request(here)
            while True:
                scored = yield from scores(shuffled(pool.neighbours(here), generator))
                best = max(scored, key=value, default=(score, here))
                if best[0] <= score:
                    break
                score, here = best


@register("strategy", "hill_climbing")
@dataclass
class HillClimbing(Strategy):
    """A random mutation is accepted if it is better; after `patience` refusals in a row the climb begins again."""

    patience: int  # refused mutations in a row after which a climb begins again

    def __post_init__(self) -> None:
        require(self.patience >= 1, "method.patience", self.patience, "at least 1")

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        while True:
            here = pool.draw(generator)
            score = yield Request(here)
            refused = 0
            while refused < self.patience:
                other = pool.mutation(here, generator)
                found = yield Request(other)
                refused += 1
                if found > score:
                    score, here, refused = found, other, 0


@register("strategy", "evolution")
@dataclass
class Evolution(Strategy):
    """Regularised evolution: the best of a sample has a mutated child, the oldest dies (Real et al. 2019, algorithm 1).

    A mutation changes one place, as in their section 3.2.
    """

    population: int  # genotypes that are alive
    sample: int  # drawn from them, of which the best is the parent

    def __post_init__(self) -> None:
        require(self.population >= 1, "method.population", self.population, "at least 1")
        allowed = f"from 1 to method.population ({self.population})"
        require(1 <= self.sample <= self.population, "method.sample", self.sample, allowed)

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        alive = deque((yield from scores(pool.draws(self.population, generator))))
        while True:
            parent = max(generator.choices(alive, k=self.sample), key=value)[1]  # with replacement, as by the authors
            child = pool.mutation(parent, generator)
            alive.append(((yield Request(child)), child))
            alive.popleft()


@register("strategy", "genetic")
@dataclass
class Genetic(Strategy):
    """Generations of children of two parents, each chosen by a tournament; the best `elite` live on (Holland 1975).

    A child takes each node from either parent and is then mutated with chance `mutation`.
    """

    population: int  # genotypes of a generation
    tournament: int  # drawn for each parent, of which the best is taken
    elite: int  # best genotypes that survive unchanged
    mutation: float  # probability that a child is mutated

    def __post_init__(self) -> None:
        require(self.population >= 2, "method.population", self.population, "at least 2")
        within = 1 <= self.tournament <= self.population
        allowed = f"from 1 to method.population ({self.population})"
        require(within, "method.tournament", self.tournament, allowed)
        require(0 <= self.elite < self.population, "method.elite", self.elite, "from 0 and below method.population")
        require(0 <= self.mutation <= 1, "method.mutation", self.mutation, "from 0 to 1")

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        alive = yield from scores(pool.draws(self.population, generator))
        while True:
            children = sorted(alive, key=value, reverse=True)[: self.elite]
            while len(children) < self.population:
                first, second = (max(generator.sample(alive, self.tournament), key=value)[1] for _ in range(2))
                child = pool.crossing(first, second, generator)
                if generator.random() < self.mutation:
                    child = pool.mutation(child, generator)
                children.append(((yield Request(child)), child))
            alive = children


@register("strategy", "breadth_first")
@dataclass
class BreadthFirst(Strategy):
    """All genotypes in rings around a random one: its neighbours, theirs, ... until there is none left."""

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        start = ordered(pool.draw(generator))
        waiting, seen = deque([start]), {start.digest()}
        while waiting:
            here = waiting.popleft()
            yield Request(here)
            for other in shuffled(pool.neighbours(here), generator):
                if other.digest() not in seen:
                    seen.add(other.digest())
                    waiting.append(other)


@register("strategy", "depth_first")
@dataclass
class DepthFirst(Strategy):
    """A walk that always moves to a neighbour it has not seen, and back where there is none; at last it saw all."""

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        start = ordered(pool.draw(generator))
        yield Request(start)
        seen = {start.digest()}
        trail = [iter(shuffled(pool.neighbours(start), generator))]
        while trail:
            other = next((near for near in trail[-1] if near.digest() not in seen), None)
            if other is None:
                trail.pop()
                continue
            seen.add(other.digest())
            yield Request(other)
            trail.append(iter(shuffled(pool.neighbours(other), generator)))


def shuffled(genotypes: list[Genotype], generator: random.Random) -> list[Genotype]:
    """In an order drawn again."""
    return generator.sample(genotypes, len(genotypes))


def value(scored: Scored) -> float:
    """The score of a pair."""
    return scored[0]


@register("strategy", "successive_halving")
@dataclass
class SuccessiveHalving(Strategy):
    """Brackets of random genotypes; of each rung the best 1 / eta continue with eta times the effort (Jamieson and
    Talwalkar 2016, as in Li et al. 2018, algorithm 1).

    The lowest of the `rungs` takes eta^(1 - rungs) of the whole effort. Brackets follow one another until the budget
    ends.
    """

    eta: int  # 1 / eta of the genotypes stay at each rung, with eta times the effort
    rungs: int  # from the least effort to the whole

    partial_effort: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.eta >= 2, "method.eta", self.eta, "at least 2")
        require(1 <= self.rungs <= 20, "method.rungs", self.rungs, "from 1 to 20")

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        while True:
            yield from bracket(pool, generator, self.eta, self.rungs, self.eta ** (self.rungs - 1))


@register("strategy", "hyperband")
@dataclass
class Hyperband(SuccessiveHalving):
    """Brackets from many genotypes with little effort to few with all of it, in turn (Li et al. 2018, algorithm 1)."""

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        while True:
            for rungs in range(self.rungs, 0, -1):
                number = math.ceil(self.rungs / rungs * self.eta ** (rungs - 1))
                yield from bracket(pool, generator, self.eta, rungs, number)


def bracket(pool: Pool, generator: random.Random, eta: int, rungs: int, number: int) -> Asking:
    """One bracket that begins with `number` random genotypes."""
    alive = pool.draws(number, generator)
    for rung in range(rungs):
        fraction = float(eta) ** (rung + 1 - rungs)
        scored = yield from scores(alive, fraction)
        keep = max(1, len(alive) // eta)
        alive = [genotype for _, genotype in sorted(scored, key=value, reverse=True)[:keep]]
