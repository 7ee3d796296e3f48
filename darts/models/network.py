"""A genotype as an ordinary network, with drop-path and an auxiliary head for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.models.activation_checkpointing import checkpointed
from darts.models.chain import chain_layers, chain_stem, chain_tail
from darts.models.depthwise import Depthwise
from darts.models.fused import plain, preparation, separable
from darts.models.fused.computation import Computation, Layers, Step
from darts.models.fused.norms import in_turn
from darts.models.operations import FactorisedReduction, ResidualReduction, candidate, input_preparations, tail
from darts.models.settings import NetworkSettings
from darts.models.stem import build_stem, first_states
from darts.spaces.chain import Chain
from darts.spaces.genotype import Cell, Genotype
from darts.spaces.search_space import (
    IMAGENET,
    CellPlan,
    Frame,
    InputShape,
    Stem,
    layout_of,
    output_channels,
    plan_cells,
)


class DiscreteCell(nn.Module):
    """A found cell: each node sums the operations on its kept edges."""

    def __init__(self, plan: CellPlan, cell: Cell, always: Sequence[str] = ()) -> None:
        """`always`: operations that every edge carries besides its own; no path of theirs is dropped."""
        super().__init__()
        self.cell = cell
        inputs = input_preparations(plan, affine=True) if cell.inputs == 2 else ()
        self.inputs = nn.ModuleList(inputs)
        self.operations, self.always = nn.ModuleList(), nn.ModuleList()
        self.by_hand: dict[nn.Module, Computation] = {}
        self.whole_by_hand: Computation | None = None
        self.known: list[nn.Module] = []  # layers that these are made of
        for node, edges in enumerate(cell.nodes):
            for edge in edges:
                entry = candidate(edge.operation, f"genotype, {plan.kind} cell, node {node}: operation")
                stride = plan.stride if edge.source < 2 else 1
                self.operations.append(entry.build(plan.channels, stride, True))
                more = [candidate(name).build(plan.channels, stride, True) for name in always]
                self.always.append(nn.ModuleList(more))

    def train_by_hand(self, switched_on: bool) -> None:
        """Whether to compute faster where a library serves (fused/computation.py), without second derivatives then.

        Numbers of layers that are there, such as a stride, must not be changed afterwards.
        """
        self.by_hand, self.whole_by_hand, self.known = {}, None, self._layers() if switched_on else []
        if not switched_on:
            return
        for module in self._modules_in_order():
            step = _step(module, 0, 1)
            if step is not None and step.layers.weights:  # a pool by itself is the module's
                self.by_hand[module] = Computation(1, [step], [1])
        steps = self._steps()
        served = [step for step in steps if step is not None]
        whole = Computation(len(self.inputs) or 1, served, [len(self.inputs) + state for state in self.cell.concat])
        if len(served) == len(steps) and whole.is_whole:
            self.whole_by_hand = whole

    def _steps(self) -> list[Step | None]:
        """Of the whole cell. Where inputs are prepared, what they are prepared from comes before the cell's states."""
        first = len(self.inputs)
        steps = [_step(prepare, number, first + number) for number, prepare in enumerate(self.inputs)]
        for node, edge, source in self._edges():
            path = None if isinstance(self.operations[edge], nn.Identity) else edge  # as published
            steps.append(_step(self.operations[edge], first + source, first + self.cell.inputs + node, path))
            for always in self.always[edge].children():
                steps.append(_step(always, first + source, first + self.cell.inputs + node))
        return steps

    def _modules_in_order(self) -> list[nn.Module]:
        return [*self.inputs, *self.operations, *(one for several in self.always for one in several.children())]

    def _layers(self) -> list[nn.Module]:
        """By which it is seen that one has been replaced."""
        return [layer for module in self._modules_in_order() for layer in (module, *module.children())]

    def _edges(self) -> list[tuple[int, int, int]]:
        """Node, edge and source, one edge after the other."""
        pairs = [(node, source) for node, edges in enumerate(self.cell.nodes) for _, source in edges]
        return [(node, edge, source) for edge, (node, source) in enumerate(pairs)]

    def paths(self) -> int:
        """How many edges the cell has."""
        return len(self.operations)

    def forward(self, older: Tensor | _State, newer: Tensor | _State, path_scales: Tensor | None) -> Tensor:
        """`path_scales`: (edges, batch), what each sample's path is multiplied by (see `drop_path_scales`)."""
        given = [x if isinstance(x, _State) else _State(x) for x in (older, newer)]
        if self.known and self.known != self._layers():
            self.train_by_hand(True)
        if self.whole_by_hand is not None:
            maps = [x.map for x in given] if self.inputs else [given[1].map]  # without preparations only the newer one
            found = self.whole_by_hand(maps, path_scales)
            if found is not None:
                return found
        pairs = list(zip(self.inputs, given, strict=True)) if self.inputs else []
        states = [_State(x.through(prepare, self.by_hand)) for prepare, x in pairs] or given[1:]
        edge = 0
        for edges in self.cell.nodes:
            total = None
            for _, source in edges:
                operation, state = self.operations[edge], states[source]
                dropped = path_scales is not None and not isinstance(operation, nn.Identity)  # as published
                scale = cast(Tensor, path_scales)[edge] if dropped else None
                total = _plus_path(total, state.through(operation, self.by_hand), scale)
                for always in self.always[edge].children():
                    total = _plus_path(total, state.through(always, self.by_hand), None)
                edge += 1
            states.append(_State(cast(Tensor, total)))
        return torch.cat([states[node].map for node in self.cell.concat], dim=1)


