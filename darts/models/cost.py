"""What a network costs: parameters, multiply-adds, latency; expected costs of a mixture, and limits on them.

The expected cost of a mixture is that of an architecture drawn from it: an edge into a node with n inputs of which k
stay counts k / n, and on it each candidate that may be chosen counts its weight.
"""

from __future__ import annotations

import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darts.models.latency import Latencies, Measured, Place, places
from darts.models.layers import layer
from darts.models.network import network_of_size
from darts.models.operations import candidate
from darts.models.settings import COSTS, LATENCY, ConstraintSettings, NetworkSettings
from darts.runtime import distributed
from darts.runtime.device import placed
from darts.runtime.errors import UserError, require
from darts.runtime.files import read_json, write_json
from darts.runtime.schema import FINITE, Length
from darts.spaces.chain import CHAIN
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import Frame, InputShape, SearchSpace


def count_parameters(module: nn.Module) -> int:
    """Number of trained values, biases and affine batch norms included."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_parameters_without_auxiliary(network: nn.Module) -> int:
    """The same without the auxiliary head, which exists in training only; papers print this number."""
    return sum(value.numel() for name, value in network.named_parameters() if not name.startswith("auxiliary."))


@torch.no_grad()
def count_macs(network: nn.Module, images: Tensor, *arguments: Any) -> int:
    """Multiply-adds of one forward pass in evaluation mode, of convolutions and matrix products.

    Where all products are those of layers they are counted from the layers' shapes, else by torch's counter, which
    sees every operator and whose first use imports a compiler for two seconds.
    """
    training = network.training
    network.eval()
    count = _macs_of_layers if all(map(_is_known, network.modules())) else _macs_of_operators
    found = count(network, images, *arguments)
    network.train(training)
    return found


def _macs_of_operators(network: nn.Module, *arguments: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(*arguments)
    return counter.get_total_flops() // 2


log = logging.getLogger(__name__)
NO_FRAME = Frame()
LAYERS = (nn.Conv2d, nn.Linear)  # whose multiply-adds are their outputs times the weights of one
OWN_FILES = ("operations", "layers", "chain", "network", "supernet", "depthwise", "batch_norm", "pooling", "stem")
OWN = {f"darts.models.{name}" for name in OWN_FILES}
WITHOUT_PRODUCTS = (nn.ReLU, nn.ReLU6, nn.Identity, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.BatchNorm2d,
                    nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout)  # fmt: skip


def _is_known(module: nn.Module) -> bool:
    """Whether it is known where a module multiplies: not of a plug-in's, nor of a fused one."""
    return type(module) in (*LAYERS, *WITHOUT_PRODUCTS) or type(module).__module__ in OWN


