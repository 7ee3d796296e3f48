"""Architecture gradients: how the loss on validation images depends on alpha, the weights' reaction included.

Both losses of a bilevel step are functions of (weights, alpha), and a hypergradient is a function of the two losses.
Nothing is changed in place: neither weights, nor momentum, nor batch-norm statistics, nor the generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from darts.config.registry import register
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Sequence["Tensor"]
Loss = Callable[[Tensors, Tensors], "Tensor"]  # (weights, alpha) -> scalar: this process's part of the loss


@dataclass(frozen=True)
class Problem:
    """One bilevel step: the two losses, where they are evaluated, and the weight step that would follow."""

    train_loss: Loss
    valid_loss: Loss
    weights: Tensors
    alpha: Tensors
    momentum_buffers: Sequence[Tensor | None]  # one for each weight; None before the first step
    learning_rate: float
    momentum: float
    weight_decay: float
    all_reduce: Callable[[Tensors], list[Tensor]] = list  # sums over processes, given by the loop
    clip: float = math.inf  # largest norm of a gradient in the weights, where the task's own code clips it here too
    held: frozenset[int] = frozenset()  # positions of the weights that the unrolled step leaves as they are

    def gradients(self, loss: Tensor, tensors: Tensors, differentiable: bool = False) -> list[Tensor]:
        """Return this process's part of a loss's gradients; zeros for a tensor that it does not depend on."""
        import torch

        return list(torch.autograd.grad(loss, list(tensors), create_graph=differentiable, materialize_grads=True))

    def total_gradients(self, loss: Tensor, tensors: Tensors) -> list[Tensor]:
        """Return the gradients of the whole batch's loss, for what a method needs within its computation."""
        return self.all_reduce(self.gradients(loss, tensors))


@dataclass
class Hypergradient:
    """A way to compute the architecture gradient."""

    single_level: ClassVar[bool] = False  # alpha follows the training loss, in the same backward pass as the weights

    @property
    def inner_steps(self) -> int:
        """Number of weight steps that lead up to each step of alpha; 0: alpha's step comes first, and one follows."""
        return 0

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        """Return the gradient for each tensor of alpha and the validation loss it belongs to.

        Both are this process's part: the loop sums them over processes.
        """
        raise NotImplementedError


@register("hypergradient", "first_order")
@dataclass
class FirstOrder(Hypergradient):
    """The gradient of L_val(w, alpha), the weights taken as they are (Liu et al. 2019, section 2.3, xi = 0)."""

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        weights = [weight.detach() for weight in problem.weights]  # so that no layer prepares for their gradients
        loss = problem.valid_loss(weights, problem.alpha)
        return problem.gradients(loss, problem.alpha), loss.detach()


@register("hypergradient", "finite_difference")
@dataclass
class FiniteDifference(Hypergradient):
    """Second order: through one unrolled weight step, its Hessian product by central differences (equations 7, 8)."""

    scale: float  # epsilon = scale / ||dL_val / dw'||; 0.01 in the paper

    def __post_init__(self) -> None:
        require(0 < self.scale < 1, "method.hypergradient.scale", self.scale, "above 0 and below 1")

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        moved, factor = unrolled_weights(problem)
        unrolled = [weight.detach().requires_grad_() for weight in moved]  # w'
        loss = problem.valid_loss(unrolled, problem.alpha)
        both = problem.gradients(loss, [*problem.alpha, *unrolled])
        direct = both[: len(problem.alpha)]
        direction = problem.all_reduce(both[len(problem.alpha) :])
        if math.isfinite(problem.clip):
            direction = clipped(direction, problem.clip)
        epsilon = self.scale / _norm(direction)
        plus = self._gradient_at(problem, direction, epsilon)
        minus = self._gradient_at(problem, direction, -epsilon)
        # equation 7 with the product of equation 8: the difference is divided by (2 * epsilon) as a whole
        implicit = [(p - m) / (2 * epsilon) for p, m in zip(plus, minus, strict=True)]
        rate = problem.learning_rate if factor is None else problem.learning_rate * factor
        return [d - rate * i for d, i in zip(direct, implicit, strict=True)], loss.detach()

    def _gradient_at(self, problem: Problem, direction: Tensors, epsilon: Tensor) -> list[Tensor]:
        """Return the gradient in alpha of L_train at w + epsilon * direction; w is the original weights, not w'."""
        moved = moved_along(problem.weights, direction, epsilon)
        return problem.gradients(problem.train_loss(moved, problem.alpha), problem.alpha)


def moved_along(weights: Tensors, direction: Tensors, epsilon: Tensor) -> list[Tensor]:
    """New tensors, weights + epsilon * direction."""
    import torch

    with torch.no_grad():
        return list(torch._foreach_add(list(weights), torch._foreach_mul(list(direction), epsilon)))


