"""Mixed operation, cell and supernet in the paper's form, called with the mixture weights as an argument.

The supernet holds the weights w only. Whoever calls it brings, for each cell type, a matrix of mixture weights
(edges, columns); how those come from the architecture parameters is the method's business. The first columns are the
space's candidates; a method may add operations to every edge (edge extras).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.models.activation_checkpointing import checkpointed
from darts.models.mixture import Mixture, MixtureWeights
from darts.models.operations import ResidualReduction, input_preparations, prepared, search_operation, tail
from darts.models.stem import build_stem, first_states
from darts.spaces.search_space import CellPlan, InputShape, SearchSpace, Stem, output_channels


@dataclass(frozen=True)
class Mixing:
    """What is on the edges of a supernet, where a method or a stage of it departs from the space."""

    active: Mapping[str, Sequence[Sequence[bool]]] = field(default_factory=dict)  # by cell type: (edges, candidates)
    edge_extras: tuple[str, ...] = ()  # operations added to every edge, a column each
    k: int = 1  # 1/k of the channels are mixed; from 2 on the last column weighs the others
    skip_dropout: bool = False  # skip connections drop values (`SkipDropout`)
    path_dropout: bool = False  # edges are dropped (`PathDropout`)


class MixedOperation(nn.Module):
    """The weighted sum of all candidates on one edge (Liu et al. 2019, equation 2)."""

    def __init__(self, operations: Mapping[int, nn.Module], k: int, stride: int, drops: bool = False) -> None:
        super().__init__()
        self.dropped = PathDropout() if drops else nn.Identity()
        self.operations = nn.ModuleDict({str(column): operation for column, operation in operations.items()})
        self.k, self.stride = k, stride

    def forward(
        self, x: Tensor, weights: Tensor, computed: Sequence[int] | None = None, rest_added: bool = False
    ) -> Tensor:
        """`x`: (batch, C, H, W); `weights`: (columns,); `computed`: the columns that are not zero, None for all.

        `rest_added`: the weights of the other columns, which are 0, are added for their gradient (GDAS).
        """
        if self.k == 1:
            return self.dropped(self._mixed(x, weights, computed, rest_added))
        first, others = split_channels(x, self.k)
        bypassed = weights[-1] * bypass(others, self.stride)
        mixed = self._mixed(first, weights, computed, rest_added)
        return self.dropped(shuffled(torch.cat([mixed, bypassed], dim=1), self.k))

    def _mixed(self, x: Tensor, weights: Tensor, computed: Sequence[int] | None, rest_added: bool) -> Tensor:
        terms, rest = [], []
        for name, operation in self.operations.items():
            column = int(name)
            if computed is None or column in computed:
                terms.append(weights[column] * operation(x))
            else:
                rest.append(weights[column])
        if not terms:
            return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
        if rest_added:
            terms += rest
        return sum(terms[1:], start=terms[0])


class SearchCell(nn.Module):
    """A directed acyclic graph: each node sums a mixed operation of every earlier state (equation 1)."""

    def __init__(self, plan: CellPlan, space: SearchSpace, mixing: Mixing) -> None:
        super().__init__()
        self.space, self.k = space, mixing.k
        inputs = input_preparations(plan, affine=False) if space.layout.inputs == 2 else []
        self.inputs = nn.ModuleList(inputs)
        self.edges = nn.ModuleList()
        active = mixing.active.get(plan.kind, space.allowed(plan.kind))
        for row, (source, _) in zip(active, space.edges(), strict=True):
            stride = plan.stride if source < 2 else 1
            operations = _operations(plan, space, mixing, row, stride)
            self.edges.append(MixedOperation(operations, mixing.k, stride, mixing.path_dropout))

    def forward(self, older: Tensor, newer: Tensor, mixture: MixtureWeights) -> Tensor:
        """Return the nodes that the output joins, along the channels; `mixture` has one matrix (edges, columns)."""
        states = prepared(self.inputs, older, newer)
        for node in range(self.space.nodes):
            incoming = self.space.incoming(node)
            terms = [
                self.edges[edge](state, mixture.weights[edge], mixture.columns_of(edge), mixture.rest_added)
                for state, edge in zip(states, incoming, strict=True)
            ]
            states.append(sum(terms))
        return torch.cat([states[node] for node in self.space.joined()], dim=1)


def _operations(
    plan: CellPlan, space: SearchSpace, mixing: Mixing, active: Sequence[bool], stride: int
) -> dict[int, nn.Module]:
    """The operations of an edge by column; an edge without candidates has no extras either."""
    channels = plan.channels // mixing.k
    found: dict[int, nn.Module] = {}
    for column, (name, stays) in enumerate(zip(space.candidates, active, strict=True)):
        if stays:
            operation = search_operation(name, channels, stride, space.layout)
            drops = mixing.skip_dropout and name == "skip_connect" and stride == 1  # as in the code of Chen et al. 2019
            found[column] = SkipDropout() if drops else operation
    if found:
        for column, name in enumerate(mixing.edge_extras, start=len(space.candidates)):
            found[column] = search_operation(name, channels, stride, space.layout)
    return found


class SupernetBase(nn.Module):
    """What supernets of every kind have: cells of some types, and names that do not depend on the engine."""

    kinds: list[str]  # the type of each cell, in order
    # True: keep only cells' outputs; what is within a cell is computed again for the gradient
    activation_checkpointing = False
    macs: Any = None  # multiply-adds of a call as a function of the mixture, where passes are counted
    draws = False  # whether a pass in training draws random numbers of its own, beside those of its candidates
    twice_differentiable = True  # whether autograd can differentiate a pass twice
    fixed_in_unrolled_step: tuple[str, ...] = ()  # names of weights that an unrolled step leaves as they are

    def to_reference(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors (weights, momentum) from this supernet's names to the reference supernet's."""
        return dict(tensors)

    def from_reference(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors from the reference supernet's names to this one's: the inverse of `to_reference`."""
        return dict(tensors)

    def marked(self, prefixes: Sequence[str]) -> dict[str, Tensor]:
        """Return, by name, masks of the weights whose reference names begin with a prefix; others are omitted."""
        if not prefixes:
            return {}
        reference = self.to_reference(dict(self.named_parameters()))
        chosen = {name: torch.full_like(w, name.startswith(tuple(prefixes))) for name, w in reference.items()}
        masks = {name: mask > 0 for name, mask in self.from_reference(chosen).items()}
        return {name: mask for name, mask in masks.items() if bool(mask.any())}


class Supernet(SupernetBase):
    """The over-parameterised network that holds every architecture of the space."""

    def __init__(
        self,
        plans: Sequence[CellPlan],
        space: SearchSpace,
        shape: InputShape,
        stem_reductions: Stem,
        mixing: Mixing = Mixing(),
    ) -> None:
        super().__init__()
        self.kinds = [plan.kind for plan in plans]
        self.stem = build_stem(shape.channels, plans[0].input_channels[1], stem_reductions)
        self.cells = nn.ModuleList(
            SearchCell(plan, space, mixing)
            if plan.kind in space.cell_types
            else ResidualReduction(plan.input_channels[1], plan.channels)
            for plan in plans
        )
        width = output_channels(plans[-1], space.multipliers())
        self.tail = tail(width, space.layout)
        self.classifier = nn.Linear(width, shape.classes)

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Return logits (batch, classes) of images (batch, channels, height, width) under a mixture."""
        older, newer = first_states(self.stem, images)
        for cell, weights in zip(self.cells, self.weights_by_cell(mixture), strict=True):
            run = self._checkpointed(cell) if self.activation_checkpointing else cell
            older, newer = newer, run(older, newer, weights)
        return self.classifier(self.tail(newer).mean((2, 3)))

    def weights_by_cell(self, mixture: Mixture) -> list[MixtureWeights | None]:
        """Return what each cell is called with; None for one without mixed operations."""
        seen: Counter[str] = Counter()
        found: list[MixtureWeights | None] = []
        for kind in self.kinds:
            weights = mixture.get(kind)
            if weights is not None:
                weights = weights.of_cell(seen[kind])
            found.append(weights)
            seen[kind] += 1
        return found

    def _checkpointed(self, cell: nn.Module) -> Callable[..., Tensor]:
        return functools.partial(checkpointed, cell) if torch.is_grad_enabled() else cell


# Variants


class SearchDropout(nn.Module):
    """Drops something while the supernet is trained, with a probability that the search sets."""

    probability = 0.0


class SkipDropout(SearchDropout):
    """A skip connection that drops values."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.probability, self.training)


class PathDropout(SearchDropout):
    """Drops a whole edge for some of the images, and scales it for the others (Larsson et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * (torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep)


def split_channels(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the first of `k` equal parts of the channels, and the rest."""
    first = x.shape[1] // k
    return x[:, :first], x[:, first:]


def bypass(others: Tensor, stride: int) -> Tensor:
    """Return the channels that bypass the mixed operation: as they are, or after 2x2 max pooling at stride 2."""
    return others if stride == 1 else F.max_pool2d(others, 2, 2, ceil_mode=True)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Shuffle the channels, so that other ones pass the next mixed operation (Xu et al. 2020; Zhang et al. 2018)."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
