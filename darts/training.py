"""Optimisers, learning rates as functions of progress, one weight step, and evaluation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.data import Batch
from darts.errors import UserError
from darts.settings import ArchitectureOptimiser, CosineUnit, WeightOptimiser


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA, then Apple's MPS, then the CPU), `cpu`, `cuda`, `cuda:1`, `mps`; `UserError` if it is missing."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if kind in available))
    if name not in available:
        raise UserError(f"device is {name!r}; this machine has: auto, {', '.join(available)}")
    return torch.device(name)


def set_determinism(wanted: bool) -> None:
    """On a GPU use algorithms that repeat to the bit, and warn where there is none; the CPU always repeats."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted, warn_only=True)


def weight_optimiser(parameters: Iterable[Tensor], settings: WeightOptimiser) -> torch.optim.SGD:
    """SGD whose learning rate `set_learning_rate` moves."""
    return torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def architecture_optimiser(parameters: Iterable[Tensor], settings: ArchitectureOptimiser) -> torch.optim.Adam:
    """Adam with the weight decay added to the gradient, as published."""
    betas = settings.beta1, settings.beta2
    return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay)


def cosine_learning_rate(settings: WeightOptimiser, progress: float, epochs: int) -> float:
    """From the learning rate to the final one along half a cosine; `progress` is the share of the run that is done.

    With `cosine_unit=epoch` the value holds for a whole epoch, as published.
    """
    if settings.cosine_unit is CosineUnit.EPOCH:
        progress = math.floor(progress * epochs + 1e-9) / epochs
    swing = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + swing * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give all parameter groups a learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[Tensor], clip: float) -> None:
    """One step down the gradient of a loss, whose norm over all parameters is clipped first."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if math.isfinite(clip):
        nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block batch norms normalise by the batch, as in training, but their running statistics stand still."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]
    for layer in norms:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in norms:
            layer.track_running_stats = True


class RunningMeans:
    """Means over the images seen so far, kept on the device so that no step waits for it."""

    def __init__(self, state: dict[str, list[float]] | None = None) -> None:
        self._sums: dict[str, Tensor] = {}
        self._images: dict[str, int] = {}
        for name, (total, images) in (state or {}).items():
            self._sums[name], self._images[name] = torch.tensor(total, dtype=torch.float64), int(images)

    def add(self, name: str, total: Tensor, images: int) -> None:
        """Add a sum over `images` images."""
        before = self._sums.get(name)
        total = total.detach().to("cpu" if total.device.type == "mps" else total.device, torch.float64)
        self._sums[name] = total if before is None else before.to(total.device) + total
        self._images[name] = self._images.get(name, 0) + images

    def means(self) -> dict[str, float]:
        """The means by name."""
        return {name: float(total) / self._images[name] for name, total in self._sums.items()}

    def state(self) -> dict[str, list[float]]:
        """Plain values from which the same means go on."""
        return {name: [float(total), self._images[name]] for name, total in self._sums.items()}


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of a batch are answered right."""
    return (logits.argmax(dim=1) == labels).sum()


@torch.no_grad()
def evaluate(forward: Callable[[Tensor], Tensor], module: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean loss and accuracy (0 to 1) in evaluation mode."""
    training = module.training
    module.eval()
    means = RunningMeans()
    for images, labels in batches:
        logits = forward(images)
        means.add("loss", F.cross_entropy(logits, labels, reduction="sum"), len(labels))
        means.add("accuracy", correct(logits, labels), len(labels))
    module.train(training)
    return means.means()


def stop_unless_finite(figures: dict[str, float], epoch: int, learning_rate: float, remedy: str) -> None:
    """Raise `UserError` where a mean of an epoch is NaN or infinite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise UserError(
                f"epoch {epoch + 1}: {name} is {value} at learning rate {learning_rate:.4g}; "
                f"the checkpoint before it is kept; {remedy}"
            )