def _macs_of_layers(network: nn.Module, *arguments: Any) -> int:
    total = 0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        weight = layer.get_parameter("weight")
        total += output.numel() * weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, LAYERS)]
    try:
        network(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return total


WARM_UP, REPETITIONS = 3, 20  # passes before a latency is measured, and those of which it is the median


def latency_ms(network: nn.Module, images: Tensor, repetitions: int = REPETITIONS, warm_up: int = WARM_UP) -> float:
    """Median time of a forward pass in evaluation mode, in milliseconds, after passes of warm-up."""
    return statistics.median(latencies_ms(network, images, repetitions, warm_up))


@torch.no_grad()
def latencies_ms(network: nn.Module, images: Tensor, repetitions: int, warm_up: int) -> list[float]:
    """Times of forward passes in evaluation mode, in milliseconds, without those of warm-up."""
    network.eval()
    times = [1000 * _timed(lambda: network(images), images.device) for _ in range(warm_up + repetitions)]
    return times[warm_up:]


def _timed(action: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - start


@dataclass
class CostModel:
    """Expected costs, of one image, of the network that `settings.network` would make of a mixture.

    Where there is a table of latencies they are its own, else measured on `device`.
    """

    settings: ConstraintSettings
    space: SearchSpace
    shape: InputShape
    device: torch.device
    latencies: Latencies | None = None
    also: Sequence[str] = ()  # costs that are to be known without a limit
    limits: dict[str, float] = field(init=False)
    names: list[str] = field(init=False)  # of all costs that are known
    tables: dict[str, dict[str, Tensor]] = field(init=False)  # cost -> cell type -> (edges, candidates), all cells
    rest: dict[str, float] = field(init=False)  # cost -> what does not lie on edges
    selectable: dict[str, Tensor] = field(init=False)  # cell type -> (edges, candidates), 1 where it may be chosen
    bounds: dict[str, tuple[float, float]] = field(init=False)  # of costs without a limit: what can be expected
    scaled: dict[str, dict[str, Tensor]] = field(init=False)  # of the same: `tables` from 0 to 1, see _scaled
    kept: Tensor = field(init=False)  # (edges,), how likely an edge stays

    def __post_init__(self) -> None:
        given = {name: getattr(self.settings, name) for name in COSTS}
        self.limits = {name: float(limit) for name, limit in given.items() if limit is not None}
        by_table = self.latencies is not None
        self.names = list(dict.fromkeys([*self.limits, *self.also]))
        counted = [name for name in self.names if not (by_table and name == LATENCY)]
        self.tables = {name: self._table(name) for name in counted}
        self.selectable = {kind: self._selectable(kind) for kind in self.space.cell_types}
        self.kept = self._kept()
        reference = self.space.sample(random.Random(0))
        frame = self.space.frame
        known = network_costs(reference, self.settings.network, self.shape, self.device, counted, frame)
        self.rest = {name: known[name] - self._on_edges(name, reference) for name in counted}
        if self.latencies is not None and LATENCY in self.names:
            sums = self.latencies.sums
            self.tables[LATENCY] = {
                kind: torch.as_tensor(own, dtype=torch.float32, device=self.device) for kind, own in sums.tables.items()
            }
            self.rest[LATENCY] = sums.rest
        self.bounds = {name: self._bounds(name) for name in self.also}
        self.scaled = {name: self._scaled(name) for name in self.also}

    def measured(self, genotype: Genotype) -> dict[str, float]:
        """The costs, among those that are limited or to be known, of a genotype's own network."""
        size, frame = self.settings.network, self.space.frame
        return Costs(size, self.shape, self.device, frame, self.latencies).of(genotype, self.names)

    def keep_latency(self, folder: Path) -> None:
        """Write latencies that were measured here into a run's folder, or take those that it holds.

        A resumed run would measure others, and go on otherwise than it began. All processes take the first one's.
        """
        if self.latencies is not None or LATENCY not in self.names:
            return
        kept = None
        if distributed.is_main_process():
            file, edges = folder / "latency.json", len(self.space.edges())
            if not file.exists():
                tables = {kind: table.tolist() for kind, table in self.tables[LATENCY].items()}
                write_json(file, {"rest": self.rest[LATENCY], "tables": tables})
            rows = Length(edges, Length(len(self.space.candidates), FINITE))
            schema = {"rest": FINITE, "tables": dict.fromkeys(self.space.cell_types, rows)}
            kept = read_json(file, schema, "remove it to measure again")
        kept = distributed.broadcast(kept)
        self.rest[LATENCY] = kept["rest"]
        for kind, table in self.tables[LATENCY].items():
            table.copy_(torch.tensor(kept["tables"][kind]))
        self.bounds = {name: self._bounds(name) for name in self.also}
        self.scaled = {name: self._scaled(name) for name in self.also}

    def expected(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By cost, its expectation under the scores (edges, candidates) of every cell type; differentiable."""
        found = {}
        for name, table in self.tables.items():
            found[name] = torch.full((), self.rest[name], device=self.device)
            for kind, matrix in scores.items():
                chosen = matrix * self.selectable[kind]
                probabilities = chosen / chosen.sum(1, keepdim=True).clamp_min(1e-12)
                found[name] = found[name] + ((probabilities * table[kind]).sum(1) * self.kept).sum()
        return found

    def penalty(self, scores: Mapping[str, Tensor]) -> Tensor:
        """weight * sum over the limited costs of max(0, expected / limit - 1)."""
        expected = self.expected(scores)
        excess = [(expected[name] / limit - 1).clamp_min(0) for name, limit in self.limits.items()]
        return self.settings.weight * torch.stack(excess).sum()

    def relative(self, name: str, scores: Mapping[str, Tensor]) -> Tensor:
        """The expectation of one cost from 0, where every edge has its cheapest candidate, to 1; differentiable."""
        least, greatest = self.bounds[name]
        return (self.expected(scores)[name] - least) / (greatest - least)

    def _bounds(self, name: str) -> tuple[float, float]:
        """What a mixture can be expected to cost; `UserError` where that is one number."""
        least = greatest = self.rest[name]
        for kind, table in self.tables[name].items():
            allowed = self.selectable[kind] > 0
            least += float((table.masked_fill(~allowed, math.inf).amin(1) * self.kept).sum())
            greatest += float((table.masked_fill(~allowed, -math.inf).amax(1) * self.kept).sum())
        different = greatest > least
        require(different, "method.preference.cost", name, f"another cost: this one is {least:.6g} for all cells")
        return least, greatest

    def _scaled(self, name: str) -> dict[str, Tensor]:
        """By cell type, (edges, candidates), what a candidate adds to `relative` where its edge has it for sure."""
        least, greatest = self.bounds[name]
        found = {}
        for kind, table in self.tables[name].items():
            allowed = self.selectable[kind] > 0
            above = table - table.masked_fill(~allowed, math.inf).amin(1, keepdim=True)
            found[kind] = (above * self.kept[:, None] / (greatest - least)).masked_fill(~allowed, 0)
        return found

    def check(self, costs: Mapping[str, float], where: str) -> None:
        """Raise `UserError` where a found network costs more than it may."""
        for name, value in costs.items():
            if value > self.limits.get(name, math.inf):
                raise UserError(
                    f"the found cell needs {value:,.6g} {name}, constraints.{name} allows {self.limits[name]:,.6g}; "
                    f"it is kept in {where}; raise constraints.weight or the limit"
                )

    def _table(self, name: str) -> dict[str, Tensor]:
        table = {
            kind: torch.zeros(len(self.space.edges()), len(self.space.candidates)) for kind in self.space.cell_types
        }
        known: dict[Measured, float] = {}
        for place in places(self.space, self.settings.network, self.shape):
            for column in self.space.selectable(place.kind, place.edge):
                for carried in (self.space.candidates[column], *self.space.always):
                    key = place.measured(carried)
                    if key not in known:
                        operation = placed(operation_at(place, carried), self.device)
                        known[key] = _cost(name, operation, zero_map((place.input_channels, *place.sides), self.device))
                    table[place.kind][place.edge, column] += known[key]
        return {kind: matrix.to(self.device) for kind, matrix in table.items()}

    def _on_edges(self, name: str, genotype: Genotype) -> float:
        pairs = [(kind, place) for kind, cell in genotype.cells.items() for place in self.space.places(cell)]
        return sum(float(self.tables[name][kind][place]) for kind, place in pairs)

    def _selectable(self, kind: str) -> Tensor:
        mask = torch.zeros(len(self.space.edges()), len(self.space.candidates))
        for row in range(len(mask)):
            mask[row, self.space.selectable(kind, row)] = 1
        return mask.to(self.device)

    def _kept(self) -> Tensor:
        likelihoods = []
        for node in range(self.space.nodes):
            incoming = len(self.space.incoming(node))
            likelihoods += [self.space.kept(node) / incoming] * incoming
        return torch.tensor(likelihoods, device=self.device)


def operation_at(place: Place, name: str) -> nn.Module:
    """An operation as the network of a found cell has it at a place."""
    if place.kind == CHAIN:
        return layer(name).build(place.input_channels, place.channels, place.stride, True)
    return candidate(name).build(place.channels, place.stride, True)


def network_costs(
    genotype: Genotype,
    size: NetworkSettings,
    shape: InputShape,
    device: torch.device,
    names: Iterable[str] = COSTS,
    frame: Frame = NO_FRAME,
) -> dict[str, float]:
    """What the network of a genotype costs, without an auxiliary head: parameters, macs and latency_ms of one image.

    `frame`: what the genotype's space adds to its networks.
    """
    wanted = list(names)
    if not wanted:
        return {}
    network = network_of_size(genotype, size, shape, False, frame)
    image = zero_map(shape.map_shape, device)
    return {name: _cost(name, placed(network, device), image) for name in wanted}


@dataclass(frozen=True)
class Costs:
    """What networks of one size cost, with the latency of a table where there is one."""

    size: NetworkSettings
    shape: InputShape
    device: torch.device
    frame: Frame  # what the space adds to its networks
    latencies: Latencies | None

    def of(self, genotype: Genotype, names: Iterable[str]) -> dict[str, float]:
        """Of the network of a genotype, of one image."""
        wanted, looked_up = list(names), self.latencies is not None
        counted = [name for name in wanted if not (looked_up and name == LATENCY)]
        found = network_costs(genotype, self.size, self.shape, self.device, counted, self.frame)
        if self.latencies is not None and LATENCY in wanted:
            found[LATENCY] = self.latencies.of(genotype)
        return found


def tell_of_latency(names: Iterable[str], latencies: Latencies | None, device: torch.device) -> None:
    """Say at a search's start where its latencies come from; `names`: of the costs that it looks at."""
    if latencies is not None:
        log.info("%s", latencies.told())
    elif LATENCY in names:
        threads = torch.get_num_threads()
        log.info("latency: of one image, operation by operation on %s, %d threads: medians of %d passes after %d",
                 device, threads, REPETITIONS, WARM_UP)  # fmt: skip


def zero_map(shape: tuple[int, int, int], device: torch.device, images: int = 1) -> Tensor:
    """Maps of zeros (images, channels, height, width), as networks are given them."""
    return torch.zeros(images, *shape, device=device).contiguous(memory_format=torch.channels_last)


def _cost(name: str, module: torch.nn.Module, image: Tensor) -> float:
    if name == "parameters":
        return float(count_parameters_without_auxiliary(module))
    return float(count_macs(module, image)) if name == "macs" else latency_ms(module, image)
