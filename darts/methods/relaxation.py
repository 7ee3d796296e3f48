"""From architecture parameters to mixture weights: the continuous relaxation, and the scores used at discretisation.

All matrices are (edges, candidates). `active`, of the same shape, is the candidate mask: where it is false a candidate
has been removed and weighs 0. A moment says how far the search is. Random relaxations draw from PyTorch's global
generator, which the search seeds for every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from darts.config.registry import register
from darts.models.mixture import MixtureWeights, Moment, Number
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Relaxation:
    """How a matrix of architecture parameters becomes mixture weights."""

    random: ClassVar[bool] = False  # draws random numbers
    sampled: ClassVar[bool] = False  # draws a few operations for an edge, and nothing else is computed
    rescales: ClassVar[bool] = False  # changes alpha after a step of its optimiser
    whole: ClassVar[bool] = False  # draws a whole genotype: `active` then holds one set of inputs for each node

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        """Return the weights under which a step of alpha runs; differentiable in alpha."""
        raise NotImplementedError

    def training_weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        """Return the weights under which the supernet's weights are trained: as a rule those of `weights`."""
        return self.weights(alpha, active, moment)

    def rescaled(self, before: Tensor, after: Tensor, active: Tensor) -> Tensor:
        """Return alpha as it is to be after an optimiser's step from `before` to `after`.

        It is called with the random numbers with which `weights` drew for this step.
        """
        return after

    def scores(self, alpha: Tensor, active: Tensor) -> Tensor:
        """Return what discretisation ranks (edges, candidates): without noise, comparable over all entries."""
        return softmax(alpha, active)

    def deterministic(self, alpha: Tensor, active: Tensor) -> MixtureWeights:
        """Return the weights without noise under which the supernet is evaluated: the scores, or the best path."""
        scores = self.scores(alpha, active)
        return best_paths(scores, active) if self.sampled else MixtureWeights(scores)


@register("relaxation", "softmax")
@dataclass
class Softmax(Relaxation):
    """Softmax over the candidates of each edge (Liu et al. 2019, equation 2)."""

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        return MixtureWeights(softmax(alpha, active))


def softmax(alpha: Tensor, active: Tensor) -> Tensor:
    """Softmax over the active candidates of each edge; 0 for the others, and on an edge where none is active."""
    return alpha.masked_fill(~active, -1e30).softmax(dim=-1) * active


# Variants


class Decay(Enum):
    """How a temperature falls."""

    LINEAR = "linear"
    EXPONENTIAL = "exponential"


@register("relaxation", "gumbel")
@dataclass
class Gumbel(Relaxation):
    """Softmax of (log p + Gumbel noise) / temperature, p = softmax(alpha) (Xie et al. 2019, SNAS, equation 4)."""

    start: float  # temperature at the beginning
    end: float  # and in the last epoch; it falls once an epoch
    decay: Decay  # how the temperature falls from one to the other

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            require(0 < value < math.inf, f"method.relaxation.{name}", value, "above 0, finite")

    def fallen(self, moment: Moment) -> Number:
        """Return the fraction of the fall: 1/epochs in the first epoch, 1 in the last, as in the authors' code."""
        return (moment.epoch + 1) / moment.epochs

    def temperature(self, moment: Moment) -> Number:
        """Return the temperature at a moment of the search."""
        fallen = self.fallen(moment)
        if self.decay is Decay.EXPONENTIAL:
            return self.start * (self.end / self.start) ** fallen
        return self.start + (self.end - self.start) * fallen

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        return MixtureWeights(self.softened(alpha, active, moment))

    def softened(self, alpha: Tensor, active: Tensor, moment: Moment) -> Tensor:
        """A draw, softened by the temperature."""
        return softmax((alpha.log_softmax(-1) + gumbel_noise(alpha)) / self.temperature(moment), active)


@register("relaxation", "gumbel_hard")
@dataclass
class GumbelHard(Gumbel):
    """One operation an edge, drawn by the Gumbel trick; backward as if it were soft (Dong and Yang 2019, GDAS).

    Only the drawn operation is computed: its weight is one_hot - soft + soft, with the first `soft` a constant. The
    authors' `forward_gdas`, which their published numbers are of, adds the weights of the others, all 0, to the edge's
    output, so that these too have a gradient: the sum of the output's gradient. `forward_gdas_v1` does not. The same
    draw serves all cells of a forward pass.
    """

    rest_added: bool  # the gradient of forward_gdas; false: of forward_gdas_v1

    sampled: ClassVar[bool] = True

    def fallen(self, moment: Moment) -> Number:
        return moment.to_last_epoch

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        soft = self.softened(alpha, active, moment)
        path = best_paths(soft.detach(), active)
        weights = path.weights - soft.detach() + soft
        return MixtureWeights(weights, path.computed, rest_added=self.rest_added)


