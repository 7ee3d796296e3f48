"""How the supernet's weights get their gradient: the training loss's, or that with more in it, or with less."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darts import parallel
from darts.errors import require
from darts.mixture import Progress

if TYPE_CHECKING:
    from torch import Tensor

Memory = dict[str, Any]  # what a part must remember, as tensors and plain values; parts return it anew


@dataclass(frozen=True)
class WeightProblem:
    """One weight step: the two losses as functions of the mixture, where they are evaluated, and names for weights."""

    train_loss: Callable[[Mapping[str, Any]], Tensor]
    valid_loss: Callable[[Mapping[str, Any]], Tensor]
    mixture: Mapping[str, Any]  # by cell type, (edges, columns)
    weights: Mapping[str, Tensor]
    cells: Mapping[str, int]  # by cell type, how many there are
    to_plain: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    progress: Progress


@dataclass
class WeightRule:
    """A way to compute the weights' gradient."""

    def slopes(self, problem: WeightProblem, memory: Memory) -> tuple[list[Tensor | None], Memory]:
        """A gradient for each weight (None: this step does not use it), and what to remember."""
        raise NotImplementedError

    def frozen(self, memory: Memory) -> list[str]:
        """Prefixes, in the plain layout, of weights that stay as they are."""
        return []


@dataclass
class TrainingLoss(WeightRule):
    """The gradient of the training loss."""

    def slopes(self, problem: WeightProblem, memory: Memory) -> tuple[list[Tensor | None], Memory]:
        return weight_gradients(problem.train_loss(problem.mixture), problem), memory


def weight_gradients(loss: Tensor, problem: WeightProblem) -> list[Tensor | None]:
    """Of a loss, for each weight; None where it is not used."""
    import torch

    return parallel.summed(torch.autograd.grad(loss, list(problem.weights.values()), allow_unused=True))


@dataclass
class LayerAlignment(WeightRule):
    """Cells of one type are drawn to agree on alpha (Movahedi et al. 2023, Lambda-DARTS, section 4, equation 8).

    Lambda is the mean cosine of the normal cells' gradients g_l in their mixture weights, over all pairs. Its gradient
    in w is the mixed derivative of the training loss along u = dLambda / dg, by a central difference; it enters with
    minus the weight, which grows linearly from 0.
    """

    weight: float  # at the end of the search
    scale: float  # of the central difference: epsilon = scale / ||u||

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "method.weight_rule.weight", self.weight, "at least 0, finite")
        require(0 < self.scale < 1, "method.weight_rule.scale", self.scale, "above 0 and below 1")

    def slopes(self, problem: WeightProblem, memory: Memory) -> tuple[list[Tensor | None], Memory]:
        import torch

        count, kind = problem.cells["normal"], "normal"
        by_cell = problem.mixture[kind].expand(count, -1, -1).detach().clone().requires_grad_()
        loss = problem.train_loss({**problem.mixture, kind: by_cell})
        own = torch.autograd.grad(loss, [*problem.weights.values(), by_cell], allow_unused=True)
        *plain, cells = parallel.summed(own)
        direction = alignment_direction(cells)
        epsilon = self.scale / direction.norm().clamp_min(1e-30)
        ends = []
        for signed in (epsilon, -epsilon):
            moved = {**problem.mixture, kind: by_cell.detach() + signed * direction}
            ends.append(weight_gradients(problem.train_loss(moved), problem))
        factor = self.weight * problem.progress / (2 * epsilon)
        pairs = zip(plain, *ends, strict=True)
        return [None if p is None or a is None else p - factor * (a - b) for p, a, b in pairs], memory


def alignment_direction(slopes: Tensor) -> Tensor:
    """The gradient of the mean cosine over all pairs of rows of (cells, ...) in those rows."""
    flat = slopes.flatten(1)
    norms = flat.norm(dim=1, keepdim=True).clamp_min(1e-30)
    units = flat / norms
    total = units.sum(0)
    along = (units @ total)[:, None] * units  # the part along each row, which no cosine feels
    pairs = len(flat) * (len(flat) - 1) / 2
    return ((total - along) / norms / pairs).view_as(slopes)


@dataclass
class FrozenOperations(WeightRule):
    """An operation's weights stop once its training and validation gradients disagree (Jiang et al. 2023, OLES, 3.3).

    The cosine of both gradients is averaged over `steps` steps; an operation under `threshold` is frozen for good.
    """

    threshold: float
    steps: int

    def __post_init__(self) -> None:
        require(-1 <= self.threshold <= 1, "method.weight_rule.threshold", self.threshold, "from -1 to 1")
        require(self.steps >= 1, "method.weight_rule.steps", self.steps, "at least 1")

    def slopes(self, problem: WeightProblem, memory: Memory) -> tuple[list[Tensor | None], Memory]:
        import torch

        train = weight_gradients(problem.train_loss(problem.mixture), problem)
        valid = weight_gradients(problem.valid_loss(problem.mixture), problem)
        names = list(problem.weights)
        both = [
            by_operation(problem.to_plain({n: s for n, s in zip(names, slopes, strict=True) if s is not None}))
            for slopes in (train, valid)
        ]
        agreement = {
            name: torch.nn.functional.cosine_similarity(row, both[1][name], dim=0) for name, row in both[0].items()
        }
        sums, frozen = memory.get("agreement"), list(memory.get("frozen", []))
        cosines = torch.stack(list(agreement.values()))
        sums, count = (cosines, 1) if sums is None else (sums.to(cosines) + cosines, memory["agreements"] + 1)
        if count == self.steps:
            low = (sums / count < self.threshold).tolist()
            frozen += [name for name, under in zip(agreement, low, strict=True) if under and name not in frozen]
            return train, {**memory, "agreement": None, "agreements": 0, "frozen": frozen}
        return train, {**memory, "agreement": sums, "agreements": count, "frozen": frozen}

    def frozen(self, memory: Memory) -> list[str]:
        return list(memory.get("frozen", []))


def by_operation(slopes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients in the plain layout, those of one operation joined: cells.I.edges.E.operations.C. -> vector."""
    import torch

    found: dict[str, list[Tensor]] = {}
    for name in sorted(slopes):
        head, mark, rest = name.partition(".operations.")
        if mark:
            found.setdefault(f"{head}{mark}{rest.split('.')[0]}.", []).append(slopes[name].flatten())
    return {name: torch.cat(parts) for name, parts in found.items()}
