"""Settings of the data: where images come from and how they are changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from darts.config.registry import register
from darts.runtime.errors import require

if TYPE_CHECKING:
    from darts.tasks.datasets import ImageSet


@dataclass(frozen=True)
class Augmentation:
    """Which random changes a training image undergoes (Liu et al. 2019: crop of 4 and flip; retraining: cutout 16)."""

    crop_padding: int  # pixels of zero padding on each side before a crop of the original size; 0: no crop
    flip: bool  # mirror left and right with probability 1/2
    cutout: int  # side in pixels of a square set to the mean (DeVries and Taylor 2017); 0: none


@dataclass
class Dataset:
    """What every data set has; the classes below say where its images come from."""

    name: str  # of the data set, as reports print it
    root: str  # the folder its files lie in
    fraction: float  # fraction of the training images that is used, the same of every class
    image_size: int  # pixels; square
    mean: list[float] | None  # by channel, of the range 0 to 1; null: measured on the training images
    std: list[float] | None  # standard deviations by channel, like mean
    crop_padding: int  # pixels of zero padding before a random crop; 0: no crop
    flip: bool  # mirror training images left and right with probability 1/2

    def images(self, train: bool) -> ImageSet:
        """Open the training images, or the test images."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "dataset.fraction", self.fraction, "above 0 and at most 1")
        require(1 <= self.image_size <= 4096, "dataset.image_size", self.image_size, "from 1 to 4096")
        require(self.crop_padding >= 0, "dataset.crop_padding", self.crop_padding, "at least 0")
        require((self.mean is None) == (self.std is None), "dataset.std", self.std, "given together with dataset.mean")
        for setting, values in (("dataset.mean", self.mean), ("dataset.std", self.std)):
            finite = values is None or all(math.isfinite(value) for value in values)
            require(finite, setting, values, "finite")
        require(self.std is None or min(self.std) > 0, "dataset.std", self.std, "above 0")


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

    source: TorchvisionName  # which of torchvision's sets
    download: bool  # fetch it into `root` if it is not there

    def images(self, train: bool) -> ImageSet:
        from darts.tasks.datasets import torchvision_images

        return torchvision_images(self, train)


@register("dataset", "image_folder")
@dataclass
class ImageFolderDataset(Dataset):
    """One's own pictures: root/train/CLASS/*.png and root/test/CLASS/*.png, or root/CLASS/*.png only."""

    channels: int | None  # 1 grey, 3 colour; null: colour if any training picture has colours
    test_fraction: float  # where root has no test folder: fraction of each class that is the test set, always the same
    device_megabytes: int  # a set whose pixels take more than this is streamed from disk instead
    workers: int  # processes that read a streamed set
    cache: str  # folder for channel statistics and what headers say; a folder that cannot be written does not matter

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.channels in (None, 1, 3), "dataset.channels", self.channels, "1, 3 or null")
        require(0 < self.test_fraction < 1, "dataset.test_fraction", self.test_fraction, "above 0 and below 1")
        require(self.device_megabytes >= 0, "dataset.device_megabytes", self.device_megabytes, "at least 0")
        require(0 <= self.workers <= 256, "dataset.workers", self.workers, "from 0 to 256")

    def images(self, train: bool) -> ImageSet:
        from darts.tasks.datasets import folder_images

        return folder_images(self, train)
