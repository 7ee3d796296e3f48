"""What mixture weights the supernet's weights are trained under: the relaxation's, or those nearby."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from darts.bilevel import gradients, whole
from darts.errors import require
from darts.mixture import Progress

if TYPE_CHECKING:
    from torch import Tensor

Mixtures = Mapping[str, "Tensor"]


@dataclass
class Perturbation:
    """A change of the mixture weights for the weight step alone."""

    random: ClassVar[bool] = False
    changes: ClassVar[bool] = True  # False: it is the identity

    def __call__(self, mixture: Mixtures, loss: Callable[[Mixtures], Tensor], progress: Progress) -> Mixtures:
        """The mixture to train under. `loss` is the training loss under a mixture, in evaluation mode."""
        raise NotImplementedError


@dataclass
class Unperturbed(Perturbation):
    """The relaxation's own."""

    changes: ClassVar[bool] = False

    def __call__(self, mixture: Mixtures, loss: Callable[[Mixtures], Tensor], progress: Progress) -> Mixtures:
        return mixture


@dataclass
class RandomSmoothing(Perturbation):
    """Uniform noise within epsilon of each weight (Chen and Hsieh 2020, SDARTS-RS, equation 6)."""

    start: float  # epsilon at the first step
    end: float  # and after the last; linear

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            require(0 < value <= 1, f"method.perturbation.{name}", value, "above 0 and at most 1")

    def epsilon(self, progress: Progress) -> Progress:
        """At a share of the search."""
        return self.start + (self.end - self.start) * progress

    def __call__(self, mixture: Mixtures, loss: Callable[[Mixtures], Tensor], progress: Progress) -> Mixtures:
        return normalised({kind: noisy(matrix, self.epsilon(progress)) for kind, matrix in mixture.items()})


@dataclass
class AdversarialSmoothing(RandomSmoothing):
    """The nearby weights under which the training loss is high (Chen and Hsieh 2020, SDARTS-ADV, equation 5).

    `steps` steps along the sign of the gradient, each 2 epsilon / steps, held within epsilon of the relaxation's own
    weights; these are taken where the loss did not rise. A search in the direction of projected gradient ascent.
    """

    steps: int

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.steps <= 1000, "method.perturbation.steps", self.steps, "from 1 to 1000")

    def __call__(self, mixture: Mixtures, loss: Callable[[Mixtures], Tensor], progress: Progress) -> Mixtures:
        import torch

        epsilon = torch.as_tensor(self.epsilon(progress))
        moved = {kind: matrix.clone() for kind, matrix in mixture.items()}
        with torch.no_grad():
            before = whole(loss(mixture))
        for _ in range(self.steps):
            leaves = {kind: matrix.detach().requires_grad_() for kind, matrix in moved.items()}
            slopes = gradients(loss(leaves), list(leaves.values()))
            for (kind, matrix), slope in zip(leaves.items(), slopes, strict=True):
                stepped = matrix.detach() + slope.sign() * (2 * epsilon / self.steps)
                moved[kind] = mixture[kind] + (stepped - mixture[kind]).clamp(-epsilon, epsilon)
        moved = dict(normalised(moved))
        with torch.no_grad():
            rose = whole(loss(moved)) > before
        return {kind: torch.where(rose, matrix, mixture[kind]) for kind, matrix in moved.items()}


def noisy(matrix: Tensor, epsilon: Progress) -> Tensor:
    """Uniform noise within epsilon of each weight; a weight of 0 belongs to a candidate that is gone and stays."""
    import torch

    return matrix + (2 * torch.rand_like(matrix) - 1) * epsilon * (matrix != 0)


def normalised(mixture: Mixtures) -> Mixtures:
    """Weights clamped to 0 and 1, each edge's divided by their sum (an edge without weight stays as it is)."""
    clamped = {kind: matrix.clamp(0, 1) for kind, matrix in mixture.items()}
    return {kind: matrix / matrix.sum(-1, keepdim=True).clamp_min(1e-12) for kind, matrix in clamped.items()}
