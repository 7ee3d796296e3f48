"""What is added to every edge besides its candidates, or changes them while the supernet is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from darts.config.registry import register
from darts.models.mixture import Moment, Number
from darts.runtime.errors import require


@dataclass
class EdgeExtras:
    """Operations added to every edge besides the candidates, each with a weight that does not depend on alpha."""

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the added operations."""
        return ()

    def weights(self, moment: Moment) -> Sequence[Number]:
        """Return the weights of the added operations at a moment of the search."""
        return ()

    @property
    def drops_skips(self) -> bool:
        """Whether skip connections drop values in training."""
        return False

    @property
    def drops_paths(self) -> bool:
        """Whether whole edges are dropped in training; such a supernet is computed by the reference engine."""
        return False

    def dropout(self, stage: int, epoch: int, epochs: int, alpha_frozen_fraction: float) -> float:
        """Return the dropout probability in epoch `epoch`, from 0, of a stage of `epochs`.

        Alpha does not move in the first fraction of the stage.
        """
        return 0.0


@register("edge_extras", "none")
@dataclass
class NoExtras(EdgeExtras):
    """Nothing, as in the paper of Liu et al. 2019."""


@register("edge_extras", "auxiliary_skip")
@dataclass
class AuxiliarySkip(EdgeExtras):
    """A skip connection added to each mixed operation, whose weight falls to 0 (Chu et al. 2021, DARTS-, equation 4).

    It carries the gradients that would otherwise make the candidate of that name win. At stride 2 it is a factorised
    reduction.
    """

    start: float  # the weight in the first epoch; it falls linearly, epoch by epoch, to 0 after the last

    def __post_init__(self) -> None:
        require(0 < self.start < math.inf, "method.edge_extras.start", self.start, "above 0, finite")

    @property
    def operations(self) -> tuple[str, ...]:
        return ("skip_connect",)

    def weights(self, moment: Moment) -> Sequence[Number]:
        return (self.start * (1 - moment.epoch_progress),)


@register("edge_extras", "skip_dropout")
@dataclass
class SkipDropout(EdgeExtras):
    """Skip connections of stride 1 drop values, less and less (Chen et al. 2019, P-DARTS, section 3.3.2).

    While alpha is frozen the probability falls linearly, by a stage's length, from the stage's rate less one such step;
    once alpha moves it starts from the rate again and falls by exp(-decay) over what is a 25th of the stage (an epoch
    there). It changes once an epoch.
    """

    rates: list[float]  # one a stage
    decay: float  # for each epoch of the authors' stages of 25

    def __post_init__(self) -> None:
        sound = bool(self.rates) and all(0 <= rate < 1 for rate in self.rates)
        require(sound, "method.edge_extras.rates", self.rates, "probabilities from 0 to under 1, at least one")
        require(self.decay >= 0, "method.edge_extras.decay", self.decay, "at least 0")

    @property
    def drops_skips(self) -> bool:
        return True

    def dropout(self, stage: int, epoch: int, epochs: int, alpha_frozen_fraction: float) -> float:
        rate = self.rates[min(stage, len(self.rates) - 1)]
        frozen = alpha_frozen_fraction * epochs
        if epoch < frozen:
            return rate * (epochs - epoch - 1) / epochs
        return rate * math.exp(-self.decay * 25 * (epoch - frozen) / epochs)


@register("edge_extras", "path_dropout")
@dataclass
class PathDropout(EdgeExtras):
    """Whole edges are dropped for some of the images, more and more (Zela et al. 2020, R-DARTS (DP), section 5.1).

    In the steps of the weights and of alpha alike; the probability grows linearly, epoch by epoch, from 0 in the first
    epoch of a stage to `probability` in its last.
    """

    probability: float  # in the last epoch

    def __post_init__(self) -> None:
        within = 0 <= self.probability < 1
        require(within, "method.edge_extras.probability", self.probability, "at least 0 and below 1")

    @property
    def drops_paths(self) -> bool:
        return True

    def dropout(self, stage: int, epoch: int, epochs: int, alpha_frozen_fraction: float) -> float:
        return self.probability * epoch / max(1, epochs - 1)
