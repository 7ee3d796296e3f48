"""Multiply-adds of a pass through a supernet, counted by the reference supernet, whatever engine computes it.

A pass runs the candidates that the mixture names, or all that are active. What is neither a convolution nor a matrix
product does not count.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from darts.models.chain import chain_of_space, chain_stem, chain_tail
from darts.models.cost import count_macs
from darts.models.layers import layer
from darts.models.mixture import Mixture, MixtureWeights
from darts.models.operations import search_operation
from darts.models.supernet import Mixing, Supernet
from darts.spaces.chain import CHAIN, LayerPlan
from darts.spaces.search_space import CellPlan, InputShape, Layout, SearchSpace, Sides, Stem, divided, halvings

DIFFERENTIATED = 3  # passes: forward, the gradient in the activations, the gradient in the weights


class SupernetMacs:
    """The multiply-adds of one image through a supernet, as a function of the mixture."""

    def __init__(
        self, plans: Sequence[CellPlan], space: SearchSpace, shape: InputShape, stem: Stem, mixing: Mixing
    ) -> None:
        self.space, self.mixing = space, mixing
        sides = divided(shape.sides, 2 ** halvings(stem))
        self.edges: dict[str, list[dict[int, int]]] = {}  # cell type -> edge -> column -> of all cells
        for kind in space.cell_types:
            self.edges[kind] = [{} for _ in space.edges()]
        for plan in plans:
            after = divided(sides, plan.stride)
            if plan.kind in self.edges:
                self._add(plan, sides, after)
            sides = after
        self.rest = self._rest(plans, shape, stem)
        self.all_edges = sum(sum(columns.values()) for rows in self.edges.values() for columns in rows)

    def of_call(self, images: Tensor, mixture: Mixture) -> int:
        """Of a batch of images."""
        return len(images) * self.of_one_image(mixture)

    def of_one_image(self, mixture: Mixture) -> int:
        """Of the columns that the mixture computes."""
        if all(weights.computed is None for weights in mixture.values()):
            return self.rest + self.all_edges
        total = self.rest
        for kind, weights in mixture.items():
            for edge, columns in enumerate(self.edges[kind]):
                computed = weights.columns_of(edge)
                total += sum(macs for column, macs in columns.items() if computed is None or column in computed)
        return total

    def _add(self, plan: CellPlan, sides: Sides, after: Sides) -> None:
        """The operations of one cell, to those of its type; extras stand wherever a candidate does."""
        active = self.mixing.active.get(plan.kind, self.space.allowed(plan.kind))
        width = plan.channels // self.mixing.k
        for edge, (source, _) in enumerate(self.space.edges()):
            outer = source < self.space.layout.inputs
            stride, before = (plan.stride, sides) if outer else (1, after)
            names = {column: name for column, name in enumerate(self.space.candidates) if active[edge][column]}
            if names:
                names |= dict(enumerate(self.mixing.edge_extras, start=len(self.space.candidates)))
            columns = self.edges[plan.kind][edge]
            for column, name in names.items():
                macs = _operation_macs(name, width, stride, before, self.space.layout)
                columns[column] = columns.get(column, 0) + macs

    def _rest(self, plans: Sequence[CellPlan], shape: InputShape, stem: Stem) -> int:
        """Of the same supernet without any candidate."""
        edges = len(self.space.edges())
        nothing = {kind: [[False] * len(self.space.candidates)] * edges for kind in self.space.cell_types}
        weights = MixtureWeights(torch.zeros(edges, len(self.space.candidates) + 1), [[]] * edges)
        image = torch.zeros(1, *shape.map_shape)
        with torch.random.fork_rng(devices=[]):
            supernet = Supernet(plans, self.space, shape, stem, Mixing(active=nothing, k=self.mixing.k))
            return count_macs(supernet, image, dict.fromkeys(self.space.cell_types, weights))


class ChainMacs(SupernetMacs):
    """The same of a chain of layers."""

    def __init__(self, space: SearchSpace, channels: int, stem: int, shape: InputShape, mixing: Mixing) -> None:
        chain = chain_of_space(space)
        sides, plans = divided(shape.sides, 2**stem), chain.plan(channels)
        active = mixing.active.get(CHAIN, space.allowed(CHAIN))
        last = plans[-1]
        with torch.random.fork_rng(devices=[]):
            first = chain_stem(chain, shape.channels, channels, stem)
            head = chain_tail(chain, last.channels, channels)
        self.rest = count_macs(first, torch.zeros(1, *shape.map_shape))
        rows = []
        for plan, row in zip(plans, active, strict=True):
            names = {column: name for column, name in enumerate(space.candidates) if row[column]}
            names |= dict(enumerate(mixing.edge_extras, start=len(space.candidates)))
            rows.append({column: _layer_macs(name, plan, sides) for column, name in names.items()})
            sides = divided(sides, plan.stride)
        self.edges = {CHAIN: rows}
        self.rest += count_macs(head, torch.zeros(1, last.channels, *sides))
        self.rest += chain.width(chain.head, channels) * shape.classes
        self.all_edges = sum(sum(columns.values()) for columns in rows)


@functools.cache
def _layer_macs(name: str, plan: LayerPlan, sides: Sides) -> int:
    with torch.random.fork_rng(devices=[]):
        return count_macs(layer(name).build(*plan, True), torch.zeros(1, plan.input_channels, *sides))


@functools.cache
def _operation_macs(name: str, width: int, stride: int, sides: Sides, layout: Layout) -> int:
    with torch.random.fork_rng(devices=[]):
        operation = search_operation(name, width, stride, layout)
        return count_macs(operation, torch.zeros(1, width, *sides))
