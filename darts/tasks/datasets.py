"""Where images come from: the bundled set, torchvision's sets, folders of pictures; in memory or streamed from disk.

Training and test images are opened by different calls. A search makes the first call only, so that it cannot touch
the test set.
"""

from __future__ import annotations

import copy
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from darts.runtime.errors import UserError, require
from darts.spaces.search_space import InputShape, sides_of
from darts.tasks.audio_settings import AudioFolder
from darts.tasks.cache import content_key, remembered
from darts.tasks.file_content import known_content
from darts.tasks.folders import FolderListing, PictureFile, list_folder, named_difference
from darts.tasks.pictures import Decoder, RandomDecoder, read_header
from darts.tasks.settings import (
    BundledDataset,
    Dataset,
    ImageFolderDataset,
    LabelledDataset,
)
from darts.tasks.sounds import SoundReader

KEPT_HEADERS = 10_000  # training pictures from which on what their headers say is kept; fewer are read in a moment
COLOUR = "colour"  # how many training pictures have colours, in the file that keeps what the headers say
BUNDLED = Path(__file__).parent.parent / "assets" / "fashion_mini.npz"


class Pixels(NamedTuple):
    """Raw images (batch, C, H, W) of type uint8, or sounds (batch, 1, samples) of int16, and their labels (batch,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class FolderOrigin:
    """The folder that images come from, and what the headers of its training pictures say."""

    listing: FolderListing
    channels: int  # 1 grey, 3 colour, for all parts
    converted: dict[str, int]  # training pictures whose pixels are converted, by conversion


class ArrayImages:
    """Labelled images, or sounds, held in the memory of a device."""

    def __init__(
        self, pixels: Tensor, labels: Tensor, classes: Sequence[str], origin: FolderOrigin | None = None
    ) -> None:
        self.pixels = pixels  # (images, C, H, W), uint8; or (sounds, 1, samples), int16
        self.labels = labels  # (images,), int64
        self.classes = list(classes)
        self.channels = pixels.shape[1]
        self.origin = origin  # None where they come from no folder of pictures

    def to(self, device: torch.device) -> ArrayImages:
        """The same images in the memory of another device."""
        return ArrayImages(self.pixels.to(device), self.labels.to(device), self.classes, self.origin)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Pixels]:
        """For each tensor of indices a batch."""
        for chunk in chunks:
            indices = chunk.to(self.pixels.device)
            yield Pixels(self.pixels[indices], self.labels[indices])

    def drawn_batches(self, chunks: Sequence[Tensor], draws: Tensor) -> Iterator[Pixels]:
        """The same for training: nothing is drawn before pixels reach the device."""
        return self.batches(chunks)


class FileImages:
    """Labelled files that are decoded when their turn comes, by `workers` processes."""

    random_decoder: RandomDecoder | None = None  # of training pictures that are drawn while they are decoded

    def __init__(self, files: Sequence[PictureFile], decoder: FileDecoder, workers: int, origin: FolderOrigin) -> None:
        self.paths = [file.path for file in files]
        self.labels = torch.tensor([file.label for file in files])
        self.classes = origin.listing.classes
        self.channels = decoder.channels
        self.origin = origin
        self.decoder = decoder
        self.workers = workers

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.decoder(self.paths[index]), self.labels[index]

    def to(self, device: torch.device) -> FileImages:
        """Itself: streamed batches reach the device one by one."""
        return self

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Pixels]:
        """For each tensor of indices a batch, in their order whatever the number of workers."""
        return self._loaded(self, chunks)

    def drawn_batches(self, chunks: Sequence[Tensor], draws: Tensor) -> Iterator[Pixels]:
        """The same for training; `draws` (files, at least 2) from 0 to 1 decide what is seen of each picture."""
        return self.batches(chunks) if self.random_decoder is None else self._loaded(_Drawn(self, draws), chunks)

    def _loaded(self, files: FileImages | _Drawn, chunks: Sequence[Tensor]) -> Iterator[Pixels]:
        loader: Any = torch.utils.data.DataLoader(
            files,  # type: ignore[arg-type]
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),  # nothing random happens in a worker
        )
        try:
            for images, labels in loader:
                yield Pixels(images, labels)
        except UserError as error:  # a worker's traceback comes as text before the message
            raise UserError(str(error).strip().rsplit("UserError: ", 1)[-1]) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            advice = "the last checkpoint is kept; where memory ran out, lower dataset.workers"
            raise UserError(f"a process that reads images was killed; {advice}") from None

    def in_memory(self) -> ArrayImages:
        """All images decoded at once."""
        with ThreadPoolExecutor() as pool:
            pixels = torch.stack(list(pool.map(self.decoder, self.paths, chunksize=64)))
        return ArrayImages(pixels, self.labels, self.classes, self.origin)


class _Drawn:
    """Training files, each decoded as its row of random numbers says."""

    def __init__(self, files: FileImages, draws: Tensor) -> None:
        self.files, self.draws = files, draws[:, :2].contiguous()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        decoder = self.files.random_decoder
        if decoder is None:
            raise TypeError("these files are not decoded at random")
        return decoder(self.files.paths[index], self.draws[index].tolist()), self.files.labels[index]


ImageSet = ArrayImages | FileImages
FileDecoder = Decoder | SoundReader  # a file's path -> a raw example


def open_training(settings: LabelledDataset) -> ImageSet:
    """The training images, all of them; `dataset.fraction` is the caller's business. Checks labels and classes."""
    images = settings.images(train=True)
    least, most = (int(label) for label in images.labels.aminmax())
    if least < 0 or most >= len(images.classes):
        raise UserError(
            f"dataset {settings.name}: labels go from {least} to {most}; there are {len(images.classes)} classes"
        )
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    if len(images.classes) < 2:
        raise UserError(f"dataset.root {settings.root}: there is one class; at least 2 are needed")
    for name, count in zip(images.classes, counts.tolist(), strict=True):
        if count < 2:
            raise UserError(f"dataset.root {settings.root}: class {name!r} has {count} training images; at least 2")
    return images


