"""Optimisers, learning rates as functions of progress, one weight step, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts import parallel
from darts.bilevel import whole
from darts.data import Batch
from darts.errors import NotFiniteError
from darts.settings import ArchitectureOptimiser, CosineUnit, WeightOptimiser


def weight_optimiser(parameters: Iterable[Tensor], settings: WeightOptimiser, graphs: bool = False) -> torch.optim.SGD:
    """SGD whose learning rate `set_learning_rate` moves; with `graphs` that is a tensor which a CUDA graph reads."""
    parameters = list(parameters)
    rate = torch.tensor(settings.learning_rate, device=parameters[0].device) if graphs else settings.learning_rate
    return torch.optim.SGD(
        parameters,
        lr=rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=graphs or None,
    )


def architecture_optimiser(
    parameters: Iterable[Tensor], settings: ArchitectureOptimiser, graphs: bool = False
) -> torch.optim.Adam:
    """Adam with the weight decay added to the gradient, as published."""
    return torch.optim.Adam(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        capturable=graphs,
    )


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
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[Tensor], clip: float) -> None:
    """One step down the gradient of a loss, whose norm over all parameters is clipped first; see `require_finite`.

    Of the loss each process has a share (`cross_entropy`).
    """
    require_finite(whole(loss), "the training loss")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for parameter, slope in zip(parameters, parallel.summed([parameter.grad for parameter in parameters]), strict=True):
        parameter.grad = slope
    _clip(parameters, clip)
    optimiser.step()


def require_finite(value: Tensor, what: str) -> None:
    """Raise `NotFiniteError` where a number is NaN or infinite, so that no step is taken by it.

    On the CPU alone: other devices would have to wait for the answer; there the sums are looked at now and then
    (progress.py), and nothing that is not finite is ever saved.
    """
    if value.device.type == "cpu" and not math.isfinite(float(value.detach())):
        raise NotFiniteError(f"{what} is {float(value.detach())}")


def _clip(parameters: Iterable[Tensor], clip: float) -> None:
    held = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in held if parameter.grad is not None])
    require_finite(norm, "the norm of the weights' gradient")
    if math.isfinite(clip):
        nn.utils.clip_grads_with_norm_(held, clip, norm)


def step_down(
    optimiser: torch.optim.Optimizer,
    weights: Mapping[str, Tensor],
    slopes: Sequence[Tensor | None],
    clip: float,
    frozen: Mapping[str, Tensor],
) -> None:
    """One step along given slopes, clipped together; weights without one, or where `frozen` is true, stay."""
    for (name, weight), slope in zip(weights.items(), slopes, strict=True):
        weight.grad = slope.masked_fill(frozen[name], 0) if slope is not None and name in frozen else slope
    _clip(weights.values(), clip)
    before = {name: weights[name].detach().clone() for name in frozen}
    optimiser.step()
    with torch.no_grad():
        for name, mask in frozen.items():
            weights[name].copy_(torch.where(mask, before[name], weights[name]))


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
        """The means by name, over all processes."""
        own = [float(total) for total in self._sums.values()] + [self._images[name] for name in self._sums]
        sums = parallel.totals(own)
        return {name: sums[at] / sums[len(self._sums) + at] for at, name in enumerate(self._sums)}

    def require_finite(self) -> None:
        """Raise `NotFiniteError` naming the first that is NaN or infinite; waits for the device."""
        for name, mean in self.means().items():
            if not math.isfinite(mean):
                raise NotFiniteError(f"{name} is {mean}")

    def state(self) -> dict[str, list[float]]:
        """Plain values from which the same means go on."""
        return {name: [float(total), self._images[name]] for name, total in self._sums.items()}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the whole batch; of several processes, each with its own images, this one's share of it."""
    if parallel.processes() == 1:
        return F.cross_entropy(logits, labels)
    (images,) = parallel.totals([len(labels)])
    return F.cross_entropy(logits, labels, reduction="sum") / images


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
        means.add("loss", F.cross_entropy(logits.float(), labels, reduction="sum"), len(labels))
        means.add("accuracy", correct(logits, labels), len(labels))
    module.train(training)
    return means.means()


def stop_unless_finite(figures: dict[str, float], epoch: int, learning_rate: float, remedy: str) -> None:
    """Raise `UserError` where a mean of an epoch is NaN or infinite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"epoch {epoch + 1}: {name} is {value} at learning rate {learning_rate:.4g}; "
                f"the checkpoint before it is kept; {remedy}"
            )
