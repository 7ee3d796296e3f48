"""The two splits of a search, and batches in an order that is a function of (seed, epoch) only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darts.runtime import distributed
from darts.runtime.device import convolutions, sent
from darts.runtime.errors import require
from darts.runtime.seeding import derive, generator
from darts.spaces.search_space import InputShape
from darts.tasks.augmentation import augmentation_draws, crop_and_flip, cut_out, normalisation, normalise
from darts.tasks.datasets import ImageSet, channel_statistics, open_training
from darts.tasks.settings import Augmentation, LabelledDataset
from darts.tasks.task import CLASSIFICATION, Batch, Task

EVALUATION_BATCH = 500  # images at a time where nothing is learnt
LARGER = 4  # times a training batch: for an evaluation, which keeps no maps for gradients, and needs fewer calls


class RawBatch(NamedTuple):
    """Pixels (batch, C, H, W), 0 to 255, labels (batch,), and the draws of the augmentation (batch, DRAWS).

    In place of pixels there may be sounds (batch, 1, samples), int16.

    All of them are on the device: what a step is given it need not copy.
    """

    pixels: Tensor
    labels: Tensor
    draws: Tensor


class AnyPreparation:
    """What happens to a raw batch on the device."""

    mean: list[float]
    std: list[float]
    device: torch.device

    def normalised(self, pixels: Tensor, labels: Tensor) -> Batch:
        """Normalised and not augmented, for evaluation."""
        raise NotImplementedError

    def augmented(self, raw: RawBatch) -> Batch:
        """Changed at random as the raw batch's draws say, and normalised; of a batch that is on the device."""
        raise NotImplementedError

    def draws(self, examples: int, seed: int, *counters: int) -> Tensor:
        """Uniform numbers for one pass over a set, a row an example; `counters`: epoch, and pass within it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Preparation(AnyPreparation):
    """What happens to raw pixels on the device."""

    augmentation: Augmentation
    mean: list[float]
    std: list[float]
    device: torch.device

    def normalised(self, pixels: Tensor, labels: Tensor) -> Batch:
        """Normalised and not augmented, for evaluation."""
        images = normalise(pixels.to(self.device), *self._normalisation)
        return Batch(images.contiguous(memory_format=convolutions.memory_format), labels.to(self.device))

    def augmented(self, raw: RawBatch) -> Batch:
        """Cropped, flipped, normalised, cut out; of a batch that is on the device."""
        batch = self.normalised(crop_and_flip(raw.pixels, self.augmentation, raw.draws), raw.labels)
        return Batch(cut_out(batch.inputs, self.augmentation, raw.draws), batch.targets)

    def draws(self, examples: int, seed: int, *counters: int) -> Tensor:
        return augmentation_draws(examples, seed, *counters)

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        return normalisation(self.mean, self.std, self.device)


class Batches:
    """Some images of a set, in batches. Nothing in here changes: a position is (epoch, step), kept by the caller.

    Of each batch a process gets its shard (runtime/distributed.py).
    """

    def __init__(self, images: ImageSet, indices: Tensor, batch_size: int, preparation: AnyPreparation, seed: int):
        self.images = images
        self.indices = indices
        self.batch_size = batch_size
        self.preparation = preparation
        self.seed = seed

    def __len__(self) -> int:
        """Batches that show every image once; the last may be smaller."""
        return len(self._chunks(self.indices))

    def steps(self, epoch: int) -> int:
        """Batches of an epoch: those that show every image once."""
        return len(self)

    def rate_factor(self, epoch: int, step: int) -> float:
        """What the learning rate of a step is multiplied with: nothing changes for images."""
        return 1.0

    def prepared(self, raw: Any) -> Batch:
        """A raw batch as a model is trained on it: augmented and normalised."""
        return self.preparation.augmented(raw)

    def in_order(self) -> Iterator[Batch]:
        """Every image once, not augmented, for evaluation."""
        return self._normalised(self.indices)

    def mixed(self) -> Iterator[Batch]:
        """Every image once, not augmented, in one shuffled order, the same every time.

        Folders list their images class by class; where a batch's own statistics normalise it, it must hold all classes.
        """
        return self._normalised(self._mixed_indices())

    def of(self, batch_size: int, setting: str = "train.batch_size") -> Batches:
        """The same images in batches of another size; `UserError`, naming the setting, for more than there are."""
        size = _fitting(batch_size, self.indices, setting)
        return Batches(self.images, self.indices, size, self.preparation, self.seed)

    def cut_out(self, side: int) -> Batches:
        """The same images, of which training cuts out squares of this side; the side is 0 for sounds."""
        preparation = self.preparation
        if isinstance(preparation, Preparation):
            preparation = replace(preparation, augmentation=replace(preparation.augmentation, cutout=side))
        return Batches(self.images, self.indices, self.batch_size, preparation, self.seed)

    def first(self, images: int) -> Batch:
        """The first `images` images of `mixed` as one batch."""
        (raw,) = self.images.batches([self._mixed_indices()[:images]])
        return self.preparation.normalised(raw.images, raw.labels)

    def _mixed_indices(self) -> Tensor:
        return self.indices[torch.randperm(len(self.indices), generator=generator(self.seed, "evaluation order"))]

    def _normalised(self, indices: Tensor) -> Iterator[Batch]:
        shards = [distributed.shard(chunk) for chunk in self._chunks(indices)]
        shown = [shard for shard in shards if len(shard)]  # a test's last batch may have none for this process
        for raw in self.images.batches(shown):
            yield self.preparation.normalised(raw.images, raw.labels)

    def shuffled(self, epoch: int, start: int = 0, steps: int | None = None) -> Iterator[Batch]:
        """Those of `shuffled_raw`, augmented."""
        for raw in self.shuffled_raw(epoch, start, steps):
            yield self.preparation.augmented(raw)

    def shuffled_raw(self, epoch: int, start: int = 0, steps: int | None = None) -> Iterator[RawBatch]:
        """Batches `start` to `steps` (default: one pass) of an epoch; another pass in another order follows a pass."""
        steps = len(self) if steps is None else steps
        for first in range(0, steps, len(self)):
            begin, end = max(start - first, 0), min(steps - first, len(self))
            if begin < end:
                yield from self._one_pass(epoch, first // len(self), begin, end)

    def _one_pass(self, epoch: int, number: int, begin: int, end: int) -> Iterator[RawBatch]:
        device = self.preparation.device  # where everything is before a step begins
        order = torch.randperm(len(self.indices), generator=generator(self.seed, "order", epoch, number))
        draws = self.preparation.draws(len(self.images.labels), self.seed, epoch, number)  # a row an image of the set
        chunks = [distributed.shard(chunk) for chunk in self._chunks(self.indices[order])[begin:end]]
        for chunk, raw in zip(chunks, self.images.drawn_batches(chunks, draws), strict=True):
            raw_batch = RawBatch(raw.images, raw.labels, draws[chunk])
            yield RawBatch(*(sent(tensor, device) for tensor in raw_batch))

    def _chunks(self, indices: Tensor) -> list[Tensor]:
        """Batches of indices, the same for any number of processes; see `batch_lengths`."""
        return list(indices.split(batch_lengths(len(indices), self.batch_size)))


def batch_lengths(images: int, batch_size: int) -> list[int]:
    """How many of `images` images each batch of a pass has; their sum is `images`.

    All batches have `batch_size` images and the last one the rest; a last single image joins the batch before it,
    since batch norm needs two. The number of processes plays no part, so that the steps of an epoch are the same.
    """
    whole, rest = divmod(images, batch_size)
    lengths = [batch_size] * whole + ([rest] if rest else [])
    if len(lengths) > 1 and lengths[-1] == 1:
        lengths[-2:] = [lengths[-2] + 1]
    return lengths


@dataclass(frozen=True)
class Split:
    """Indices of the training images in a search's two disjoint splits, the same fraction of every class in each."""

    train: Tensor  # these train the weights
    valid: Tensor  # these train the architecture

    def to_json(self) -> str:
        """The indices into the training set, as split.json holds them: the names are those of its format."""
        return json.dumps({"weights": self.train.tolist(), "architecture": self.valid.tolist()}) + "\n"

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the split."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SearchData:
    """What a search sees: the training images in a training split and a validation split."""

    shape: InputShape
    train: Batches
    valid: Batches
    split: Split

    raw_type = RawBatch
    task: Task = CLASSIFICATION
    noun: str = "images"  # what the examples are, for people

    def told(self) -> str:
        """What a search says of its data at its start."""
        return f"{len(self.split.train)} {self.noun} train the weights, {len(self.split.valid)} the architecture"

    def evaluation(self) -> Iterator[Batch]:
        """The validation images in larger batches than a training step's, for the evaluation after an epoch."""
        size = min(LARGER * self.valid.batch_size, len(self.valid.indices))
        return self.valid.of(size).mixed()

    def judging(self) -> Iterator[Batch]:
        """The validation images in the search's batches, by which a schedule judges candidates."""
        return self.valid.mixed()

    def joined(self) -> Batches:
        """The images of both splits in batches of the training split's size."""
        indices = torch.cat([self.split.train, self.split.valid]).sort().values
        train = self.train
        return Batches(train.images, indices, train.batch_size, train.preparation, derive(train.seed, "joined"))


