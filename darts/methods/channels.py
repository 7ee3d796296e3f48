"""Which channels pass the mixed operation, and the weights of whole edges that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from darts.config.registry import register
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from darts.spaces.search_space import SearchSpace


@dataclass
class Channels:
    """How many channels pass, and whether edges have weights of their own."""

    def k_of_stage(self, stage: int) -> int:
        """Return k: 1/k of the channels pass the mixed operation in a stage of the search."""
        raise NotImplementedError

    @property
    def edge_weights(self) -> bool:
        """Whether a softmax over a node's incoming edges multiplies what comes through them."""
        return False


@register("channels", "all_channels")
@dataclass
class AllChannels(Channels):
    """All of them."""

    def k_of_stage(self, stage: int) -> int:
        return 1


@register("channels", "partial_channels")
@dataclass
class PartialChannels(Channels):
    """1/k of the channels are mixed, the others bypass it, and all are shuffled after it (Xu et al. 2020, PC-DARTS).

    `edge_normalisation`: a softmax over a node's incoming edges multiplies them, at discretisation too (equation 2).
    """

    k: list[int]  # by stage of the search; the last one holds for the stages after it
    edge_normalisation: bool  # whether edges have weights of their own

    def __post_init__(self) -> None:
        sound = bool(self.k) and min(self.k) >= 1
        require(sound, "method.channels.k", self.k, "numbers from 1, at least one")

    def k_of_stage(self, stage: int) -> int:
        return self.k[min(stage, len(self.k) - 1)]

    @property
    def edge_weights(self) -> bool:
        return self.edge_normalisation


def edge_softmax(beta: Tensor, space: SearchSpace, alive: Tensor) -> Tensor:
    """Softmax over the incoming edges of each node; edges that are not alive weigh 0.

    `beta`: (edges,), `alive`: (edges,) bool. Returns (edges,), whose entries sum to 1 at each node.
    Xu et al. 2020 (PC-DARTS), equation 2.
    """
    import torch

    masked = beta.masked_fill(~alive, -1e30)
    by_node = masked.split([len(space.incoming(node)) for node in range(space.nodes)])
    return torch.cat([incoming.softmax(0) for incoming in by_node]) * alive
