"""Networks that are chains of layers: the supernet that mixes every layer's candidates, and the found network's parts.

Unlike in a supernet of cells (Liu et al. 2019) the batch norms of a supernet of layers have parameters, as in the code
of ProxylessNAS (Cai, Zhu, Han 2019): a layer is not summed with others of its node, whose scales would count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from darts.models.activation_checkpointing import checkpointed
from darts.models.layers import InvertedResidual, layer, rectifier
from darts.models.mixture import Mixture
from darts.models.supernet import MixedOperation, Mixing, SkipDropout, SupernetBase
from darts.spaces.chain import CHAIN, Chain, LayerPlan
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import InputShape, SearchSpace

PLACE = "space.candidates: layer"


def chain_stem(chain: Chain, image_channels: int, channels: int, reductions: int) -> nn.Sequential:
    """What is before the layers: a 3x3 convolution to `channels` channels, more where it halves more than once.

    Each of `reductions` halves the resolution. The fixed first block of mobile networks follows, where there is one.
    """
    before, parts = image_channels, []
    for number in range(max(1, reductions)):
        stride = 2 if number < reductions else 1
        convolution = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        parts += [convolution, nn.BatchNorm2d(channels), rectifier(chain.relu6)]
        before = channels
    if chain.first is not None:
        width = chain.width(chain.first, channels)
        parts.append(InvertedResidual(LayerPlan(channels, width, 1), 3, 1, chain.relu6, affine=True))
    return nn.Sequential(*parts)


def chain_tail(chain: Chain, last: int, channels: int) -> nn.Sequential:
    """What is behind the layers: a 1x1 convolution to the width that the classifier is given."""
    width = chain.width(chain.head, channels)
    return nn.Sequential(nn.Conv2d(last, width, 1, bias=False), nn.BatchNorm2d(width), rectifier(chain.relu6))


class ChainLayer(nn.Module):
    """A layer of a found chain, called as a cell is."""

    def __init__(self, plan: LayerPlan, name: str, number: int) -> None:
        super().__init__()
        self.operation = layer(name, f"genotype, layer {number}: operation").build(*plan, True)

    def paths(self) -> int:
        """1 where something is added to the layer's input, which drop-path may leave out; else 0."""
        return int(getattr(self.operation, "residual", False))

    def forward(self, older: Tensor, newer: Tensor, path_scales: Tensor | None) -> Tensor:
        """Takes what a cell takes; `newer` only counts. `path_scales`: (paths, batch)."""
        if path_scales is None or not self.paths():
            return self.operation(newer)
        return self.operation(newer, path_scales[0])


def chain_layers(genotype: Genotype, plans: list[LayerPlan]) -> list[nn.Module]:
    """The layers of a found chain."""
    names = genotype.cells[CHAIN].operations()
    return [ChainLayer(plan, name, at) for at, (plan, name) in enumerate(zip(plans, names, strict=True))]


class ChainSupernet(SupernetBase):
    """The chain that holds every architecture of its space: each layer is a mixed operation."""

    def __init__(
        self, space: SearchSpace, channels: int, stem_reductions: int, shape: InputShape, mixing: Mixing
    ) -> None:
        super().__init__()
        chain = chain_of_space(space)
        self.kinds = [CHAIN]
        plans = chain.plan(channels)
        self.stem = chain_stem(chain, shape.channels, channels, stem_reductions)
        active = mixing.active.get(CHAIN, space.allowed(CHAIN))
        self.cells = nn.ModuleList(
            MixedOperation(mixed_layers(plan, space, mixing, row), 1, plan.stride)
            for plan, row in zip(plans, active, strict=True)
        )
        self.tail = chain_tail(chain, plans[-1].channels, channels)
        self.classifier = nn.Linear(chain.width(chain.head, channels), shape.classes)

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Return logits (batch, classes) of images (batch, channels, height, width) under a mixture."""
        mixed = mixture[CHAIN].of_cell(0)
        state = self.stem(images)
        for row, operation in enumerate(self.cells):
            again = self.activation_checkpointing and torch.is_grad_enabled()
            run: Callable[..., Any] = functools.partial(checkpointed, operation) if again else operation
            state = run(state, mixed.weights[row], mixed.columns_of(row), mixed.rest_added)
        return self.classifier(self.tail(state).mean((2, 3)))


def chain_of_space(space: SearchSpace) -> Chain:
    """The widths and strides of a space of chains."""
    if space.chain is None:
        raise TypeError(f"space {space.name!r} is no chain")
    return space.chain


def mixed_layers(plan: LayerPlan, space: SearchSpace, mixing: Mixing, active: Sequence[bool]) -> dict[int, nn.Module]:
    """The operations of a layer by column: its candidates, then what a method adds to every edge."""
    found: dict[int, nn.Module] = {}
    for column, (name, stays) in enumerate(zip(space.candidates, active, strict=True)):
        if stays:
            operation = layer(name, PLACE).build(*plan, True)
            drops = mixing.skip_dropout and isinstance(operation, nn.Identity)
            found[column] = SkipDropout() if drops else operation
    for column, name in enumerate(mixing.edge_extras, start=len(space.candidates)):
        found[column] = layer(name, PLACE).build(*plan, True)
    return found
