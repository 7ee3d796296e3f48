"""A trained network as one module: pixels or prepared images in, logits out, with its classes and its preparation."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from darts.models.network import Network
from darts.runtime.device import choose_device
from darts.runtime.errors import UserError, one_line, optional
from darts.runtime.text import printable
from darts.spaces.genotype import Genotype, from_json
from darts.tasks.augmentation import normalisation, normalise
from darts.tasks.features import LogMel
from darts.tasks.folders import class_name
from darts.tasks.pictures import ENDINGS, Decoder
from darts.tasks.sounds import SOUND_ENDINGS, SoundReader
from darts.train.saved import features_of_file, network_of, read_network, shape_of_file, weights_file

METADATA = "darts"  # the key of a .safetensors file's metadata that describes the network


class Prediction(NamedTuple):
    """What a network says of one picture."""

    name: str  # of the likeliest class
    probability: float
    probabilities: dict[str, float]  # of every class, in the order of the outputs


class TrainedNetwork(nn.Module):
    """A trained network with what it needs to be used: `load_network` makes it of a weights.pt.

    Called with uint8 pixels (batch, channels, height, width), or a network of sounds with int16 sounds (batch, 1,
    samples), it prepares them; floating-point images or features are taken as prepared. It returns logits (batch,
    classes), and is in evaluation mode until `train()` is called.

    Attributes: `classes` names the outputs in their order (numbers as texts where the file names none), `genotype` is
    the cell, `shape` the input's channels, size and number of classes, `described` all else that the file says,
    `features_of_sound` what a network of sounds is given, None for one of images.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, described: dict[str, Any], classes: Sequence[str], genotype: Genotype) -> None:
        super().__init__()
        self.network = network
        self.described = {key: value for key, value in described.items() if key != "weights"}
        self.classes, self.genotype = list(classes), genotype
        self.shape = replace(shape_of_file(described), classes=len(self.classes))
        self.features_of_sound = features_of_file(described)
        scale, shift = normalisation(described["mean"], described["std"], torch.device("cpu"))
        self.log_mel: LogMel | None = None
        if self.features_of_sound is not None:
            self.log_mel, scale = LogMel(self.features_of_sound), scale * 255  # features have no range of 0 to 255
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.eval()

    @property
    def decoder(self) -> Decoder | SoundReader:
        """What makes a raw input of a file."""
        of = self.features_of_sound
        if of is not None:
            return SoundReader(of.rate, of.samples)
        return Decoder(self.shape.size, self.shape.channels, self.described.get("resize"))

    @property
    def endings(self) -> frozenset[str]:
        """Endings, in small letters, of the files that the network can be asked about."""
        return ENDINGS if self.features_of_sound is None else SOUND_ENDINGS

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The shape of one raw input: channels, height and width of an image, or 1 and the samples of a sound."""
        of = self.features_of_sound
        return self.shape.map_shape if of is None else (1, of.samples)

    @property
    def raw_type(self) -> torch.dtype:
        """The type of raw inputs."""
        return torch.uint8 if self.features_of_sound is None else torch.int16

    def picture(self, file: str) -> Tensor:
        """A file as the network sees it: uint8 (channels, height, width); of a sound its features, low ones below."""
        raw = self.decoder(file)
        if self.log_mel is None:
            return raw
        features = self.log_mel(raw[None].to(self.scale.device))[0].cpu().flip(1)
        least, most = features.aminmax()
        return ((features - least) / (most - least).clamp_min(1e-6) * 255).to(torch.uint8)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of raw pixels (uint8) or prepared images (floating point)."""
        return self.network(self.prepared(images))

    def prepared(self, images: Tensor) -> Tensor:
        """Raw pixels or sounds prepared as in training; what is prepared already as it is.

        `UserError` for other channels or another size than the network's, and for integers of another type.
        """
        if self.log_mel is not None and not images.is_floating_point():
            return self._of_sounds(images)
        expected = self.shape.map_shape
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise UserError(f"images are of shape {tuple(images.shape)}; this network takes (batch, {expected[0]}, "
                            f"{expected[1]}, {expected[2]}): use preprocess for pictures of other sizes")  # fmt: skip
        if images.dtype is torch.uint8:
            return normalise(images, self.scale, self.shift).contiguous(memory_format=torch.channels_last)
        if not images.is_floating_point():
            raise UserError(
                f"images are of type {images.dtype}; this network takes uint8 pixels or prepared floating point"
            )
        return images if images.dtype is self.scale.dtype else images.to(self.scale.dtype)

    def _of_sounds(self, sounds: Tensor) -> Tensor:
        """Normalised features of raw sounds."""
        if sounds.dtype is not torch.int16 or tuple(sounds.shape[1:]) != self.raw_shape:
            told = f"this network takes int16 (batch, 1, {self.raw_shape[1]}): use preprocess for files"
            raise UserError(f"sounds are {sounds.dtype} of shape {tuple(sounds.shape)}; {told}")
        features = cast(LogMel, self.log_mel)(sounds)
        return normalise(features, self.scale, self.shift).contiguous(memory_format=torch.channels_last)

    def preprocess(self, pictures: str | Path | Iterable[str | Path]) -> Tensor:
        """Files, pictures or of a network of sounds WAV files, as a prepared batch on this network's device.

        Upright, transparent pixels on white, resized to cover the network's size and cut to the centre, grey or colour
        as in training. `UserError` naming a file that is no readable picture, and for no file at all.
        """
        decoder = self.decoder
        held = [decoder(str(file)) for file in picture_files(pictures)]
        if not held:
            raise UserError("pictures is empty; give the file of a picture, or several")
        return self.prepared(torch.stack(held).to(self.scale.device))

    @torch.no_grad()
    def predict(self, pictures: str | Path | Iterable[str | Path]) -> list[Prediction]:
        """What the network says of files, in their order; in evaluation mode whatever the present mode."""
        files = picture_files(pictures)
        if not files:
            return []
        training = self.training
        self.eval()
        probabilities = self(self.preprocess(files)).softmax(1).cpu()
        self.train(training)
        return [self.prediction(row.tolist()) for row in probabilities]

    def prediction(self, probabilities: Sequence[float]) -> Prediction:
        """One row of probabilities with the classes' names."""
        named = dict(zip(self.classes, probabilities, strict=True))
        best = max(named, key=lambda name: named[name])
        return Prediction(best, named[best], named)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier is given, (batch, width): the last cell's output, averaged over the map."""
        return self.network.features(self.prepared(images))

    def new_head(self, classes: Sequence[str]) -> None:
        """Replace the classifier by a new one for other classes; all else keeps its weights."""
        names = [] if isinstance(classes, str) else list(classes)
        texts = all(isinstance(name, str) for name in names)
        if not texts or len({class_name(name) for name in names}) != len(names) or len(names) < 2:
            raise UserError(f"classes is {one_line(classes)}; it must be at least 2 different names, each a text")
        old = self.network.classifier
        self.network.classifier = nn.Linear(old.in_features, len(names)).to(old.weight)
        self.network.auxiliary = None  # the head in the middle is for the old classes, and for training only
        self.classes = names
        self.shape = replace(self.shape, classes=len(names))


