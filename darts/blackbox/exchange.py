"""Between a strategy and an evaluator: every cell is evaluated once, and nothing beyond the budget.

An epoch is one pass over all training images of the data set: training on half of them for two epochs costs one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from darts.blackbox.strategy import Asking, Request, Score
from darts.loop.settings import Budget
from darts.runtime.errors import UserError
from darts.runtime.signals import pending_signal, raise_if_interrupted
from darts.spaces.genotype import Genotype
from darts.spaces.variation import canonical, ordered

log = logging.getLogger(__name__)
ANY_SCORE = (-math.inf, math.inf)
REMEMBERED = 10_000  # requests in a row that were answered from memory: then nothing new is left to ask


@dataclass(frozen=True)
class Cost:
    """What one evaluation took."""

    epochs: float = 0.0
    seconds: float = 0.0
    macs: float = 0.0  # multiply-adds


@dataclass
class Ledger:
    """Adds up costs. No evaluation begins that would go beyond a limit, but for that of minutes."""

    budget: Budget
    evaluations: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    macs: float = 0.0
    reached: str | None = field(default=None, init=False)  # the limit that ended the search

    def charge(self, cost: Cost) -> None:
        """Write down one evaluation."""
        self.evaluations += 1
        self.epochs += cost.epochs
        self.seconds += cost.seconds
        self.macs += cost.macs

    def open(self, next_epochs: float = 0.0, next_macs: float = 0.0) -> bool:
        """Whether an evaluation of so many epochs and multiply-adds may begin."""
        spent = {
            "evaluations": (self.evaluations + 1, self.budget.evaluations),
            "epochs": (self.epochs + next_epochs - 1e-9, self.budget.epochs),
            "minutes": (self.seconds / 60, self.budget.minutes),
            "macs": (self.macs + next_macs, self.budget.macs),
        }
        for name, (value, limit) in spent.items():
            if limit is not None and value > limit:
                self.reached = name
                return False
        return True


@dataclass(frozen=True)
class Answer:
    """A score, the higher the better, what else is known of the cell, and what it took."""

    score: float
    metrics: dict[str, float]
    cost: Cost


@dataclass(frozen=True)
class Scorer:
    """Answers requests."""

    score: Callable[[Genotype, float], tuple[float, dict[str, float]]]  # genotype and fraction of the effort
    epochs: Callable[[float], float] = lambda fraction: 0.0  # passes over all training images that a fraction takes
    macs: Callable[[Genotype, float], float] = lambda genotype, fraction: 0.0  # multiply-adds of an evaluation
    partial_effort: bool = False  # whether a fraction of the effort means anything
    effort: Callable[[float], float] = lambda fraction: fraction  # what a fraction comes to: equal efforts are one
    limits: tuple[float, float] = ANY_SCORE  # what a score can be
    exact: bool = False  # equal architectures have scores of their own, as in a table
    costs: tuple[str, ...] = ()  # of several aims: the metrics that are to be low; "accuracy" is to be high

    def told(self, score: float, metrics: Mapping[str, float]) -> Score:
        """What a strategy is told of an evaluation."""
        if not self.costs:
            return Score(score)
        return Score(score, [metrics["accuracy"], *(-metrics[name] for name in self.costs)])

    def key(self, request: Request) -> str:
        """One name for all requests that are answered alike."""
        name = ordered(request.genotype).digest() if self.exact else canonical(request.genotype)
        return f"{name}@{self.effort(request.fraction):g}" if self.partial_effort else name


def finite_score(key: str, score: float) -> float:
    """The score; `UserError` naming the cell where it is NaN or infinite."""
    if not math.isfinite(score):
        raise UserError(f"the score of {key} is {score}, which is not finite; choose another evaluator")
    return score


def exchange(
    asking: Asking, scorer: Scorer, evaluate: Callable[[str, Request], Answer], ledger: Ledger
) -> Iterator[tuple[Request, Answer]]:
    """Ask until the strategy or the budget ends; gives what was evaluated. What was asked before costs nothing."""
    known: dict[str, Score] = {}
    score: Score | None = None
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
            raise_if_interrupted(pending_signal())
            limited = ledger.budget.macs is not None  # else they need not be known before
            next_macs = scorer.macs(request.genotype, request.fraction) if limited else 0.0
            if not ledger.open(scorer.epochs(request.fraction), next_macs):
                log.info("budget.%s is reached", ledger.reached)
                return
            answer = evaluate(key, request)
            finite_score(key, answer.score)
            ledger.charge(answer.cost)
            known[key] = scorer.told(answer.score, answer.metrics)
            yield request, answer
        score = known[key]
    log.info("nothing new was asked for %s times in a row: the space is searched", f"{REMEMBERED:,}")