def shape_of(settings: LabelledDataset) -> InputShape:
    """What a network of this data set is given and asked for."""
    images = open_training(settings)
    return InputShape(images.channels, settings.size, len(images.classes))


def open_test(settings: LabelledDataset) -> ImageSet:
    """The test images: for the final evaluation and nothing else."""
    return settings.images(train=False)


Statistics = tuple[list[float], list[float]]  # mean and standard deviation by channel


def channel_statistics(settings: LabelledDataset, images: ImageSet) -> Statistics:
    """Mean and standard deviation of each channel of `settings.values`: the given ones, or of all training examples."""
    if settings.mean is not None and settings.std is not None:
        for setting, values in (("dataset.mean", settings.mean), ("dataset.std", settings.std)):
            require(len(values) == images.channels, setting, values, f"{images.channels} numbers, one a channel")
        return list(settings.mean), list(settings.std)
    if not isinstance(settings, ImageFolderDataset | AudioFolder) or images.origin is None:
        return _measure(settings, images)
    listing, channels = images.origin.listing, images.channels
    key = content_key(known_content(listing, "training").digest, *settings.statistics_key(channels))
    least, most = settings.value_limits

    def measure() -> dict[str, list[float]]:
        return dict(zip(("mean", "std"), _measure(settings, images), strict=True))

    def taken(content: Any) -> dict[str, list[float]]:
        limits = (("mean", (least, most)), ("std", (1e-9, most)))
        return {name: _statistics(content[name], channels, within) for name, within in limits}

    found = remembered(settings.cache, f"statistics-{key}.json", measure, taken)
    return found["mean"], found["std"]


def _statistics(content: Any, channels: int, within: tuple[float, float]) -> list[float]:
    """One list of a cache's statistics; ValueError where it is of other channels or not within the limits."""
    values = [float(value) for value in content] if isinstance(content, list) else []
    if len(values) != channels or not all(within[0] <= value <= within[1] for value in values):
        raise ValueError("no statistics of these channels")
    return values


def bundled_images(settings: BundledDataset, train: bool) -> ImageSet:
    """The images that ship with this package."""
    part = "train" if train else "test"
    try:
        with np.load(BUNDLED) as archive:
            images, labels = archive[f"{part}_images"], archive[f"{part}_labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{BUNDLED} is damaged ({type(error).__name__}); take it again from the repository") from None
    pixels = torch.from_numpy(images)[:, None]
    return ArrayImages(padded(pixels, settings), torch.from_numpy(labels).long(), FASHION_CLASSES)


def folder_images(settings: ImageFolderDataset, part: str) -> ImageSet:
    """Pictures in class folders, decoded at once or, where they are too many, when their turn comes.

    `part`: training, test or validation.

    The training pictures decide the channels of all parts: colour if any of them has colours.
    """
    listing = list_folder(settings)
    origin = _origin(settings, listing)
    decoder = Decoder(settings.size, origin.channels, settings.resize)
    chosen = listing.part(part)
    images = FileImages(chosen, decoder, settings.workers, origin)
    if part == "training" and settings.draws_while_decoding:
        jitter = tuple(settings.colour_jitter or ())
        images.random_decoder = RandomDecoder(
            settings.size, origin.channels, settings.random_resized_crop, jitter, decoder
        )
        return images
    megabytes = len(chosen) * decoder.channels * math.prod(sides_of(settings.size)) / 1e6
    return images.in_memory() if megabytes <= settings.device_megabytes else images