def load_network(file: str | Path, device: str = "cpu") -> TrainedNetwork:
    """The trained network of a weights.pt, of the run folder that holds one, or of an exported .safetensors file.

    "latest" is the newest retraining under runs/. The network is in evaluation mode, on `device`.

    `UserError` for a file that is none, is damaged, or needs a plug-in that is not imported.
    """
    path = weights_file(file, "runs")
    network, described = read_safetensors(path) if path.suffix == ".safetensors" else read_network(path)
    number = described["input"]["classes"]
    classes = described["class_names"] or [str(label) for label in range(number)]
    genotype = from_json(described["genotype"], origin=str(path))
    return TrainedNetwork(network, described, classes, genotype).to(choose_device(device))


def picture_files(pictures: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files that are named; `UserError` for what names none, and for a path where there is no file."""
    named = [pictures] if isinstance(pictures, str | Path) else pictures
    if not isinstance(named, Iterable) or isinstance(named, Tensor):
        raise UserError(f"pictures is a {type(pictures).__name__}; it must be the path of a file, or several")
    files = []
    for name in named:
        if not isinstance(name, str | Path):
            told = "pixels that are read already go to the network itself, as a tensor"
            raise UserError(f"pictures: a {type(name).__name__} is no path of a file; {told}")
        file = Path(name).expanduser()
        require_no_pipe(file, "pictures")
        if not file.exists():
            raise UserError(f"pictures: there is no file {one_line(name)}")
        files.append(file)
    return files


@contextmanager
def named_in_utf8(path: Path) -> Iterator[Path]:
    """A path to the same content for a library that takes no other names than those in UTF-8; within the block."""
    if printable(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copy(path, Path(folder, "copy.safetensors")))


def require_no_pipe(path: Path, what: str) -> None:
    """`UserError` for a path that leads to something else than a file: a pipe would be waited for without end."""
    if path.exists() and not path.is_file():
        raise UserError(f"{what}: {one_line(path)} is no regular file")


def read_safetensors(path: Path) -> tuple[Network, dict[str, Any]]:
    """What `read_network` gives, of a file that `python -m darts.export to=safetensors` wrote."""
    safe_open = optional("safetensors", "reading .safetensors").safe_open
    require_no_pipe(path, "weights")
    try:
        with named_in_utf8(path) as file, safe_open(file, framework="pt") as opened:
            described = json.loads((opened.metadata() or {}).get(METADATA, "null"))
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no dictionary
    except Exception as error:  # noqa: BLE001  its error class is not public
        raise UserError(f"weights: {path} cannot be read ({type(error).__name__}: {one_line(error)})") from None
    if not isinstance(described, dict):
        raise UserError(f"weights: {path} does not describe a network: it has no metadata of this program")
    return network_of({**described, "weights": weights}, path)
