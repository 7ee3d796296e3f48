"""Which layout of maps in memory and which depthwise kernel a GPU is fastest with, by a measurement at the start.

On the CPU channels last and the kernels of depthwise.py are known to be fastest, and nothing is measured.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from darts.models.fused.maps import convolved_alone, gradients_alone, mapped, moments
from darts.models.kernels.rows import installed
from darts.runtime import distributed
from darts.runtime.device import convolutions
from darts.runtime.files import read_json, write_json
from darts.runtime.schema import FINITE, OneOf

log = logging.getLogger(__name__)

Action = Callable[[], object]
Timer = Callable[[Action], float]  # milliseconds
CHOICES = {  # by name: the layout, whether PyTorch convolves depthwise and not cuDNN, whether our kernels do it all
    "channels last": (torch.channels_last, False, False),
    "channels last, own depthwise kernel": (torch.channels_last, True, False),
    "contiguous": (torch.contiguous_format, False, False),  # whose depthwise convolutions are that kernel anyway
    **({"channels last, Triton kernels": (torch.channels_last, False, True)} if installed() else {}),
}
RECORD = {"device": str, "choice": OneOf(tuple(CHOICES)), "milliseconds": {str: FINITE}}
STEPS = ((3, 1, 1), (5, 1, 1), (3, 1, 2), (5, 1, 2), (5, 2, 1))  # kernel, stride and dilation of what is timed
BATCH, EDGES, CHANNELS, SIDE = 64, 4, 16, 32  # of what is timed: a state of the published search's first cells


def choose_layout(device: torch.device, dtype: torch.dtype, folder: Path, timer: Timer | None = None) -> None:
    """Let this process convolve in the way that is fastest on a GPU; a folder keeps the choice for its run.

    A resumed run takes the folder's choice on the same kind of device, so that it computes as before. Without a `timer`
    only a GPU is measured, by its own clock. All processes take what the first one measured.
    """
    if timer is None and device.type != "cuda":
        return
    file, name = folder / "layout.json", _device_name(device)
    kept = read_json(file, RECORD, "remove it to measure again") if file.exists() else None
    if distributed.is_main_process() and (kept is None or kept["device"] != name):
        times = measured(device, dtype, timer or gpu_milliseconds)
        kept = {"device": name, "choice": min(times, key=times.__getitem__), "milliseconds": times}
        write_json(file, kept)
        log.info("maps lie %s, the fastest of %d ways on this device", kept["choice"], len(times))
    own = kept and kept["choice"]
    use(distributed.broadcast(own))


def use(choice: str) -> None:
    """Let this process convolve in the way of this name."""
    convolutions.memory_format, convolutions.own_depthwise, convolutions.kernels = CHOICES[choice]


@contextmanager
def used(choice: str) -> Iterator[None]:
    """Within the block this process convolves in the way of this name."""
    before = dataclasses.astuple(convolutions)
    use(choice)
    try:
        yield
    finally:
        convolutions.memory_format, convolutions.own_depthwise, convolutions.kernels = before


def measured(device: torch.device, dtype: torch.dtype, timer: Timer) -> dict[str, float]:
    """Return the milliseconds of what a state computes, forward and backward, in every way; the present way is kept."""
    found: dict[str, float] = {}
    for name in CHOICES:
        with used(name):
            found[name] = sum(timer(_work(device, dtype, *steps)) for steps in STEPS)
    return found


def _work(device: torch.device, dtype: torch.dtype, kernel: int, stride: int, dilation: int) -> Action:
    """A depthwise convolution with its moments and the product that reads it, and the convolution's gradients."""
    channels = EDGES * CHANNELS
    image = torch.ones(BATCH, channels, SIDE, SIDE, device=device, dtype=dtype)
    image = image.contiguous(memory_format=convolutions.memory_format)
    weight = torch.ones(channels, 1, kernel, kernel, device=device, dtype=dtype)
    matrices = torch.ones(EDGES, CHANNELS, CHANNELS, device=device)

    @torch.no_grad()
    def action() -> tuple[object, ...]:
        result = convolved_alone(image, weight, (stride, dilation))
        forward = moments(result, EDGES), mapped(result, matrices)
        return *forward, *gradients_alone(result, image, weight, (stride, dilation), True)

    return action


def gpu_milliseconds(action: Action, repetitions: int = 10) -> float:
    """Return the median time of an action on the GPU, after three that warm up."""
    times = []
    for _ in range(3 + repetitions):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[3:])


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
