"""From architecture parameters to mixture weights: the continuous relaxation, and the scores used at discretisation.

All matrices are (..., edges, candidates). `left` says which candidates are still there; the others weigh 0. `progress`
runs from 0 to 1 over the search (or a stage of it). Random relaxations draw from PyTorch's global generator, which the
search seeds for every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from darts.errors import require
from darts.mixture import Paths, Progress

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Relaxation:
    """How a matrix of architecture parameters becomes mixture weights."""

    random: ClassVar[bool] = False
    sampled: ClassVar[bool] = False  # a few operations an edge are drawn, and nothing else is computed
    whole: ClassVar[bool] = False  # what is drawn is a whole genotype: `left` then holds one set of inputs a node

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Tensor | Paths:
        """What the supernet is called with; differentiable."""
        raise NotImplementedError

    def scores(self, alpha: Tensor, left: Tensor) -> Tensor:
        """What discretisation ranks: without noise, comparable over edges and candidates."""
        return softmax(alpha, left)

    def settled(self, alpha: Tensor, left: Tensor) -> Tensor | Paths:
        """The mixture without noise under which the supernet is evaluated: the scores, or the best path alone."""
        scores = self.scores(alpha, left)
        return best_paths(scores, left) if self.sampled else scores


@dataclass
class Softmax(Relaxation):
    """Softmax over the candidates of each edge (Liu et al. 2019, equation 2)."""

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Tensor:
        return softmax(alpha, left)


def softmax(alpha: Tensor, left: Tensor) -> Tensor:
    """Softmax over the candidates that are left; 0 for the others, and on an edge where none is."""
    return alpha.masked_fill(~left, -1e30).softmax(dim=-1) * left


# Variants


class Decay(Enum):
    """How a temperature falls."""

    LINEAR = "linear"
    EXPONENTIAL = "exponential"


@dataclass
class Gumbel(Relaxation):
    """Softmax of (log p + Gumbel noise) / temperature, p = softmax(alpha) (Xie et al. 2019, SNAS, equation 4)."""

    start: float  # temperature at the first step
    end: float  # and after the last
    decay: Decay

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            require(0 < value < math.inf, f"method.relaxation.{name}", value, "above 0, finite")

    def temperature(self, progress: Progress) -> Progress:
        """At a share of the search."""
        if self.decay is Decay.EXPONENTIAL:
            return self.start * (self.end / self.start) ** progress
        return self.start + (self.end - self.start) * progress

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Tensor | Paths:
        return self.softened(alpha, left, progress)

    def softened(self, alpha: Tensor, left: Tensor, progress: Progress) -> Tensor:
        """A draw, softened by the temperature."""
        return softmax((alpha.log_softmax(-1) + gumbel_noise(alpha)) / self.temperature(progress), left)


@dataclass
class GumbelHard(Gumbel):
    """One operation an edge, drawn by the Gumbel trick; backward as if it were soft (Dong and Yang 2019, GDAS).

    Only the drawn operation is computed, and the gradient goes through its weight alone (their section 3.2): one_hot -
    soft + soft, with the first `soft` a constant. The same draw serves all cells of a forward pass.
    """

    sampled: ClassVar[bool] = True

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Paths:
        soft = self.softened(alpha, left, progress)
        hard, computed = best_paths(soft.detach(), left)
        return Paths(hard - soft.detach() + soft, computed)


def best_paths(scores: Tensor, left: Tensor) -> Paths:
    """On each edge the candidate of the highest score and nothing else."""
    import torch.nn.functional as F

    best = scores.argmax(-1)
    there = left.any(-1)
    computed = [[column] if any_left else [] for column, any_left in zip(best.tolist(), there.tolist(), strict=True)]
    return Paths(F.one_hot(best, scores.shape[-1]).to(scores) * there[:, None], computed)


def gumbel_noise(like: Tensor) -> Tensor:
    """Independent standard Gumbel noise."""
    import torch

    return -torch.empty_like(like).exponential_().log()


@dataclass
class Dirichlet(Relaxation):
    """Weights drawn from Dirichlet(elu(alpha) + 1), with the pathwise gradient (Chen et al. 2021, DrNAS, section 3.2).

    A Dirichlet variable is a vector of independent Gamma variables over its sum, so that candidates which are gone can
    be left out.
    """

    random: ClassVar[bool] = True

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Tensor:
        import torch

        gammas = torch._standard_gamma(concentration(alpha)).clamp_min(torch.finfo(alpha.dtype).tiny) * left
        return gammas / gammas.sum(-1, keepdim=True).clamp_min(torch.finfo(alpha.dtype).tiny)

    def scores(self, alpha: Tensor, left: Tensor) -> Tensor:
        mean = concentration(alpha) * left
        return mean / mean.sum(-1, keepdim=True).clamp_min(1e-30)


def concentration(alpha: Tensor) -> Tensor:
    """The Dirichlet's parameters: elu(alpha) + 1, above 0."""
    import torch.nn.functional as F

    return F.elu(alpha) + 1


@dataclass
class Sigmoid(Relaxation):
    """Each candidate for itself, from 0 to 1, so that they do not compete (Chu et al. 2020, FairDARTS, equation 4)."""

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Tensor:
        return alpha.sigmoid() * left

    def scores(self, alpha: Tensor, left: Tensor) -> Tensor:
        return alpha.sigmoid() * left


@dataclass
class BinaryPaths(Relaxation):
    """Two candidates an edge are drawn and kept in memory, one of them is open (Cai et al. 2019, ProxylessNAS, 3.2).

    The two are drawn without replacement by p = softmax(alpha), the open one by p among the two; the gradient reaches
    alpha through the weights of both (their equation 4 on the two drawn paths).
    """

    random: ClassVar[bool] = True
    sampled: ClassVar[bool] = True

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Paths:
        import torch
        import torch.nn.functional as F

        noisy = (alpha.log_softmax(-1) + gumbel_noise(alpha)).masked_fill(~left, -math.inf)
        pair = noisy.topk(min(2, alpha.shape[-1]), -1).indices  # the Gumbel trick: a draw without replacement
        drawn = torch.zeros_like(left).scatter(-1, pair, True) & left
        soft = softmax(alpha, drawn)
        opened = (soft.detach().log() + gumbel_noise(alpha)).argmax(-1)
        hard = F.one_hot(opened, soft.shape[-1]) * drawn
        computed = [[column for column, there in enumerate(row) if there] for row in drawn.tolist()]
        return Paths(hard - soft.detach() + soft, computed)


@dataclass
class UniformPaths(Relaxation):
    """A genotype drawn uniformly for every step, whatever alpha is (Li and Talwalkar 2019, section 3.3)."""

    random: ClassVar[bool] = True
    sampled: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def weights(self, alpha: Tensor, left: Tensor, progress: Progress) -> Paths:
        return best_paths(gumbel_noise(alpha).masked_fill(~left, -math.inf), left)
