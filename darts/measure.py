"""Times a space's operations on this machine for constraints.latency_table: python -m darts.measure space=darts ..."""

from __future__ import annotations

import csv
import io
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import quoted, typed_settings
from darts.config.registry import command_settings
from darts.loop.settings import CommonSettings, check_cells, check_size
from darts.models.settings import InputSettings, NetworkSettings
from darts.runtime.errors import UserError, require
from darts.runtime.garbage import import_torch
from darts.spaces.search_space import Skeleton, size_of

if TYPE_CHECKING:
    import torch

    from darts.models.latency import Measured


@command_settings("measure")
@dataclass
class MeasureSettings(CommonSettings):
    """The settings of `python -m darts.measure`."""

    network: NetworkSettings  # what a cell is to be used in: a search's constraints.network
    input: InputSettings
    batch_size: int  # images of a pass; the latencies are of one image
    warm_up: int  # passes before those that count
    repetitions: int  # passes that count

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("input.size", size_of(self.input.size), self.network, self.space)
        check_cells("network.cells", self.network, self.space)
        allowed = "a space of images: what is measured is a network of images"
        require(self.space.skeleton is not Skeleton.recurrent, "space", self.space.name, allowed)
        require(1 <= self.batch_size <= 65536, "batch_size", self.batch_size, "from 1 to 65536")
        require(0 <= self.warm_up <= 100_000, "warm_up", self.warm_up, "from 0 to 100000")
        require(1 <= self.repetitions <= 100_000, "repetitions", self.repetitions, "from 1 to 100000")


class Timing(NamedTuple):
    """The latency of one image, ms: the median, and the first and the third quartile."""

    median: float
    first_quartile: float
    third_quartile: float

    @property
    def spread(self) -> float:
        """From quartile to quartile, as a part of the median."""
        return (self.third_quartile - self.first_quartile) / max(self.median, 1e-12)


@cli_command("measure")
def main(settings: DictConfig) -> int:
    """Write operations.csv; returns how many operations it holds."""
    typed = typed_settings(settings, MeasureSettings)
    import_torch()
    import torch

    from darts.runtime.device import choose_device, memory_advice
    from darts.runtime.files import write_bytes

    device = choose_device(typed.device)
    file = Path(HydraConfig.get().runtime.output_dir) / "operations.csv"
    if file.exists():
        raise UserError(f"{file} is there already; give another hydra.run.dir")
    with memory_advice("lower batch_size, network.channels, network.cells or input.size", saved=False):
        found = measured(typed, device)
    threads = torch.get_num_threads()
    write_bytes(file, table(found, typed, device, threads).encode())
    images = "1 image" if typed.batch_size == 1 else f"{typed.batch_size} images"
    passes = f"medians of {typed.repetitions} passes of {images} after {typed.warm_up}"
    print(f"{len(found) - 1} operations and the rest of the network on {device}, {threads} threads: {passes}")
    widest = max(found, key=lambda key: found[key].spread)  # the rest has none
    if typed.repetitions > 1:
        spread = f"at most {100 * found[widest].spread:.0f}% of the median ({widest.operation})"
        print(f"from first to third quartile: {spread}")
    print(f"result: {file}")
    print(f"next:   python train_search.py {following(typed, file)}")
    return len(found)


def following(settings: MeasureSettings, file: Path) -> str:
    """The settings of a search that looks at the measurements, but for the limit, which is up to the user."""
    size = settings.network
    given = {
        "space": settings.space.name,
        "constraints.latency_table": quoted(str(file)),
        "constraints.network.channels": size.channels,
        **({} if settings.space.chain is not None else {"constraints.network.cells": size.cells}),
        "constraints.network.stem_reductions": size.stem_reductions,
        "constraints.latency_ms": "LIMIT",
    }
    return " ".join(f"{key}={value}" for key, value in given.items())


def measured(settings: MeasureSettings, device: torch.device) -> dict[Measured, Timing]:
    """The latency of every operation that may be chosen, at every place of the network, and last of all but these.

    Raises `UserError` for a space of which an operation cannot be built.
    """
    from darts.models.cost import operation_at, zero_map
    from darts.models.latency import places, rest_of
    from darts.models.network import network_of_size

    space, size, shape = settings.space, settings.network, settings.input.shape()
    found: dict[Measured, Timing] = {}
    for place in places(space, size, shape):
        own = [space.candidates[column] for column in space.selectable(place.kind, place.edge)]
        for key in map(place.measured, dict.fromkeys([*own, *space.always])):
            if key not in found:
                image = zero_map((place.input_channels, *place.sides), device, settings.batch_size)
                found[key] = timed(operation_at(place, key.operation), image, settings)
    cell = space.sample(random.Random(settings.seed))
    network = network_of_size(cell, size, shape, False, space.frame)
    whole = timed(network, zero_map(shape.map_shape, device, settings.batch_size), settings)
    on_edges = 0.0
    for place in places(space, size, shape):
        chosen = dict(space.places(cell.cells[place.kind]))
        if place.edge in chosen:
            name = space.candidates[chosen[place.edge]]
            for carried in (name, *space.always):
                on_edges += found[place.measured(carried)].median
    rest = whole.median - on_edges  # below 0 where operations take longer alone than among others
    found[rest_of(space, size, shape)] = Timing(rest, rest, rest)
    told = f"its operations alone {on_edges:.3f} ms, so that {rest:.3f} ms are the rest of the network"
    print(f"a network of a random cell takes {whole.median:.3f} ms, {told}")
    if rest < 0:
        print("warning: operations take no longer than their network; measure again, with more repetitions")
    return found


def timed(module: torch.nn.Module, images: torch.Tensor, settings: MeasureSettings) -> Timing:
    """The latency of one image of a batch."""
    from darts.models.cost import latencies_ms
    from darts.runtime.device import placed

    passes = latencies_ms(placed(module, images.device), images, settings.repetitions, settings.warm_up)
    times = [time / len(images) for time in passes]
    if len(times) < 2:
        return Timing(times[0], times[0], times[0])
    first, median, third = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, first, third)


def table(found: dict[Measured, Timing], settings: MeasureSettings, device: torch.device, threads: int) -> str:
    """The measurements as CSV."""
    from darts.models.latency import Measured

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own = ["latency_ms", "first_quartile_ms", "third_quartile_ms", "batch_size", "device", "threads"]
    writer.writerow([*Measured._fields, *own])
    writer.writerows(rows(found, settings, str(device), threads))
    return text.getvalue()


def rows(
    found: dict[Measured, Timing], settings: MeasureSettings, device: str, threads: int
) -> Iterator[tuple[object, ...]]:
    """A row for each measurement."""
    for key, timing in found.items():
        numbers = [f"{value:.6f}" for value in timing]
        yield *key, *numbers, settings.batch_size, device, threads


if __name__ == "__main__":
    main()
