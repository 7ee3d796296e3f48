"""Settings of the data: where images and texts come from and how they are changed and read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from darts.config.registry import register
from darts.runtime.errors import UserError, require
from darts.spaces.search_space import Size, is_size, sides_of, size_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from darts.tasks.batches import AnyPreparation
    from darts.tasks.datasets import ImageSet
    from darts.tasks.folders import FolderListing


@dataclass(frozen=True)
class Augmentation:
    """Which random changes a training image undergoes (Liu et al. 2019: crop of 4 and flip; retraining: cutout 16)."""

    crop_padding: int  # pixels of zero padding on each side before a crop of the original size; 0: no crop
    flip: bool  # mirror left and right with probability 1/2
    cutout: int  # side in pixels of a square set to the mean (DeVries and Taylor 2017); 0: none


@dataclass
class AnyDataset:
    """What every data set has, whatever is learned from it."""

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ("root",)  # settings, where data come from no folder of the user's
    is_text: ClassVar[bool] = False
    is_sound: ClassVar[bool] = False

    name: str  # of the data set, as reports print it
    root: str  # the folder its files lie in
    fraction: float  # fraction of the training data that is used: the same of every class; of a text its beginning

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "dataset.fraction", self.fraction, "above 0 and at most 1")

    def parts(self) -> dict[str, LabelledDataset]:
        """The sets of labelled examples that it consists of, by name: itself, of several tasks each, of a text none."""
        return {}


@dataclass
class LabelledDataset(AnyDataset):
    """What every set of labelled examples has, images or sounds: a map for the network, and a class."""

    value_limits: ClassVar[tuple[float, float]] = (0.0, 1.0)  # of what `values` returns
    noun: ClassVar[str] = "images"  # what the examples are, for people
    watched_setting: ClassVar[str] = "dataset.validation_folder"  # by which a part of its own is watched

    mean: list[float] | None  # of each channel (pixels from 0 to 1, or features); null: measured on all training data
    std: list[float] | None  # standard deviations by channel, like mean

    def parts(self) -> dict[str, LabelledDataset]:
        return {self.name: self}

    @property
    def size(self) -> Size:
        """The size of the maps that a network is given: the side of square ones, or height and width."""
        raise NotImplementedError

    @property
    def size_setting(self) -> str:
        """What decides the size, for a message."""
        raise NotImplementedError

    def images(self, train: bool) -> ImageSet:
        """Open the training examples, or the test examples."""
        raise NotImplementedError

    def validation_images(self) -> ImageSet | None:
        """Open the examples that a retraining watches, where the data set has such a part of its own."""
        return None

    def listing(self) -> FolderListing | None:
        """List the folder that the examples come from; None where they come from no folder of the user's."""
        return None

    def check_files(self) -> None:
        """Read the headers of the test and validation files; `UserError` naming one that is no example."""
        listing = self.listing()
        if listing is not None:
            for file in [*listing.test, *listing.validation]:
                self.check_header(file.path)

    def check_header(self, path: str) -> None:
        """Read the header of a file of the listing; `UserError` naming it where it is no example."""
        raise NotImplementedError

    def statistics_key(self, channels: int) -> tuple[Any, ...]:
        """What, besides the training files, decides the mean and standard deviation of `values`."""
        raise NotImplementedError

    def values(self, raw: Tensor) -> Tensor:
        """What is normalised of a raw batch: (batch, channels, ...), on the CPU."""
        raise NotImplementedError

    def preparation(self, cutout: int, mean: list[float], std: list[float], device: torch.device) -> AnyPreparation:
        """What happens to raw batches on the device; `cutout`: side in pixels, of images only."""
        raise NotImplementedError


