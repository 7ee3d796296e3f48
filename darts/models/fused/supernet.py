"""The fused cell and supernet, and their weights in the reference supernet's layout and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.fused.source import Row, Source, Stacked
from darts.models.mixture import MixtureWeights
from darts.models.operations import prepared
from darts.models.supernet import SearchCell, Supernet, bypass, shuffled, split_channels


class Group(NamedTuple):
    """Edges out of one state with the same candidates; they are computed together."""

    state: int
    edges: list[int]
    nodes: list[int]  # that they lead to
    stride: int


class Terms:
    """By node the sum of what it has been sent so far.

    Where a library computes states by hand the sums of several nodes are kept as one map, side by side: the next source
    adds to it in the operator that makes its own map. By PyTorch's operators that is slower (docs/performance.md).
    """

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.joined: Tensor | None = None
        self.nodes: list[int] = []  # whose sums, but for those in `sums`, are joined

    def add(self, node: int, term: Tensor) -> None:
        """Send a node a term."""
        self.sums[node] = self.sums[node] + term if node in self.sums else term

    def taken(self, nodes: list[int]) -> Tensor | None:
        """The joined map, if it is these nodes'; it is taken out, for the caller to add to."""
        if nodes != self.nodes:
            return None
        joined, self.joined, self.nodes = self.joined, None, []
        return joined

    def put(self, nodes: list[int], terms: Tensor, together: bool) -> None:
        """Send several nodes a term each, side by side; `together`: what they had been sent is in it already."""
        if not together:
            self._divide(nodes, terms)
            return
        if self.joined is not None:
            self._divide(self.nodes, self.joined)
        self.joined, self.nodes = terms, nodes

    def of(self, node: int) -> Tensor | None:
        """A node's sum, to which all have sent; None if nobody has."""
        if self.joined is not None and node in self.nodes:
            joined, nodes = self.joined, self.nodes
            self.joined, self.nodes = None, []
            if node == nodes[0] and len(nodes) > 1:
                channels = joined.shape[1] // len(nodes)
                own, self.joined = joined.split([channels, joined.shape[1] - channels], dim=1)
                self.add(node, own)
                self.nodes = nodes[1:]
            else:
                self._divide(nodes, joined)
        return self.sums.pop(node, None)

    def _divide(self, nodes: list[int], terms: Tensor) -> None:
        for node, term in zip(nodes, terms.chunk(len(nodes), dim=1), strict=True):
            self.add(node, term)


