"""Where images come from: the bundled set, torchvision's sets, folders of pictures; in memory or streamed from disk.

Training and test images are opened by different calls. A search makes the first call only, so that it cannot touch
the test set.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from darts.runtime.errors import UserError, require
from darts.runtime.files import write_bytes
from darts.spaces.search_space import InputShape
from darts.tasks.settings import BundledDataset, Dataset, ImageFolderDataset, TorchvisionDataset, TorchvisionName

if TYPE_CHECKING:
    from PIL import Image

BUNDLED = Path(__file__).parent.parent / "assets" / "fashion_mini.npz"


class Pixels(NamedTuple):
    """Raw images (batch, C, H, W) of type uint8 and their labels (batch,)."""

    images: Tensor
    labels: Tensor


class ArrayImages:
    """Labelled images held in the memory of a device."""

    def __init__(self, pixels: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
        self.pixels = pixels  # (images, C, H, W), uint8
        self.labels = labels  # (images,), int64
        self.classes = list(classes)
        self.channels = pixels.shape[1]

    def to(self, device: torch.device) -> ArrayImages:
        """The same images in the memory of another device."""
        return ArrayImages(self.pixels.to(device), self.labels.to(device), self.classes)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Pixels]:
        """For each tensor of indices a batch."""
        for chunk in chunks:
            indices = chunk.to(self.pixels.device)
            yield Pixels(self.pixels[indices], self.labels[indices])


class FileImages:
    """Labelled image files that are decoded when their turn comes, by `workers` processes."""

    def __init__(self, files: Sequence[tuple[str, int]], classes: Sequence[str], decoder: Decoder, workers: int):
        self.paths = [path for path, _ in files]
        self.labels = torch.tensor([label for _, label in files])
        self.classes = list(classes)
        self.channels = decoder.channels
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
        loader: Any = torch.utils.data.DataLoader(
            self,  # type: ignore[arg-type]
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
        return ArrayImages(pixels, self.labels, self.classes)


ImageSet = ArrayImages | FileImages


def _eight_bits(image: Image.Image, path: str) -> Image.Image:
    """The picture with 8 bits a pixel where it has 16; PIL itself would cut off what is over 255.

    `UserError` where pixels are 32-bit integers or floating point, whose range no file says.
    """
    from PIL import Image

    if image.mode in ("I", "F"):
        raise UserError(f"{path}: pixels of 32 bits, whose range is unknown; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image


class Decoder:
    """Image file -> uint8 tensor (C, size, size): shorter side resized, centre cropped, grey or colour."""

    def __init__(self, size: int, channels: int) -> None:
        self.size = size
        self.channels = channels

    @functools.cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """The deterministic torchvision transforms; random ones follow on the device."""
        from torchvision.transforms import v2

        return v2.Compose([v2.PILToTensor(), v2.Resize(self.size, antialias=True), v2.CenterCrop(self.size)])

    def __call__(self, path: str) -> Tensor:
        """Raises `UserError` naming a file that is no whole image."""
        from PIL import Image

        try:
            mode = "RGB" if self.channels == 3 else "L"
            with Image.open(path) as image:
                return self.transform(_eight_bits(image, path).convert(mode))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: not a readable image ({error})") from None


def open_training(settings: Dataset) -> ImageSet:
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


def shape_of(settings: Dataset) -> InputShape:
    """What a network of this data set is given and asked for."""
    images = open_training(settings)
    return InputShape(images.channels, settings.image_size, len(images.classes))


def open_test(settings: Dataset) -> ImageSet:
    """The test images: for the final evaluation and nothing else."""
    return settings.images(train=False)


def channel_statistics(settings: Dataset, images: ImageSet) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel (range 0 to 1): the given ones, or measured on training images."""
    if settings.mean is not None and settings.std is not None:
        for setting, values in (("dataset.mean", settings.mean), ("dataset.std", settings.std)):
            require(len(values) == images.channels, setting, values, f"{images.channels} numbers, one a channel")
        return list(settings.mean), list(settings.std)
    if not isinstance(settings, ImageFolderDataset):
        return _measure(images)
    return _cached_statistics(settings, images)


