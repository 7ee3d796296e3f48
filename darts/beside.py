"""What stands beside the candidates of a mixed operation, or changes them while the supernet is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from darts.errors import require
from darts.mixture import Progress


@dataclass
class Beside:
    """Operations beside the candidates on every edge, each with a weight that alpha has no part in."""

    @property
    def operations(self) -> tuple[str, ...]:
        """Their names."""
        return ()

    def weights(self, progress: Progress) -> Sequence[Progress]:
        """Their weights at a share of the search."""
        return ()

    @property
    def drops_skips(self) -> bool:
        """Whether skip connections drop values in training."""
        return False

    def skip_dropout(self, stage: int, progress: float, frozen: float) -> float:
        """The probability, at a share of a stage in whose first part, `frozen`, alpha does not move."""
        return 0.0


@dataclass
class Nothing(Beside):
    """Nothing, as in the paper of Liu et al. 2019."""


@dataclass
class AuxiliarySkip(Beside):
    """A skip connection beside each mixed operation, whose weight falls to 0 (Chu et al. 2021, DARTS-, equation 4).

    It carries the gradients that would otherwise make the candidate of that name win. At stride 2 it is a factorised
    reduction.
    """

    start: float  # the weight at the first step; it falls linearly to 0

    def __post_init__(self) -> None:
        require(0 < self.start < math.inf, "method.beside.start", self.start, "above 0, finite")

    @property
    def operations(self) -> tuple[str, ...]:
        return ("skip_connect",)

    def weights(self, progress: Progress) -> Sequence[Progress]:
        return (self.start * (1 - progress),)


@dataclass
class SkipDropout(Beside):
    """Skip connections of stride 1 drop values, less and less (Chen et al. 2019, P-DARTS, section 3.3.2).

    While alpha stands still the probability falls linearly from the stage's rate; once alpha moves it starts from the
    rate again and falls by exp(-decay) over what is a 25th of the stage (an epoch there).
    """

    rates: list[float]  # one a stage
    decay: float  # in an epoch of their 25

    def __post_init__(self) -> None:
        sound = bool(self.rates) and all(0 <= rate < 1 for rate in self.rates)
        require(sound, "method.beside.rates", self.rates, "probabilities from 0 to under 1, at least one")
        require(self.decay >= 0, "method.beside.decay", self.decay, "at least 0")

    @property
    def drops_skips(self) -> bool:
        return True

    def skip_dropout(self, stage: int, progress: float, frozen: float) -> float:
        rate = self.rates[min(stage, len(self.rates) - 1)]
        if progress < frozen:
            return rate * (1 - progress)
        return rate * math.exp(-self.decay * 25 * (progress - frozen))
