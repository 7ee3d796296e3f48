"""Several tasks at once: batches that hold one of each, and the loss and the metrics of all of them.

Inputs, targets and outputs are tuples, a value a task, None where a task has no part in a batch. The tasks' supernets
come together in models/several.py.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from darts.runtime.errors import about
from darts.runtime.reduction import whole_loss
from darts.spaces.search_space import InputShape
from darts.tasks.batches import Batches, RawBatch, SearchData, Split, search_data
from darts.tasks.metric import ACCURACY
from darts.tasks.several_settings import SeveralDatasets, Weighting
from darts.tasks.task import CLASSIFICATION, Batch, Mean, StepMetrics, Task

WIDTH = len(RawBatch._fields)
TEMPERATURE = 2.0  # of the dynamic weight average (Liu, Johns and Davison 2019, section 3.2)


class SeveralTasks(Task):
    """Classification on several data sets, each by a network of its own.

    The loss of the weights is the sum of the tasks' losses, so that each network learns as it would alone. The loss of
    the architecture is their weighted mean. The metric is the mean of the accuracies, weighted by the given weights.
    """

    metric = ACCURACY

    def __init__(self, names: Sequence[str], fixed_weights: Sequence[float], weighting: Weighting) -> None:
        self.names = list(names)
        self.fixed_weights = list(fixed_weights)  # sum to 1
        self.weighting = weighting
        self.weights = list(fixed_weights)  # of this epoch, in the architecture loss

    def prepare_epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Weigh the tasks for the epoch that follows on those in `history`.

        By relative progress the weight of task k is proportional to its given weight times exp(r_k / 2), where r_k is
        the ratio of its last two validation losses (Liu, Johns and Davison 2019, equation 7); in the first two epochs
        all ratios are 1.
        """
        if self.weighting is Weighting.FIXED or len(history) < 2:
            return
        ratios = [self._ratio(history, name) for name in self.names]
        raised = [
            weight * math.exp(ratio / TEMPERATURE) for weight, ratio in zip(self.fixed_weights, ratios, strict=True)
        ]
        self.weights = [value / sum(raised) for value in raised]

    @staticmethod
    def _ratio(history: Sequence[Mapping[str, Any]], name: str) -> float:
        before, last = (line[f"valid/{name}/loss"] for line in history[-2:])
        return last / before if before > 0 else 1.0

    def loss(self, output: Sequence[Tensor | None], targets: Any) -> Tensor:
        losses = list(self._losses(output, targets).values())
        return sum(losses[1:], start=losses[0])

    def architecture_loss(self, output: Sequence[Tensor | None], targets: Any) -> Tensor:
        losses = self._losses(output, targets)
        terms = [weight * losses[name] for name, weight in zip(self.names, self.weights, strict=True) if name in losses]
        return sum(terms[1:], start=terms[0])

    def measured(self, output: Sequence[Tensor | None], targets: Any, loss: Tensor) -> StepMetrics:
        found: StepMetrics = {}
        for name, logits, labels in self._present(output, targets):
            own = logits.detach()
            whole = whole_loss(CLASSIFICATION.loss(own, labels))
            found |= _named(name, CLASSIFICATION.measured(own, labels, whole))
        return found

    def evaluated(self, output: Sequence[Tensor | None], targets: Any) -> StepMetrics:
        found: StepMetrics = {}
        for name, logits, labels in self._present(output, targets):
            found |= _named(name, CLASSIFICATION.evaluated(logits, labels))
        return found

    def completed(self, means: Mapping[str, float]) -> dict[str, float]:
        """The tasks' means, and beside every "NAME/loss" and "NAME/accuracy" their weighted mean over the tasks."""
        found = dict(means)
        first = self.names[0]
        for metric, weights in (("loss", self.weights), ("accuracy", self.fixed_weights)):
            for key in means:
                prefix, mark, rest = key.rpartition(f"{first}/{metric}")  # such as "train/"
                if mark and not rest and prefix[-1:] in ("", "/"):
                    values = [means[f"{prefix}{name}/{metric}"] for name in self.names]
                    total = sum(weight * value for weight, value in zip(weights, values, strict=True))
                    found[f"{prefix}{metric}"] = total
        return found

    def _losses(self, output: Sequence[Tensor | None], targets: Any) -> dict[str, Tensor]:
        """This process's part of each task's mean loss."""
        return {name: CLASSIFICATION.loss(logits, labels) for name, logits, labels in self._present(output, targets)}

    def _present(self, output: Sequence[Tensor | None], targets: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, logits, labels in zip(self.names, output, targets, strict=True):
            if logits is not None:
                yield name, logits, labels


def _named(task: str, metrics: Mapping[str, Mean]) -> StepMetrics:
    return {f"{task}/{name}": mean for name, mean in metrics.items()}


class SeveralBatches:
    """Batches that hold one batch of every task; the sets of smaller tasks begin again within an epoch."""

    def __init__(self, members: Sequence[Batches]) -> None:
        self.members = list(members)

    def __len__(self) -> int:
        """Batches that show every example of the largest set once."""
        return max(len(batches) for batches in self.members)

    def steps(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self)

    def rate_factor(self, epoch: int, step: int) -> float:
        """What the learning rate of a step is multiplied with: nothing changes for images and sounds."""
        return 1.0

    def prepared(self, raw: Sequence[Tensor]) -> Batch:
        """A raw batch, all tasks' tensors in a row, as the networks are trained on it."""
        raws = [RawBatch(*raw[first : first + WIDTH]) for first in range(0, len(raw), WIDTH)]
        return joined_batch([own.prepared(one) for own, one in zip(self.members, raws, strict=True)])

    def shuffled_raw(self, epoch: int, start: int = 0, steps: int | None = None) -> Iterator[tuple[Tensor, ...]]:
        """Batches `start` to `steps` (default: one epoch) of every task, their tensors in a row."""
        steps = len(self) if steps is None else steps
        streams = [batches.shuffled_raw(epoch, start, steps) for batches in self.members]
        for raws in zip(*streams, strict=True):
            yield tuple(tensor for raw in raws for tensor in raw)

    def mixed(self) -> Iterator[Batch]:
        """Every example of every task once, not augmented; a task that has been shown has no part in later batches."""
        return side_by_side([batches.mixed() for batches in self.members])


def joined_batch(parts: Sequence[Batch | None]) -> Batch:
    """One batch of all tasks; None for a task that has no part in it."""
    inputs = tuple(None if part is None else part.inputs for part in parts)
    return Batch(inputs, tuple(None if part is None else part.targets for part in parts))


def side_by_side(streams: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """The tasks' batches one beside the other, until the longest stream ends."""
    return map(joined_batch, itertools.zip_longest(*streams))


@dataclass(frozen=True)
class SeveralSplits:
    """The two splits of every task."""

    members: Mapping[str, Split]

    def to_json(self) -> str:
        """By task the indices of its splits, as split.json holds them."""
        return json.dumps({name: json.loads(split.to_json()) for name, split in self.members.items()}) + "\n"

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the splits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SeveralSearchData:
    """What a search of several tasks sees: of every task a training split and a validation split."""

    members: Mapping[str, SearchData]
    task: SeveralTasks

    @cached_property
    def raw_type(self) -> Any:
        """A tuple of all tasks' raw tensors."""
        fields = [f"{field}_{number}" for number in range(len(self.members)) for field in RawBatch._fields]
        return namedtuple("SeveralRawBatches", fields)

    @property
    def shape(self) -> tuple[InputShape, ...]:
        """What each network is given and asked for."""
        return tuple(data.shape for data in self.members.values())

    @cached_property
    def train(self) -> SeveralBatches:
        """What trains the weights."""
        return SeveralBatches([data.train for data in self.members.values()])

    @cached_property
    def valid(self) -> SeveralBatches:
        """What trains the architecture."""
        return SeveralBatches([data.valid for data in self.members.values()])

    @property
    def split(self) -> SeveralSplits:
        """The splits of all tasks."""
        return SeveralSplits({name: data.split for name, data in self.members.items()})

    def told(self) -> str:
        """What a search says of its data at its start."""
        return "; ".join(f"{name}: {data.told()}" for name, data in self.members.items())

    def evaluation(self) -> Iterator[Batch]:
        """The validation examples of every task in larger batches, for the evaluation after an epoch."""
        return side_by_side([data.evaluation() for data in self.members.values()])

    def judging(self) -> Iterator[Batch]:
        """The validation examples in the search's batches, by which a schedule judges candidates."""
        return self.valid.mixed()

    def joined(self) -> SeveralBatches:
        """The examples of both splits of every task."""
        return SeveralBatches([data.joined() for data in self.members.values()])


def several_search_data(
    settings: SeveralDatasets,
    train_fraction: float,
    batch_size: int,
    seed: int,
    device: torch.device,
    setting: str = "search.batch_size",
) -> SeveralSearchData:
    """Open the training examples of every task, divided into the two splits of a search."""
    members = {}
    for name, part in settings.parts().items():
        with about(f"task {name}"):
            members[name] = search_data(part, train_fraction, batch_size, seed, device, setting)
    return SeveralSearchData(members, SeveralTasks(list(members), settings.fixed_weights(), settings.weighting))
