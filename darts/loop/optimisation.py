"""Optimisers, learning rates as functions of progress, one weight step, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from darts.loop.eager import eager
from darts.loop.optimiser_state import lay_out_gradients
from darts.loop.settings import ArchitectureOptimiser, CosineUnit, WeightOptimiser
from darts.runtime import distributed
from darts.runtime.device import Outputs, Recorder
from darts.runtime.errors import NotFiniteError
from darts.runtime.reduction import whole_loss
from darts.tasks.task import CLASSIFICATION, Batch, Mean, Task


def weight_optimiser(parameters: Iterable[Tensor], settings: WeightOptimiser, graphs: bool = False) -> torch.optim.SGD:
    """SGD whose learning rate `set_learning_rate` moves; with `graphs` that is a tensor which a CUDA graph reads."""
    weights = list(parameters)
    together = not graphs and all(weight.device.type == "cpu" for weight in weights)
    optimiser = eager(torch.optim.SGD)(
        weights,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=graphs or None,
        foreach=together or None,  # on a CPU the same bits by half the calls; elsewhere PyTorch chooses
    )
    for group in optimiser.param_groups if graphs else []:
        group["lr"] = torch.full((), settings.learning_rate, device=group["params"][0].device)
    return optimiser


def architecture_optimiser(
    parameters: Iterable[Tensor], settings: ArchitectureOptimiser, graphs: bool = False
) -> torch.optim.Adam:
    """Adam with the weight decay added to the gradient, as published."""
    return eager(torch.optim.Adam)(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        capturable=graphs,
    )


def cosine_learning_rate(settings: WeightOptimiser, progress: float, epochs: int) -> float:
    """From the learning rate to the final one along half a cosine.

    `progress` is the fraction of the run, or of a stage of it, that is done; `epochs` how long that is. With
    `cosine_unit=epoch` the value holds for a whole epoch, as published.
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
    """Take one step down the gradient of a loss, whose norm over all parameters is clipped first.

    `loss` is this process's part of the whole batch's (`cross_entropy`). Raises what `require_finite` raises.
    """
    require_finite(whole_loss(loss), "the training loss")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    gradients = distributed.all_reduce([parameter.grad for parameter in parameters])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    _clip(parameters, clip)
    take_step(optimiser)


def require_finite(value: Tensor, what: str) -> None:
    """Raise `NotFiniteError` where a number is NaN or infinite, so that no step is taken by it.

    On the CPU only: other devices would have to wait for the answer; there the sums are looked at now and then
    (run_state.py), and nothing that is not finite is ever saved.
    """
    if value.device.type == "cpu" and not math.isfinite(float(value.detach())):
        raise NotFiniteError(f"{what} is {float(value.detach())}")


def _clip(parameters: Iterable[Tensor], clip: float) -> None:
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in with_gradient if parameter.grad is not None])
    require_finite(norm, "the norm of the weights' gradient")
    if math.isfinite(clip):
        nn.utils.clip_grads_with_norm_(with_gradient, clip, norm)


def take_step(optimiser: torch.optim.Optimizer, rate: str = "the learning rate") -> None:
    """One step of an optimiser; `NotFiniteError` where float32 does not hold it, naming `rate`."""
    try:
        optimiser.step()
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        raise NotFiniteError(f"a step by {rate} is beyond float32") from None


def step_down(
    optimiser: torch.optim.Optimizer,
    weights: Mapping[str, Tensor],
    gradients: Sequence[Tensor | None],
    clip: float,
    frozen: Mapping[str, Tensor],
) -> None:
    """Take one step along given gradients, clipped together; weights without one, or where `frozen` is true, stay."""
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if gradient is not None and name in frozen:
            gradient = gradient.masked_fill(frozen[name], 0)
        weight.grad = gradient
    lay_out_gradients(weights.values())
    _clip(weights.values(), clip)
    before = {name: weights[name].detach().clone() for name in frozen}
    take_step(optimiser)
    with torch.no_grad():
        for name, mask in frozen.items():
            weights[name].copy_(torch.where(mask, before[name], weights[name]))


class RunningMeans:
    """Means over what the steps of an epoch measured, kept on the device so that no step waits for it."""

    def __init__(self, state: Mapping[str, Sequence[float]] | None = None) -> None:
        self._totals: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        for name, (total, count) in (state or {}).items():
            self._totals[name] = torch.tensor(total, dtype=torch.float64)
            self._counts[name] = int(count)

    def add(self, name: str, measured: Mean) -> None:
        """Add what a step measured."""
        before = self._totals.get(name)
        place = "cpu" if measured.total.device.type == "mps" else measured.total.device
        total = measured.total.detach().to(place, torch.float64)
        self._totals[name] = total if before is None else before.to(total.device) + total
        self._counts[name] = self._counts.get(name, 0) + measured.count

    def means(self) -> dict[str, float]:
        """Return the means by name, over all processes."""
        names = list(self._totals)
        own = [float(self._totals[name]) for name in names] + [self._counts[name] for name in names]
        sums = distributed.all_reduce_numbers(own)
        return {name: sums[at] / sums[len(names) + at] for at, name in enumerate(names)}

    def own_means(self) -> dict[str, float]:
        """Return the means by name, over what this process has measured; waits for the device."""
        return {name: float(total) / self._counts[name] for name, total in self._totals.items()}

    def require_finite(self) -> None:
        """Raise `NotFiniteError` naming the first mean that is NaN or infinite; waits for the device."""
        for name, mean in self.means().items():
            if not math.isfinite(mean):
                raise NotFiniteError(f"{name} is {mean}")

    def state_dict(self) -> dict[str, list[float]]:
        """Return plain values from which the same means can be continued."""
        return {name: [float(total), self._counts[name]] for name, total in self._totals.items()}


@torch.no_grad()
def evaluate(
    forward: Callable[[Any], Any],
    module: nn.Module,
    batches: Iterable[Batch],
    graphed: Recorder = lambda s: s,
    seen: Callable[[Any, Tensor], None] = lambda output, targets: None,
    task: Task = CLASSIFICATION,
) -> dict[str, float]:
    """Return the means of what a task measures, in evaluation mode; of images loss and accuracy (0 to 1).

    `graphed` may record the step of a batch; `seen` is given each batch's output and targets, valid until the next.
    The batches of a sequence follow each other: each begins with the state that the one before it left.
    """
    carry: Tensor | None = None

    def step(inputs: Any, targets: Tensor) -> Outputs:
        nonlocal carry
        output = forward(inputs)
        carry = task.carry(output)
        return {"output": output, "measured": task.evaluated(output, targets)}

    training, run = module.training, graphed(step)
    module.eval()
    means = RunningMeans()
    for batch in batches:
        found = run(*task.continued(batch, carry))
        for name, mean in found["measured"].items():
            means.add(name, mean)
        seen(found["output"], batch.targets)
    module.train(training)
    return task.completed(means.means())


def stop_unless_finite(metrics: dict[str, float], epoch: int, learning_rate: float, remedy: str) -> None:
    """Raise `NotFiniteError` where a mean of an epoch is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"epoch {epoch + 1}: {name} is {value} at learning rate {learning_rate:.4g}; "
                f"the checkpoint before it is kept; {remedy}"
            )