@dataclass
class Dataset(LabelledDataset):
    """What every set of images has; the classes below say where its images come from."""

    image_size: Any  # pixels: the side of a square, or [height, width]
    crop_padding: int  # pixels of zero padding before a random crop; 0: no crop
    flip: bool  # mirror training images left and right with probability 1/2

    @property
    def size(self) -> Size:
        return size_of(self.image_size)

    @property
    def size_setting(self) -> str:
        return "dataset.image_size"

    def statistics_key(self, channels: int) -> tuple[Any, ...]:
        return self.image_size, channels

    def values(self, raw: Tensor) -> Tensor:
        return raw.double() / 255

    def preparation(self, cutout: int, mean: list[float], std: list[float], device: torch.device) -> AnyPreparation:
        from darts.tasks.batches import Preparation

        return Preparation(Augmentation(self.crop_padding, self.flip, cutout), mean, std, device)

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "from 1 to 4096, or [height, width] of such"
        require(is_size(self.image_size), "dataset.image_size", self.image_size, allowed)
        if isinstance(self.image_size, list) and self.image_size[0] == self.image_size[1]:
            self.image_size = self.image_size[0]  # so that a square is one setting, however it is written
        require(0 <= self.crop_padding <= 4096, "dataset.crop_padding", self.crop_padding, "from 0 to 4096")
        require((self.mean is None) == (self.std is None), "dataset.std", self.std, "given together with dataset.mean")
        for setting, values in (("dataset.mean", self.mean), ("dataset.std", self.std)):
            finite = values is None or all(math.isfinite(value) for value in values)
            require(finite, setting, values, "finite")
        within = self.mean is None or all(0 <= value <= 1 for value in self.mean)
        require(within, "dataset.mean", self.mean, "from 0 to 1, as the pixels are")
        within = self.std is None or all(1e-9 <= value <= 1 for value in self.std)
        require(within, "dataset.std", self.std, "above 0 and at most 1")


def require_labelled(dataset: AnyDataset) -> LabelledDataset:
    """The data set as one of labelled examples; `UserError` for a text, where a command knows classes only."""
    if not isinstance(dataset, LabelledDataset):
        kind = "a text" if dataset.is_text else "several tasks"
        raise UserError(f"dataset is {dataset.name}, {kind}; this command takes a set of images or of sounds")
    return dataset


def require_images(dataset: AnyDataset) -> Dataset:
    """The data set as one of images; `UserError` for another, where a command knows images only."""
    if not isinstance(dataset, Dataset):
        raise UserError(f"dataset is {dataset.name}, which holds no images; this command takes a set of images")
    return dataset


@register("dataset", "bundled")
@dataclass
class BundledDataset(Dataset):
    """The set that ships with this package; smaller images than `image_size` are padded with zeros."""

    def images(self, train: bool) -> ImageSet:
        from darts.tasks.datasets import bundled_images

        return bundled_images(self, train)


class TorchvisionName(Enum):
    """The sets read through torchvision."""

    FASHION_MNIST = "fashion_mnist"
    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    SVHN = "svhn"


@register("dataset", "torchvision")
@dataclass
class TorchvisionDataset(Dataset):
    """A set that torchvision knows; smaller images than `image_size` are padded with zeros."""

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ()

    source: TorchvisionName  # which of torchvision's sets
    download: bool  # fetch it into `root` if it is not there

    def images(self, train: bool) -> ImageSet:
        from darts.tasks.torchvision_sets import torchvision_images

        return torchvision_images(self, train)


JITTER = (1.0, 1.0, 1.0, 0.5)  # the most that each may change


