"""A differentiable search method: the names of its parts, and what they say together.

Each part answers one question; plain DARTS uses the neutral part in most places. conf/method/NAME.yaml names the
parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.config.registry import register
from darts.methods.channels import Channels, edge_softmax
from darts.methods.discretisation import Discretisation
from darts.methods.edge_extras import EdgeExtras
from darts.methods.hypergradient import FiniteDifference, Hypergradient, Neumann
from darts.methods.perturbation import Perturbation
from darts.methods.preference import Preference
from darts.methods.regularisers import Regulariser
from darts.methods.relaxation import Relaxation
from darts.methods.schedule import BestOfSamples, Projection, Schedule
from darts.methods.stopping import Stopping
from darts.methods.weight_gradient import TrainingLoss, WeightGradient
from darts.models.mixture import Mixture, MixtureWeights, Moment
from darts.runtime.errors import UserError
from darts.spaces.search_space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

Alpha = Mapping[str, "Tensor"]  # cell type -> (edges, candidates), and EDGES + cell type -> (edges,)
Masks = Mapping[str, "Tensor"]  # cell type -> (edges, candidates), bool: the candidate masks
EDGES = "edges/"


@dataclass
class SearchMethod:
    """A way to search: by gradients (`Method`) or by asking for scores (`Strategy`, blackbox/strategy.py)."""

    name: str  # of the method, as conf/method/ has it


@register("method", "method")
@dataclass
class Method(SearchMethod):
    """A differentiable search method."""

    relaxation: Relaxation  # how alpha becomes mixture weights
    preference: Preference  # what alpha depends on
    channels: Channels  # which channels pass the mixed operation
    edge_extras: EdgeExtras  # what is added to every edge besides the candidates
    regularisers: dict[str, Regulariser]  # what is added to the architecture loss
    perturbation: Perturbation  # which mixture the weights are trained under
    hypergradient: Hypergradient  # which gradient moves alpha
    weight_gradient: WeightGradient  # which gradient moves the weights
    schedule: Schedule  # when alpha moves, which candidates stay active
    stopping: Stopping  # when the search ends
    discretisation: Discretisation  # how scores become a genotype

    def __post_init__(self) -> None:
        for reason, clash in clashes(self).items():
            if clash:
                raise UserError(f"method: {reason}")

    @property
    def random(self) -> bool:
        """Whether a step draws random numbers."""
        extras = self.edge_extras
        parts = self.relaxation.random or self.perturbation.random or self.preference.draws
        return parts or extras.drops_skips or extras.drops_paths

    @property
    def stays_on_device(self) -> bool:
        """Whether a step asks the device for no result, so that the host need not wait for it."""
        return not (self.relaxation.sampled or self.weight_gradient.decides_on_host)

    def mixture(
        self, alpha: Alpha, active: Masks, moment: Moment, space: SearchSpace, deterministic: bool = False
    ) -> Mixture:
        """Return what the supernet is called with, by cell type; differentiable in alpha.

        `deterministic`: without noise, for evaluation.
        """
        found = {}
        for kind in space.cell_types:
            if deterministic:
                found[kind] = self.relaxation.deterministic(alpha[kind], active[kind])
            else:
                drawn_from = self._open(active[kind], space)
                found[kind] = self.relaxation.weights(alpha[kind], drawn_from, moment)
        return self.completed(found, alpha, active, moment, space)

    def training_candidates(self, alpha: Alpha, active: Masks, moment: Moment, space: SearchSpace) -> Mixture:
        """Return the candidates' weights, without the other columns, under which a step trains the supernet."""
        found = {}
        for kind in space.cell_types:
            drawn_from = self._open(active[kind], space)
            found[kind] = self.relaxation.training_weights(alpha[kind], drawn_from, moment)
        return found

    def rescaled(
        self, before: Alpha, after: Mapping[str, Tensor], active: Masks, space: SearchSpace
    ) -> dict[str, Tensor]:
        """Return alpha of the candidates as it is to be after a step; call it with that step's random numbers."""
        return {
            kind: self.relaxation.rescaled(before[kind], after[kind], self._open(active[kind], space))
            for kind in space.cell_types
        }

    def _open(self, active: Tensor, space: SearchSpace) -> Tensor:
        """Return what a step may draw from: all that is active, or for each node a random set of inputs."""
        import torch

        if not self.relaxation.whole:
            return active
        mask = torch.zeros_like(active)
        for node in range(space.nodes):
            alive = [edge for edge in space.incoming(node) if bool(active[edge].any())]
            for place in torch.randperm(len(alive))[: space.kept(node)].tolist():
                mask[alive[place]] = True
        return mask & active

    def completed(
        self, candidates: Mixture, alpha: Alpha | None, active: Masks, moment: Moment, space: SearchSpace
    ) -> dict[str, MixtureWeights]:
        """Return the candidates' weights with the columns that do not depend on alpha, times the edges' weights.

        Without alpha every edge weighs 1.
        """
        found = {}
        for kind, weights in candidates.items():
            alive = active[kind].any(-1, keepdim=True).to(weights.weights)
            constants = [1.0] * len(space.always)
            extras = [alive * value for value in (*self.edge_extras.weights(moment), *constants)]
            mixture = weights.with_columns(extras)
            if self.channels.k_of_stage(0) > 1:
                mixture = self._with_bypass(mixture, alive)
            if self.channels.edge_weights and alpha is not None:
                edge_weights = edge_softmax(alpha[EDGES + kind], space, active[kind].any(-1))
                mixture = mixture.with_weights(mixture.weights * edge_weights[..., None])
            found[kind] = mixture
        return found

    def _with_bypass(self, mixture: MixtureWeights, alive: Tensor) -> MixtureWeights:
        """Add the column of the channels that bypass the mixed operation; it is no operation to be computed."""
        import torch

        return mixture.with_weights(torch.cat([mixture.weights, alive], dim=-1))

    def scores(self, alpha: Alpha, active: Masks, space: SearchSpace) -> dict[str, Tensor]:
        """Return what discretisation ranks, (edges, candidates) by cell type, weights of edges included."""
        found = {}
        for kind in space.cell_types:
            scores = self.relaxation.scores(alpha[kind].detach(), active[kind])
            if self.channels.edge_weights:
                edge_weights = edge_softmax(alpha[EDGES + kind].detach(), space, active[kind].any(-1))
                scores = scores * edge_weights[:, None]
            found[kind] = scores
        return found

    def penalty(self, alpha: Alpha, moment: Moment, space: SearchSpace) -> Tensor | None:
        """Return the sum of the regularisers; None where there is none."""
        total = None
        for term in self.regularisers.values():
            value = term([alpha[kind] for kind in space.cell_types], moment)
            total = value if total is None else total + value
        return total


