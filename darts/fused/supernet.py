"""The fused cell and supernet, and their weights in the plain supernet's layout and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.fused.source import Row, Source, Stacked
from darts.operations import prepared
from darts.supernet import SearchCell, Supernet, around_mixture, shuffled, split_channels


class Group(NamedTuple):
    """Edges out of one state with the same candidates; they are computed together."""

    state: int
    edges: list[int]
    nodes: list[int]  # that they lead to
    stride: int


class FusedCell(nn.Module):
    """A cell that goes through its states: each sends its share to all later nodes at once."""

    def __init__(self, plain: SearchCell) -> None:
        super().__init__()
        self.space, self.share, self.inputs = plain.space, plain.share, plain.inputs
        self.groups = _groups(plain)
        self.sources = nn.ModuleList(
            Source([_by_column(plain.edges[edge]) for edge in group.edges]) for group in self.groups
        )

    def forward(self, older: Tensor, newer: Tensor, weights: Tensor) -> Tensor:
        """`weights`: (edges, columns). Returns the nodes that the output joins, along the channels."""
        states = prepared(self.inputs, older, newer)
        first_node = len(states)
        mixed: list[Tensor | None] = [None] * self.space.nodes
        around: list[Tensor | None] = [None] * self.space.nodes
        for state in range(first_node + self.space.nodes - 1):
            if state >= first_node:
                states.append(self._node(state - first_node, mixed, around, states))
            passing, others = split_channels(states[state], self.share) if self.share > 1 else (states[state], None)
            for group, source in zip(self.groups, self.sources, strict=True):
                if group.state != state:
                    continue
                shares = source(passing, weights[group.edges]).chunk(len(group.nodes), dim=1)
                bypass = None if others is None else around_mixture(others, group.stride)
                for edge, node, share in zip(group.edges, group.nodes, shares, strict=True):
                    mixed[node] = _added(mixed[node], share)
                    if bypass is not None:
                        around[node] = _added(around[node], weights[edge, -1] * bypass)
        states.append(self._node(self.space.nodes - 1, mixed, around, states))
        return torch.cat([states[node] for node in self.space.joined()], dim=1)

    def _node(self, node: int, mixed: list[Tensor | None], around: list[Tensor | None], states: list[Tensor]) -> Tensor:
        """A node whose every edge has sent its share; the channels' shuffle of all edges is one."""
        total, bypass = mixed[node], around[node]
        if total is None:  # no candidate is left on any of its edges
            inputs = len(self.inputs) or 1
            like = states[inputs] if len(states) > inputs else states[0][:, :, :: self._stride(), :: self._stride()]
            return torch.zeros_like(like)
        return total if bypass is None else shuffled(torch.cat([total, bypass], dim=1), self.share)

    def _stride(self) -> int:
        return max(group.stride for group in self.groups)

    def origins(self) -> dict[str, list[str] | str]:
        """By tensor name in this cell: its rows' names in the plain cell; one name where it is not stacked."""
        found: dict[str, list[str] | str] = {}
        for prefix, part in self.named_modules():
            if isinstance(part, Stacked):
                leaving = self.groups[int(prefix.split(".")[1])].edges
                for name, rows in part.rows.items():
                    plain = [
                        f"edges.{leaving[row.edge]}.operations.{row.column}.{row.name}"
                        for row in ([rows] if isinstance(rows, Row) else rows)
                    ]
                    found[f"{prefix}.{name}"] = plain[0] if isinstance(rows, Row) else plain
        return found


def _by_column(edge: nn.Module) -> dict[int, nn.Module]:
    """An edge's operations by column."""
    return {int(column): operation for column, operation in edge.get_submodule("operations").named_children()}


def _added(before: Tensor | None, share: Tensor) -> Tensor:
    return share if before is None else before + share


def _groups(plain: SearchCell) -> list[Group]:
    """The edges that have candidates, by state, then by what these are."""
    found: dict[tuple[int, tuple[int, ...]], Group] = {}
    for edge, (state, node) in enumerate(plain.space.edges()):
        mixed = plain.edges[edge]
        columns = tuple(_by_column(mixed))
        if columns:
            group = found.setdefault((state, columns), Group(state, [], [], cast(int, mixed.stride)))
            group.edges.append(edge)
            group.nodes.append(node)
    return sorted(found.values(), key=lambda group: (group.state, group.edges))


class FusedSupernet(Supernet):
    """The plain supernet's function and weights, computed fast; takes over the modules of the one it is made from."""

    def __init__(self, plain: Supernet) -> None:
        nn.Module.__init__(self)
        self.kinds = plain.kinds
        self.stem, self.tail, self.classifier = plain.stem, plain.tail, plain.classifier
        self.cells = nn.ModuleList(FusedCell(cell) if isinstance(cell, SearchCell) else cell for cell in plain.cells)

    def to_plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under this supernet's names (weights, momentum) under the plain one's."""
        origins = self._origins()
        plain: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            rows = origins.get(name, name)
            plain |= {rows: tensor} if isinstance(rows, str) else dict(zip(rows, tensor, strict=True))
        return plain

    def from_plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reverse of `to_plain`."""
        left, own = dict(tensors), {}
        for name, rows in self._origins().items():
            if isinstance(rows, str) and rows in left:
                own[name] = left.pop(rows)
            elif not isinstance(rows, str) and rows[0] in left:
                own[name] = torch.stack([left.pop(row) for row in rows])
        return own | left

    def _origins(self) -> dict[str, list[str] | str]:
        found: dict[str, list[str] | str] = {}
        for index, cell in enumerate(self.cells):
            if isinstance(cell, FusedCell):
                for name, rows in cell.origins().items():
                    own = f"cells.{index}.{rows}" if isinstance(rows, str) else [f"cells.{index}.{row}" for row in rows]
                    found[f"cells.{index}.{name}"] = own
        return found
