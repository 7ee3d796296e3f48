"""What a genotype costs, its printed forms and its picture: python -m darts.describe genotype=darts_v2 ..."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.registry import command_settings
from darts.loop.settings import CommonSettings, check_cells, check_size
from darts.models.settings import InputSettings, NetworkSettings
from darts.runtime.errors import UserError, require
from darts.runtime.garbage import import_torch
from darts.spaces.genotype import called, in_a_list
from darts.spaces.notation import has_notation, to_notation
from darts.spaces.search_space import Skeleton, sides_of, size_of
from darts.spaces.sources import find_genotype
from darts.spaces.strings import has_string, to_string

if TYPE_CHECKING:
    from darts.spaces.genotype import Cell, Genotype


class Style(Enum):
    """How cells are drawn."""

    CHART = "chart"
    GRAPH = "graph"


@command_settings("describe")
@dataclass
class DescribeSettings(CommonSettings):
    """The settings of `python -m darts.describe`."""

    network: NetworkSettings
    genotype: str  # latest, random, random:7, a published name, a path, or a cell as printed
    input: InputSettings
    against: str | None  # another genotype, named in the same ways: both are drawn side by side and compared
    style: Style  # of the pictures: chart, a row for each edge; or graph, as papers draw cells
    json: bool  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("input.size", size_of(self.input.size), self.network, self.space)
        check_cells("network.cells", self.network, self.space)
        allowed = "a space of images: what is described is a network of images"
        require(self.space.skeleton is not Skeleton.recurrent, "space", self.space.name, allowed)


def describe(settings: DescribeSettings, genotype: Genotype) -> dict[str, Any]:
    """Printed forms, parameters, multiply-adds and the median latency in ms of one image on the device."""
    import torch

    from darts.models.cost import count_macs, count_parameters, count_parameters_without_auxiliary, latency_ms
    from darts.models.network import network_of_size
    from darts.runtime.device import choose_device, placed

    device = choose_device(settings.device)
    size, shape = settings.network, settings.input.shape()
    chain = settings.space.chain
    network = network_of_size(genotype, size, shape, True, settings.space.frame)
    placed(network, device)
    images = torch.zeros(1, *shape.map_shape, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return {
        "genotype": genotype.digest(),
        "space": genotype.space,
        **printed_forms(genotype),
        "channels": size.channels,
        "cells": size.cells if chain is None else chain.layers,
        "parameters": count_parameters_without_auxiliary(network),
        "parameters_with_auxiliary": count_parameters(network),
        "macs": count_macs(network, images),
        "latency_ms": round(latency_ms(network, images), 3),
        "device": str(device),
    }


def printed_forms(genotype: Genotype) -> dict[str, str]:
    """A genotype in the forms that others print and read: `notation` the papers', `string` its benchmark's.

    A form that cannot express the genotype is left out.
    """
    found = {}
    if has_notation(genotype):
        found["notation"] = to_notation(genotype)
    if has_string(genotype):
        found["string"] = to_string(genotype)
    return found


@cli_command("describe")
def main(settings: DictConfig) -> None:
    """Print a genotype's cost and draw its cells into Hydra's folder."""
    typed = typed_settings(settings, DescribeSettings)
    import_torch()
    from darts.models.operations import OPERATIONS
    from darts.runtime.device import memory_advice

    genotype, other = find_genotype(typed.genotype, typed.space, typed.runs, typed.seed, OPERATIONS), None
    if typed.against is not None:
        other = find_genotype(typed.against, typed.space, typed.runs, typed.seed, OPERATIONS)
        refuse_nothing_in_common(genotype, other, typed.against)
    sizes = "lower network.channels, network.cells, input.size, input.channels or input.classes"
    with memory_advice(sizes, saved=False):
        metrics = describe(typed, genotype)
        if other is not None:
            metrics["against"] = describe(typed, other)
    files = draw(typed, genotype, Path(HydraConfig.get().runtime.output_dir))
    if other is not None:
        files += draw_both(genotype, other, (name_of(typed.genotype), name_of(typed.against or "")), files[0].parent)
    if typed.json:
        print(json.dumps(metrics))
        return
    tell(typed, genotype, metrics, files)
    if other is not None:
        tell_difference(genotype, other, metrics)


def draw(settings: DescribeSettings, genotype: Genotype, folder: Path) -> list[Path]:
    """Draw the cells in the style that is asked for; returns the files."""
    from darts.loop.cell_graphs import draw_graph
    from darts.loop.plotting import save_cells, save_figure

    if settings.style is Style.CHART:
        return save_cells(genotype, folder)
    files = []
    for kind, cell in genotype.cells.items():
        files += save_figure(draw_graph(cell, called(kind)), folder / f"{kind}_graph")
    return files


def refuse_nothing_in_common(first: Genotype, second: Genotype, against: str) -> None:
    """`UserError` where two genotypes have no cell type in common."""
    if not set(first.cells) & set(second.cells):
        told = f"has cells of the types {', '.join(second.cells)}, and the first {', '.join(first.cells)}"
        raise UserError(f"against: {name_of(against)} {told}")


def draw_both(first: Genotype, second: Genotype, names: tuple[str, str], folder: Path) -> list[Path]:
    """Draw two genotypes side by side."""
    from darts.loop.cell_graphs import draw_side_by_side
    from darts.loop.plotting import save_figure

    return save_figure(draw_side_by_side(first, second, names), folder / "side_by_side")


def name_of(genotype: str) -> str:
    """A name or a path, not a whole cell."""
    return genotype if len(genotype) <= 80 else "genotype"


def tell_difference(first: Genotype, second: Genotype, metrics: dict[str, Any]) -> None:
    """Print which edges two genotypes do not share, and what the second one costs more or less."""
    other = metrics["against"]
    size, work = other["parameters"] / metrics["parameters"], other["macs"] / metrics["macs"]
    times = f"({size:.2f} times), {other['macs'] / 1e6:.1f} M multiply-adds ({work:.2f} times)"
    print(f"against       {other['parameters']:,} parameters {times}")
    for kind in first.cells:
        if kind not in second.cells:
            continue
        own, theirs = (edges_of(genotype.cells[kind]) for genotype in (first, second))
        print(f"{in_a_list(kind)}: {len(own & theirs)} edges in common, only in the first: {listed(own - theirs)}; "
              f"only in the second: {listed(theirs - own)}")  # fmt: skip


def edges_of(cell: Cell) -> set[tuple[int, str, int]]:
    """The edges of a cell as (node, operation, source)."""
    return {(node, edge.operation, edge.source) for node, edges in enumerate(cell.nodes) for edge in edges}


def listed(edges: set[tuple[int, str, int]]) -> str:
    """Edges as text, in the order of their nodes."""
    return ", ".join(f"{operation} {source} to {node}" for node, operation, source in sorted(edges)) or "none"


def tell(settings: DescribeSettings, genotype: Genotype, metrics: dict[str, Any], files: Sequence[Path]) -> None:
    """Print what a genotype is and costs."""
    typed = settings
    units = "cells" if typed.space.chain is None else "layers"
    print(f"{name_of(typed.genotype)}: {metrics['channels']} channels, {metrics['cells']} {units}")
    for kind, cell in genotype.cells.items():
        print(f"{in_a_list(kind)}: {cell}")
    for form in ("notation", "string"):
        if form in metrics:
            print(f"{form:13} {metrics[form]}")
    print(f"parameters    {metrics['parameters']:,} ({metrics['parameters_with_auxiliary']:,} with the auxiliary head)")
    height, width = sides_of(size_of(typed.input.size))
    print(f"multiply-adds {metrics['macs'] / 1e6:.1f} M of one {height} x {width} image")
    print(f"latency       {metrics['latency_ms']:.1f} ms of one image on {metrics['device']}")
    print(f"pictures      {', '.join(str(file) for file in files)}")


if __name__ == "__main__":
    main()
