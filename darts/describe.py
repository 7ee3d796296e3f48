"""What a genotype costs, and its picture: python -m darts.describe genotype=darts_v2 network.channels=36 ..."""

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
    genotype: str  # latest, random, a published name, or a path
    input: InputSettings
    json: bool  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("input.size", self.input.size, self.network)


def describe(settings: DescribeSettings, genotype: Genotype) -> dict[str, Any]:
    """Parameters, multiply-adds and the median latency in ms of one image on the device."""
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
        "channels": size.channels,
        "cells": size.cells,
        "parameters": count_parameters_without_auxiliary(network),
        "parameters_with_auxiliary": count_parameters(network),
        "macs": count_macs(network, images),
        "latency_ms": round(latency_ms(network, images), 3),
        "device": str(device),
    }


@cli_command("describe")
def main(settings: DictConfig) -> None:
    """Print a genotype's cost and draw its cells into Hydra's folder."""
    typed = typed_settings(settings, DescribeSettings)
    genotype = find_genotype(typed.genotype, typed.space, typed.runs, typed.seed)
    metrics = describe(typed, genotype)
    from darts.loop.plotting import save_cells

    files = save_cells(genotype, Path(HydraConfig.get().runtime.output_dir))
    if typed.json:
        print(json.dumps(metrics))
        return
    print(f"{typed.genotype}: {metrics['channels']} channels, {metrics['cells']} cells")
    for kind, cell in genotype.cells.items():
        print(f"{kind:9} cell: {cell}")
    print(f"parameters    {metrics['parameters']:,} ({metrics['parameters_with_auxiliary']:,} with the auxiliary head)")
    print(f"multiply-adds {metrics['macs'] / 1e6:.1f} M of one {typed.input.size} x {typed.input.size} image")
    print(f"latency       {metrics['latency_ms']:.1f} ms of one image on {metrics['device']}")
    print(f"pictures      {', '.join(str(file) for file in files)}")


if __name__ == "__main__":
    main()
