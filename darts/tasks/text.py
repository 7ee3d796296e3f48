"""Text for language models: words or characters of a training, a validation and a test part, as numbers."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from darts.runtime.errors import UserError, one_line
from darts.runtime.files import read_regular

if TYPE_CHECKING:
    from darts.tasks.settings import BundledText, TextDataset, TextFolder

END = "<eos>"  # ends every line of words
UNKNOWN = "<unk>"  # stands for what is not in the vocabulary
PARTS = ("train", "valid", "test")
BUNDLED_TEXT = Path(__file__).parent.parent / "assets" / "bible_kjv.json.xz"
LEAST_TOKENS = 20  # of a part; less is a mistake, and no piece of a text
LONG_LINE = 5  # words; shorter lines recur in any text


@dataclass(frozen=True)
class Vocabulary:
    """The words or characters that a model knows, each by its place."""

    tokens: tuple[str, ...]

    def numbers(self, tokens: Sequence[str]) -> Tensor:
        """Return the places (tokens,), int64; what is not known has the place of `UNKNOWN`."""
        place = {token: at for at, token in enumerate(self.tokens)}
        unknown = place.get(UNKNOWN, 0)
        return torch.tensor([place.get(token, unknown) for token in tokens], dtype=torch.int64)

    def unknown(self, tokens: Sequence[str]) -> int:
        """Return how many tokens are not known."""
        known = set(self.tokens)
        return sum(token not in known for token in tokens)


@dataclass(frozen=True)
class Corpus:
    """The text that a run opened: never the test part, unless it was asked for."""

    vocabulary: Vocabulary
    parts: dict[str, Tensor]  # part -> numbers of its tokens (tokens,), int64
    unknown: dict[str, int]  # part -> tokens that are not in the vocabulary


def open_corpus(settings: TextDataset, parts: Sequence[str] = ("train", "valid")) -> Corpus:
    """Read parts of a text; the vocabulary is that of the training part, most frequent first where it is limited.

    `UserError` for a part that is missing, empty, or no text; and for a part with unknown tokens where the training
    text has no `<unk>` that could stand for them.
    """
    train = tokens_of(settings, "train")
    vocabulary = vocabulary_of(train, settings.vocabulary)
    found, unknown = {}, {}
    for part in parts:
        tokens = train if part == "train" else tokens_of(settings, part)
        unknown[part] = vocabulary.unknown(tokens)
        found[part] = numbers_of(settings, part, tokens, vocabulary)
    if "train" in found:
        used = round(len(train) * settings.fraction)
        found["train"] = found["train"][: max(used, LEAST_TOKENS)]
    return Corpus(vocabulary, found, unknown)


def numbers_of(settings: TextDataset, part: str, tokens: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """A part's tokens by their places in a vocabulary; `UserError` for unknown ones where it has no `<unk>`."""
    if UNKNOWN not in vocabulary.tokens and vocabulary.unknown(tokens):
        raise UserError(_strangers(settings, part, tokens, vocabulary))
    return vocabulary.numbers(tokens)


def vocabulary_of(tokens: Sequence[str], most: int | None) -> Vocabulary:
    """The tokens of a training text in the order of their first occurrence.

    Where there are more than `most`, the most frequent ones (of equally frequent ones the earlier) and `<unk>`.
    """
    counts = Counter(tokens)  # in the order of first occurrence
    if most is None or len(counts) <= most:
        return Vocabulary(tuple(counts))
    others = [(token, count) for token, count in counts.items() if token != UNKNOWN]
    ranked = sorted(others, key=lambda entry: -entry[1])  # stable
    kept = {token for token, _ in ranked[: most - 1]}
    return Vocabulary((*(token for token in counts if token in kept), UNKNOWN))


def tokens_of(settings: TextDataset, part: str) -> list[str]:
    """The words of a part, each line ended by `<eos>`, empty lines too; or its characters."""
    text = settings.text(part)
    if settings.characters:
        tokens = list(text)
    else:
        tokens = []
        lines = text.removesuffix("\n").split("\n") if text else []
        for line in lines:  # other signs that end lines or pages stand between words
            tokens += [*line.split(), END]
    if len(tokens) < LEAST_TOKENS:
        raise UserError(f"{settings.place(part)}: {len(tokens)} words or characters; at least {LEAST_TOKENS}")
    return tokens


def shared_lines(first: str, second: str) -> tuple[int, int]:
    """Of the different lines of a second text of `LONG_LINE` words or more: how many a first text has too, and all."""
    own, others = (_long_lines(text) for text in (first, second))
    return len(own & others), len(others)


def _long_lines(text: str) -> set[str]:
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return {line for line in lines if line.count(" ") >= LONG_LINE - 1}


def bundled_text(settings: BundledText, part: str) -> str:
    """A part of the text that ships with this package."""
    try:
        content = json.loads(lzma.decompress(BUNDLED_TEXT.read_bytes()))
        return str(content[part])
    except (OSError, ValueError, KeyError, lzma.LZMAError) as error:
        kind = type(error).__name__
        raise UserError(f"{BUNDLED_TEXT} is damaged ({kind}); take it again from the repository") from None


def folder_text(settings: TextFolder, part: str) -> str:
    """A part of a text of the user's own: root/train.txt, valid.txt, test.txt, in UTF-8.

    A byte-order mark and the line ends of Windows say nothing. `UserError` for a file that is missing or no text.
    """
    file = Path(settings.root).expanduser() / f"{part}.txt"
    try:
        text = read_regular(file).decode("utf-8-sig")
    except FileNotFoundError:
        others = f"the folder must hold {', '.join(f'{name}.txt' for name in PARTS)}"
        raise UserError(f"dataset.root: {one_line(str(file))} is missing; {others}") from None
    except OSError as error:
        raise UserError(f"dataset.root: {one_line(str(file))} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"dataset.root: {one_line(str(file))} is not in UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise UserError(f"dataset.root: {one_line(str(file))} holds a zero byte: it is no text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _strangers(settings: TextDataset, part: str, tokens: Sequence[str], vocabulary: Vocabulary) -> str:
    known = set(vocabulary.tokens)
    strange = sorted({token for token in tokens if token not in known})
    shown = ", ".join(repr(token) for token in strange[:3])
    return (
        f"{settings.place(part)}: {len(strange)} words or characters that the training text has not ({shown}), which "
        f"has no {UNKNOWN} for them; set dataset.vocabulary below {len(known)}, so that rare ones become {UNKNOWN}"
    )
