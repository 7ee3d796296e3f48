"""Which gradient moves the supernet's weights: the training loss's, with a correction, or with some weights frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from darts.config.registry import register
from darts.methods.hypergradient import clipped
from darts.models.mixture import Mixture, Moment
from darts.runtime.errors import require
from darts.runtime.schema import FINITE, At, Schema, exactly

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
    moment: Moment
    clip: float  # largest norm of the whole gradient
    candidates: Sequence[str]  # names of the columns of an edge
    all_reduce: Callable[[Sequence[Any]], list[Any]] = list  # sums over processes, given by the loop

    def gradients(self, loss: Tensor) -> Gradients:
        """Return this process's part of a loss's gradients, one for each weight."""
        import torch

        return list(torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True))

    def in_reference(self, own: Gradients) -> dict[str, Tensor]:
        """Return the whole batch's gradients by the reference supernet's names, without those of unused weights."""
        pairs = zip(self.weights, self.all_reduce(own), strict=True)
        return self.to_reference({name: gradient for name, gradient in pairs if gradient is not None})


@dataclass
class WeightGradient:
    """A way to compute the gradient that moves the supernet's weights."""

    decides_on_host: ClassVar[bool] = False  # asks the device for results within a step

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
        factor = self.weight * problem.moment.to_last_epoch / (2 * epsilon)
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
    """An operation's weights stop once its train and validation gradients disagree (Jiang et al. 2023, OLES, 3.3).

    As in the authors' code the agreement of an operation is the cosine of its clipped train gradient of the step before
    with that plus the present validation gradient, along the first axis of each of its tensors, averaged over columns
    and tensors: two gradients that have nothing in common give about 0.7. It is added up over `steps` + 1 steps and
    divided by `steps`; an operation under `threshold` is frozen for good. Skip connections are never frozen.
    """

    threshold: float  # agreement under which an operation is frozen
    steps: int  # steps that the agreement is over

    decides_on_host: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(-1 <= self.threshold <= 1, "method.weight_gradient.threshold", self.threshold, "from -1 to 1")
        require(self.steps >= 1, "method.weight_gradient.steps", self.steps, "at least 1")

    def gradients(self, problem: WeightProblem, memory: Memory) -> tuple[Gradients, Memory]:
        valid = problem.in_reference(problem.gradients(problem.valid_loss(problem.mixture)))
        sums, count, frozen = self.watched(problem.candidates, valid, memory)
        train = problem.gradients(problem.train_loss(problem.mixture))
        named = problem.in_reference(train)
        moving = {name: gradient for name, gradient in named.items() if not name.startswith(tuple(frozen))}
        scaled = clipped(list(moving.values()), problem.clip)
        previous = operation_tensors(dict(zip(moving, scaled, strict=True)), problem.candidates)
        return train, {"previous": previous, "agreement": sums, "agreements": count, "frozen": frozen}

    def watched(
        self, candidates: Sequence[str], valid: Mapping[str, Tensor], memory: Memory
    ) -> tuple[dict[str, float], int, list[str]]:
        """Return the sums of the agreements, how many there are, and what is frozen, this step's included.

        `valid`: the validation gradients by their reference names.
        """
        previous = memory.get("previous", {})
        sums, count = dict(memory.get("agreement", {})), int(memory.get("agreements", 0))
        frozen = list(memory.get("frozen", []))
        if not previous:
            return sums, count, frozen
        for name, value in agreements(previous, valid).items():
            sums[name] = sums.get(name, 0.0) + value
        if count < self.steps:
            return sums, count + 1, frozen
        frozen += [name for name, total in sums.items() if total / self.steps < self.threshold and name not in frozen]
        return {}, 0, frozen

    def memory_schema(self) -> Schema:
        from torch import Tensor

        some = {"previous": {str: Tensor}, "agreement": {str: FINITE}, "agreements": At(0, self.steps), "frozen": [str]}
        return (some, exactly({}))

    def frozen(self, memory: Memory) -> list[str]:
        return list(memory.get("frozen", []))


def agreements(previous: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> dict[str, float]:
    """By operation the mean cosine of its earlier train gradients with these plus the validation gradients."""
    import torch

    found: dict[str, list[Tensor]] = {}
    for name, before in previous.items():
        both = before + valid[name] if name in valid else before
        cosine = torch.nn.functional.cosine_similarity(both, before, dim=0).mean()
        found.setdefault(operation_of(name), []).append(cosine)
    means = torch.stack([torch.stack(cosines).mean() for cosines in found.values()]).tolist() if found else []
    return dict(zip(found, means, strict=True))


def operation_tensors(gradients: Mapping[str, Tensor], candidates: Sequence[str]) -> dict[str, Tensor]:
    """Those of the candidates' own tensors, skip connections left out, by their reference names."""
    found = {}
    for name, gradient in gradients.items():
        _, _, rest = name.partition(".operations.")
        column = rest.split(".")[0]
        if column.isdigit() and int(column) < len(candidates) and candidates[int(column)] != "skip_connect":
            found[name] = gradient.detach()
    return found


def operation_of(name: str) -> str:
    """The prefix of an operation's tensors: cells.I.edges.E.operations.C."""
    head, mark, rest = name.partition(".operations.")
    return f"{head}{mark}{rest.split('.')[0]}."
