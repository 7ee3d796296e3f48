"""Chains: networks of layers one behind another, each of a width and a stride of its own; their types are chosen.

In a genotype a chain is one cell of the type `chain` whose node i reads node i - 1 only: a node is a layer. What is
around the layers, and how wide they are, is the space's (`space.chain`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from darts.runtime.errors import UserError, require
from darts.spaces.genotype import Cell, Edge, Genotype

CHAIN = "chain"  # the one cell type of such a genotype
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MOST_LAYERS = 1000


class LayerPlan(NamedTuple):
    """One layer of a chain."""

    input_channels: int
    channels: int
    stride: int


def is_stage(values: Sequence[int]) -> bool:
    """Whether these are a number of layers, of channels and a stride."""
    if len(values) != 3:
        return False
    layers, channels, stride = values
    return 1 <= layers <= MOST_LAYERS and 1 <= channels <= 65536 and stride in (1, 2)


@dataclass
class Chain:
    """What is around the layers of a chain, and how wide they are where network.channels is `stem`.

    Where network.channels is another number, all widths change in proportion.
    """

    stem: int  # channels of the first convolution
    first: int | None  # channels of a fixed inverted residual of expansion 1 behind it; null: none
    stages: list[list[int]]  # by stage: how many layers, their channels, and the stride of the first of them
    head: int  # channels of the last convolution, 1x1, before the average over the map
    relu6: bool  # of stem and head: ReLU6 in place of ReLU

    def __post_init__(self) -> None:
        place = "space.chain"
        for name in ("stem", "first", "head"):
            width = getattr(self, name)
            sound = (name == "first" and width is None) or 1 <= width <= 65536
            require(sound, f"{place}.{name}", width, "from 1 to 65536")
        sound = all(map(is_stage, self.stages))
        allowed = "lists of how many layers, their channels, and the stride of the first, 1 or 2"
        require(sound and bool(self.stages), f"{place}.stages", self.stages, allowed)
        require(self.layers <= MOST_LAYERS, f"{place}.stages", self.stages, f"at most {MOST_LAYERS} layers")

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return sum(count for count, _, _ in self.stages)

    @property
    def halvings(self) -> int:
        """How often the layers halve the resolution."""
        return sum(stride == 2 for _, _, stride in self.stages)

    def width(self, channels: int, first: int) -> int:
        """A width of the settings where the first convolution has `first` channels."""
        return max(1, round(channels * first / self.stem))

    def plan(self, first: int) -> list[LayerPlan]:
        """The layers of a network whose first convolution has `first` channels."""
        before = self.width(self.first or self.stem, first)
        plans = []
        for count, width, stride in self.stages:
            own = self.width(width, first)
            for number in range(count):
                own_stride = stride if number == 0 else 1
                plans.append(LayerPlan(before, own, own_stride))
                before = own
        return plans


def is_chain(genotype: Genotype) -> bool:
    """Whether a genotype is of a chain."""
    return CHAIN in genotype.cells


def chain_of(names: Sequence[str], space: str) -> Genotype:
    """The genotype of a chain's operations, in the order of its layers."""
    nodes = tuple((Edge(name, source),) for source, name in enumerate(names))
    return Genotype(space, {CHAIN: Cell(nodes, (len(names),), inputs=1)})


def to_digits(genotype: Genotype, candidates: Sequence[str]) -> str:
    """A chain as a digit for each layer: the place of its operation among the candidates, from 0; then a, b, ..."""
    return "".join(DIGITS[candidates.index(name)] for name in genotype.cells[CHAIN].operations())


def are_digits(text: str, layers: int) -> bool:
    """Whether a text is meant to be a chain's digits: one or more of them."""
    return re.fullmatch(r"[0-9a-z]+", text) is not None and (text.isdigit() or len(text) == layers)


def from_digits(text: str, candidates: Sequence[str], layers: int, space: str) -> Genotype:
    """The inverse of `to_digits`; raises `UserError` for what is no chain of so many layers."""
    allowed = DIGITS[: len(candidates)]
    if len(text) != layers or not set(text) <= set(allowed):
        told = f"{layers} digits from 0 to {allowed[-1]}, an operation's number for each layer"
        raise UserError(f"{text[:80]!r} is no chain of space {space!r}, which has {told}")
    return chain_of([candidates[DIGITS.index(digit)] for digit in text], space)