# Variants


def clashes(method: Method) -> dict[str, bool]:
    """By reason, whether parts of a method make no sense together."""
    sampled, plain_rule = method.relaxation.sampled, isinstance(method.weight_gradient, TrainingLoss)
    return {
        "method/perturbation changes all mixture weights, method/relaxation computes the sampled ones only; "
        "give method/perturbation=unperturbed": sampled and method.perturbation.changes,
        "method/weight_gradient needs the gradients of all candidates, method/relaxation computes the sampled ones "
        "only; give method/weight_gradient=training_loss": sampled and not plain_rule,
        "method/hypergradient differentiates through a weight step, which method/weight_gradient changes; "
        "give method/hypergradient=first_order": not plain_rule
        and isinstance(method.hypergradient, FiniteDifference | Neumann),
        "method/hypergradient unrolls a step on all weights, method/relaxation computes the sampled ones only; "
        "give method/hypergradient=first_order": sampled and isinstance(method.hypergradient, FiniteDifference),
        "method/hypergradient=single_level trains weights and alpha by one loss, which method/perturbation and "
        "method/weight_gradient would change; give unperturbed and training_loss": method.hypergradient.single_level
        and (method.perturbation.changes or not plain_rule),
        "method/relaxation draws other paths for the weights than for alpha; give "
        "method/hypergradient=first_order": method.hypergradient.single_level and method.relaxation.sampled,
        "method/preference=along_front gives every step an alpha of its own, which method/relaxation would rescale, "
        "method/schedule hold or method/hypergradient train with the weights; give parts that do not": (
            method.preference.draws
            and (method.relaxation.rescales or method.schedule.holds_decided or method.hypergradient.single_level)
        ),
        "method/relaxation draws whole genotypes whatever alpha is, so that nothing can move alpha; give "
        "method/schedule=best_of_samples": method.relaxation.whole and not isinstance(method.schedule, BestOfSamples),
        "method/schedule=projection chooses by accuracy and never uses alpha's order, so method/stopping has "
        "no meaning; give method/stopping=last_epoch": isinstance(method.schedule, Projection)
        and method.stopping.eigenvalue_every > 0,
    }