def bundled_images(settings: BundledDataset, train: bool) -> ImageSet:
    """The images that ship with this package."""
    part = "train" if train else "test"
    try:
        with np.load(BUNDLED) as archive:
            images, labels = archive[f"{part}_images"], archive[f"{part}_labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{BUNDLED} is damaged ({type(error).__name__}); take it again from the repository") from None
    pixels = torch.from_numpy(images)[:, None]
    return ArrayImages(_pad(pixels, settings), torch.from_numpy(labels).long(), FASHION_CLASSES)


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
    return ArrayImages(_pad(pixels, settings), labels, classes)


def folder_images(settings: ImageFolderDataset, train: bool) -> ImageSet:
    """Pictures in class folders, decoded at once or, where they are too many, when their turn comes."""
    files, classes = _folder_files(settings, train)
    decoder = Decoder(settings.image_size, settings.channels or _channels_of(files[0][0]))
    images = FileImages(files, classes, decoder, settings.workers)
    megabytes = len(files) * decoder.channels * settings.image_size**2 / 1e6
    return images.in_memory() if megabytes <= settings.device_megabytes else images


FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _pad(pixels: Tensor, settings: Dataset) -> Tensor:
    """Zero padding on all sides up to the size asked for."""
    height, width = pixels.shape[2:]
    missing = settings.image_size - height, settings.image_size - width
    require(min(missing) >= 0, "dataset.image_size", settings.image_size, f"at least {max(height, width)}, its own")
    top, left = (side // 2 for side in missing)
    sides = (left, missing[1] - left, top, missing[0] - top)
    return torch.nn.functional.pad(pixels, sides).contiguous()


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


def _folder_files(settings: ImageFolderDataset, train: bool) -> tuple[list[tuple[str, int]], list[str]]:
    root = Path(settings.root)
    if not root.is_dir():
        raise UserError(f"dataset.root {settings.root!r} is no folder; it must hold train/CLASS/*.png or CLASS/*.png")
    if not (root / "train").is_dir():
        return _set_aside(settings, *_scan(root), train)
    if not (root / "test").is_dir():
        raise UserError(f"dataset.root {root}: there is a folder train but no folder test beside it")
    files, classes = _scan(root / ("train" if train else "test"))
    if not train and classes != sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir()):
        raise UserError(f"dataset.root {root}: the class folders of train and test differ")
    return files, classes


def _scan(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except (FileNotFoundError, RuntimeError) as error:  # no class folder, or an empty one
        raise UserError(f"dataset.root {folder}: {' '.join(str(error).split())}") from None
    return found.samples, found.classes


def _set_aside(
    settings: ImageFolderDataset, files: list[tuple[str, int]], classes: list[str], train: bool
) -> tuple[list[tuple[str, int]], list[str]]:
    """Without a test folder: the last images of each class, in an order that depends on the file names only."""
    kept = []
    for label in range(len(classes)):
        own = [file for file in files if file[1] == label]
        own.sort(key=lambda file: hashlib.sha256(Path(file[0]).name.encode()).digest())
        test = max(1, round(settings.test_fraction * len(own)))
        kept += own[:-test] if train else own[-test:]
    return sorted(kept), classes


def _channels_of(path: str) -> int:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return 1 if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16") else 3
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None


def _measure(images: ImageSet) -> tuple[list[float], list[float]]:
    chunks = torch.arange(len(images.labels)).split(1024)
    count, total, squares = 0, torch.zeros(images.channels).double(), torch.zeros(images.channels).double()
    for batch in images.batches(chunks):
        values = batch.images.cpu().transpose(0, 1).flatten(1).double() / 255
        count += values.shape[1]
        total += values.sum(1)
        squares += values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-8).sqrt()
    return [round(value, 6) for value in mean.tolist()], [round(value, 6) for value in std.tolist()]


def _cached_statistics(settings: ImageFolderDataset, images: ImageSet) -> tuple[list[float], list[float]]:
    """Measured once for a list of files, sizes, times and channels; kept in `dataset.cache`."""
    paths = [Path(path) for path, _ in _folder_files(settings, True)[0]]
    listing = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = hashlib.sha256(json.dumps([settings.image_size, images.channels, listing]).encode()).hexdigest()[:16]
    file = Path(settings.cache).expanduser() / f"statistics-{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # missing, or no such file: it is measured again
        known = json.loads(file.read_text())
        return known["mean"], known["std"]
    mean, std = _measure(images)
    write_bytes(file, json.dumps({"mean": mean, "std": std}).encode(), shared=True)
    return mean, std
