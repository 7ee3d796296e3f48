"""Regularisers: terms added to the architecture loss besides the validation loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.config.registry import register
from darts.models.mixture import Moment
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Regulariser:
    """A differentiable function of alpha."""

    weight: float  # factor of the term in the architecture loss

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "method.regularisers: weight", self.weight, "at least 0, finite")

    def __call__(self, alpha: Sequence[Tensor], moment: Moment) -> Tensor:
        """Return the term for the matrices (edges, candidates) of all cell types, at a moment of the search."""
        raise NotImplementedError


@register("regularisers", "zero_one")
@dataclass
class ZeroOne(Regulariser):
    """-weight * mean((sigmoid(alpha) - 1/2)^2): pushes weights to 0 or 1 (Chu et al. 2020, FairDARTS, equation 5)."""

    def __call__(self, alpha: Sequence[Tensor], moment: Moment) -> Tensor:
        import torch

        values = torch.cat([matrix.flatten() for matrix in alpha])
        return -self.weight * (values.sigmoid() - 0.5).square().mean()


@register("regularisers", "log_sum_exp")
@dataclass
class LogSumExp(Regulariser):
    """A growing weight times the mean over edges of logsumexp(alpha) (Ye et al. 2022, beta-DARTS, equations 9, 15).

    The weight grows by `weight / epochs` with every epoch, from 0, however long the search is, as in the authors' code.
    """

    epochs: int  # epochs in which the weight grows from 0 to `weight`

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs >= 1, "method.regularisers: epochs", self.epochs, "at least 1")

    def __call__(self, alpha: Sequence[Tensor], moment: Moment) -> Tensor:
        import torch

        weight = self.weight * moment.epoch / self.epochs
        return weight * torch.cat([matrix.logsumexp(-1) for matrix in alpha]).mean()


@register("regularisers", "anchor")
@dataclass
class Anchor(Regulariser):
    """weight * KL(Dirichlet(elu(alpha) + 1), Dirichlet(1)), the sum over edges (Chen et al. 2021, DrNAS, 3.2).

    It takes the place of alpha's weight decay, which must be 0 with it: the authors' code has one or the other.
    """

    def __call__(self, alpha: Sequence[Tensor], moment: Moment) -> Tensor:
        import torch

        from darts.methods.relaxation import concentration

        total = torch.zeros((), device=alpha[0].device, dtype=alpha[0].dtype)
        for matrix in alpha:
            posterior = torch.distributions.Dirichlet(concentration(matrix))
            prior = torch.distributions.Dirichlet(torch.ones_like(matrix))
            total = total + torch.distributions.kl_divergence(posterior, prior).sum()
        return self.weight * total
