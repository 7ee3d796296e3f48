"""Which channels pass the mixed operation, and the weights of whole edges that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from darts.spaces import SearchSpace


@dataclass
class Channels:
    """How many channels pass, and whether edges have weights of their own."""

    def share(self, stage: int) -> int:
        """One channel in so many passes the mixed operation, in a stage of the search."""
        raise NotImplementedError

    @property
    def edge_weights(self) -> bool:
        """Whether a softmax over a node's incoming edges multiplies what comes through them."""
        return False


@dataclass
class AllChannels(Channels):
    """All of them."""

    def share(self, stage: int) -> int:
        return 1


@dataclass
class PartialChannels(Channels):
    """One channel in K; the others go around, and all are dealt out anew after it (Xu et al. 2020, PC-DARTS).

    `edge_normalisation`: a softmax over a node's incoming edges multiplies them, at discretisation too (equation 2).
    """

    shares: list[int]  # K, one for each stage of the search; the last holds for those that follow
    edge_normalisation: bool

    def __post_init__(self) -> None:
        sound = bool(self.shares) and min(self.shares) >= 1
        require(sound, "method.channels.shares", self.shares, "numbers from 1, at least one")

    def share(self, stage: int) -> int:
        return self.shares[min(stage, len(self.shares) - 1)]

    @property
    def edge_weights(self) -> bool:
        return self.edge_normalisation


def edge_softmax(beta: Tensor, space: SearchSpace, alive: Tensor) -> Tensor:
    """Softmax over the incoming edges of each node: (edges,) to (edges,); edges that are not `alive` weigh 0."""
    import torch

    masked = beta.masked_fill(~alive, -1e30)
    parts = [masked[space.incoming(node)].softmax(0) for node in range(space.nodes)]
    return torch.cat(parts) * alive
