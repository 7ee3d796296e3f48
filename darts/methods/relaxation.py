"""From architecture parameters to mixture weights: the continuous relaxation, and the scores used at discretisation.

All matrices are (edges, candidates). `active`, of the same shape, is the candidate mask: where it is false a candidate
has been removed and weighs 0. `progress` runs from 0 to 1 over the search. Random relaxations draw from PyTorch's
global generator, which the search seeds for every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from darts.config.registry import register
from darts.models.mixture import MixtureWeights, Progress
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Relaxation:
    """How a matrix of architecture parameters becomes mixture weights."""

    random: ClassVar[bool] = False  # draws random numbers
    sampled: ClassVar[bool] = False  # draws a few operations for an edge, and nothing else is computed
    whole: ClassVar[bool] = False  # draws a whole genotype: `active` then holds one set of inputs for each node

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
        """Return the weights under which a training step runs; differentiable in alpha."""
        raise NotImplementedError

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

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
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

    start: float  # temperature at the first step
    end: float  # and after the last
    decay: Decay  # how the temperature falls from one to the other

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            require(0 < value < math.inf, f"method.relaxation.{name}", value, "above 0, finite")

    def temperature(self, progress: Progress) -> Progress:
        """Return the temperature at a fraction of the search."""
        if self.decay is Decay.EXPONENTIAL:
            return self.start * (self.end / self.start) ** progress
        return self.start + (self.end - self.start) * progress

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
        return MixtureWeights(self.softened(alpha, active, progress))

    def softened(self, alpha: Tensor, active: Tensor, progress: Progress) -> Tensor:
        """A draw, softened by the temperature."""
        return softmax((alpha.log_softmax(-1) + gumbel_noise(alpha)) / self.temperature(progress), active)


@register("relaxation", "gumbel_hard")
@dataclass
class GumbelHard(Gumbel):
    """One operation an edge, drawn by the Gumbel trick; backward as if it were soft (Dong and Yang 2019, GDAS).

    Only the drawn operation is computed, and the gradient goes through its weight only (their section 3.2): one_hot -
    soft + soft, with the first `soft` a constant. The same draw serves all cells of a forward pass.
    """

    sampled: ClassVar[bool] = True

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
        soft = self.softened(alpha, active, progress)
        path = best_paths(soft.detach(), active)
        return path.with_weights(path.weights - soft.detach() + soft)


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

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
        import torch

        tiny = torch.finfo(alpha.dtype).tiny
        gammas = torch._standard_gamma(concentration(alpha)).clamp_min(tiny) * active
        return MixtureWeights(gammas / gammas.sum(-1, keepdim=True).clamp_min(tiny))

    def scores(self, alpha: Tensor, active: Tensor) -> Tensor:
        mean = concentration(alpha) * active
        return mean / mean.sum(-1, keepdim=True).clamp_min(1e-30)


def concentration(alpha: Tensor) -> Tensor:
    """The Dirichlet's parameters: elu(alpha) + 1, above 0."""
    import torch.nn.functional as F

    return F.elu(alpha) + 1


@register("relaxation", "sigmoid")
@dataclass
class Sigmoid(Relaxation):
    """Each candidate for itself, from 0 to 1, so that they do not compete (Chu et al. 2020, FairDARTS, equation 4)."""

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
        return MixtureWeights(alpha.sigmoid() * active)

    def scores(self, alpha: Tensor, active: Tensor) -> Tensor:
        return alpha.sigmoid() * active


@register("relaxation", "binary_paths")
@dataclass
class BinaryPaths(Relaxation):
    """Two candidates an edge are drawn and kept in memory, one of them is open (Cai et al. 2019, ProxylessNAS, 3.2).

    The two are drawn without replacement by p = softmax(alpha), the open one by p among the two; the gradient reaches
    alpha through the weights of both (their equation 4 on the two drawn paths).
    """

    random: ClassVar[bool] = True
    sampled: ClassVar[bool] = True

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
        import torch
        import torch.nn.functional as F

        noisy = (alpha.log_softmax(-1) + gumbel_noise(alpha)).masked_fill(~active, -math.inf)
        pair = noisy.topk(min(2, alpha.shape[-1]), -1).indices  # the Gumbel trick: a draw without replacement
        drawn = torch.zeros_like(active).scatter(-1, pair, True) & active
        soft = softmax(alpha, drawn)
        opened = (soft.detach().log() + gumbel_noise(alpha)).argmax(-1)
        hard = F.one_hot(opened, soft.shape[-1]) * drawn
        computed = [row.nonzero().flatten().tolist() for row in drawn]
        return MixtureWeights(hard - soft.detach() + soft, computed)


@register("relaxation", "uniform_paths")
@dataclass
class UniformPaths(Relaxation):
    """A genotype drawn uniformly for every step, whatever alpha is (Li and Talwalkar 2019, section 3.3)."""

    random: ClassVar[bool] = True
    sampled: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def weights(self, alpha: Tensor, active: Tensor, progress: Progress) -> MixtureWeights:
        return best_paths(gumbel_noise(alpha).masked_fill(~active, -math.inf), active)