def unrolled_weights(problem: Problem, differentiable: bool = False) -> tuple[list[Tensor], Tensor | None]:
    """w' = w - lr (momentum * buffer + factor * dL_train/dw + decay * w), the step that SGD is about to take; factor.

    The factor is what clips the gradient to `problem.clip`; None where nothing is clipped. With `differentiable` the
    result keeps its dependence on alpha, for exact differentiation through the step by one process.
    """
    loss = problem.train_loss(problem.weights, problem.alpha)
    own = problem.gradients(loss, problem.weights, differentiable)
    gradients = own if differentiable else problem.all_reduce(own)
    factor: Tensor | None = None
    if math.isfinite(problem.clip):
        factor = clip_factor(gradients, problem.clip)
        gradients = [gradient * factor for gradient in gradients]
    unrolled = []
    for number, (weight, gradient) in enumerate(zip(problem.weights, gradients, strict=True)):
        step = gradient + problem.weight_decay * weight
        buffer = problem.momentum_buffers[number]
        if buffer is not None:
            step = step + problem.momentum * buffer
        rate = 0 if number in problem.held else problem.learning_rate
        unrolled.append(weight - rate * step)
    return unrolled, factor


def _norm(tensors: Tensors) -> Tensor:
    """The norm of all entries together, kept off zero so that a vanished gradient gives no NaN."""
    import torch

    parts = torch._foreach_norm(list(tensors))
    return torch.stack(parts).norm().clamp_min(torch.finfo(tensors[0].dtype).tiny)


# Variants


def clipped(gradients: Tensors, most: float) -> list[Tensor]:
    """Gradients scaled so that their norm, all together, is at most `most`, as torch's `clip_grad_norm_` does it."""
    factor = clip_factor(gradients, most)
    return [gradient * factor for gradient in gradients]


def clip_factor(gradients: Tensors, most: float) -> Tensor:
    """What scales gradients so that their norm, all together, is at most `most`: at most 1."""
    return (most / (_norm(gradients) + 1e-6)).clamp(max=1.0)


@register("hypergradient", "neumann")
@dataclass
class Neumann(Hypergradient):
    """Implicit differentiation by a truncated Neumann series (Zhang et al. 2021, iDARTS, equation 9).

    d_alpha = grad_alpha L_val - lr * M' sum_{k=0}^{terms} (I - lr H)^k v, with v = grad_w L_val, H the Hessian of
    L_train in w and M its mixed derivative; both products by central differences of gradients. With every batch of
    validation images `steps` weight steps, each on a batch of its own, bring the weights near their optimum before
    alpha moves, so that an epoch trains the weights `steps` times as much as one of DARTS.
    """

    terms: int  # of the series after the first
    scale: float  # of the central differences, as in `FiniteDifference`
    steps: int  # weight steps before each step of alpha

    def __post_init__(self) -> None:
        require(0 <= self.terms <= 100, "method.hypergradient.terms", self.terms, "from 0 to 100")
        require(0 < self.scale < 1, "method.hypergradient.scale", self.scale, "above 0 and below 1")
        require(1 <= self.steps <= 1000, "method.hypergradient.steps", self.steps, "from 1 to 1000")

    @property
    def inner_steps(self) -> int:
        return self.steps

    def __call__(self, problem: Problem) -> tuple[list[Tensor], Tensor]:
        import torch

        weights = [weight.detach().requires_grad_() for weight in problem.weights]
        loss = problem.valid_loss(weights, problem.alpha)
        both = problem.gradients(loss, [*problem.alpha, *weights])
        direct = both[: len(problem.alpha)]
        vector = problem.all_reduce(both[len(problem.alpha) :])
        total = [v.clone() for v in vector]
        for _ in range(self.terms):
            product = problem.all_reduce(self._along(problem, vector, in_weights=True))
            vector = list(torch._foreach_sub(vector, torch._foreach_mul(product, problem.learning_rate)))
            torch._foreach_add_(total, vector)
        implicit = self._along(problem, total, in_weights=False)
        return [d - problem.learning_rate * i for d, i in zip(direct, implicit, strict=True)], loss.detach()

    def _along(self, problem: Problem, direction: Tensors, in_weights: bool) -> list[Tensor]:
        """Return the change of L_train's gradient, in the weights or in alpha, along a direction of the weights."""
        epsilon = self.scale / _norm(direction)
        ends = []
        for signed in (epsilon, -epsilon):
            moved = moved_along(problem.weights, direction, signed)
            wanted = [weight.requires_grad_() for weight in moved] if in_weights else problem.alpha
            ends.append(problem.gradients(problem.train_loss(moved, problem.alpha), wanted))
        return [(p - m) / (2 * epsilon) for p, m in zip(*ends, strict=True)]


@register("hypergradient", "single_level")
@dataclass
class SingleLevel(Hypergradient):
    """One loss and one backward pass for the weights and alpha, on all training images (Xie et al. 2019, SNAS).

    There is no validation loss: what a search of this kind reports as validation are images that it has trained on.
    """

    clip: float  # largest norm of alpha's gradient

    single_level: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.clip > 0, "method.hypergradient.clip", self.clip, "above 0 (inf: no clipping)")
