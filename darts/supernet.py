"""Mixed operation, cell and supernet in the paper's form, called with the mixture weights as an argument.

The supernet holds the weights w alone. Whoever calls it brings, for each cell type, a matrix of mixture weights
(edges, candidates); how those come from the architecture parameters is the relaxation's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from darts.operations import checkpointed, input_preparations, search_operation, stem
from darts.spaces import CellPlan, InputShape, SearchSpace, output_channels

Mixture = Mapping[str, Tensor]  # cell type -> (edges, candidates)


class MixedOperation(nn.Module):
    """The weighted sum of all candidates on one edge (Liu et al. 2019, equation 2)."""

    def __init__(self, candidates: Sequence[str], channels: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(search_operation(name, channels, stride) for name in candidates)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """`x`: (batch, C, H, W); `weights`: (candidates,)."""
        return sum(w * operation(x) for w, operation in zip(weights, self.operations, strict=True))


class SearchCell(nn.Module):
    """A directed acyclic graph: each node sums a mixed operation of every earlier state (equation 1)."""

    def __init__(self, plan: CellPlan, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.prepare_older, self.prepare_newer = input_preparations(plan, affine=False)
        self.edges = nn.ModuleList(
            MixedOperation(space.candidates, plan.channels, plan.stride if source < 2 else 1)
            for source, _ in space.edges()
        )

    def forward(self, older: Tensor, newer: Tensor, weights: Tensor) -> Tensor:
        """`weights`: (edges, candidates). Returns the nodes joined along the channels."""
        states = [self.prepare_older(older), self.prepare_newer(newer)]
        for node in range(self.space.nodes):
            incoming = zip(states, self.space.incoming(node), strict=True)
            states.append(sum(self.edges[edge](state, weights[edge]) for state, edge in incoming))
        return torch.cat(states[2:], dim=1)


class Supernet(nn.Module):
    """The over-parameterised network that holds every architecture of the space."""

    checkpoint_cells = False  # True: keep cells' outputs alone, and compute what is within again for the gradient

    def __init__(self, plans: Sequence[CellPlan], space: SearchSpace, shape: InputShape, stem_reductions: int) -> None:
        super().__init__()
        self.kinds = [plan.kind for plan in plans]
        self.stem = stem(shape.channels, plans[0].input_channels[1], stem_reductions)
        self.cells = nn.ModuleList(SearchCell(plan, space) for plan in plans)
        self.classifier = nn.Linear(output_channels(plans[-1], space.multipliers()), shape.classes)

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width) under the given mixture weights."""
        older = newer = self.stem(images)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            inputs = older, newer, mixture[kind]
            again = self.checkpoint_cells and torch.is_grad_enabled()
            older, newer = newer, checkpointed(cell, *inputs) if again else cell(*inputs)
        return self.classifier(newer.mean((2, 3)))

    def to_plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by this supernet's names (weights, momentum) under the plain supernet's: this one's own."""
        return dict(tensors)

    def from_plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of `to_plain`."""
        return dict(tensors)
