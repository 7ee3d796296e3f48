"""What a search has spent, and whether it may spend more: evaluations, epochs, minutes.

An epoch is one pass over all training images of the data set: training on half of them for two epochs costs one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from darts.settings import Budget


@dataclass(frozen=True)
class Cost:
    """What one evaluation took."""

    epochs: float = 0.0
    seconds: float = 0.0


@dataclass
class Ledger:
    """Adds up costs; once a limit is reached nothing more is begun, so that at most one evaluation goes beyond it."""

    budget: Budget
    evaluations: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    reached: str | None = field(default=None, init=False)  # the limit that ended the search

    def charge(self, cost: Cost) -> None:
        """Write down one evaluation."""
        self.evaluations += 1
        self.epochs += cost.epochs
        self.seconds += cost.seconds

    def open(self, next_epochs: float = 0.0) -> bool:
        """Whether an evaluation of so many epochs may begin."""
        spent = {
            "evaluations": (self.evaluations + 1, self.budget.evaluations),
            "epochs": (self.epochs + next_epochs - 1e-9, self.budget.epochs),
            "minutes": (self.seconds / 60, self.budget.minutes),
        }
        for name, (value, limit) in spent.items():
            if limit is not None and value > limit:
                self.reached = name
                return False
        return True