def best_paths(scores: Tensor, active: Tensor) -> MixtureWeights:
    """On each edge the candidate of the highest score and nothing else."""
    import torch.nn.functional as F

    best = scores.argmax(-1)
    alive = active.any(-1)
    computed = [
        [column] if edge_alive else [] for column, edge_alive in zip(best.tolist(), alive.tolist(), strict=True)
    ]
    return MixtureWeights(F.one_hot(best, scores.shape[-1]).to(scores) * alive[:, None], computed)


def gumbel_noise(like: Tensor) -> Tensor:
    """Independent standard Gumbel noise."""
    import torch

    return -torch.empty_like(like).exponential_().log()


@register("relaxation", "dirichlet")
@dataclass
class Dirichlet(Relaxation):
    """Weights drawn from Dirichlet(elu(alpha) + 1), with the pathwise gradient (Chen et al. 2021, DrNAS, section 3.2).

    A Dirichlet variable is a vector of independent Gamma variables over its sum, so that candidates which are gone can
    be left out.
    """

    random: ClassVar[bool] = True

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        import torch

        tiny = torch.finfo(alpha.dtype).tiny
        gammas = torch._standard_gamma(concentration(alpha)).clamp_min(tiny) * active
        return MixtureWeights(gammas / gammas.sum(-1, keepdim=True).clamp_min(tiny))

    def deterministic(self, alpha: Tensor, active: Tensor) -> MixtureWeights:
        """Return the distribution's mean. Discretisation ranks by softmax(alpha), as the authors' code does."""
        mean = concentration(alpha) * active
        return MixtureWeights(mean / mean.sum(-1, keepdim=True).clamp_min(1e-30))


def concentration(alpha: Tensor) -> Tensor:
    """The Dirichlet's parameters: elu(alpha) + 1, above 0."""
    import torch
    import torch.nn.functional as F

    return (F.elu(alpha) + 1).clamp_min(torch.finfo(alpha.dtype).tiny)


@register("relaxation", "sigmoid")
@dataclass
class Sigmoid(Relaxation):
    """Each candidate for itself, from 0 to 1, so that they do not compete (Chu et al. 2020, FairDARTS, equation 4)."""

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        return MixtureWeights(alpha.sigmoid() * active)

    def scores(self, alpha: Tensor, active: Tensor) -> Tensor:
        return alpha.sigmoid() * active


@register("relaxation", "binary_paths")
@dataclass
class BinaryPaths(Relaxation):
    """Weights are trained on one drawn path, alpha on two of which one is open (Cai et al. 2019, ProxylessNAS, 3.2).

    A step of the weights draws the path by p = softmax(alpha). A step of alpha draws two without replacement by p, and
    the open one by p among the two; the gradient reaches alpha through the weights of both (their equation 4 on the two
    drawn paths), and after the step both are shifted alike, so that the others keep their probability.
    """

    random: ClassVar[bool] = True
    sampled: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        import torch.nn.functional as F

        drawn = self._pair(alpha, active)
        soft = softmax(alpha, drawn)
        opened = (soft.detach().log() + gumbel_noise(alpha)).argmax(-1)
        hard = F.one_hot(opened, soft.shape[-1]) * drawn
        computed = [row.nonzero().flatten().tolist() for row in drawn]
        return MixtureWeights(hard - soft.detach() + soft, computed)

    def _pair(self, alpha: Tensor, active: Tensor) -> Tensor:
        """Draw two candidates of each edge without replacement, by the Gumbel trick: a mask (edges, candidates)."""
        import torch

        noisy = (alpha.log_softmax(-1) + gumbel_noise(alpha)).masked_fill(~active, -math.inf)
        pair = noisy.topk(min(2, alpha.shape[-1]), -1).indices
        return torch.zeros_like(active).scatter(-1, pair, True) & active

    def training_weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        return best_paths((alpha.log_softmax(-1) + gumbel_noise(alpha)).masked_fill(~active, -math.inf), active)

    def rescaled(self, before: Tensor, after: Tensor, active: Tensor) -> Tensor:
        import torch

        drawn = self._pair(before, active)
        gumbel_noise(before)  # what chose the open one of the two
        total_before = before.masked_fill(~drawn, -math.inf).logsumexp(-1, keepdim=True)
        total_after = after.masked_fill(~drawn, -math.inf).logsumexp(-1, keepdim=True)
        return torch.where(drawn, after - (total_after - total_before), after)


@register("relaxation", "uniform_paths")
@dataclass
class UniformPaths(Relaxation):
    """A genotype drawn uniformly for every step, whatever alpha is (Li and Talwalkar 2019, section 3.3)."""

    random: ClassVar[bool] = True
    sampled: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def weights(self, alpha: Tensor, active: Tensor, moment: Moment) -> MixtureWeights:
        return best_paths(gumbel_noise(alpha).masked_fill(~active, -math.inf), active)
