"""Where the time goes: python -m darts.benchmark [experiment=darts_cifar10] [gpu=PHASE] [setting=value ...]."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.benchmark.settings import BenchmarkSettings
from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.identity import identity
from darts.runtime import distributed
from darts.runtime.garbage import import_torch

if TYPE_CHECKING:
    import torch

    from darts.benchmark.measure import Roofline


Metrics = dict[str, Any]


def measure(settings: BenchmarkSettings, folder: Path) -> Metrics:
    """Everything the command reports, as plain values; prints each row as soon as it is there unless json is set."""
    from darts.benchmark.measure import roofline
    from darts.loop.record import environment
    from darts.models.layout import choose_layout
    from darts.runtime.device import map_type, memory_advice, ready_device
    from darts.runtime.files import write_json

    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    choose_layout(device, map_type(settings.precision), folder)
    say = (lambda line: None) if settings.json else print
    machine = roofline(device, map_type(settings.precision))
    name = environment(device)["device"]
    say(f"{name}: {machine.gflops:,.0f} Gflop/s, {machine.gigabytes:.0f} GB/s; {settings.network.cells} cells\n")
    with memory_advice("lower search.batch_size, train.batch_size, network.channels or network.cells"):
        rows = [row for sized, count in _sizes(settings, device) for row in _rows(sized, count, device, machine, say)]
        growth = scaling(settings, device, folder) if settings.scaling else {}
    last = rows[-len(settings.rows) :]  # of the settings' own size, with the last number of threads
    for size, (time, memory) in growth.items():
        say(f"with {size}: time grows as its power {time:.2f}, memory as {memory:.2f}")
    metrics: Metrics = {
        "environment": environment(device),
        "settings": identity(settings),
        "roofline": dataclasses.asdict(machine),
        "rows": rows,
        "scaling": {size: {"time": time, "memory": memory} for size, (time, memory) in growth.items()},
        "extrapolation": extrapolation(settings, {row["name"]: row["variants"]["ours"]["median_ms"] for row in last}),
    }
    for what, hours in metrics["extrapolation"].items():
        say(f"{what}: {hours:.2f} hours by these times")
    write_json(folder / "benchmark.json", metrics)
    return metrics


def _sizes(settings: BenchmarkSettings, device: torch.device) -> Iterator[tuple[BenchmarkSettings, int]]:
    """Settings of each size, the own one last, with each number of threads, which PyTorch has while it is the turn."""
    import torch

    own = torch.get_num_threads()
    smaller = [settings.at(*pair) for pair in settings.smaller]
    for count in (settings.threads if device.type == "cpu" else []) or [own]:
        torch.set_num_threads(count)
        yield from ((sized, count) for sized in (*smaller, settings))
    torch.set_num_threads(own)


def _rows(
    settings: BenchmarkSettings, threads: int, device: torch.device, machine: Roofline, say: Callable[[str], None]
) -> Iterator[Metrics]:
    from darts.benchmark.cases import cases

    of_search, of_training = settings.search.batch_size, settings.train.batch_size
    batch = f"batch {of_search}" if of_search == of_training else f"batch {of_search} and {of_training} (retraining)"
    channels = f"{settings.network.channels} channels"
    if settings.retrained.channels != settings.network.channels:
        channels += f" and {settings.retrained.channels} (retraining)"
    say(f"{batch}, {channels}, {threads} thread{'s' if threads > 1 else ''}\n{HEADER}")
    with tempfile.TemporaryDirectory(prefix="darts-") as place:
        for name, build in cases(settings, device, Path(place)).items():
            if name in settings.rows:
                size = {"batch": of_search, "channels": settings.network.channels, "threads": threads}
                row = {"name": name, **size, **_row(build(), settings, device, machine)}
                say(_line(row))
                yield row
    say("")


HEADER = f"{'':26}{'original':>25}{'reference':>25}{'ours':>25}{'speedup':>9}{'memory':>8}{'roofline':>9}"


def _line(row: Metrics) -> str:
    cells = []
    for name in ("original", "reference", "ours"):
        timing = row["variants"].get(name)
        spread = ""
        if timing is not None:
            digits = 0 if timing["median_ms"] >= 10 else 2
            middle, least, most = (f"{timing[key]:,.{digits}f}" for key in ("median_ms", "least_ms", "most_ms"))
            spread = f"{middle} ms ({least}-{most})"
        cells.append(f"{spread:>25}")
    fraction = "" if row["roofline_share"] is None else f"{100 * row['roofline_share']:.0f}%"
    return f"{row['name']:26}{''.join(cells)}{row['speedup']:8.2f}x{row['memory_ratio']:8.2f}{fraction:>9}"


def _row(case: Any, settings: BenchmarkSettings, device: torch.device, machine: Roofline) -> Metrics:
    from darts.benchmark.measure import footprint, in_turn

    timings = in_turn(case.actions, settings.repetitions, device, case.before)
    variants: dict[str, Metrics] = {}
    for name, action in case.actions.items():
        taken, timing = footprint(action, device), timings[name]
        variants[name] = {
            "median_ms": timing.median,
            "least_ms": timing.least,
            "most_ms": timing.most,
            "peak_mb": taken.peak_mb,
            "operators": taken.operators,
        }
    before, after = variants["original"], variants["ours"]
    reached = None if case.flops is None else case.flops / after["median_ms"] / 1e6
    return {
        "variants": variants,
        "speedup": before["median_ms"] / after["median_ms"],
        "memory_ratio": after["peak_mb"] / before["peak_mb"],
        "gflops": reached,
        "roofline_share": None if reached is None else reached / machine.gflops,
    }


def scaling(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, tuple[float, float]]:
    """How time and memory of a first-order step grow: by size, the exponents of the power laws that fit best."""
    from darts.benchmark.cases import random_search_data, search_action
    from darts.benchmark.measure import exponent, footprint, in_turn
    from darts.search import state as search_state

    batch, network = max(settings.search.batch_size // 4, 2), settings.network
    sizes: dict[str, list[int]] = {
        "batch": [batch, 2 * batch, 4 * batch],
        "channels": [network.channels, 2 * network.channels, 3 * network.channels],
        "cells": [4, 8, 12],
        "nodes": [2, 3, 4],
    }
    found = {}
    for size, values in sizes.items():
        actions = {}
        for value in values:
            changed = _resized(settings, size, value, batch)
            data = random_search_data(changed, device)
            actions[str(value)] = search_action(search_state.new_state(changed, data, device, folder / "scaling"))
        timings = in_turn(actions, settings.repetitions, device)
        memory = [footprint(action, device).peak_mb for action in actions.values()]
        found[size] = exponent(values, [timings[str(value)].least for value in values]), exponent(values, memory)
    return found


def _resized(settings: BenchmarkSettings, size: str, value: int, batch: int) -> BenchmarkSettings:
    """The settings with the batch given, and one size another."""
    loop = dataclasses.replace(settings.search, batch_size=value if size == "batch" else batch)
    network, space = settings.network, settings.space
    if size in ("channels", "cells"):
        network = dataclasses.replace(network, **{size: value})
    if size == "nodes":
        space = dataclasses.replace(space, nodes=value)
    return dataclasses.replace(settings, search=loop, network=network, space=space)


def extrapolation(settings: BenchmarkSettings, medians: dict[str, float]) -> dict[str, float]:
    """Hours of the whole search and retraining on `images` training images, from the medians of their steps."""
    images, loop, train = settings.images, settings.search, settings.train
    hours = {}
    if images and "evaluation" in medians:
        steps = math.ceil(images * loop.train_fraction / loop.batch_size)
        judged = math.ceil(images * (1 - loop.train_fraction) / loop.batch_size) * medians["evaluation"]
        for order in ("first", "second"):
            if f"search step, {order} order" in medians:
                epoch = steps * medians[f"search step, {order} order"] + judged
                hours[f"search, {order} order, {loop.epochs} epochs"] = loop.epochs * epoch / 3.6e6
    if images and "retraining step" in medians:
        steps = math.ceil(images / train.batch_size) * train.epochs
        hours[f"retraining, {train.epochs} epochs"] = steps * medians["retraining step"] / 3.6e6
    return hours


def draw(metrics: Metrics, path: Path) -> list[Path]:
    """The speedups and memory ratios as bars."""
    from matplotlib.figure import Figure

    from darts.loop.plotting import save_figure

    names = [f"{row['name']}: batch {row['batch']}, {row['threads']} thr." for row in metrics["rows"]]
    figure = Figure(figsize=(10, 0.35 * len(names) + 1.5))
    titles = {"speedup": "times as fast", "memory_ratio": "fraction of the memory"}
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        bars = axes.barh(names, [row[key] for row in metrics["rows"]], color="#1f77b4")
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.axvline(1, color="#888888", linewidth=1)
        axes.set_title(f"{title}, against the original's way", fontsize=10)
        axes.margins(x=0.15)
    figure.axes[0].invert_yaxis()
    figure.tight_layout()
    return save_figure(figure, path)


@cli_command("benchmark")
def main(settings: DictConfig) -> None:
    """Measure, print a table or JSON, and leave both and a plot in Hydra's folder."""
    typed = typed_settings(settings, BenchmarkSettings)
    distributed.require_single_process("this command; python -m darts.benchmark scaling starts several")
    folder = Path(HydraConfig.get().runtime.output_dir)
    import_torch()
    if typed.gpu is not None:
        from darts.benchmark.gpu import measure_phase

        record = measure_phase(typed, typed.gpu, folder)
        if typed.json:
            print(json.dumps(record))
        return
    metrics = measure(typed, folder)
    files = draw(metrics, folder / "benchmark")
    print(json.dumps(metrics) if typed.json else f"\nresult: {folder / 'benchmark.json'}, plot {files[0]}")


def command() -> None:
    """Run the benchmark, or what `scaling` asks for."""
    if sys.argv[1:2] == ["scaling"]:
        from darts.benchmark.scaling import main as scale

        scale(sys.argv[2:])
    else:
        main()


if __name__ == "__main__":
    command()