@register("dataset", "image_folder")
@dataclass
class ImageFolderDataset(Dataset):
    """One's own pictures: root/train/CLASS/*.png and root/test/CLASS/*.png, or root/CLASS/*.png only."""

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ()

    channels: int | None  # 1 grey, 3 colour; null: colour if any training picture has colours
    resize: int | None  # pixels that the shorter side is resized to before the centre is cut out; null: image_size
    random_resized_crop: bool  # train on parts of random size and shape (Szegedy et al. 2015), as for ImageNet
    colour_jitter: list[float] | None  # most change of brightness, contrast, saturation, hue of training pictures
    test_folder: str  # beside train: test, or val where data are laid out as ImageNet is
    validation_folder: str | None  # beside train: pictures that a retraining watches, to keep the best epoch; or null
    test_fraction: float  # where root has no test folder: fraction of each class that is the test set, always the same
    device_megabytes: int  # a set whose pixels take more than this is streamed from disk instead
    workers: int  # processes that read a streamed set
    cache: str  # folder for channel statistics and what headers say; a folder that cannot be written does not matter

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.channels in (None, 1, 3), "dataset.channels", self.channels, "1, 3 or null")
        self._check_augmentation()
        for name in ("test_folder", "validation_folder"):
            value = getattr(self, name)
            plain = value is None or (value.strip(". ") != "" and "/" not in value and value.lower() != "train")
            require(plain, f"dataset.{name}", value, "the name of a folder beside train")
        watched = self.validation_folder
        same = watched is not None and watched.lower() == self.test_folder.lower()
        require(not same, "dataset.validation_folder", watched, "another folder than dataset.test_folder")
        require(0 < self.test_fraction < 1, "dataset.test_fraction", self.test_fraction, "above 0 and below 1")
        require(self.device_megabytes >= 0, "dataset.device_megabytes", self.device_megabytes, "at least 0")
        require(0 <= self.workers <= 256, "dataset.workers", self.workers, "from 0 to 256")

    def _check_augmentation(self) -> None:
        least = max(sides_of(self.size))
        within = self.resize is None or least <= self.resize <= 4096
        require(within, "dataset.resize", self.resize, f"from {least}, dataset.image_size, to 4096, or null")
        padding, allowed = self.crop_padding, "0 with dataset.random_resized_crop, which cuts in its place"
        require(not self.random_resized_crop or padding == 0, "dataset.crop_padding", padding, allowed)
        jitter = self.colour_jitter
        allowed = "[brightness, contrast, saturation, hue], the first three from 0 to 1 and hue to 0.5, or null"
        sound = jitter is None or (len(jitter) == 4 and all(0 <= v <= m for v, m in zip(jitter, JITTER, strict=True)))
        require(sound, "dataset.colour_jitter", jitter, allowed)

    @property
    def draws_while_decoding(self) -> bool:
        """Whether training pictures are read anew each time, since another part or other colours are drawn."""
        return self.random_resized_crop or self.colour_jitter is not None

    def images(self, train: bool) -> ImageSet:
        from darts.tasks.datasets import folder_images

        part = "training" if train else "test"
        return folder_images(self, part)

    def listing(self) -> FolderListing:
        from darts.tasks.folders import list_folder

        return list_folder(self)

    def check_header(self, path: str) -> None:
        from darts.tasks.pictures import read_header

        read_header(path)

    def validation_images(self) -> ImageSet | None:
        from darts.tasks.datasets import folder_images

        return None if self.validation_folder is None else folder_images(self, "validation")


@dataclass
class TextDataset(AnyDataset):
    """What every text has: a training, a validation and a test part."""

    is_text: ClassVar[bool] = True

    characters: bool  # true: a text is read character by character; false: word by word
    vocabulary: int | None  # most words that are known, the most frequent ones; others are <unk>; null: all

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "from 2 to 10000000, or null for all"
        within = self.vocabulary is None or 2 <= self.vocabulary <= 10**7
        require(within, "dataset.vocabulary", self.vocabulary, allowed)

    def text(self, part: str) -> str:
        """Read a part: train, valid or test."""
        raise NotImplementedError

    def place(self, part: str) -> str:
        """Where a part comes from, for a message."""
        raise NotImplementedError


@register("dataset", "bundled_text")
@dataclass
class BundledText(TextDataset):
    """The text that ships with this package."""

    def text(self, part: str) -> str:
        from darts.tasks.text import bundled_text

        return bundled_text(self, part)

    def place(self, part: str) -> str:
        return f"dataset {self.name}, part {part}"


@register("dataset", "text_folder")
@dataclass
class TextFolder(TextDataset):
    """One's own text: root/train.txt, root/valid.txt, root/test.txt, as the Penn Treebank and WikiText come."""

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ()

    def text(self, part: str) -> str:
        from darts.tasks.text import folder_text

        return folder_text(self, part)

    def place(self, part: str) -> str:
        return f"dataset.root: {self.root}/{part}.txt"


