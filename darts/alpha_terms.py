"""Terms added to the architecture loss: what alpha pays for besides errors on the validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.errors import require
from darts.mixture import Progress

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class AlphaTerm:
    """A differentiable function of alpha."""

    weight: float

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "method.alpha_terms: weight", self.weight, "at least 0, finite")

    def __call__(self, alpha: Sequence[Tensor], progress: Progress) -> Tensor:
        """The term for the matrices (edges, candidates) of all cell types, at a share of the search."""
        raise NotImplementedError


@dataclass
class ZeroOne(AlphaTerm):
    """-weight * mean((sigmoid(alpha) - 1/2)^2): pushes weights to 0 or 1 (Chu et al. 2020, FairDARTS, equation 5)."""

    def __call__(self, alpha: Sequence[Tensor], progress: Progress) -> Tensor:
        import torch

        values = torch.cat([matrix.flatten() for matrix in alpha])
        return -self.weight * (values.sigmoid() - 0.5).square().mean()


@dataclass
class LogSumExp(AlphaTerm):
    """weight * progress * mean over edges of logsumexp(alpha) (Ye et al. 2022, beta-DARTS, equations 9 and 15)."""

    def __call__(self, alpha: Sequence[Tensor], progress: Progress) -> Tensor:
        import torch

        return self.weight * progress * torch.cat([matrix.logsumexp(-1) for matrix in alpha]).mean()


@dataclass
class Anchor(AlphaTerm):
    """weight * KL(Dirichlet(elu(alpha) + 1), Dirichlet(1)), the sum over edges (Chen et al. 2021, DrNAS, 3.2)."""

    def __call__(self, alpha: Sequence[Tensor], progress: Progress) -> Tensor:
        import torch

        from darts.relaxation import concentration

        total = torch.zeros((), device=alpha[0].device, dtype=alpha[0].dtype)
        for matrix in alpha:
            posterior = torch.distributions.Dirichlet(concentration(matrix))
            prior = torch.distributions.Dirichlet(torch.ones_like(matrix))
            total = total + torch.distributions.kl_divergence(posterior, prior).sum()
        return self.weight * total
