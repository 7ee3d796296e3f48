"""Architecture gradients: how the loss on validation images depends on alpha, the weights' reaction included.

Both losses of a bilevel step are functions of (weights, alpha), and a hypergradient is a function of the two losses.
Nothing is changed in place: neither weights, nor momentum, nor batch-norm statistics, nor the generators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts import parallel
from darts.errors import require

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Sequence["Tensor"]
Loss = Callable[[Tensors, Tensors], "Tensor"]  # (weights, alpha) -> scalar


@dataclass(frozen=True)
class Problem:
    """One bilevel step: the two losses, where they are evaluated, and the weight step that would follow."""

    train_loss: Loss
    valid_loss: Loss
    weights: Tensors
    alpha: Tensors
    momentum_buffers: Sequence[Tensor | None]  # one a weight; None before the first step
    learning_rate: float
    momentum: float
    weight_decay: float


@dataclass
class Hypergradient:
    """A way to compute the architecture gradient."""

    @property
    def weight_steps(self) -> int:
        """Alpha moves once in so many weight steps."""
        return 1

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        """The gradient for each tensor of alpha, and the validation loss that it belongs to."""
        raise NotImplementedError


@dataclass
class FirstOrder(Hypergradient):
    """The weights are taken as they are: the gradient of L_val(w, alpha) (Liu et al. 2019, section 2.3, xi = 0)."""

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        weights = [weight.detach() for weight in problem.weights]  # so that no layer prepares for their gradients
        loss = problem.valid_loss(weights, problem.alpha)
        return gradients(loss, problem.alpha), whole(loss)


@dataclass
class FiniteDifference(Hypergradient):
    """Second order: through one unrolled weight step, its Hessian product by central differences (equations 7, 8)."""

    scale: float  # epsilon = scale / ||dL_val / dw'||; 0.01 in the paper

    def __post_init__(self) -> None:
        require(0 < self.scale < 1, "method.hypergradient.scale", self.scale, "above 0 and below 1")

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        unrolled = [w.detach().requires_grad_() for w in unrolled_weights(problem)]  # w'
        loss = problem.valid_loss(unrolled, problem.alpha)
        both = gradients(loss, [*problem.alpha, *unrolled])
        direct, direction = both[: len(problem.alpha)], both[len(problem.alpha) :]
        epsilon = self.scale / _norm(direction)
        plus = self._gradient_at(problem, direction, epsilon)
        minus = self._gradient_at(problem, direction, -epsilon)
        # equation 7 with the product of equation 8: the difference is divided by (2 * epsilon) as a whole
        implicit = [(p - m) / (2 * epsilon) for p, m in zip(plus, minus, strict=True)]
        return [d - problem.learning_rate * i for d, i in zip(direct, implicit, strict=True)], whole(loss)

    def _gradient_at(self, problem: Problem, direction: Tensors, epsilon: Tensor) -> list[Tensor]:
        """The gradient in alpha of L_train at w + epsilon * direction; w is the original weights, not w'."""
        moved = moved_along(problem.weights, direction, epsilon)
        return gradients(problem.train_loss(moved, problem.alpha), problem.alpha)


def moved_along(weights: Tensors, direction: Tensors, epsilon: Tensor) -> list[Tensor]:
    """New tensors, weights + epsilon * direction."""
    import torch

    with torch.no_grad():
        return list(torch._foreach_add(list(weights), torch._foreach_mul(list(direction), epsilon)))


def unrolled_weights(problem: Problem, differentiable: bool = False) -> list[Tensor]:
    """w' = w - lr (momentum * buffer + dL_train/dw + decay * w): the weight step that SGD is about to take.

    With `differentiable` the result keeps its dependence on alpha, for exact differentiation through the step.
    """
    loss = problem.train_loss(problem.weights, problem.alpha)
    slopes = gradients(loss, problem.weights, differentiable)
    unrolled = []
    for weight, slope, buffer in zip(problem.weights, slopes, problem.momentum_buffers, strict=True):
        step = slope + problem.weight_decay * weight
        if buffer is not None:
            step = step + problem.momentum * buffer
        unrolled.append(weight - problem.learning_rate * step)
    return unrolled


def gradients(loss: Tensor, tensors: Tensors, differentiable: bool = False) -> list[Tensor]:
    """Gradients of a loss; zeros for a tensor that it does not depend on. Of several processes each has a share."""
    import torch

    own = torch.autograd.grad(loss, list(tensors), create_graph=differentiable, materialize_grads=True)
    if differentiable:
        from darts.synchronised import pooled

        return [pooled(slope) for slope in own]
    return parallel.summed(own)


def whole(loss: Tensor) -> Tensor:
    """The loss of the whole batch, without its history; of several processes each has a share of it."""
    (total,) = parallel.summed([loss.detach()])
    return total


def _norm(tensors: Tensors) -> Tensor:
    """The norm of all entries together, kept off zero so that a vanished gradient gives no NaN."""
    import torch

    parts = torch._foreach_norm(list(tensors))
    return torch.stack(parts).norm().clamp_min(torch.finfo(tensors[0].dtype).tiny)


# Variants


@dataclass
class Neumann(Hypergradient):
    """Implicit differentiation by a truncated Neumann series (Zhang et al. 2021, iDARTS, equation 9).

    d_alpha = grad_alpha L_val - lr * M' sum_{k=0}^{terms} (I - lr H)^k v, with v = grad_w L_val, H the Hessian of
    L_train in w and M its mixed derivative; both products by central differences of gradients. Alpha moves once in
    `every` weight steps, so that the weights come near their optimum in between.
    """

    terms: int  # of the series after the first
    scale: float  # of the central differences, as in `FiniteDifference`
    every: int

    def __post_init__(self) -> None:
        require(0 <= self.terms <= 100, "method.hypergradient.terms", self.terms, "from 0 to 100")
        require(0 < self.scale < 1, "method.hypergradient.scale", self.scale, "above 0 and below 1")
        require(1 <= self.every <= 1000, "method.hypergradient.every", self.every, "from 1 to 1000")

    @property
    def weight_steps(self) -> int:
        return self.every

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        import torch

        weights = [weight.detach().requires_grad_() for weight in problem.weights]
        loss = problem.valid_loss(weights, problem.alpha)
        both = gradients(loss, [*problem.alpha, *weights])
        direct, vector = both[: len(problem.alpha)], both[len(problem.alpha) :]
        total = [v.clone() for v in vector]
        for _ in range(self.terms):
            product = self._along(problem, vector, in_weights=True)
            vector = list(torch._foreach_sub(vector, torch._foreach_mul(product, problem.learning_rate)))
            torch._foreach_add_(total, vector)
        implicit = self._along(problem, total, in_weights=False)
        return [d - problem.learning_rate * i for d, i in zip(direct, implicit, strict=True)], whole(loss)

    def _along(self, problem: Problem, direction: Tensors, in_weights: bool) -> list[Tensor]:
        """The change of L_train's gradient, in the weights or in alpha, along a direction of the weights."""
        epsilon = self.scale / _norm(direction)
        ends = []
        for signed in (epsilon, -epsilon):
            moved = moved_along(problem.weights, direction, signed)
            wanted = [weight.requires_grad_() for weight in moved] if in_weights else problem.alpha
            ends.append(gradients(problem.train_loss(moved, problem.alpha), wanted))
        return [(p - m) / (2 * epsilon) for p, m in zip(*ends, strict=True)]
