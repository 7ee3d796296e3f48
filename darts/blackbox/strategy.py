"""What a strategy is: a generator that asks for the score of one genotype after the other.

    score = yield Request(genotype)

A strategy depends on its settings, the pool, the random numbers it is given and the scores it is told, on nothing else.
So a search that was stopped resumes by asking again: what is known already is answered from the record.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import ClassVar

from darts.methods.method import SearchMethod
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import SearchSpace
from darts.spaces.variation import all_genotypes, crossing, neighbours


@dataclass(frozen=True)
class Request:
    """A genotype to be scored, by a fraction of the evaluator's whole effort."""

    genotype: Genotype
    fraction: float = 1.0


class Score(float):
    """A score, the higher the better; `aims` are what it weighs where that is several, each the higher the better."""

    aims: tuple[float, ...]

    def __new__(cls, value: float, aims: Iterable[float] = ()) -> Score:
        """A float like any other, which most strategies take it for."""
        made = super().__new__(cls, value)
        made.aims = tuple(aims)
        return made


Asking = Generator[Request, float, None]  # asks with requests, is told a `Score` for each


Scored = tuple[float, Genotype]


def scores(genotypes: Iterable[Genotype], fraction: float = 1.0) -> Generator[Request, float, list[Scored]]:
    """Ask for all of them, one after the other: `scored = yield from scores(genotypes)`."""
    scored = []
    for genotype in genotypes:
        scored.append(((yield Request(genotype, fraction)), genotype))
    return scored


@dataclass(frozen=True)
class Pool:
    """The genotypes that a strategy may ask for: those that keep the rules."""

    space: SearchSpace
    draw: Callable[[random.Random], Genotype]
    valid: Callable[[Genotype], bool]

    def draws(self, number: int, generator: random.Random) -> list[Genotype]:
        """So many independent draws."""
        return [self.draw(generator) for _ in range(number)]

    def neighbours(self, genotype: Genotype) -> list[Genotype]:
        """Those that differ at one place."""
        return [other for other in neighbours(genotype, self.space) if self.valid(other)]

    def mutation(self, genotype: Genotype, generator: random.Random) -> Genotype:
        """A neighbour; a fresh draw where there is none."""
        near = self.neighbours(genotype)
        return generator.choice(near) if near else self.draw(generator)

    def crossing(self, first: Genotype, second: Genotype, generator: random.Random) -> Genotype:
        """A child of two parents; where it breaks a rule, the first parent's mutation."""
        child = crossing(first, second, generator)
        return child if self.valid(child) else self.mutation(first, generator)

    def all(self) -> Generator[Genotype, None, None]:
        """All of them, in a fixed order."""
        yield from (genotype for genotype in all_genotypes(self.space) if self.valid(genotype))


@dataclass
class Strategy(SearchMethod):
    """A search method that asks and is told."""

    partial_effort: ClassVar[bool] = False  # asks for a fraction of the whole effort at times
    weighs_aims: ClassVar[bool] = False  # looks at the aims of a score

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        """The search itself; ends when it has nothing more to ask."""
        raise NotImplementedError
