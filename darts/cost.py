"""What a network costs: parameters, multiply-adds and measured latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module) -> int:
    """Number of trained values, biases and affine batch norms included."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_parameters_without_auxiliary(network: nn.Module) -> int:
    """The same without the auxiliary head, which exists in training alone; papers print this figure."""
    return sum(value.numel() for name, value in network.named_parameters() if not name.startswith("auxiliary."))


@torch.no_grad()
def count_macs(network: nn.Module, images: Tensor, *arguments: Any) -> int:
    """Multiply-adds of one forward pass in evaluation mode, of convolutions and matrix products."""
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(images, *arguments)
    network.train(training)
    return counter.get_total_flops() // 2


@torch.no_grad()
def latency_ms(network: nn.Module, images: Tensor, repetitions: int = 20) -> float:
    """Median time of a forward pass in evaluation mode, in milliseconds, after three passes of warm-up."""
    network.eval()
    times = [_timed(lambda: network(images), images.device) for _ in range(3 + repetitions)]
    return 1000 * statistics.median(times[3:])


def _timed(action: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - start