@dataclass(frozen=True)
class TrainData:
    """What retraining sees: the whole training set, or what is left where a part of it is held out."""

    shape: InputShape
    train: Batches
    preparation: AnyPreparation
    valid: Batches | None = None  # images that are only watched


def stratified(labels: Tensor, fraction: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split positions so that each class gives `fraction` of its own to the first part, within one; both are sorted.

    The first part has round(fraction * images) positions. Both parts get at least one image of each class that has two.
    """
    first, taken, seen = [], 0, 0
    second = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=draws)]
        seen += len(own)
        count = round(fraction * seen) - taken
        count = min(max(count, 1), max(len(own) - 1, 1))
        taken += count
        first.append(own[:count])
        second.append(own[count:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def search_data(
    settings: LabelledDataset,
    train_fraction: float,
    batch_size: int,
    seed: int,
    device: torch.device,
    setting: str = "search.batch_size",
) -> SearchData:
    """Open the training images and divide them into the training split and the validation split of a search.

    `UserError`, naming the setting that the batch size comes from, where a split has fewer images.
    """
    images, used, preparation, shape = _training_images(settings, 0, seed, device)
    first, second = stratified(images.labels.cpu()[used], train_fraction, generator(seed, "halves"))
    split = Split(used[first], used[second])
    batches = [
        Batches(images, indices, _fitting(batch_size, indices, setting), preparation, derive(seed, purpose))
        for purpose, indices in (("weights", split.train), ("architecture", split.valid))
    ]
    return SearchData(shape, batches[0], batches[1], split, noun=settings.noun)


def train_data(
    settings: LabelledDataset, cutout: int, batch_size: int, seed: int, device: torch.device, validation: float = 0
) -> TrainData:
    """Open the training images for retraining; the test images stay closed.

    `validation`: the fraction of every class that is held out.
    """
    images, used, preparation, shape = _training_images(settings, cutout, seed, device)
    held = None
    watched = settings.validation_images()
    if watched is not None:
        allowed = f"0 with {settings.watched_setting}, whose {settings.noun} are watched"
        require(validation == 0, "train.validation", validation, allowed)
    if validation:
        first, second = stratified(images.labels.cpu()[used], 1 - validation, generator(seed, "validation"))
        used, held = used[first], used[second]
    train = Batches(images, used, _fitting(batch_size, used, "train.batch_size"), preparation, derive(seed, "train"))
    if watched is not None:
        images, held = watched.to(device), torch.arange(len(watched.labels))
    if held is None:
        return TrainData(shape, train, preparation)
    valid = Batches(images, held, min(EVALUATION_BATCH, len(held)), preparation, derive(seed, "validation"))
    return TrainData(shape, train, preparation, valid)


def test_batches(images: ImageSet, batch_size: int, preparation: AnyPreparation) -> Batches:
    """Batches of the opened test images, for the final evaluation only."""
    held = images.to(preparation.device)
    return Batches(held, torch.arange(len(held.labels)), batch_size, preparation, seed=0)


def _fitting(batch_size: int, indices: Tensor, setting: str) -> int:
    """The batch size; `UserError` where it is more than there are images, or too little for the processes.

    Batch norm needs two images: of the whole batch where processes add up their sums, else of each process's shard.
    """
    images, processes = len(indices), distributed.world_size()
    allowed = f"at most {images}, the images there are for it"
    require(batch_size <= images, setting, batch_size, allowed)
    if processes == 1:
        return batch_size
    least = 2 * processes
    allowed = f"at least {least}, two images for each of {processes} processes"
    require(batch_size >= least, setting, batch_size, allowed)
    least = processes if distributed.synchronised_batch_norm() else least
    last = batch_lengths(images, batch_size)[-1]
    allowed = f"such that the last batch of {images} images has at least {least} for {processes} processes, not {last}"
    require(last >= least, setting, batch_size, f"{allowed}; or start fewer processes")
    return batch_size


def _training_images(
    settings: LabelledDataset, cutout: int, seed: int, device: torch.device
) -> tuple[ImageSet, Tensor, AnyPreparation, InputShape]:
    images = open_training(settings)
    mean, std = channel_statistics(settings, images)
    used = torch.arange(len(images.labels))
    if settings.fraction < 1:
        used, _ = stratified(images.labels, settings.fraction, generator(seed, "fraction"))
    preparation = settings.preparation(cutout, mean, std, device)
    shape = InputShape(images.channels, settings.size, len(images.classes))
    return images.to(device), used, preparation, shape
