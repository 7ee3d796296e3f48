"""Which gradient moves the supernet's weights: the training loss's, with a correction, or with some weights frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darts.config.registry import register
from darts.models.mixture import Mixture, Progress
from darts.runtime.errors import UserError, require
from darts.runtime.schema import Schema, exactly

if TYPE_CHECKING:
    from torch import Tensor

Memory = dict[str, Any]  # what this part must remember, as tensors and plain values; returned again by each step
Gradients = list["Tensor | None"]  # one for each weight; None: this step does not use the weight


@dataclass(frozen=True)
class WeightProblem:
    """One weight step: the two losses as functions of the mixture, where they are evaluated, and names for weights."""

    train_loss: Callable[[Mixture], Tensor]  # this process's part of the loss
    valid_loss: Callable[[Mixture], Tensor]
    mixture: Mixture  # by cell type
    weights: Mapping[str, Tensor]
    cells: Mapping[str, int]  # number of cells, by cell type
    to_reference: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # to the reference supernet's names
    progress: Progress
    all_reduce: Callable[[Sequence[Any]], list[Any]] = list  # sums over processes, given by the loop

    def gradients(self, loss: Tensor) -> Gradients:
        """Return this process's part of a loss's gradients, one for each weight."""
        import torch

        return list(torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True))


@dataclass
class WeightGradient:
    """A way to compute the gradient that moves the supernet's weights."""

    def gradients(self, problem: WeightProblem, memory: Memory) -> tuple[Gradients, Memory]:
        """Return this process's part of the gradients (the loop sums them over processes) and what to remember."""
        raise NotImplementedError

    def memory_schema(self) -> Schema:
        """Return what its memory may hold (runtime/schema.py), for checkpoints to be checked against."""
        return {str: object}

    def frozen(self, memory: Memory) -> list[str]:
        """Return prefixes, in the reference supernet's names, of weights that must not move."""
        return []


@register("weight_gradient", "training_loss")
@dataclass
class TrainingLoss(WeightGradient):
    """The gradient of the training loss."""

    def gradients(self, problem: WeightProblem, memory: Memory) -> tuple[Gradients, Memory]:
        return problem.gradients(problem.train_loss(problem.mixture)), memory


# Variants


@register("weight_gradient", "layer_alignment")
@dataclass
class LayerAlignment(WeightGradient):
    """Push the normal cells' gradients in their mixture weights to align (Movahedi et al. 2023, Lambda-DARTS, section
    4, equation 8).

    Lambda is the mean cosine of the normal cells' gradients g_l in their mixture weights, over all pairs. Its gradient
    in w is the mixed derivative of the training loss along u = dLambda / dg, by a central difference; it enters with
    minus the weight, which grows linearly from 0.
    """

    weight: float  # at the end of the search
    scale: float  # of the central difference: epsilon = scale / ||u||

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "method.weight_gradient.weight", self.weight, "at least 0, finite")
        require(0 < self.scale < 1, "method.weight_gradient.scale", self.scale, "above 0 and below 1")

    def gradients(self, problem: WeightProblem, memory: Memory) -> tuple[Gradients, Memory]:
        import torch

        count, kind = problem.cells["normal"], "normal"
        weights = problem.mixture[kind]
        by_cell = weights.weights.expand(count, -1, -1).detach().clone().requires_grad_()
        loss = problem.train_loss({**problem.mixture, kind: weights.with_weights(by_cell)})
        own = torch.autograd.grad(loss, [*problem.weights.values(), by_cell], allow_unused=True)
        *uncorrected, cells = own
        direction = alignment_direction(problem.all_reduce([cells])[0])
        epsilon = self.scale / direction.norm().clamp_min(1e-30)
        ends = []
        for signed in (epsilon, -epsilon):
            moved = weights.with_weights(by_cell.detach() + signed * direction)
            ends.append(problem.gradients(problem.train_loss({**problem.mixture, kind: moved})))
        factor = self.weight * problem.progress / (2 * epsilon)
        triples = zip(uncorrected, *ends, strict=True)
        return [_corrected(gradient, plus, minus, factor) for gradient, plus, minus in triples], memory


