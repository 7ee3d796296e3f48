"""Make spoken_digits_mini.npz.xz: the digits 0 to 9 spoken by eSpeak NG, which is synthetic speech, not people's.

Usage: python darts/assets/make_spoken_digits.py

The command espeak-ng (Debian's package espeak-ng, 1.51) must be there. A voice is one of its English accents with one
of its variants. 40 voices are the training part and 10 others, of other variants, the test part; each says every digit
five times, at rates and pitches of its own, drawn with a fixed seed. Sounds are brought to 8,000 samples a second, and
silence around them is cut off. The noise around them is added where the file is read (darts/tasks/spoken_digits.py).
"""

import io
import lzma
import random
import subprocess
from typing import Any

import numpy as np
import scipy.signal

from darts.tasks.sounds import read_wave
from darts.tasks.spoken_digits import BUNDLED, DIGITS, RATE, SpokenDigits, coefficients, quantised

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
TRAIN = (
    *("m1", "m2", "m4", "m5", "m7", "m8", "f1", "f3", "f4", "klatt", "klatt3", "klatt5", "croak", "whisper"),
    *("Alex", "Alicia", "Andrea", "Annie", "Denis", "Gene", "Henrique", "Jacky", "Marco", "Michael", "Storm", "adam"),
    *("antonio", "aunty", "belinda", "boris", "david", "edward", "grandpa", "iven", "john", "linda", "max", "paul"),
    *("robert", "victor"),
)
TEST = ("m3", "f2", "f5", "klatt2", "Andy", "Hugo", "Mario", "anika", "grandma", "pablo")
TAKES = 5  # of each digit by each voice
RATES = (120, 230)  # words a minute
PITCHES = (20, 80)  # of 0 to 99
PEAK = 16000  # of every sound
STEP = 1000.0  # of the quantisation: about 17 dB between a sound and what is lost of it
QUIET = 0.02  # of the peak: what is below it at the ends is silence
MARGIN = RATE // 50  # samples that are kept around what is not


def spoken(voice: str, rate: int, pitch: int, word: str) -> np.ndarray:
    """A word as eSpeak NG says it: samples at 8,000 Hz, without the silence around it."""
    command = ["espeak-ng", "-v", voice, "-s", str(rate), "-p", str(pitch), "--stdout", word]
    wave = read_wave(subprocess.run(command, capture_output=True, check=True).stdout, voice)
    sound = scipy.signal.resample_poly(wave.samples.astype(float).mean(1), RATE, wave.rate)
    sound *= PEAK / np.abs(sound).max()
    loud = np.flatnonzero(np.abs(sound) > QUIET * PEAK)
    return sound[max(loud[0] - MARGIN, 0) : loud[-1] + MARGIN][:RATE]


def part(voices: list[str], seed: int) -> SpokenDigits:
    """All digits by some voices."""
    draws = random.Random(seed)
    found = SpokenDigits([], [], [])
    for voice in voices:
        for label, word in enumerate(DIGITS):
            for _ in range(TAKES):
                found.sounds.append(spoken(voice, draws.randint(*RATES), draws.randint(*PITCHES), word))
                found.labels.append(label)
                found.voices.append(voice)
    return found


def main() -> None:
    """Let all voices speak and write the file."""
    named = [f"{ACCENTS[number % len(ACCENTS)]}+{variant}" for number, variant in enumerate(TRAIN + TEST)]
    arrays: dict[str, Any] = {"step": np.float64(STEP)}
    for name, own in (("train", named[: len(TRAIN)]), ("test", named[len(TRAIN) :])):
        made = part(own, seed=len(own))
        numbers = np.concatenate([quantised(coefficients(sound), STEP) for sound in made.sounds])
        arrays[f"{name}_coefficients"] = np.ascontiguousarray(numbers.T)  # (N, windows): like stands beside like
        arrays[f"{name}_lengths"] = np.array([len(sound) for sound in made.sounds], np.int32)
        arrays[f"{name}_labels"] = np.array(made.labels, np.int64)
        arrays[f"{name}_voices"] = np.array(made.voices)
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    BUNDLED.write_bytes(lzma.compress(archive.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
