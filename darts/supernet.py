"""Mixed operation, cell and supernet in the paper's form, called with the mixture weights as an argument.

The supernet holds the weights w alone. Whoever calls it brings, for each cell type, a matrix of mixture weights
(edges, columns); how those come from the architecture parameters is the method's business. The first columns are the
space's candidates; a method may add operations that stand beside them on every edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.mixture import Mixture, Paths
from darts.modules import checkpointed
from darts.operations import ResidualReduction, input_preparations, prepared, search_operation, stem, tail
from darts.spaces import CellPlan, InputShape, SearchSpace, output_channels


@dataclass(frozen=True)
class Mixing:
    """What stands on the edges of a supernet, where a method or a stage of it departs from the space."""

    left: Mapping[str, Sequence[Sequence[bool]]] = field(default_factory=dict)  # by cell type: (edges, candidates)
    beside: tuple[str, ...] = ()  # operations beside the candidates, a column each
    share: int = 1  # one channel in `share` passes the mixed operation; from 2 on the last column weighs the others
    skip_dropout: bool = False  # skip connections drop values (`SkipDropout`)


class SkipDropout(nn.Module):
    """A skip connection that drops values while it is trained, with a probability that the search sets."""

    probability = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.probability, self.training)


class MixedOperation(nn.Module):
    """The weighted sum of all candidates on one edge (Liu et al. 2019, equation 2)."""

    def __init__(self, operations: Mapping[int, nn.Module], share: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleDict({str(column): operation for column, operation in operations.items()})
        self.share, self.stride = share, stride

    def forward(self, x: Tensor, weights: Tensor, computed: Sequence[int] | None = None) -> Tensor:
        """`x`: (batch, C, H, W); `weights`: (columns,); `computed`: the columns that are not zero, None for all."""
        if self.share == 1:
            return self._mixed(x, weights, computed)
        first, others = split_channels(x, self.share)
        around = weights[-1] * around_mixture(others, self.stride)
        return shuffled(torch.cat([self._mixed(first, weights, computed), around], dim=1), self.share)

    def _mixed(self, x: Tensor, weights: Tensor, computed: Sequence[int] | None) -> Tensor:
        terms = [
            weights[int(column)] * operation(x)
            for column, operation in self.operations.items()
            if computed is None or int(column) in computed
        ]
        return sum(terms[1:], start=terms[0]) if terms else torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class SearchCell(nn.Module):
    """A directed acyclic graph: each node sums a mixed operation of every earlier state (equation 1)."""

    def __init__(self, plan: CellPlan, space: SearchSpace, mixing: Mixing) -> None:
        super().__init__()
        self.space, self.share = space, mixing.share
        self.inputs = nn.ModuleList(input_preparations(plan, affine=False) if space.layout.inputs == 2 else [])
        left = mixing.left.get(plan.kind, space.allowed(plan.kind))
        self.edges = nn.ModuleList(
            MixedOperation(
                _operations(plan, space, mixing, row, stride := plan.stride if source < 2 else 1), mixing.share, stride
            )
            for row, (source, _) in zip(left, space.edges(), strict=True)
        )

    def forward(self, older: Tensor, newer: Tensor, weights: Tensor | Paths) -> Tensor:
        """`weights`: (edges, columns). Returns the nodes that the output joins, along the channels."""
        matrix, computed = weights if isinstance(weights, Paths) else (weights, [None] * len(weights))
        states = prepared(self.inputs, older, newer)
        for node in range(self.space.nodes):
            incoming = zip(states, self.space.incoming(node), strict=True)
            states.append(sum(self.edges[edge](state, matrix[edge], computed[edge]) for state, edge in incoming))
        return torch.cat([states[node] for node in self.space.joined()], dim=1)


def _operations(
    plan: CellPlan, space: SearchSpace, mixing: Mixing, left: Sequence[bool], stride: int
) -> dict[int, nn.Module]:
    """The operations of an edge by column; an edge without candidates has nothing beside them either."""
    channels = plan.channels // mixing.share
    found: dict[int, nn.Module] = {}
    for column, (name, stays) in enumerate(zip(space.candidates, left, strict=True)):
        if stays:
            operation = search_operation(name, channels, stride, space.layout)
            drops = mixing.skip_dropout and name == "skip_connect" and stride == 1  # as in the code of Chen et al. 2019
            found[column] = SkipDropout() if drops else operation
    if found:
        for column, name in enumerate(mixing.beside, start=len(space.candidates)):
            found[column] = search_operation(name, channels, stride, space.layout)
    return found


def split_channels(x: Tensor, share: int) -> tuple[Tensor, Tensor]:
    """The first of `share` equal parts of the channels, and the rest."""
    first = x.shape[1] // share
    return x[:, :first], x[:, first:]


def around_mixture(others: Tensor, stride: int) -> Tensor:
    """What becomes of the channels that do not pass the mixed operation: nothing, or a 2x2 max pooling at stride 2."""
    return others if stride == 1 else F.max_pool2d(others, 2, 2, ceil_mode=True)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The channels dealt out anew, so that next time others pass (Xu et al. 2020; Zhang et al. 2018)."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class Supernet(nn.Module):
    """The over-parameterised network that holds every architecture of the space."""

    checkpoint_cells = False  # True: keep cells' outputs alone, and compute what is within again for the gradient

    def __init__(
        self,
        plans: Sequence[CellPlan],
        space: SearchSpace,
        shape: InputShape,
        stem_reductions: int,
        mixing: Mixing = Mixing(),
    ) -> None:
        super().__init__()
        self.kinds = [plan.kind for plan in plans]
        self.stem = stem(shape.channels, plans[0].input_channels[1], stem_reductions)
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
        """Logits (batch, classes) of images (batch, channels, height, width) under the given mixture weights."""
        older = newer = self.stem(images)
        for cell, weights in zip(self.cells, self.weights_by_cell(mixture), strict=True):
            again = self.checkpoint_cells and torch.is_grad_enabled()
            older, newer = newer, checkpointed(cell, older, newer, weights) if again else cell(older, newer, weights)
        return self.classifier(self.tail(newer).mean((2, 3)))

    def weights_by_cell(self, mixture: Mixture) -> list[Tensor | Paths | None]:
        """What each cell is called with; None for one without mixed operations."""
        seen: dict[str, int] = {}
        found: list[Tensor | Paths | None] = []
        for kind in self.kinds:
            weights = mixture.get(kind)
            if isinstance(weights, Tensor) and weights.dim() == 3:
                weights, seen[kind] = weights[seen.get(kind, 0)], seen.get(kind, 0) + 1
            found.append(weights)
        return found

    def to_plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by this supernet's names (weights, momentum) under the plain supernet's: this one's own."""
        return dict(tensors)

    def from_plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of `to_plain`."""
        return dict(tensors)

    def marked(self, prefixes: Sequence[str]) -> dict[str, Tensor]:
        """By name, where a weight belongs to what the prefixes name in the plain layout; others are left out."""
        if not prefixes:
            return {}
        plain = self.to_plain(dict(self.named_parameters()))
        own = self.from_plain({n: torch.full_like(w, n.startswith(tuple(prefixes))) for n, w in plain.items()})
        return {name: mask > 0 for name, mask in own.items() if bool(mask.any())}
