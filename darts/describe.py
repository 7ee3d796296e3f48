"""What a genotype costs, its printed forms and its picture: python -m darts.describe genotype=darts_v2 ..."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.registry import command_settings
from darts.loop.settings import CommonSettings, check_size
from darts.models.settings import NetworkSettings
from darts.runtime.errors import require
from darts.spaces.nasbench201 import has_string, to_string
from darts.spaces.notation import has_notation, to_notation
from darts.spaces.sources import find_genotype

if TYPE_CHECKING:
    from darts.spaces.genotype import Genotype


@dataclass
class InputSettings:
    """The images that a network is described for."""

    channels: int  # of an image
    size: int  # side of an image in pixels
    classes: int  # answers of the network

    def __post_init__(self) -> None:
        for name in ("channels", "size", "classes"):
            require(getattr(self, name) >= 1, f"input.{name}", getattr(self, name), "at least 1")


@command_settings("describe")
@dataclass
class DescribeSettings(CommonSettings):
    """The settings of `python -m darts.describe`."""

    network: NetworkSettings
    genotype: str  # latest, random, random:7, a published name, a path, or a cell as printed
    input: InputSettings
    json: bool  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("input.size", self.input.size, self.network)


def describe(settings: DescribeSettings, genotype: Genotype) -> dict[str, Any]:
    """Printed forms, parameters, multiply-adds and the median latency in ms of one image on the device."""
    import torch

    from darts.models.cost import count_macs, count_parameters, count_parameters_without_auxiliary, latency_ms
    from darts.models.network import build_network
    from darts.runtime.device import choose_device, placed
    from darts.spaces.search_space import InputShape

    device = choose_device(settings.device)
    size, image = settings.network, settings.input
    shape = InputShape(image.channels, image.size, image.classes)
    network = build_network(genotype, size.cells, size.channels, size.stem_reductions, shape)
    placed(network, device)
    images = torch.zeros(1, image.channels, image.size, image.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return {
        "genotype": genotype.digest(),
        "space": genotype.space,
        **printed_forms(genotype),
        "channels": size.channels,
        "cells": size.cells,
        "parameters": count_parameters_without_auxiliary(network),
        "parameters_with_auxiliary": count_parameters(network),
        "macs": count_macs(network, images),
        "latency_ms": round(latency_ms(network, images), 3),
        "device": str(device),
    }


def printed_forms(genotype: Genotype) -> dict[str, str]:
    """A genotype in the forms that others print and read: `notation` the papers', `string` NAS-Bench-201's.

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
    from darts.models.operations import OPERATIONS

    genotype = find_genotype(typed.genotype, typed.space, typed.runs, typed.seed, OPERATIONS)
    metrics = describe(typed, genotype)
    from darts.loop.plotting import save_cells

    files = save_cells(genotype, Path(HydraConfig.get().runtime.output_dir))
    if typed.json:
        print(json.dumps(metrics))
        return
    called = typed.genotype if len(typed.genotype) <= 80 else "genotype"  # a name or a path, not a whole cell
    print(f"{called}: {metrics['channels']} channels, {metrics['cells']} cells")
    for kind, cell in genotype.cells.items():
        print(f"{kind:9} cell: {cell}")
    for form in ("notation", "string"):
        if form in metrics:
            print(f"{form:13} {metrics[form]}")
    print(f"parameters    {metrics['parameters']:,} ({metrics['parameters_with_auxiliary']:,} with the auxiliary head)")
    print(f"multiply-adds {metrics['macs'] / 1e6:.1f} M of one {typed.input.size} x {typed.input.size} image")
    print(f"latency       {metrics['latency_ms']:.1f} ms of one image on {metrics['device']}")
    print(f"pictures      {', '.join(str(file) for file in files)}")


if __name__ == "__main__":
    main()