class DropoutMasks(Enum):
    """Which dropout masks the passes of one step of a search see."""

    COMMON = "common"  # the same ones, so that differences of losses are not those of masks
    INDEPENDENT = "independent"  # each pass its own, as in the code of Liu et al. 2019


class UnrolledEmbedding(Enum):
    """What the unrolled step of the second order does with the embedding, which is the decoder too."""

    MOVED = "moved"  # it moves like every other weight
    HELD = "held"  # it stays, as in the code of Liu et al. 2019, whose tied matrix has two names


class Perplexity(Enum):
    """Over how many words the perplexity of an evaluated text is a mean."""

    EXACT = "exact"  # those that are predicted: all of a column but the first
    AS_PRINTED = "as_printed"  # all of a column, as in the code behind the published numbers, which is a little less


@dataclass
class LanguageSettings:
    """How a language model is built, read and regularised (Liu et al. 2019, appendix A.1.2; Merity et al. 2018)."""

    units: int  # of the embedding and of the cell's state
    dropout_embedding: float  # probability with which a word of the vocabulary is dropped
    dropout_inputs: float  # probability with which a value of an embedded word is dropped
    dropout_cell_input: float  # probability with which a value of the cell's input is dropped, besides dropout_inputs
    dropout_hidden: float  # probability with which a value of a hidden state is dropped, wherever the cell reads it
    dropout_output: float  # probability with which a value of the cell's output is dropped before the decoder
    masks: DropoutMasks  # whether all passes of a search's step see the same dropout masks
    activation: float  # weight of the penalty on large outputs of the cell (AR) in the weights' loss
    temporal: float  # weight of the penalty on changes of the output from word to word (TAR) in the weights' loss
    piece: int  # length of a piece in words: how far gradients reach back (BPTT length)
    piece_halved: float  # probability of a piece of half the length
    piece_deviation: float  # standard deviation of a piece's length; 0: exactly language.piece or half of it
    piece_most_above: int  # words by which a piece may be longer than `piece`
    evaluation_columns: int  # columns, read in parallel, in which the validation text is evaluated
    test_columns: int  # columns, read in parallel, in which the test text is evaluated
    perplexity: Perplexity  # what the loss is divided by: EXACT, the predicted words, or AS_PRINTED by the papers' code
    unrolled_embedding: UnrolledEmbedding  # whether the second order's unrolled step moves the embedding
    average_after: int  # averaged SGD begins at a loss above the lowest of all epochs but the last so many; 0: never
    average_from: int  # the epoch, from 1, with which averaged SGD begins at the latest; 0: as average_after says

    def __post_init__(self) -> None:
        require(1 <= self.units <= 65536, "language.units", self.units, "from 1 to 65536")
        for name in ("embedding", "inputs", "cell_input", "hidden", "output"):
            value = getattr(self, f"dropout_{name}")
            require(0 <= value < 1, f"language.dropout_{name}", value, "at least 0 and below 1")
        for name in ("activation", "temporal", "piece_deviation"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"language.{name}", value, "at least 0, finite")
        require(2 <= self.piece <= 10000, "language.piece", self.piece, "from 2 to 10000")
        require(0 <= self.piece_halved <= 1, "language.piece_halved", self.piece_halved, "from 0 to 1")
        require(0 <= self.piece_most_above <= 10000, "language.piece_most_above", self.piece_most_above, "0 to 10000")
        for name in ("evaluation_columns", "test_columns"):
            require(1 <= getattr(self, name) <= 100000, f"language.{name}", getattr(self, name), "from 1 to 100000")
        require(self.average_after >= 0, "language.average_after", self.average_after, "at least 0 (0: never)")
        allowed = "0 (as language.average_after says) or at least 2"
        require(self.average_from == 0 or self.average_from >= 2, "language.average_from", self.average_from, allowed)
