"""The fused cell and supernet, and their weights in the plain supernet's layout and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from darts.fused.source import Row, Source, Stacked
from darts.supernet import SearchCell, Supernet


class FusedCell(nn.Module):
    """A cell that goes through its states: each sends its share to all later nodes at once."""

    def __init__(self, plain: SearchCell) -> None:
        super().__init__()
        self.nodes = plain.space.nodes
        self.prepare_older, self.prepare_newer = plain.prepare_older, plain.prepare_newer
        edges = list(enumerate(plain.space.edges()))
        self.leaving = [[edge for edge, (state, _) in edges if state == source] for source in range(self.nodes + 1)]
        self.sources = nn.ModuleList(
            Source([list(plain.edges[edge].get_submodule("operations").children()) for edge in leaving])
            for leaving in self.leaving
        )

    def forward(self, older: Tensor, newer: Tensor, weights: Tensor) -> Tensor:
        """`weights`: (edges, candidates). Returns the nodes joined along the channels."""
        states = [self.prepare_older(older), self.prepare_newer(newer)]
        nodes: list[Tensor | None] = [None] * self.nodes
        for index, source in enumerate(self.sources):
            first = max(index - 1, 0)  # the first node that this state leads to
            shares = source(states[index], weights[self.leaving[index]]).chunk(self.nodes - first, dim=1)
            for node, share in enumerate(shares, start=first):
                before = nodes[node]
                nodes[node] = share if before is None else before + share
            if index >= 1:
                states.append(nodes[first])
        return torch.cat(states[2:], dim=1)

    def origins(self) -> dict[str, list[str] | str]:
        """By tensor name in this cell: its rows' names in the plain cell; one name where it is not stacked."""
        found: dict[str, list[str] | str] = {}
        for prefix, part in self.named_modules():
            if isinstance(part, Stacked):
                leaving = self.leaving[int(prefix.split(".")[1])]
                for name, rows in part.rows.items():
                    plain = [
                        f"edges.{leaving[row.edge]}.operations.{row.column}.{row.name}"
                        for row in ([rows] if isinstance(rows, Row) else rows)
                    ]
                    found[f"{prefix}.{name}"] = plain[0] if isinstance(rows, Row) else plain
        return found


class FusedSupernet(Supernet):
    """The plain supernet's function and weights, computed fast; takes over the modules of the one it is made from."""

    def __init__(self, plain: Supernet) -> None:
        nn.Module.__init__(self)
        self.kinds = plain.kinds
        self.stem, self.classifier = plain.stem, plain.classifier
        self.cells = nn.ModuleList(FusedCell(cell) for cell in plain.cells if isinstance(cell, SearchCell))

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
