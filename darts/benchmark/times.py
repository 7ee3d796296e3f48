"""Times, kernels and memory on a GPU: rows of `python -m darts.benchmark gpu=depthwise` and `gpu=steps`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from darts.benchmark.cases import evaluation_action, search_action, train_action
from darts.benchmark.checks import ORDERS, WARM_UP, first_retraining, first_state, warnings_of
from darts.benchmark.measure import Action, seconds
from darts.benchmark.settings import BenchmarkSettings
from darts.models import layout
from darts.models.fused.maps import convolved_alone, gradients_alone
from darts.models.settings import Engine
from darts.runtime.device import convolutions, map_type
from darts.runtime.settings import Precision

Found = dict[str, Any]
SHAPES = [  # batch, channels, side, kernel, stride, dilation: of one edge and of four stacked ones
    (64, channels, side, kernel, 1, dilation)
    for channels, side in ((16, 32), (64, 32), (128, 16), (256, 8))
    for kernel, dilation in ((3, 1), (5, 1), (5, 2))
]
KERNELS = 12  # of those that take most time, named in a row


def depthwise_rows(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, Callable[[], Found]]:
    """By shape: milliseconds of a depthwise convolution, forward and both gradients, in every way there is."""
    rows: dict[str, Callable[[], Found]] = {}
    for shape in SHAPES:
        batch, channels, side, kernel, _, dilation = shape
        name = f"{batch} x {channels} x {side} x {side}, {kernel} x {kernel}, dilation {dilation}"
        rows[name] = partial(depthwise_times, shape, device, map_type(settings.precision))
    return rows


def depthwise_times(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Found:
    """Forward, input gradient and both gradients of one shape, by the way maps lie."""
    batch, channels, side, kernel, stride, dilation = shape
    found: Found = {}
    for choice in layout.CHOICES:
        with layout.used(choice):
            image = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
            image = image.contiguous(memory_format=convolutions.memory_format)
            weight = torch.randn(channels, 1, kernel, kernel, device=device, dtype=dtype)
            actions: tuple[Action, ...] = (
                partial(convolved_alone, image, weight, (stride, dilation)),
                partial(gradients_alone, image, image, weight, (stride, dilation), False),
                partial(gradients_alone, image, image, weight, (stride, dilation), True),
            )
            found[choice] = " ".join(f"{_milliseconds(action, device):.3f}" for action in actions)
    found["MB read and written"] = 2 * image.numel() * image.element_size() / 1e6
    return found


def _milliseconds(action: Action, device: torch.device) -> float:
    with torch.no_grad():
        if device.type == "cuda":
            return layout.gpu_milliseconds(action)
        action()
        return 1e3 * min(seconds(action, device) for _ in range(3))


def step_rows(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, Callable[[], Found]]:
    """By what is timed: its milliseconds, kernels and memory, as the commands run it."""
    cuda = device.type == "cuda"
    layout.choose_layout(device, map_type(settings.precision), folder)
    ways = [(Engine.reference, Precision.fp32, False), (Engine.fused, Precision.fp32, False)]
    if cuda:
        ways += [
            (Engine.fused, Precision.bf16, True),
            (Engine.fused, Precision.bf16, False),
            (Engine.fused, Precision.fp32, True),
            (Engine.reference, Precision.fp32, True),
            (Engine.reference, Precision.bf16, True),
            (Engine.fused, Precision.tf32, True),
        ]
    rows: dict[str, Callable[[], Found]] = {}
    for order in ORDERS:
        for engine, precision, graphs in ways:
            own = dataclasses.replace(settings, engine=engine, precision=precision, graphs=graphs)
            own.method = dataclasses.replace(settings.method, hypergradient=ORDERS[order])
            rows[f"search, {order}, {_way(own)}"] = partial(search_times, own, device, folder)
        if order == "first order":
            rows |= _other_rows(settings, device, folder, ways)
            rows |= _rows_of_layouts(own, device, folder) if cuda else {}
    return rows


def _rows_of_layouts(settings: BenchmarkSettings, device: torch.device, folder: Path) -> dict[str, Callable[[], Found]]:
    """The recorded step in bfloat16 in every way that maps can lie and be convolved."""
    own = dataclasses.replace(settings, engine=Engine.fused, precision=Precision.bf16, graphs=True)

    def measure(choice: str) -> Found:
        with layout.used(choice):
            return search_times(own, device, folder)

    return {f"search, first order, {_way(own)}, maps {name}": partial(measure, name) for name in layout.CHOICES}


def _other_rows(
    settings: BenchmarkSettings, device: torch.device, folder: Path, ways: list[tuple[Engine, Precision, bool]]
) -> dict[str, Callable[[], Found]]:
    """Those of retraining and of the supernet's evaluation."""
    rows: dict[str, Callable[[], Found]] = {}
    for engine, precision, graphs in ways:
        own = dataclasses.replace(settings, engine=engine, precision=precision, graphs=graphs)
        if engine is Engine.fused:
            rows[f"retraining, {_way(own).partition(', ')[2]}"] = partial(retraining_times, own, device, folder)
        if not graphs:
            rows[f"evaluation, {_way(own)}"] = partial(evaluation_times, own, device, folder)
    return rows


def _way(settings: BenchmarkSettings) -> str:
    return f"{settings.engine.value}, {settings.precision.value}{', graph' if settings.graphs else ''}"


def search_times(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """A step of the search."""
    return times(search_action(first_state(settings, device, folder)), settings, device)


def retraining_times(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """A step of retraining."""
    return times(train_action(first_retraining(settings, device, folder, settings.graphs)), settings, device)


def evaluation_times(settings: BenchmarkSettings, device: torch.device, folder: Path) -> Found:
    """The supernet's answer to a batch."""
    return times(evaluation_action(first_state(settings, device, folder)), settings, device)


def times(action: Action, settings: BenchmarkSettings, device: torch.device) -> Found:
    """Milliseconds of an action once it has warmed up, the most memory it held, and the kernels it launches."""
    with warnings_of("darts.runtime.device") as told:
        warm_up = sum(seconds(action, device) for _ in range(WARM_UP + 1))  # the last of them records
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    taken = [1e3 * seconds(action, device) for _ in range(settings.repetitions)]
    found: Found = {"ms": statistics.median(taken), "least": min(taken), "most": max(taken), "warm-up s": warm_up}
    if cuda:
        found["GB"] = torch.cuda.max_memory_reserved(device) / 1e9
        found |= kernels(action, device)
    return {**found, **({"told": told[0]} if told else {})}


def kernels(action: Action, device: torch.device) -> Found:
    """How many kernels one call launches, how long they take together, and which take most."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        seconds(action, device)
    own = [event for event in found.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    own.sort(key=lambda event: -event.self_device_time_total)
    lines = [
        f"{event.self_device_time_total / 1e3:9.2f} ms {event.count:6d} x {event.key[:110]}" for event in own[:KERNELS]
    ]
    busy = sum(event.self_device_time_total for event in own) / 1e3
    return {"kernels": sum(event.count for event in own), "busy ms": busy, "most time": lines}
