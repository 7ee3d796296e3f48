"""The classic strategies over genotypes, each a screen: random, local, hill climbing, evolution, genetic, enumeration.

All of them maximise. None remembers what it has asked: asking twice costs nothing (exchange.py).
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from darts.blackbox.strategy import Asking, Pool, Request, Scored, Strategy, scores
from darts.errors import require
from darts.genotype import Genotype
from darts.variation import ordered


@dataclass
class RandomSearch(Strategy):
    """Independent draws (Li and Talwalkar 2019)."""

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        while True:
            yield Request(pool.draw(generator))


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


@dataclass
class HillClimbing(Strategy):
    """A random mutation is accepted if it is better; after `patience` refusals in a row the climb begins anew."""

    patience: int

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


@dataclass
class Evolution(Strategy):
    """Regularised evolution: the best of a sample has a mutated child, the oldest dies (Real et al. 2019, algorithm 1).

    A mutation changes one place, as in their section 3.2.
    """

    population: int
    sample: int

    def __post_init__(self) -> None:
        require(self.population >= 1, "method.population", self.population, "at least 1")
        allowed = f"from 1 to method.population ({self.population})"
        require(1 <= self.sample <= self.population, "method.sample", self.sample, allowed)

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        alive = deque((yield from scores(pool.draws(self.population, generator))))
        while True:
            parent = max(generator.sample(alive, self.sample), key=value)[1]
            child = pool.mutation(parent, generator)
            alive.append(((yield Request(child)), child))
            alive.popleft()


@dataclass
class Genetic(Strategy):
    """Generations of children of two parents, each chosen by a tournament; the best `elite` live on (Holland 1975).

    A child takes each node from either parent and is then mutated with chance `mutation`.
    """

    population: int
    tournament: int
    elite: int
    mutation: float

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


@dataclass
class DepthFirst(Strategy):
    """A walk that always goes on to a neighbour it has not seen, and back where there is none; at last it saw all."""

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
    """In an order drawn anew."""
    return generator.sample(genotypes, len(genotypes))


def value(scored: Scored) -> float:
    """The score of a pair."""
    return scored[0]