def _origin(settings: ImageFolderDataset, listing: FolderListing) -> FolderOrigin:
    """Read the headers of the training pictures, or what was kept of them where they are many."""

    def counted() -> dict[str, int]:
        found = Counter({COLOUR: 0})
        for file in listing.training:  # several threads were slower: this is Python's own work
            header = read_header(file.path)
            found.update(header.conversions)
            found[COLOUR] += header.colour
        return dict(found)

    many = len(listing.training) >= KEPT_HEADERS
    key = content_key(known_content(listing, "training").digest) if many else ""
    found = remembered(settings.cache, f"headers-{key}.json", counted, _counts) if many else counted()
    converted = {name: count for name, count in found.items() if name != COLOUR}
    coloured, training = found[COLOUR], len(listing.training)
    channels = settings.channels or (3 if coloured else 1)
    others = {"grey to colour": training - coloured} if channels == 3 else {"colour to grey": coloured}
    return FolderOrigin(listing, channels, {name: n for name, n in (others | converted).items() if n})


def _counts(content: Any) -> dict[str, int]:
    """What the file of the headers holds."""
    counts = {str(name): int(count) for name, count in content.items()}
    return {COLOUR: counts.pop(COLOUR), **counts}


def classes_by_name(images: ImageSet, names: Sequence[str], owner: str) -> ImageSet:
    """The images with their labels numbered as in `names`; `UserError` naming classes that only one of both has.

    owner: whose names they are, for the message.
    """
    if sorted(names) != sorted(images.classes):
        difference = named_difference(names, images.classes, owner, "the data") or "a name stands twice"
        raise UserError(f"{owner} and the data have different classes: {difference}; give the data it was trained on")
    if list(names) == images.classes:
        return images
    new = {name: label for label, name in enumerate(names)}
    numbers = torch.tensor([new[name] for name in images.classes], device=images.labels.device)
    renumbered = copy.copy(images)
    renumbered.labels, renumbered.classes = numbers[images.labels], list(names)
    return renumbered


def images_of(dataset: Any, classes: Sequence[str] | None = None) -> ArrayImages:
    """A map-style torch Dataset of (image, label) as the images that `Dataset.images` returns.

    An image is a PIL picture, a tensor (C, H, W) of type uint8, or one of floating point from 0 to 1; all are of one
    size. `classes` names the labels from 0 on; without it `dataset.classes`, or the numbers. `UserError` for others.
    """
    pixels, labels = [], []
    for index in range(len(dataset)):
        image, label = dataset[index]
        pixels.append(_as_pixels(image, index))
        labels.append(int(label))
    if not pixels:
        raise UserError("images_of: the data set is empty")
    shapes = {tuple(image.shape) for image in pixels}
    if len(shapes) > 1:
        raise UserError(f"images_of: images of the shapes {sorted(shapes)[:3]}; all must be of one size")
    names = classes or getattr(dataset, "classes", None) or [str(label) for label in range(max(labels) + 1)]
    return ArrayImages(torch.stack(pixels), torch.tensor(labels), names)


def _as_pixels(image: Any, index: int) -> Tensor:
    """One image as (C, H, W), uint8."""
    if not isinstance(image, Tensor):
        array = np.array(image)
        channels_first = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        image = torch.from_numpy(channels_first.copy())
    if image.ndim != 3:
        raise UserError(f"images_of: image {index} is of shape {tuple(image.shape)}; it must be (C, H, W)")
    if image.is_floating_point():
        if not 0 <= float(image.min()) <= float(image.max()) <= 1:
            raise UserError(f"images_of: image {index} has values beyond 0 to 1; give it without normalisation")
        image = (image * 255).round().to(torch.uint8)
    if image.dtype is not torch.uint8:
        raise UserError(f"images_of: image {index} is of type {image.dtype}; it must be uint8, or floating point")
    return image


FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def padded(pixels: Tensor, settings: Dataset) -> Tensor:
    """Zero padding on all sides up to the size asked for."""
    height, width = pixels.shape[2:]
    sides = sides_of(settings.size)
    missing = sides[0] - height, sides[1] - width
    require(min(missing) >= 0, "dataset.image_size", settings.image_size, f"at least {max(height, width)}, its own")
    top, left = (side // 2 for side in missing)
    padding = (left, missing[1] - left, top, missing[0] - top)
    return torch.nn.functional.pad(pixels, padding).contiguous()


def _measure(settings: LabelledDataset, images: ImageSet) -> Statistics:
    chunks = torch.arange(len(images.labels)).split(1024)
    count, total, squares = 0, torch.zeros(images.channels).double(), torch.zeros(images.channels).double()
    for batch in images.batches(chunks):
        values = settings.values(batch.images.cpu()).transpose(0, 1).flatten(1).double()
        count += values.shape[1]
        total += values.sum(1)
        squares += values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-8).sqrt()
    return [round(value, 6) for value in mean.tolist()], [round(value, 6) for value in std.tolist()]
