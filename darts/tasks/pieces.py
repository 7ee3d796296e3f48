"""Text side by side in columns, read piece by piece, and what a search and a retraining see of it.

A piece is T rows of every column; the next piece begins where it ends, with the state that it left (Merity et al.
2018, whose lengths are random so that pieces begin at other words in every epoch).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darts.runtime import distributed
from darts.runtime.device import sent
from darts.runtime.errors import require
from darts.runtime.seeding import derive, generator
from darts.tasks.language import LanguageModelling, TextInput
from darts.tasks.settings import LanguageSettings, TextDataset
from darts.tasks.task import Batch
from darts.tasks.text import Corpus, Vocabulary, numbers_of, open_corpus, tokens_of

KNOWN_PASSES = 8  # whose pieces are kept: every step asks for them
LEAST_PIECE = 5  # rows of a piece of random length


class RawPiece(NamedTuple):
    """Words (T, B) and the words that follow them (T, B), on the device."""

    words: Tensor
    following: Tensor


class Place(NamedTuple):
    """Where a piece lies: its first row, the length that was drawn, and what is left of it at the end of the text."""

    start: int
    asked: int
    length: int


@dataclass(frozen=True)
class TextShape:
    """What a language model is given and asked for: one of so many words."""

    vocabulary: int


@dataclass(frozen=True)
class Lengths:
    """How long the pieces of an epoch are."""

    rows: int  # the usual length
    halved: float  # probability of half of it
    deviation: float  # of the normal distribution around that; 0: exactly that
    most_above: int  # rows above the usual length at most

    def asked(self, uniform: float, normal: float) -> int:
        """The length that a uniform and a standard normal number stand for."""
        mean = self.rows if uniform >= self.halved else self.rows / 2
        if self.deviation == 0:
            return int(mean)
        return min(max(LEAST_PIECE, int(mean + self.deviation * normal)), self.rows + self.most_above)


def places(rows: int, lengths: Lengths, draws: Iterator[tuple[float, float]]) -> list[Place]:
    """The pieces of a text of so many rows; `draws`: for each a uniform and a standard normal number."""
    found, start = [], 0
    while start < rows - 2:
        asked = lengths.asked(*next(draws))
        found.append(Place(start, asked, min(asked, rows - 1 - start)))
        start += asked
    return found


def in_columns(numbers: Tensor, columns: int, setting: str) -> Tensor:
    """A text (tokens,) cut into equal columns side by side: (rows, columns); what is left over is dropped."""
    rows = len(numbers) // columns
    require(rows >= 3, setting, columns, f"at most {len(numbers) // 3}: three of the text's {len(numbers)} words each")
    return numbers[: rows * columns].view(columns, rows).t().contiguous()


class Pieces:
    """A part of a text in columns. Nothing in here changes: a position is (epoch, step), kept by the caller.

    Of each piece a process gets its shard of the columns.
    """

    def __init__(
        self, text: Tensor, lengths: Lengths, seed: int, device: torch.device, follows: Pieces | None = None
    ) -> None:
        self.text = text.to(device)  # (rows, columns)
        self.lengths = lengths
        self.seed = seed
        self.device = device
        self._known: dict[tuple[int, int], list[Place]] = {}  # of the last passes that were asked for
        self.follows = follows  # the pieces of a validation split begin where those of the training split do

    @property
    def columns(self) -> int:
        """Columns of the whole text, over all processes."""
        return self.text.shape[1]

    def places(self, epoch: int, number: int = 0) -> list[Place]:
        """The pieces of a pass, which the seed, the epoch and the pass decide."""
        if self.follows is not None:
            rows = len(self.text)
            starts = [place.start % (rows - 1) for place in self.follows.places(epoch, number)]
            usual = self.lengths.rows
            return [Place(start, usual, min(usual, rows - 1 - start)) for start in starts]
        if (epoch, number) not in self._known:
            if len(self._known) > KNOWN_PASSES:
                self._known.clear()
            drawn = _draws(self.seed, epoch, number)
            self._known[epoch, number] = places(len(self.text), self.lengths, drawn)
        return self._known[epoch, number]

    def steps(self, epoch: int) -> int:
        """Pieces of one pass."""
        return len(self.places(epoch))

    def rate_factor(self, epoch: int, step: int) -> float:
        """What the learning rate of a step is multiplied with: the drawn length over the usual one."""
        return self._place(epoch, step).asked / self.lengths.rows

    def shuffled_raw(self, epoch: int, start: int = 0, steps: int | None = None) -> Iterator[RawPiece]:
        """Pieces `start` to `steps` (default: one pass) of an epoch; another pass follows a pass."""
        end = self.steps(epoch) if steps is None else steps
        for step in range(start, end):
            yield self._piece(self._place(epoch, step))

    def prepared(self, raw: Any) -> Batch:
        """A piece as a model takes it; the state that it begins with is added by the task."""
        return Batch(TextInput(raw.words), raw.following)

    def evaluation(self) -> Iterator[Batch]:
        """The whole text in pieces of the usual length, in order."""
        rows = len(self.text)
        for start in range(0, rows - 1, self.lengths.rows):
            length = min(self.lengths.rows, rows - 1 - start)
            yield self.prepared(self._piece(Place(start, length, length)))

    def _place(self, epoch: int, step: int) -> Place:
        number, found = 0, self.places(epoch)
        while step >= len(found):
            step, number = step - len(found), number + 1
            found = self.places(epoch, number)
        return found[step]

    def _piece(self, place: Place) -> RawPiece:
        own = distributed.shard(torch.arange(self.columns)).to(self.text.device)
        rows = self.text[place.start : place.start + place.length + 1, own]
        return RawPiece(sent(rows[:-1], self.device), sent(rows[1:], self.device))


def _draws(seed: int, epoch: int, number: int) -> Iterator[tuple[float, float]]:
    draws = generator(seed, "pieces", epoch, number)
    while True:
        yield float(torch.rand((), generator=draws)), float(torch.randn((), generator=draws))


@dataclass(frozen=True)
class TextSplit:
    """The two texts of a search by their digests: nothing is divided, the validation part trains the architecture."""

    train: str
    valid: str

    def to_json(self) -> str:
        """What split.json holds."""
        return f'{{"weights": "{self.train}", "architecture": "{self.valid}"}}\n'

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for both."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


@dataclass(frozen=True)
class TextSearchData:
    """What a search sees: the training part trains the weights, the validation part the architecture."""

    shape: TextShape
    train: Pieces
    valid: Pieces
    judged: Pieces  # the validation part, in columns of its own, for the evaluation at the end of an epoch
    split: TextSplit
    task: LanguageModelling
    corpus: Corpus = field(repr=False)
    raw_type = RawPiece

    def joined(self) -> Pieces:
        """What a method of one level trains on: the training part."""
        return self.train

    def told(self) -> str:
        """What a search says of its data at its start."""
        train, valid = (part.text.numel() for part in (self.train, self.valid))
        return f"{train} words train the weights, {valid} the architecture, in {self.train.columns} columns"

    def evaluation(self) -> Iterator[Batch]:
        """The batches of the evaluation at the end of an epoch."""
        return self.judged.evaluation()

    def judging(self) -> Iterator[Batch]:
        """The batches by which a schedule judges candidates."""
        return self.judged.evaluation()


@dataclass(frozen=True)
class TextTrainData:
    """What a retraining sees: the training part, and the validation part, by which it stops and chooses."""

    shape: TextShape
    train: Pieces
    valid: Pieces
    task: LanguageModelling
    corpus: Corpus = field(repr=False)

    @property
    def device(self) -> torch.device:
        """Where the texts lie."""
        return self.train.device


def text_digest(numbers: Tensor, tokens: Sequence[str]) -> str:
    """Twelve hexadecimal digits that stand for a part of a text and its vocabulary."""
    content = "\n".join(tokens).encode() + b"\0" + numbers.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def lengths_of(language: LanguageSettings) -> Lengths:
    """How long the pieces of a training text are."""
    return Lengths(language.piece, language.piece_halved, language.piece_deviation, language.piece_most_above)


def text_search_data(
    dataset: TextDataset, language: LanguageSettings, columns: int, seed: int, device: torch.device
) -> TextSearchData:
    """Open the training and the validation part for a search; the test part stays closed."""
    corpus = open_corpus(dataset)
    lengths = lengths_of(language)
    usual = Lengths(language.piece, 0.0, 0.0, 0)
    train = Pieces(
        in_columns(corpus.parts["train"], columns, "search.batch_size"), lengths, derive(seed, "train"), device
    )
    validation = in_columns(corpus.parts["valid"], columns, "search.batch_size")
    judged = in_columns(corpus.parts["valid"], language.evaluation_columns, "language.evaluation_columns")
    vocabulary = corpus.vocabulary.tokens
    split = TextSplit(*(text_digest(corpus.parts[part], vocabulary) for part in ("train", "valid")))
    return TextSearchData(
        shape=TextShape(len(vocabulary)),
        train=train,
        valid=Pieces(validation, usual, seed, device, follows=train),
        judged=Pieces(judged, usual, seed, device),
        split=split,
        task=LanguageModelling(language.temporal, language.activation),
        corpus=corpus,
    )


def text_train_data(
    dataset: TextDataset, language: LanguageSettings, columns: int, seed: int, device: torch.device
) -> TextTrainData:
    """Open the training and the validation part for a retraining; the test part stays closed."""
    corpus = open_corpus(dataset)
    train = in_columns(corpus.parts["train"], columns, "train.batch_size")
    return train_data_of(corpus, language, train, seed, device)


def train_data_of(
    corpus: Corpus, language: LanguageSettings, train: Tensor, seed: int, device: torch.device
) -> TextTrainData:
    """What a training sees of an opened text whose training part lies in columns."""
    usual = Lengths(language.piece, 0.0, 0.0, 0)
    valid = in_columns(corpus.parts["valid"], language.evaluation_columns, "language.evaluation_columns")
    return TextTrainData(
        shape=TextShape(len(corpus.vocabulary.tokens)),
        train=Pieces(train, lengths_of(language), derive(seed, "train"), device),
        valid=Pieces(valid, usual, seed, device),
        task=LanguageModelling(language.temporal, language.activation),
        corpus=corpus,
    )


def text_test_pieces(
    dataset: TextDataset, language: LanguageSettings, vocabulary: Vocabulary, device: torch.device
) -> Pieces:
    """The test part in columns of its own, for the end of a training; `UserError` where it cannot be tested on.

    A training calls this at its beginning as well, and lets the answer go: what is wrong with the part is told then.
    """
    numbers = numbers_of(dataset, "test", tokens_of(dataset, "test"), vocabulary)
    text = in_columns(numbers, language.test_columns, "language.test_columns")
    return Pieces(text, Lengths(language.piece, 0.0, 0.0, 0), 0, device)
