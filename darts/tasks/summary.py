"""What the data are, as a run says at its start: name, folder, channels, classes with counts, what was left out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darts.runtime.errors import one_line
from darts.spaces.search_space import as_written
from darts.tasks.datasets import FolderOrigin, ImageSet, open_training
from darts.tasks.folders import shortened
from darts.tasks.settings import AnyDataset, LabelledDataset, TextDataset
from darts.tasks.several_settings import SeveralDatasets
from darts.tasks.text import Corpus, open_corpus

log = logging.getLogger(__name__)
SHOWN_CLASSES = 12


@dataclass(frozen=True)
class DataSummary:
    """The facts of opened training images, and of the test images what is known without opening them."""

    name: str  # of the data set
    folder: str | None  # resolved; None where the images come from no folder of pictures
    channels: int
    image_size: Any  # the side of square images, or [height, width]
    classes: dict[str, int]  # training images by class, before `dataset.fraction`
    training: int  # images, before `dataset.fraction`
    test: int | None  # images; None where it is not known before they are opened
    set_aside: bool  # whether the test images are a part of each class's one folder
    converted: dict[str, int]  # training pictures by conversion of their pixels
    skipped: dict[str, int]  # entries of the folder that are no pictures of a class, by reason
    untested: list[str]  # classes without a test picture, which the test will refuse
    unused: list[str]  # folders beside train and test whose pictures are not used
    validation: int = 0  # pictures that a retraining watches
    examples: str = "images"  # or sounds

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """The summary for people, in a few lines."""
        sides = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        shape = f"{self.channels} x {sides[0]} x {sides[1]}"
        place = "" if self.folder is None else f" in {one_line(self.folder)}"
        told = [f"data: {one_line(self.name)}{place}, {shape}, {self.training} training {self.examples}{self._test()}"]
        counts = [f"{name} {count}" for name, count in self.classes.items()]
        told.append(f"{len(counts)} classes: {shortened(counts, SHOWN_CLASSES)}")
        if self.converted:
            told.append(f"converted training {self._files()}: {counted(self.converted)}")
        if self.skipped:
            told.append(f"skipped: {counted(self.skipped)}")
        if self.untested:
            named = shortened(self.untested, SHOWN_CLASSES)
            told.append(f"no test {self._files()[:-1]} of class {named}: a retraining needs some")
        if self.validation:
            told.append(f"validation: {self.validation} {self._files()}, which a retraining watches")
        if self.unused:
            place = "folder" if self.examples == "images" else "the validation part"
            told.append(f"not used: {place} {', '.join(self.unused)} beside train and test")
        return told

    def _files(self) -> str:
        return "pictures" if self.examples == "images" else self.examples

    def _test(self) -> str:
        if self.test is None:
            return ""
        return f", {self.test} test {self.examples}" + (" set aside" if self.set_aside else "")


def summarise(settings: LabelledDataset, images: ImageSet) -> DataSummary:
    """The summary of a data set whose training images are open; no test image is read for it."""
    counts = torch.bincount(images.labels.cpu(), minlength=len(images.classes)).tolist()
    facts = DataSummary(
        name=settings.name,
        folder=None,
        channels=images.channels,
        image_size=as_written(settings.size),
        classes=dict(zip(images.classes, counts, strict=True)),
        training=len(images.labels),
        test=None,
        set_aside=False,
        converted={},
        skipped={},
        untested=[],
        unused=[],
        examples=settings.noun,
    )
    return facts if images.origin is None else _of_folder(facts, images.origin)


def _of_folder(facts: DataSummary, origin: FolderOrigin) -> DataSummary:
    """The facts with those of the folder that the images come from."""
    listing = origin.listing
    return dataclasses.replace(
        facts,
        folder=str(listing.root),
        test=len(listing.test),
        set_aside=listing.set_aside,
        converted=dict(origin.converted),
        skipped=dict(listing.skipped),
        untested=listing.without_test_pictures(),
        unused=list(listing.unused),
        validation=len(listing.validation),
    )


@dataclass(frozen=True)
class TextSummary:
    """The facts of an opened text."""

    name: str  # of the data set
    folder: str | None  # resolved; None where the text comes from no folder
    unit: str  # words or characters
    vocabulary: int  # different ones that a model knows
    tokens: dict[str, int]  # by opened part
    unknown: dict[str, int]  # by opened part: those that are not in the vocabulary

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """The summary for people."""
        place = "" if self.folder is None else f" in {one_line(self.folder)}"
        parts = ", ".join(f"{part} {count}" for part, count in self.tokens.items())
        told = [f"data: {one_line(self.name)}{place}, {self.unit}: {parts}; vocabulary {self.vocabulary}"]
        if any(self.unknown.values()):
            told.append(f"unknown {self.unit}, read as <unk>: {counted(self.unknown)}")
        return told


def summarise_text(settings: TextDataset, corpus: Corpus) -> TextSummary:
    """The summary of a text whose parts are open."""
    folder = str(Path(settings.root).expanduser().resolve()) if settings.root else None
    unit = "characters" if settings.characters else "words"
    return TextSummary(
        name=settings.name,
        folder=folder,
        unit=unit,
        vocabulary=len(corpus.vocabulary.tokens),
        tokens={part: len(numbers) for part, numbers in corpus.parts.items()},
        unknown=dict(corpus.unknown),
    )


@dataclass(frozen=True)
class SeveralSummary:
    """The facts of the opened training data of several tasks."""

    name: str  # the tasks' names
    members: Mapping[str, DataSummary]  # by task

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON can hold them."""
        return {"name": self.name, "members": {name: facts.to_json() for name, facts in self.members.items()}}

    def lines(self) -> list[str]:
        """The summaries for people, one after the other."""
        return [line for facts in self.members.values() for line in facts.lines()]


AnySummary = DataSummary | TextSummary | SeveralSummary


def summary_of(settings: AnyDataset, data: Any) -> AnySummary:
    """The summary of what a run has opened: `SearchData`, `TrainData` or their likes for text."""
    if isinstance(settings, TextDataset):
        return summarise_text(settings, data.corpus)
    if isinstance(settings, SeveralDatasets):
        opened = {name: data.members[name].train.images for name in settings.members}
        return SeveralSummary(settings.name, {name: summarise(p, opened[name]) for name, p in settings.parts().items()})
    if isinstance(settings, LabelledDataset):
        return summarise(settings, data.train.images)
    raise TypeError(f"no summary of {type(settings).__name__}")


def summary_of_training(settings: AnyDataset) -> DataSummary | TextSummary:
    """The summary of a data set whose training data are opened for it."""
    if isinstance(settings, TextDataset):
        return summarise_text(settings, open_corpus(settings))
    if isinstance(settings, LabelledDataset):
        return summarise(settings, open_training(settings))
    raise TypeError(f"no summary of {type(settings).__name__}")


def log_summary(summary: AnySummary) -> None:
    """Say at a run's start what its data are."""
    for line in summary.lines():
        log.info("%s", line)


def counted(counts: Mapping[str, int]) -> str:
    """Counts with what they are of, with commas between them."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())
