"""The bundled spoken digits: synthetic speech by eSpeak NG, kept as quantised MDCT coefficients.

A sound of 8,000 samples a second is cut into overlapping windows of 2N samples, N apart (N = 128, 16 ms); each gives N
coefficients of the modified discrete cosine transform (Princen and Bradley 1987), from which the overlapping windows
add up to the samples again. What is lost is lost by rounding: a coefficient X is kept as the whole number nearest to
sign(X) |X / step| ^ POWER, so that a large one may be less exact than a small one.

Each sound lies in the middle of a second of white noise, always the same: without it the digits are too easy to tell
networks apart by them.

darts/assets/make_spoken_digits.py makes the file.
"""

from __future__ import annotations

import functools
import io
import lzma
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from darts.runtime.errors import UserError

BUNDLED = Path(__file__).parent.parent / "assets" / "spoken_digits_mini.npz.xz"
RATE = 8000  # samples a second
HOP = 128  # N: samples from window to window, and coefficients of each
POWER = 0.6  # of the companding
QUIETEST, LOUDEST = 20.0, 0.0  # decibels by which the noise of a sound is below it: uniform between these
SEEDS = {"train": 0, "test": 1}  # of the noise
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DAMAGED = (OSError, ValueError, KeyError, EOFError, lzma.LZMAError, zipfile.BadZipFile)

Array = np.ndarray[Any, Any]


class SpokenDigits(NamedTuple):
    """One part of the set."""

    sounds: list[Array]  # of int16 each, RATE samples a second; as read, a second each
    labels: list[int]  # the digit
    voices: list[str]  # the voice of eSpeak NG that speaks


@functools.cache
def basis() -> Array:
    """The windowed cosines of the transform: (N, 2N), orthogonal to those of the windows before and after."""
    sample = np.arange(2 * HOP)
    window = np.sin(math.pi / (2 * HOP) * (sample + 0.5))
    phase = math.pi / HOP * (sample + 0.5 + HOP / 2)
    cosines = np.cos((np.arange(HOP)[:, None] + 0.5) * phase)
    return math.sqrt(2 / HOP) * window * cosines


def coefficients(sound: Array) -> Array:
    """The transform of a sound (samples,): (windows, N), of ceil(samples / N) + 1 windows."""
    windows = -(-len(sound) // HOP) + 1
    padded = np.zeros((windows + 1) * HOP)
    padded[HOP : HOP + len(sound)] = sound
    blocks = padded.reshape(windows + 1, HOP)
    return np.concatenate([blocks[:-1], blocks[1:]], axis=1) @ basis().T


def samples(transformed: Array, length: int) -> Array:
    """The sound (length,) whose `coefficients` these are."""
    parts = transformed @ basis()  # (windows, 2N)
    padded = np.zeros((len(parts) + 1, HOP))
    padded[:-1] += parts[:, :HOP]
    padded[1:] += parts[:, HOP:]
    return padded.reshape(-1)[HOP : HOP + length]


def quantised(transformed: Array, step: float) -> Array:
    """Coefficients as whole numbers from -127 to 127."""
    companded = np.sign(transformed) * (np.abs(transformed) / step) ** POWER
    return np.clip(np.rint(companded), -127, 127).astype(np.int8)


def restored(numbers: Array, step: float) -> Array:
    """The coefficients that `quantised` rounded."""
    values = numbers.astype(np.float64)
    return np.sign(values) * np.abs(values) ** (1 / POWER) * step


def read_digits(part: str, file: Path = BUNDLED) -> SpokenDigits:
    """Read the train or the test part, a second of noise around every sound; `UserError` for a damaged file."""
    try:
        held = _archive(file)
        lengths, labels = held[f"{part}_lengths"].tolist(), held[f"{part}_labels"].tolist()
        numbers, step = held[f"{part}_coefficients"], float(held["step"])
        voices = held[f"{part}_voices"].tolist()
    except DAMAGED as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}); take it again from the repository") from None
    draws = np.random.RandomState(SEEDS[part])  # whose numbers never change (NumPy's NEP 19)
    sounds, first = [], 0
    for length in lengths:
        last = first - (-length // HOP) + 1
        sounds.append(in_noise(samples(restored(numbers[:, first:last].T, step), length), draws))
        first = last
    return SpokenDigits(sounds, labels, voices)


def in_noise(sound: Array, draws: np.random.RandomState) -> Array:
    """A sound in the middle of a second of white noise, int16; its power is that of the sound, less some decibels."""
    below = draws.uniform(LOUDEST, QUIETEST)
    noise = draws.normal(size=RATE) * math.sqrt(float(np.mean(np.square(sound)))) * 10 ** (-below / 20)
    first = (RATE - len(sound)) // 2
    noise[first : first + len(sound)] += sound
    return np.clip(np.rint(noise), -32768, 32767).astype(np.int16)


@functools.cache
def _archive(file: Path) -> dict[str, Array]:
    """What the file holds, decompressed once."""
    with np.load(io.BytesIO(lzma.decompress(file.read_bytes()))) as archive:
        return dict(archive)