class _State:
    """A cell's input or node."""

    def __init__(self, image: Tensor) -> None:
        self.map = image
        self.rectified: Tensor | None = None

    def through(self, operation: nn.Module, by_hand: Mapping[nn.Module, Computation]) -> Tensor:
        """The operation's output; `by_hand`: some by themselves, and if there are any, one ReLU for all others."""
        computation = by_hand.get(operation)
        found = None if computation is None else computation([self.map])
        if found is not None:
            return found
        if not by_hand or not _begins_with_relu(operation):
            return operation(self.map)
        if self.rectified is None:
            self.rectified = F.relu(self.map)
        if isinstance(operation, FactorisedReduction):
            return operation.of_rectified(self.rectified)
        out = self.rectified
        for layer in list(cast(nn.Sequential, operation))[1:]:
            out = layer(out)
        return out


def _step(operation: nn.Module, source: int, node: int, path: int | None = None) -> Step | None:
    """Of a computation by hand; None for an operation that has none."""
    layers: Layers | None = separable.layers_of(operation) or preparation.layers_of(operation)
    layers = layers or plain.layers_of(operation)
    return None if layers is None else Step(layers, source, node, path)


def _begins_with_relu(operation: nn.Module) -> bool:
    """Whether it begins with a ReLU whose output the next layer only reads."""
    if type(operation) is FactorisedReduction:
        return True
    if type(operation) is not nn.Sequential or len(operation) < 2:
        return False
    return type(operation[0]) is nn.ReLU and type(operation[1]) in (Depthwise, nn.Conv2d)


def _plus_path(total: Tensor | None, out: Tensor, scale: Tensor | None) -> Tensor:
    """A node's sum so far plus one path, each sample of which is multiplied by its scale."""
    if scale is None:
        return out if total is None else total + out
    factor = scale.to(out.dtype)[:, None, None, None]  # else maps of bfloat16 would become float32 here
    return out * factor if total is None else torch.addcmul(total, out, factor)