class FusedCell(nn.Module):
    """A cell computed state by state: each state sends its terms to all later nodes at once."""

    edge_order: Tensor  # the edges, group by group, on the device

    def __init__(self, reference: SearchCell) -> None:
        super().__init__()
        self.space, self.k, self.inputs = reference.space, reference.k, reference.inputs
        self.groups = _groups(reference)
        order = [edge for group in self.groups for edge in group.edges]
        self.register_buffer("edge_order", torch.tensor(order, dtype=torch.long), persistent=False)
        self.sources = nn.ModuleList()
        for group in self.groups:
            operations = [_by_column(reference.edges[edge]) for edge in group.edges]
            self.sources.append(Source(operations))

    def forward(self, older: Tensor, newer: Tensor, mixture: MixtureWeights) -> Tensor:
        """Return the nodes that the output joins, along the channels; `mixture` has one matrix (edges, columns)."""
        states = prepared(self.inputs, older, newer)
        first_node = len(states)
        by_group = mixture.weights.index_select(0, self.edge_order).split([len(group.edges) for group in self.groups])
        mixed, bypassed = Terms(), Terms()
        for state in range(first_node + self.space.nodes - 1):
            if state >= first_node:
                states.append(self._node(state - first_node, mixed, bypassed, states))
            self._send(state, states[state], by_group, mixed, bypassed)
        states.append(self._node(self.space.nodes - 1, mixed, bypassed, states))
        return torch.cat([states[node] for node in self.space.joined()], dim=1)

    def _send(self, state: int, x: Tensor, by_group: Sequence[Tensor], mixed: Terms, bypassed: Terms) -> None:
        """Add what a state sends to each of its nodes to their sums.

        `by_group`: for each group the mixture weights of its edges, (edges, columns).
        """
        passing, others = split_channels(x, self.k) if self.k > 1 else (x, None)
        for group, source, weights in zip(self.groups, self.sources, by_group, strict=True):
            if group.state != state:
                continue
            terms = source(passing, weights, mixed.taken(group.nodes))
            mixed.put(group.nodes, terms, cast(Source, source).is_by_hand(passing))
            if others is not None:
                around = bypass(others, group.stride)
                for node, weight in zip(group.nodes, weights[:, -1], strict=True):
                    bypassed.add(node, weight * around)

    def _node(self, node: int, mixed: Terms, bypassed: Terms, states: list[Tensor]) -> Tensor:
        """Return a node to which every edge has sent its term; one shuffle serves the channels of all its edges."""
        total, around = mixed.of(node), bypassed.of(node)
        if total is None:  # no candidate is active on any of its edges
            inputs = len(self.inputs) or 1
            like = states[inputs] if len(states) > inputs else states[0][:, :, :: self._stride(), :: self._stride()]
            return torch.zeros_like(like)
        return total if around is None else shuffled(torch.cat([total, around], dim=1), self.k)

    def _stride(self) -> int:
        return max(group.stride for group in self.groups)

    def origins(self) -> dict[str, list[str] | str]:
        """By tensor name in this cell: its rows' names in the reference cell; one name where it is not stacked."""
        found: dict[str, list[str] | str] = {}
        for prefix, part in self.named_modules():
            if isinstance(part, Stacked):
                leaving = self.groups[int(prefix.split(".")[1])].edges
                for name, rows in part.rows.items():
                    reference = [
                        f"edges.{leaving[row.edge]}.operations.{row.column}.{row.name}"
                        for row in ([rows] if isinstance(rows, Row) else rows)
                    ]
                    found[f"{prefix}.{name}"] = reference[0] if isinstance(rows, Row) else reference
        return found


def _by_column(edge: nn.Module) -> dict[int, nn.Module]:
    """An edge's operations by column."""
    return {int(column): operation for column, operation in edge.get_submodule("operations").named_children()}


def _groups(reference: SearchCell) -> list[Group]:
    """The edges that have candidates, by state, then by what these are."""
    found: dict[tuple[int, tuple[int, ...]], Group] = {}
    for edge, (state, node) in enumerate(reference.space.edges()):
        mixed = reference.edges[edge]
        columns = tuple(_by_column(mixed))
        if columns:
            group = found.setdefault((state, columns), Group(state, [], [], cast(int, mixed.stride)))
            group.edges.append(edge)
            group.nodes.append(node)
    return sorted(found.values(), key=lambda group: (group.state, group.edges))


class FusedSupernet(Supernet):
    """The reference supernet's function and weights, computed fast; takes over the modules of a reference supernet."""

    twice_differentiable = False

    def __init__(self, reference: Supernet) -> None:
        nn.Module.__init__(self)
        self.kinds = reference.kinds
        self.stem, self.tail, self.classifier = reference.stem, reference.tail, reference.classifier
        self.cells = nn.ModuleList(
            FusedCell(cell) if isinstance(cell, SearchCell) else cell for cell in reference.cells
        )

    def to_reference(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under this supernet's names (weights, momentum) under the reference supernet's."""
        origins = self._origins()
        reference: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            rows = origins.get(name, name)
            reference |= {rows: tensor} if isinstance(rows, str) else dict(zip(rows, tensor, strict=True))
        return reference

    def from_reference(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors under the reference supernet's names under this one's."""
        remaining, own = dict(tensors), {}
        for name, rows in self._origins().items():
            if isinstance(rows, str) and rows in remaining:
                own[name] = remaining.pop(rows)
            elif not isinstance(rows, str) and rows[0] in remaining:
                own[name] = torch.stack([remaining.pop(row) for row in rows])
        return own | remaining

    def _origins(self) -> dict[str, list[str] | str]:
        found: dict[str, list[str] | str] = {}
        for index, cell in enumerate(self.cells):
            if isinstance(cell, FusedCell):
                for name, rows in cell.origins().items():
                    own = f"cells.{index}.{rows}" if isinstance(rows, str) else [f"cells.{index}.{row}" for row in rows]
                    found[f"cells.{index}.{name}"] = own
        return found
