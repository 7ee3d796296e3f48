"""Many genotypes by little effort, few by all of it: successive halving, and Hyperband over it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

from darts.blackbox.strategies import value
from darts.blackbox.strategy import Asking, Pool, Strategy, scores
from darts.errors import require


@dataclass
class SuccessiveHalving(Strategy):
    """Brackets of random genotypes; of each rung the best 1 / eta go on to eta times the effort (Jamieson and
    Talwalkar 2016, as in Li et al. 2018, algorithm 1).

    The lowest of the `rungs` takes eta^(1 - rungs) of the whole effort. Brackets follow one another until the budget
    ends.
    """

    eta: int
    rungs: int

    shares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.eta >= 2, "method.eta", self.eta, "at least 2")
        require(1 <= self.rungs <= 20, "method.rungs", self.rungs, "from 1 to 20")

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        while True:
            yield from bracket(pool, generator, self.eta, self.rungs, self.eta ** (self.rungs - 1))


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
        share = float(eta) ** (rung + 1 - rungs)
        scored = yield from scores(alive, share)
        keep = max(1, len(alive) // eta)
        alive = [genotype for _, genotype in sorted(scored, key=value, reverse=True)[:keep]]
