"""The task of a language model: the word that follows, judged by the perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from darts.runtime import distributed
from darts.runtime.device import widened
from darts.tasks.metric import PERPLEXITY
from darts.tasks.task import Batch, Mean, StepMetrics, Task, cross_entropy


class TextInput(NamedTuple):
    """What a language model reads: words (T, B) and the state (B, n) that the piece before left; None: zeros."""

    words: Tensor
    hidden: Tensor | None = None


class TextOutput(NamedTuple):
    """What a language model answers."""

    logits: Tensor  # (T, B, V): of the word that follows
    hidden: Tensor  # (B, n): the state that the next piece begins with
    activations: Tensor  # (T, B, n): the cell's outputs before dropout
    dropped: Tensor  # (T, B, n): and after it


@dataclass(frozen=True)
class LanguageModelling(Task):
    """The mean negative log-likelihood of a word in nats, and its exponential, the perplexity.

    The weights' loss has two more terms (Merity et al. 2018, section 4.3): `temporal` times the mean square of the
    change of the cell's output from word to word, `activation` times the mean square of the output after dropout.
    """

    temporal: float = 0.0
    activation: float = 0.0

    metric = PERPLEXITY
    is_sequence = True
    clips_unrolled = True

    def loss(self, output: TextOutput, targets: Tensor) -> Tensor:
        return cross_entropy(widened(output.logits).flatten(0, 1), targets.flatten())

    def training_loss(self, output: TextOutput, loss: Tensor) -> Tensor:
        columns = output.activations.shape[1]
        share = columns / distributed.all_reduce_numbers([columns])[0]  # of the whole batch's mean
        if self.activation:
            loss = loss + share * self.activation * widened(output.dropped).square().mean()
        if self.temporal and len(output.activations) > 1:
            changes = widened(output.activations).diff(dim=0)
            loss = loss + share * self.temporal * changes.square().mean()
        return loss

    def measured(self, output: TextOutput, targets: Tensor, loss: Tensor) -> StepMetrics:
        return {"loss": Mean.of(loss, targets.numel())}

    def evaluated(self, output: TextOutput, targets: Tensor) -> StepMetrics:
        logits = output.logits.float().flatten(0, 1)
        return {"loss": Mean(F.cross_entropy(logits, targets.flatten(), reduction="sum"), targets.numel())}

    def carry(self, output: TextOutput) -> Tensor:
        return output.hidden.detach()

    def continued(self, batch: Batch, carry: Tensor | None) -> Batch:
        return batch._replace(inputs=batch.inputs._replace(hidden=carry))

    def completed(self, means: Mapping[str, float]) -> dict[str, float]:
        """Add the perplexity beside each loss in nats a word."""
        found = dict(means)
        for name, value in means.items():
            if name.split("/")[-1] == "loss":
                found[f"{name[: -len('loss')]}perplexity"] = perplexity(value)
        return found


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats a word; infinite, with which a run ends, where it is beyond all numbers."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
