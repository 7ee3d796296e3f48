"""The sets of images that torchvision knows, downloaded where that is allowed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darts.runtime.errors import UserError
from darts.tasks.datasets import ArrayImages, ImageSet, padded
from darts.tasks.settings import TorchvisionDataset, TorchvisionName


def torchvision_images(settings: TorchvisionDataset, train: bool) -> ImageSet:
    """The images of a set that torchvision knows, downloaded where that is allowed."""
    source = _torchvision_set(settings, train)
    given = source.labels if hasattr(source, "labels") else source.targets
    labels = torch.as_tensor(np.asarray(given)).long()
    pixels = torch.as_tensor(np.asarray(source.data))
    if pixels.ndim == 3:  # grey images
        pixels = pixels[:, None]
    elif pixels.shape[3] == 3:  # channels last
        pixels = pixels.permute(0, 3, 1, 2)
    classes = getattr(source, "classes", None) or [str(label) for label in range(int(labels.max()) + 1)]
    return ArrayImages(padded(pixels, settings), labels, classes)


def _torchvision_set(settings: TorchvisionDataset, train: bool) -> Any:
    from torchvision import datasets

    classes = {
        TorchvisionName.FASHION_MNIST: datasets.FashionMNIST,
        TorchvisionName.CIFAR10: datasets.CIFAR10,
        TorchvisionName.CIFAR100: datasets.CIFAR100,
        TorchvisionName.SVHN: datasets.SVHN,
    }
    svhn = settings.source is TorchvisionName.SVHN
    part: dict[str, Any] = {"split": "train" if train else "test"} if svhn else {"train": train}
    build = functools.partial(classes[settings.source], settings.root, **part)
    try:
        return build(download=False)
    except RuntimeError:  # "not found or corrupted"
        pass
    except (ValueError, OSError, EOFError, AssertionError, TypeError) as error:
        raise UserError(f"dataset {settings.name}: its files in {settings.root} are damaged ({error})") from None
    folder = Path(settings.root).resolve()
    if not settings.download:
        raise UserError(f"dataset {settings.name}: not found in {folder} (dataset.root), and dataset.download is false")
    try:
        return build(download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"dataset {settings.name}: not found in {folder} (dataset.root), and the download failed: {reason}"
        ) from None
