"""What mixture weights the supernet's weights are trained under: the relaxation's, or those nearby."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from darts.config.registry import register
from darts.models.mixture import Progress
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor

Matrices = Mapping[str, "Tensor"]  # by cell type, (edges, columns)


@dataclass(frozen=True)
class PerturbationProblem:
    """What a perturbation may look at: the training loss as a function of the mixture weights, in evaluation mode."""

    loss: Callable[[Matrices], Tensor]  # this process's part of the loss
    all_reduce: Callable[[Sequence[Tensor]], list[Tensor]] = list  # sums over processes, given by the loop

    def total_loss(self, matrices: Matrices) -> Tensor:
        """Return the whole batch's loss under mixture weights, without a gradient."""
        import torch

        with torch.no_grad():
            (total,) = self.all_reduce([self.loss(matrices)])
        return total

    def total_gradients(self, matrices: Matrices) -> list[Tensor]:
        """Return the whole batch's gradient in each of the matrices, which must be leaves."""
        import torch

        own = torch.autograd.grad(self.loss(matrices), list(matrices.values()), materialize_grads=True)
        return self.all_reduce(own)


@dataclass
class Perturbation:
    """A change of the mixture weights for the weight step only."""

    random: ClassVar[bool] = False
    changes: ClassVar[bool] = True  # False: it is the identity

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, progress: Progress) -> Matrices:
        """Return the mixture weights to train under."""
        raise NotImplementedError


@register("perturbation", "unperturbed")
@dataclass
class Unperturbed(Perturbation):
    """The relaxation's own mixture weights."""

    changes: ClassVar[bool] = False

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, progress: Progress) -> Matrices:
        return mixture


@register("perturbation", "random_smoothing")
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
        """Return epsilon at a fraction of the search."""
        return self.start + (self.end - self.start) * progress

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, progress: Progress) -> Matrices:
        return normalised({kind: noisy(matrix, self.epsilon(progress)) for kind, matrix in mixture.items()})


@register("perturbation", "adversarial_smoothing")
@dataclass
class AdversarialSmoothing(RandomSmoothing):
    """The nearby weights under which the training loss is high (Chen and Hsieh 2020, SDARTS-ADV, equation 5).

    `steps` steps along the sign of the gradient, each 2 epsilon / steps, held within epsilon of the relaxation's own
    weights; these are taken where the loss did not rise. A search in the direction of projected gradient ascent.
    """

    steps: int  # steps along the sign of the gradient

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.steps <= 1000, "method.perturbation.steps", self.steps, "from 1 to 1000")

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, progress: Progress) -> Matrices:
        import torch

        epsilon = torch.as_tensor(self.epsilon(progress))
        moved = {kind: matrix.clone() for kind, matrix in mixture.items()}
        before = problem.total_loss(mixture)
        for _ in range(self.steps):
            leaves = {kind: matrix.detach().requires_grad_() for kind, matrix in moved.items()}
            gradients = problem.total_gradients(leaves)
            for (kind, matrix), gradient in zip(leaves.items(), gradients, strict=True):
                stepped = matrix.detach() + gradient.sign() * (2 * epsilon / self.steps)
                moved[kind] = mixture[kind] + (stepped - mixture[kind]).clamp(-epsilon, epsilon)
        moved = dict(normalised(moved))
        rose = problem.total_loss(moved) > before
        return {kind: torch.where(rose, matrix, mixture[kind]) for kind, matrix in moved.items()}


def noisy(matrix: Tensor, epsilon: Progress) -> Tensor:
    """Uniform noise within epsilon of each weight; a weight of 0 belongs to a candidate that is gone and stays."""
    import torch

    return matrix + (2 * torch.rand_like(matrix) - 1) * epsilon * (matrix != 0)


def normalised(mixture: Matrices) -> Matrices:
    """Weights clamped to 0 and 1, each edge's divided by their sum (an edge without weight stays as it is)."""
    clamped = {kind: matrix.clamp(0, 1) for kind, matrix in mixture.items()}
    return {kind: matrix / matrix.sum(-1, keepdim=True).clamp_min(1e-12) for kind, matrix in clamped.items()}
