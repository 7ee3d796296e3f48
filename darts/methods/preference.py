"""What alpha depends on: nothing, or the preference between loss and cost and the device, for fronts by one search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from darts.config.registry import register
from darts.models.settings import COSTS, LATENCY
from darts.runtime.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Preference:
    """How alpha follows the preference, a number from 0 (the loss alone counts) to 1 (the cost alone)."""

    draws: ClassVar[bool] = False  # whether every step has a preference of its own

    def shape(self, edges: int, candidates: int) -> tuple[int, ...]:
        """Return the shape of a cell type's architecture parameters."""
        return edges, candidates

    def alpha(self, parameters: Tensor, preference: Tensor | float, table: Tensor | None) -> Tensor:
        """Return alpha (edges, candidates) of a preference, differentiable in the parameters of `shape`.

        `table`, of the same shape: each candidate's excess on a device (`CostModel.scaled`), where alpha depends on it.
        """
        return parameters

    def costs(self, by_table: bool) -> tuple[str, ...]:
        """Return the costs that alpha weighs without a limit; `by_table`: a table of latencies is given."""
        return ()


@register("preference", "one_alpha")
@dataclass
class OneAlpha(Preference):
    """One alpha for the loss, beside which limits on the cost are a penalty."""


# Variants


@register("preference", "along_front")
@dataclass
class AlongFront(Preference):
    """Alpha as a piecewise linear function of the preference, trained in one search by preferences drawn uniformly.

    After Sukthanker et al. 2024 (MODNAS, arXiv 2402.18213), who have a hypernetwork in its place. A step minimises
    (1 - preference) * loss + preference * weight * cost, the cost scaled from the least to the greatest that a mixture
    of the space can be expected to have.

    With `devices` a step also draws one of them, whose latency is its cost, and alpha of a candidate is
    common(preference) + gain(preference) * edges * excess, both piecewise linear. The excess is what the candidate
    costs on that device more than the cheapest of its edge, on the same scale; edges are those of its cell type.
    So alpha is known for devices that were not drawn as well.
    """

    points: int  # preferences, evenly from 0 to 1, that have an alpha of their own; between two it is interpolated
    weight: float  # of the cost beside the loss
    cost: str | None  # parameters, macs or latency_ms; null: latency_ms by constraints.latency_table, without one macs
    chosen: float  # the preference whose cell becomes genotype.json; history.jsonl has the supernet under its mixture
    cells: int  # preferences, evenly from 0 to 1, whose cells are tried at the end
    devices: list[str]  # columns of constraints.latency_table whose fronts are learnt at once; []: constraints.device

    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(2 <= self.points <= 1000, "method.preference.points", self.points, "from 2 to 1000")
        require(0 < self.weight < math.inf, "method.preference.weight", self.weight, "above 0, finite")
        allowed = f"{', '.join(COSTS)}, or null"
        require(self.cost is None or self.cost in COSTS, "method.preference.cost", self.cost, allowed)
        require(0 <= self.chosen <= 1, "method.preference.chosen", self.chosen, "from 0 to 1")
        require(2 <= self.cells <= 1000, "method.preference.cells", self.cells, "from 2 to 1000")
        sound = not self.devices or len(self.devices) == len(set(self.devices)) > 1
        require(sound, "method.preference.devices", self.devices, "[], or two or more different names")
        allowed = "latency_ms or null with method.preference.devices"
        of_devices = not self.devices or self.cost in (None, LATENCY)
        require(of_devices, "method.preference.cost", self.cost, allowed)

    def shape(self, edges: int, candidates: int) -> tuple[int, ...]:
        """One alpha for each point; with devices `common` and `gain`, (2, points, edges, candidates)."""
        own = self.points, edges, candidates
        return (2, *own) if self.devices else own

    def alpha(self, parameters: Tensor, preference: Tensor | float, table: Tensor | None) -> Tensor:
        """The points on both sides, by their distances; with devices those of `common` and of `gain`."""
        import torch

        points = torch.arange(self.points, device=parameters.device, dtype=parameters.dtype)
        near = (1 - (preference * (self.points - 1) - points).abs()).clamp_min(0)
        own = torch.tensordot(near, parameters, ([0], [-3]))
        if not self.devices:
            return own
        if table is None:
            raise TypeError("alpha of devices depends on what candidates cost on one")
        common, gain = own
        return common + gain * len(table) * table

    def costs(self, by_table: bool) -> tuple[str, ...]:
        """The one beside the loss."""
        return (self.cost or (LATENCY if by_table else "macs"),)

    def weighed(self, loss: Tensor, cost: Tensor, preference: Tensor) -> Tensor:
        """What a step's alpha minimises; `cost` from 0 to 1."""
        return (1 - preference) * loss + preference * self.weight * cost
