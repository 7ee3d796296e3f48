"""What a network says of many picture files: listed, read in batches, answered in their order."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from darts.runtime.errors import UserError, one_line
from darts.runtime.text import printable, utf8_name
from darts.tasks.folders import list_pictures
from darts.tasks.pictures import ENDINGS
from darts.tasks.summary import counted
from darts.use.trained import TrainedNetwork

log = logging.getLogger(__name__)


def noun_of(endings: Collection[str]) -> str:
    """What files with these endings are, for a message."""
    return "picture" if endings is ENDINGS else "sound"


def allowed(endings: Collection[str]) -> str:
    """What files may end in, for a message."""
    return f"{noun_of(endings)}s end in {' '.join(sorted(endings))}"


@dataclass(frozen=True)
class Answers:
    """A network's answers to pictures."""

    files: list[str]
    probabilities: list[list[float]]  # a row a picture, a column a class
    classes: list[str]
    unreadable: list[str]  # files that are no readable pictures, with the reason

    def to_csv(self) -> str:
        """A line a picture: file, likeliest class, its probability, then the probability of every class."""
        written = io.StringIO()
        lines = csv.writer(written, lineterminator="\n")
        lines.writerow(["file", "class", "probability", *self.classes])
        for file, row in zip(self.files, self.probabilities, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            name = printable(utf8_name(file))
            lines.writerow([name, self.classes[best], f"{row[best]:.6f}", *(f"{value:.6f}" for value in row)])
        return written.getvalue()


def pictures_of(place: Path, in_classes: bool = False, endings: Collection[str] = ENDINGS) -> list[Path]:
    """A picture, or all pictures in a folder and those below it, sorted, by the rules by which a training lists them.

    `endings`: of the files that are meant, such as those of sounds.

    `in_classes`: only those below its folders, which are the pictures that a test of that folder would open. What is
    skipped is counted and said. `UserError` where there is none.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        told = f"which is neither a {noun_of(endings)} nor a folder; {allowed(endings)}"
        raise UserError(f"images is {one_line(place)}, {told}")
    found, skipped = list_pictures(place, in_classes, "images", endings)
    if skipped:
        log.info("skipped: %s", counted(skipped))
    if not found:
        noun = noun_of(endings)
        what = f"holds no {noun} in a folder of a class" if in_classes else f"holds no {noun}"
        raise UserError(f"images is {one_line(place)}, which {what}; {allowed(endings)}")
    return [Path(file) for file in found]


def none_readable(network: TrainedNetwork, number: int, first: str) -> UserError:
    """The error for files of which a network can read none; `first`: what is wrong with the first one."""
    return UserError(f"images: none of the {number} files is a readable {noun_of(network.endings)}; the first: {first}")


@torch.no_grad()
def predict(network: TrainedNetwork, files: Sequence[Path], batch_size: int = 64) -> Answers:
    """Ask a network about picture files, a batch at a time, in their order.

    A file that is no readable picture is left out and named; `UserError` where none is readable, and for an answer
    that is a NaN.
    """
    decoder = network.decoder
    answered: list[str] = []
    probabilities: list[list[float]] = []
    unreadable: list[str] = []
    for names, pixels in _batches(decoder, files, batch_size, unreadable):
        found = network(pixels.to(network.scale.device)).softmax(1)
        finite = found.isfinite().all(1).tolist()
        if not all(finite):
            name = one_line(names[finite.index(False)])
            raise UserError(f"weights: the answer to {name} is not finite; this network's weights are too large")
        answered += names
        probabilities += found.cpu().tolist()
    for reason in unreadable[:5]:
        log.warning("left out: %s", reason)
    if not answered:
        raise none_readable(network, len(files), unreadable[0])
    return Answers(answered, probabilities, network.classes, unreadable)


def pixels_of(network: TrainedNetwork, files: Sequence[Path]) -> Tensor:
    """Raw pixels of pictures as a network takes them; unreadable ones are left out, `UserError` where all are."""
    decoder = network.decoder
    unreadable: list[str] = []
    held = [pixels for _, pixels in _batches(decoder, files, len(files), unreadable)]
    if not held:
        raise none_readable(network, len(files), unreadable[0])
    return held[0]


def first_readable(network: TrainedNetwork, place: Path) -> Path:
    """The first of the pictures in a place that can be read; `UserError` where none can."""
    decoder, unreadable, noun = network.decoder, list[str](), noun_of(network.endings)
    for names, _ in _batches(decoder, pictures_of(place, endings=network.endings), 1, unreadable):
        return Path(names[0])
    raise UserError(f"images: none of the files in {one_line(place)} is a readable {noun}; the first: {unreadable[0]}")


def _batches(
    decoder: Callable[[str], Tensor], files: Sequence[Path], size: int, unreadable: list[str]
) -> Iterator[tuple[list[str], Tensor]]:
    """The readable files in batches, with their raw pixels."""
    names: list[str] = []
    held: list[Tensor] = []
    for file in files:
        try:
            held.append(decoder(str(file)))
        except UserError as error:
            unreadable.append(str(error))
            continue
        names.append(str(file))
        if len(held) == size:
            yield names, torch.stack(held)
            names, held = [], []
    if held:
        yield names, torch.stack(held)
