"""Between a strategy and an evaluator: every cell is evaluated once, and nothing beyond the budget."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from darts.blackbox.budget import Cost, Ledger
from darts.blackbox.strategy import Asking, Request
from darts.errors import UserError
from darts.genotype import Genotype
from darts.interruption import asked, stop
from darts.variation import canonical, ordered

log = logging.getLogger(__name__)
REMEMBERED = 10_000  # requests in a row that were answered from memory: then nothing new is left to ask


@dataclass(frozen=True)
class Answer:
    """A score, the higher the better, what else is known of the cell, and what it took."""

    score: float
    figures: dict[str, float]
    cost: Cost


@dataclass(frozen=True)
class Scorer:
    """Answers requests."""

    score: Callable[[Genotype, float], tuple[float, dict[str, float]]]  # genotype and share of the effort
    epochs: Callable[[float], float] = lambda share: 0.0  # passes over all training images that a share takes
    shares: bool = False  # whether a share of the effort means anything
    exact: bool = False  # equal architectures have scores of their own, as in a table

    def key(self, request: Request) -> str:
        """One name for all requests that are answered alike."""
        name = ordered(request.genotype).digest() if self.exact else canonical(request.genotype)
        return f"{name}@{request.share:g}" if self.shares else name


def exchange(
    asking: Asking, scorer: Scorer, evaluate: Callable[[str, Request], Answer], ledger: Ledger
) -> Iterator[tuple[Request, Answer]]:
    """Ask until the strategy or the budget ends; gives what was evaluated. What was asked before costs nothing."""
    known: dict[str, float] = {}
    score: float | None = None
    remembered = 0
    while remembered < REMEMBERED:
        try:
            request = next(asking) if score is None else asking.send(score)
        except StopIteration:
            log.info("the strategy has nothing more to ask")
            return
        key = scorer.key(request)
        remembered = remembered + 1 if key in known else 0
        if key not in known:
            stop(asked())
            if not ledger.open(scorer.epochs(request.share)):
                log.info("budget.%s is reached", ledger.reached)
                return
            answer = evaluate(key, request)
            if math.isnan(answer.score):
                raise UserError(f"the score of {key} is not a number; choose another evaluator or lower its rates")
            ledger.charge(answer.cost)
            known[key] = answer.score
            yield request, answer
        score = known[key]
    log.info("nothing new was asked for %s times in a row: the space is searched", f"{REMEMBERED:,}")
