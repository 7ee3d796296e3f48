"""What a genotype costs, and its picture: python -m darts.describe genotype=darts_v2 network.channels=36 ..."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts import config, errors
from darts.genotype_sources import find_genotype

if TYPE_CHECKING:
    from darts.genotype import Genotype

config.register()


def describe(settings: config.DescribeSettings, genotype: Genotype) -> dict[str, Any]:
    """Parameters, multiply-adds and the median latency in ms of one image on the device."""
    import torch

    from darts.cost import count_macs, count_parameters, count_parameters_without_auxiliary, latency_ms
    from darts.execution import choose_device, placed
    from darts.network import build_network
    from darts.spaces import InputShape

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


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="describe")
@errors.door
def main(settings: DictConfig) -> None:
    """Print a genotype's cost and draw its cells into Hydra's folder."""
    typed = config.typed(settings, config.DescribeSettings)
    genotype = find_genotype(typed.genotype, typed.space, typed.runs, typed.seed)
    figures = describe(typed, genotype)
    from darts.plotting import save_cells

    files = save_cells(genotype, Path(HydraConfig.get().runtime.output_dir))
    if typed.json:
        print(json.dumps(figures))
        return
    print(f"{typed.genotype}: {figures['channels']} channels, {figures['cells']} cells")
    for kind, cell in genotype.cells.items():
        print(f"{kind:9} cell: {cell}")
    print(f"parameters    {figures['parameters']:,} ({figures['parameters_with_auxiliary']:,} with the auxiliary head)")
    print(f"multiply-adds {figures['macs'] / 1e6:.1f} M of one {typed.input.size} x {typed.input.size} image")
    print(f"latency       {figures['latency_ms']:.1f} ms of one image on {figures['device']}")
    print(f"pictures      {', '.join(str(file) for file in files)}")


if __name__ == "__main__":
    main()