class AuxiliaryHead(nn.Module):
    """A second classifier on a middle cell, used in training only (Liu et al. 2019, appendix, and their code).

    Published for 8 x 8 inputs, where its pooling (5 x 5, stride 3) leaves 2 x 2, and of ImageNet's network for 7 x 7
    (stride 2, and no batch norm after the second convolution); other sizes are pooled to 2 x 2 adaptively.
    """

    def __init__(self, channels: int, classes: int, stem: Stem = 0) -> None:
        super().__init__()
        self.stride = 2 if stem == IMAGENET else 3
        last: list[nn.Module] = [] if stem == IMAGENET else [nn.BatchNorm2d(768)]
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *last,
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        published = all((side - 5) // self.stride == 1 for side in x.shape[2:])
        x = F.avg_pool2d(x, 5, self.stride, count_include_pad=False) if published else F.adaptive_avg_pool2d(x, 2)
        return self.classifier(self.features(x).flatten(1))


class Widths(NamedTuple):
    """Channels of what parts of a network give."""

    cells: list[int]  # of each cell's output
    tail: int  # of what the classifier is given


class Network(nn.Module):
    """The retrained network: a stem, cells or layers of which the last one's output is averaged, and a classifier."""

    # True: keep only cells' outputs; what is within a cell is computed again for the gradient
    activation_checkpointing = False
    by_hand = False  # True: its stem, and as cells have it

    def __init__(
        self, stem: nn.Module, cells: Sequence[nn.Module], tail: nn.Module, widths: Widths, classes: int, kind: Stem
    ) -> None:
        """`kind`: of the stem, by which the auxiliary head is built."""
        super().__init__()
        self.stem = stem
        self.cells = nn.ModuleList(cells)
        self.tail = tail
        self.classifier = nn.Linear(widths.tail, classes)
        self.auxiliary_after = 2 * len(cells) // 3
        middle = widths.cells[self.auxiliary_after]
        self.auxiliary: AuxiliaryHead | None = AuxiliaryHead(middle, classes, kind)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return self.classifier(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the classifier is given: the last cell's output, averaged over the map; (batch, width)."""
        return self.tail(self._run_cells(images, None)[0]).mean((2, 3))

    def training_logits(self, images: Tensor, path_scales: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits of the classifier and of the auxiliary head, if any; `path_scales`: (paths, batch), None: no drop."""
        last, middle = self._run_cells(images, path_scales)
        return self.classifier(self.tail(last).mean((2, 3))), None if self.auxiliary is None else self.auxiliary(middle)

    def _first_layers(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        by_hand = self.by_hand and type(self.stem) is nn.Sequential
        return in_turn(cast(nn.Sequential, self.stem), images) if by_hand else self.stem(images)

    def train_by_hand(self, switched_on: bool = True) -> None:
        """Whether to train faster where a library serves (fused/separable.py); without second derivatives then."""
        self.by_hand = switched_on
        for cell in self.cells:
            if isinstance(cell, DiscreteCell):
                cell.train_by_hand(switched_on)

    def paths(self) -> int:
        """How many edges the network has: the rows of `path_scales`."""
        return sum(cell.paths() for cell in self.cells)  # type: ignore[operator]

    def _run_cells(self, images: Tensor, path_scales: Tensor | None) -> tuple[Tensor, Tensor]:
        first_older, first_newer = first_states(self._first_layers, images)
        newer = _State(first_newer)
        older = newer if first_older is first_newer else _State(first_older)
        middle = newer.map
        first = 0
        for index, cell in enumerate(self.cells):
            last = first + cell.paths()  # type: ignore[operator]
            scales = None if path_scales is None else path_scales[first:last]
            again = self.activation_checkpointing and torch.is_grad_enabled()
            with_states = isinstance(cell, DiscreteCell) and not again
            inputs = (older, newer) if with_states else (older.map, newer.map)
            found = checkpointed(cell, *inputs, scales) if again else cell(*inputs, scales)
            older, newer = newer, _State(found)
            middle = newer.map if index == self.auxiliary_after else middle
            first = last
        return newer.map, middle


def drop_path_scales(paths: int, batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """A factor for each path and sample: 0 with the given probability, else 1 / (1 - probability); (paths, batch)."""
    kept = torch.rand(paths, batch, generator=generator) >= probability
    return kept / (1 - probability)


def build_network(
    genotype: Genotype, cells: int, channels: int, stem_reductions: Stem, shape: InputShape, auxiliary: bool = True
) -> Network:
    """The network of a genotype with the published skeleton of `cells` cells and `channels` first channels."""
    network = build_framed(genotype, (cells, channels, stem_reductions), shape, ())
    if not auxiliary:
        network.auxiliary = None
    return network


def build_framed(genotype: Genotype, size: tuple[int, int, Stem], shape: InputShape, always: Sequence[str]) -> Network:
    """The same, with operations that every edge carries besides its own; `size`: cells, channels, the stem."""
    cells, channels, stem_reductions = size
    multipliers, layout = genotype.multipliers(), layout_of(genotype)
    plans = plan_cells(cells, channels, multipliers, layout, stem_reductions)
    stem = build_stem(shape.channels, plans[0].input_channels[1], stem_reductions)
    built = [
        DiscreteCell(plan, genotype.cells[plan.kind], always)
        if plan.kind in genotype.cells
        else ResidualReduction(plan.input_channels[1], plan.channels)
        for plan in plans
    ]
    widths = [output_channels(plan, multipliers) for plan in plans]
    last = tail(widths[-1], layout)
    return Network(stem, built, last, Widths(widths, widths[-1]), shape.classes, stem_reductions)


def build_chain(
    genotype: Genotype, chain: Chain, channels: int, stem_reductions: int, shape: InputShape, auxiliary: bool = True
) -> Network:
    """The network of a chain's genotype with the widths of `chain` in proportion to `channels` first channels."""
    plans = chain.plan(channels)
    stem = chain_stem(chain, shape.channels, channels, stem_reductions)
    layers = chain_layers(genotype, plans)
    last = chain_tail(chain, plans[-1].channels, channels)
    widths = Widths([plan.channels for plan in plans], chain.width(chain.head, channels))
    network = Network(stem, layers, last, widths, shape.classes, stem_reductions)
    if not auxiliary:
        network.auxiliary = None
    return network


def network_of_size(
    genotype: Genotype, size: NetworkSettings, shape: InputShape, auxiliary: bool, frame: Frame
) -> Network:
    """The network of a genotype at the size that settings give; `frame`: what its space adds to it."""
    if frame.chain is not None:
        return build_chain(genotype, frame.chain, size.channels, size.stem_reductions, shape, auxiliary)
    parts = size.cells, size.channels, size.stem_reductions
    network = build_framed(genotype, parts, shape, frame.always)
    if not auxiliary:
        network.auxiliary = None
    return network
