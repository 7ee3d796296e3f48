"""A differentiable search method: the names of its parts, and what they say together.

Each part answers one question; plain DARTS answers most with "nothing". conf/method/NAME.yaml names the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.alpha_terms import AlphaTerm
from darts.beside import Beside
from darts.bilevel import FiniteDifference, FirstOrder, Hypergradient
from darts.channels import Channels, edge_softmax
from darts.discretisation import Discretisation
from darts.errors import UserError
from darts.mixture import Paths, Progress
from darts.perturbation import Perturbation
from darts.relaxation import Relaxation
from darts.schedule import Projection, Schedule
from darts.settings import SearchMethod
from darts.spaces import SearchSpace
from darts.stopping import Stopping
from darts.weight_rules import TrainingLoss, WeightRule

if TYPE_CHECKING:
    from torch import Tensor

Alpha = Mapping[str, "Tensor"]  # cell type -> (edges, candidates), and EDGES + cell type -> (edges,)
Masks = Mapping[str, "Tensor"]  # cell type -> (edges, candidates): which candidates are left
EDGES = "edges/"


@dataclass
class Method(SearchMethod):
    """A differentiable search method."""

    relaxation: Relaxation  # alpha to mixture weights
    channels: Channels  # which channels pass the mixed operation
    beside: Beside  # what stands beside it
    alpha_terms: dict[str, AlphaTerm]  # what alpha pays for besides errors
    perturbation: Perturbation  # what mixture the weights are trained under
    hypergradient: Hypergradient  # how the validation loss depends on alpha
    weight_rule: WeightRule  # how the weights get their gradient
    schedule: Schedule  # when alpha moves, what is left
    stopping: Stopping  # when it ends
    discretisation: Discretisation  # scores to genotype

    def __post_init__(self) -> None:
        for reason, clash in self._clashes().items():
            if clash:
                raise UserError(f"method: {reason}")

    def _clashes(self) -> dict[str, bool]:
        sampled, plain_rule = self.relaxation.sampled, isinstance(self.weight_rule, TrainingLoss)
        return {
            "method/perturbation changes all mixture weights, method/relaxation computes the sampled ones alone; "
            "give method/perturbation=unperturbed": sampled and self.perturbation.changes,
            "method/weight_rule needs the gradients of all candidates, method/relaxation computes the sampled ones "
            "alone; give method/weight_rule=training_loss": sampled and not plain_rule,
            "method/hypergradient differentiates through a weight step, which method/weight_rule changes; "
            "give method/hypergradient=first_order": not plain_rule and not isinstance(self.hypergradient, FirstOrder),
            "method/hypergradient unrolls a step on all weights, method/relaxation computes the sampled ones alone; "
            "give method/hypergradient=first_order": sampled and isinstance(self.hypergradient, FiniteDifference),
            "method/schedule=projection chooses by accuracy and never uses alpha's order, so method/stopping has "
            "no meaning; give method/stopping=last_epoch": isinstance(self.schedule, Projection)
            and self.stopping.eigenvalue_every > 0,
        }

    @property
    def random(self) -> bool:
        """Whether a step draws random numbers."""
        return self.relaxation.random or self.perturbation.random or self.beside.drops_skips

    @property
    def graphable(self) -> bool:
        """Whether a step draws nothing and asks the device for nothing, so that it can be one CUDA graph."""
        return not (self.random or self.relaxation.sampled) and isinstance(self.weight_rule, TrainingLoss)

    def mixture(
        self, alpha: Alpha, left: Masks, progress: Progress, space: SearchSpace, settled: bool = False
    ) -> dict[str, Tensor | Paths]:
        """What the supernet is called with, by cell type: (edges, columns); differentiable in alpha.

        Columns: the candidates, what stands beside them, and, with partial channels, the weight of the channels that go
        around. `settled`: without noise, for evaluation.
        """
        found = {}
        for kind in space.cell_types:
            drawn = (
                self.relaxation.settled(alpha[kind], left[kind])
                if settled
                else self.relaxation.weights(alpha[kind], self._open(left[kind], kind, space), progress)
            )
            beta = alpha[EDGES + kind] if self.channels.edge_weights else None
            found[kind] = self.completed(drawn, beta, left[kind], progress, space)
        return found

    def _open(self, left: Tensor, kind: str, space: SearchSpace) -> Tensor:
        """What a step may draw from: all that is left, or of each node so many random inputs as a genotype has."""
        import torch

        if not self.relaxation.whole:
            return left
        mask = torch.zeros_like(left)
        for node in range(space.nodes):
            there = [edge for edge in space.incoming(node) if bool(left[edge].any())]
            for place in torch.randperm(len(there))[: space.kept(node)].tolist():
                mask[there[place], space.selectable(kind, there[place])] = True
        return mask & left

    def completed(
        self, drawn: Tensor | Paths, beta: Tensor | None, left: Tensor, progress: Progress, space: SearchSpace
    ) -> Tensor | Paths:
        """Weights of the candidates with the columns that alpha has no part in, and with the weights of the edges."""
        import torch

        weights = drawn.weights if isinstance(drawn, Paths) else drawn
        alive = left.any(-1, keepdim=True).to(weights)
        more = [alive * value for value in self.beside.weights(progress)]
        if isinstance(drawn, Paths):
            first = weights.shape[-1]
            extra = list(range(first, first + len(more)))
            drawn = drawn._replace(computed=[columns + extra if columns else [] for columns in drawn.computed])
        if self.channels.share(0) > 1:
            more.append(alive)
        weights = torch.cat([weights, *more], dim=-1) if more else weights
        if beta is not None:
            weights = weights * edge_softmax(beta, space, left.any(-1))[..., None]
        return drawn._replace(weights=weights) if isinstance(drawn, Paths) else weights

    def scores(self, alpha: Alpha, left: Masks, space: SearchSpace) -> dict[str, Tensor]:
        """What discretisation ranks, (edges, candidates) by cell type; the weights of edges are part of it."""
        found = {}
        for kind in space.cell_types:
            scores = self.relaxation.scores(alpha[kind].detach(), left[kind])
            if self.channels.edge_weights:
                scores = scores * edge_softmax(alpha[EDGES + kind].detach(), space, left[kind].any(-1))[:, None]
            found[kind] = scores
        return found

    def penalty(self, alpha: Alpha, progress: Progress, space: SearchSpace) -> Tensor | None:
        """The sum of the terms that are added to the architecture loss; None where there is none."""
        total = None
        for term in self.alpha_terms.values():
            value = term([alpha[kind] for kind in space.cell_types], progress)
            total = value if total is None else total + value
        return total
