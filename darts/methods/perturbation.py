"""What mixture weights the supernet's weights are trained under: the relaxation's, or those nearby."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from darts.config.registry import register
from darts.models.mixture import Moment, Number
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor

Matrices = Mapping[str, "Tensor"]  # by cell type, (edges, columns)


@dataclass(frozen=True)
class PerturbationProblem:
    """What a perturbation may look at: the training loss as a function of the candidates' weights, evaluation mode."""

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
    """A change of the candidates' weights for the weight step only."""

    random: ClassVar[bool] = False
    changes: ClassVar[bool] = True  # False: it is the identity

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, moment: Moment) -> Matrices:
        """Return the candidates' weights to train under, (edges, candidates) by cell type."""
        raise NotImplementedError


@register("perturbation", "unperturbed")
@dataclass
class Unperturbed(Perturbation):
    """The relaxation's own mixture weights."""

    changes: ClassVar[bool] = False

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, moment: Moment) -> Matrices:
        return mixture


@register("perturbation", "random_smoothing")
@dataclass
class RandomSmoothing(Perturbation):
    """Uniform noise within epsilon of each weight (Chen and Hsieh 2020, SDARTS-RS, equation 6)."""

    start: float  # epsilon in the first epoch
    end: float  # and after the last; it grows linearly, epoch by epoch

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            require(0 < value <= 1, f"method.perturbation.{name}", value, "above 0 and at most 1")

    def epsilon(self, moment: Moment) -> Number:
        """Return epsilon at a moment of the search."""
        return self.start + (self.end - self.start) * moment.epoch_progress

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, moment: Moment) -> Matrices:
        return normalised({kind: noisy(matrix, self.epsilon(moment)) for kind, matrix in mixture.items()}, mixture)


@register("perturbation", "adversarial_smoothing")
@dataclass
class AdversarialSmoothing(RandomSmoothing):
    """The nearby weights under which the training loss is high (Chen and Hsieh 2020, SDARTS-ADV, equation 5).

    Projected gradient ascent as in the authors' code: from uniform noise within epsilon, `steps` steps along the sign
    of the gradient, each 2 epsilon / steps, held within epsilon of the relaxation's own weights. After the noise and
    after every step the weights are clamped to 0 and 1 and each edge's divided by their sum. Where the loss has fallen
    the relaxation's own weights are taken.
    """

    steps: int  # steps along the sign of the gradient
    random_start: bool  # noise before the first step

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.steps <= 1000, "method.perturbation.steps", self.steps, "from 1 to 1000")

    def __call__(self, mixture: Matrices, problem: PerturbationProblem, moment: Moment) -> Matrices:
        import torch

        dtype = next(iter(mixture.values())).dtype
        epsilon = torch.as_tensor(self.epsilon(moment), dtype=dtype)
        before = problem.total_loss(mixture)
        moved: Matrices = dict(mixture)
        if self.random_start:
            moved = normalised({kind: noisy(matrix, epsilon) for kind, matrix in mixture.items()}, mixture)
        for _ in range(self.steps):
            moved = self._stepped(moved, mixture, problem, epsilon)
        fell = problem.total_loss(moved) < before
        return {kind: torch.where(fell, mixture[kind], matrix) for kind, matrix in moved.items()}

    def _stepped(self, moved: Matrices, mixture: Matrices, problem: PerturbationProblem, epsilon: Tensor) -> Matrices:
        """One step along the sign of the gradient, projected."""
        leaves = {kind: matrix.detach().requires_grad_() for kind, matrix in moved.items()}
        gradients = problem.total_gradients(leaves)
        found = {}
        for (kind, matrix), gradient in zip(leaves.items(), gradients, strict=True):
            stepped = matrix.detach() + gradient.sign() * (2 * epsilon / self.steps)
            found[kind] = mixture[kind] + (stepped - mixture[kind]).clamp(-epsilon, epsilon)
        return normalised(found, mixture)


def noisy(matrix: Tensor, epsilon: Number) -> Tensor:
    """Uniform noise within epsilon of each weight; a weight of 0 belongs to a candidate that is gone and stays."""
    import torch

    return matrix + (2 * torch.rand_like(matrix) - 1) * epsilon * (matrix != 0)


def normalised(moved: Matrices, mixture: Matrices) -> dict[str, Tensor]:
    """Weights clamped to 0 and 1, each edge's divided by their sum; where none is above 0 the largest becomes 1.

    A candidate that weighs 0 in `mixture` is gone and stays so.
    """
    return {kind: _normalised(matrix, mixture[kind] != 0) for kind, matrix in moved.items()}


def _normalised(matrix: Tensor, there: Tensor) -> Tensor:
    import torch.nn.functional as F

    clamped = matrix.clamp(0, 1) * there
    total = clamped.sum(-1, keepdim=True)
    largest = F.one_hot(matrix.masked_fill(~there, -1e30).argmax(-1), matrix.shape[-1]).to(matrix) * there
    return largest.where(total == 0, clamped / total.clamp_min(1e-30))
