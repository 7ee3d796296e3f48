"""What is learned: the loss of a batch, and what is measured on it.

The loops know no more of a task than this. A task's own models and batches come together through it:

    output = model(batch.inputs, ...)          # whatever the task's model answers
    task.loss(output, batch.targets)           # this process's part of the mean loss
    task.measured(output, batch.targets, loss) # sums with counts, for the record
    task.carry(output)                         # what the next batch of a sequence begins with; None for pictures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from darts.runtime import distributed
from darts.runtime.device import widened
from darts.tasks.metric import ACCURACY, Metric


@dataclass(frozen=True)
class Mean:
    """What a step measured: a sum, and over how many it is one, so that it cannot be divided by another number."""

    total: Tensor  # a scalar on the device
    count: int

    @classmethod
    def of(cls, value: Tensor, count: int = 1) -> Mean:
        """A mean over `count` examples, or a single number."""
        return cls(value * count, count)

    def added(self, other: Mean | None) -> Mean:
        """The mean over what both are over."""
        return self if other is None else Mean(self.total + other.total, self.count + other.count)


StepMetrics = dict[str, Mean]


class Batch(NamedTuple):
    """What a model is given and what it should answer, on the device.

    Images (batch, C, H, W), in memory as all maps are, and labels (batch,); or words and the words that follow them;
    or tuples with what each of several tasks has.
    """

    inputs: Any
    targets: Any

    @property
    def examples(self) -> int:
        """How many answers are wanted: images, words, or the examples of all tasks."""
        targets = self.targets if isinstance(self.targets, tuple) else (self.targets,)
        return sum(part.numel() for part in targets if part is not None)


class Task:
    """What is learned."""

    metric: Metric
    is_sequence = False  # batches follow each other in the order of a text, and a state passes from one to the next
    clips_unrolled = False  # the published second order clips the gradients of its unrolled step as well

    def prepare_epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Make ready for the epoch after those whose lines are in `history`."""

    def loss(self, output: Any, targets: Any) -> Tensor:
        """Return this process's part of the whole batch's mean loss."""
        raise NotImplementedError

    def architecture_loss(self, output: Any, targets: Any) -> Tensor:
        """Return this process's part of the validation loss that alpha moves down."""
        return self.loss(output, targets)

    def training_loss(self, output: Any, loss: Tensor) -> Tensor:
        """Return the loss with the terms that only the weights' step has."""
        return loss

    def measured(self, output: Any, targets: Any, loss: Tensor) -> StepMetrics:
        """Return what a training step measured; `loss` is the whole batch's, detached."""
        raise NotImplementedError

    def evaluated(self, output: Any, targets: Any) -> StepMetrics:
        """Return what an evaluation measures of a batch: `measured` with the loss computed as a sum."""
        raise NotImplementedError

    def carry(self, output: Any) -> Tensor | None:
        """Return what the next batch begins with, detached; None where batches do not follow each other."""
        return None

    def continued(self, batch: Batch, carry: Tensor | None) -> Batch:
        """Return a batch that begins with what the batch before it left."""
        return batch

    def completed(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the means of an epoch with what follows from them."""
        return dict(means)


class Classification(Task):
    """One of several classes for each example; judged by the accuracy, from 0 to 1."""

    metric = ACCURACY

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy; `output`: logits (batch, classes)."""
        return cross_entropy(widened(output), targets)

    def measured(self, output: Tensor, targets: Tensor, loss: Tensor) -> StepMetrics:
        number = len(targets)
        right = correct(output.detach(), targets)
        return {"loss": Mean.of(loss, number), "accuracy": Mean(right, number)}

    def evaluated(self, output: Tensor, targets: Tensor) -> StepMetrics:
        loss = F.cross_entropy(output.float(), targets, reduction="sum")
        number = len(targets)
        return {"loss": Mean(loss, number), "accuracy": Mean(correct(output, targets), number)}


CLASSIFICATION = Classification()


def cross_entropy(logits: Tensor, wanted: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return this process's part of the whole batch's mean loss; with one process, the mean itself.

    `wanted`: labels (batch,), or probabilities (batch, classes); `smoothing`: the fraction that all classes share.
    """
    if distributed.world_size() == 1:
        return F.cross_entropy(logits, wanted, label_smoothing=smoothing)
    (examples,) = distributed.all_reduce_numbers([len(wanted)])
    return F.cross_entropy(logits, wanted, reduction="sum", label_smoothing=smoothing) / examples


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many of a batch are classified correctly."""
    return (logits.argmax(dim=1) == labels).sum()