def _corrected(gradient: Tensor | None, plus: Tensor | None, minus: Tensor | None, factor: Any) -> Tensor | None:
    if gradient is None or plus is None or minus is None:
        return None
    return gradient - factor * (plus - minus)


def alignment_direction(gradients: Tensor) -> Tensor:
    """The gradient of the mean cosine over all pairs of rows of (cells, ...) in those rows."""
    flat = gradients.flatten(1)
    norms = flat.norm(dim=1, keepdim=True).clamp_min(1e-30)
    units = flat / norms
    total = units.sum(0)
    along = (units @ total)[:, None] * units  # the part along each row, which no cosine feels
    pairs = len(flat) * (len(flat) - 1) / 2
    return ((total - along) / norms / pairs).view_as(gradients)


@register("weight_gradient", "frozen_operations")
@dataclass
class FrozenOperations(WeightGradient):
    """An operation's weights stop once its training and validation gradients disagree (Jiang et al. 2023, OLES, 3.3).

    The cosine of both gradients is averaged over `steps` steps; an operation under `threshold` is frozen for good.
    """

    threshold: float  # mean cosine under which an operation is frozen
    steps: int  # steps that the mean is over

    def __post_init__(self) -> None:
        require(-1 <= self.threshold <= 1, "method.weight_gradient.threshold", self.threshold, "from -1 to 1")
        require(self.steps >= 1, "method.weight_gradient.steps", self.steps, "at least 1")

    def gradients(self, problem: WeightProblem, memory: Memory) -> tuple[Gradients, Memory]:
        import torch

        train = problem.gradients(problem.train_loss(problem.mixture))
        valid = problem.gradients(problem.valid_loss(problem.mixture))
        train_by_operation = self._by_operation(problem, train)
        valid_by_operation = self._by_operation(problem, valid)
        cosines = torch.stack([
            torch.nn.functional.cosine_similarity(row, valid_by_operation[name], dim=0)
            for name, row in train_by_operation.items()
        ])  # fmt: skip
        sums, frozen = memory.get("agreement"), list(memory.get("frozen", []))
        if sums is not None and sums.shape != cosines.shape:
            raise UserError(f"the checkpoint's agreement is of {len(sums)} operations; there are {len(cosines)}")
        count = 1 if sums is None else memory["agreements"] + 1
        sums = cosines if sums is None else sums.to(cosines) + cosines
        if count < self.steps:
            return train, {"agreement": sums, "agreements": count, "frozen": frozen}
        low = (sums / count < self.threshold).tolist()
        names = zip(train_by_operation, low, strict=True)
        frozen += [name for name, under in names if under and name not in frozen]
        return train, {"agreement": None, "agreements": 0, "frozen": frozen}

    def memory_schema(self) -> Schema:
        from torch import Tensor

        return ({"agreement": (None, Tensor), "agreements": int, "frozen": [str]}, exactly({}))

    def _by_operation(self, problem: WeightProblem, own: Gradients) -> dict[str, Tensor]:
        """Return the whole batch's gradients, those of one operation joined."""
        total = problem.all_reduce(own)
        named = {name: gradient for name, gradient in zip(problem.weights, total, strict=True) if gradient is not None}
        return by_operation(problem.to_reference(named))

    def frozen(self, memory: Memory) -> list[str]:
        return list(memory.get("frozen", []))


def by_operation(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients in the reference layout, those of one operation joined: cells.I.edges.E.operations.C. -> vector."""
    import torch

    found: dict[str, list[Tensor]] = {}
    for name in sorted(gradients):
        head, mark, rest = name.partition(".operations.")
        if mark:
            found.setdefault(f"{head}{mark}{rest.split('.')[0]}.", []).append(gradients[name].flatten())
    return {name: torch.cat(parts) for name, parts in found.items()}
