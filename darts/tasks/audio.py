"""Where sounds come from: the bundled digits, and folders of WAV files; in memory or streamed from disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from darts.runtime.errors import one_line
from darts.tasks.audio_settings import AudioDataset, AudioFolder
from darts.tasks.datasets import ArrayImages, FileImages, FolderOrigin, ImageSet
from darts.tasks.sound_folders import list_sounds
from darts.tasks.sounds import SoundReader, clipped, fitted, read_header, resampled, silent
from darts.tasks.spoken_digits import DIGITS, RATE, read_digits

log = logging.getLogger(__name__)


def bundled_sounds(settings: AudioDataset, train: bool) -> ImageSet:
    """The spoken digits that ship with this package."""
    part = "train" if train else "test"
    held = read_digits(part)
    rate, samples = settings.rate, settings.features.samples
    sounds = [fitted(resampled(sound.astype(np.float64), RATE, rate), samples) for sound in held.sounds]
    return ArrayImages(torch.from_numpy(np.stack(sounds))[:, None], torch.tensor(held.labels), DIGITS)


def folder_sounds(settings: AudioFolder, part: str) -> ImageSet:
    """Sounds of a folder, read at once or, where they are too many, when their turn comes.

    `part`: training, test or validation. The headers of the training sounds are read in any case.
    """
    listing = list_sounds(settings)
    features = settings.features
    reader = SoundReader(features.rate, features.samples)
    origin = FolderOrigin(listing, reader.channels, conversions(settings, [file.path for file in listing.training]))
    chosen = listing.part(part)
    sounds = FileImages(chosen, reader, settings.workers, origin)
    megabytes = len(chosen) * 2 * features.samples / 1e6
    if megabytes > settings.device_megabytes:
        return sounds
    held = sounds.in_memory()
    warn_of_odd_sounds(held.pixels, [file.path for file in chosen], part)
    return held


def warn_of_odd_sounds(sounds: Tensor, paths: Sequence[str], part: str) -> None:
    """Warn of raw sounds (sounds, 1, samples) of a part that are silent or clipped, with an example of each.

    Sounds that are streamed from disk are not looked at: that would read all of them once more.
    """
    meanings = {
        "hold nothing but silence": silent(sounds),
        "are clipped (over 1% of their samples are at full scale)": clipped(sounds),
    }
    for meaning, holds in meanings.items():
        places = holds.nonzero()[:, 0].tolist()
        if places:
            log.warning("%d of %d %s sounds %s, for example %s", len(places), len(paths), part, meaning,
                        one_line(paths[places[0]]))  # fmt: skip


def conversions(settings: AudioFolder, paths: list[str]) -> dict[str, int]:
    """How many files undergo which conversion; `UserError` naming one that is no readable WAV file."""
    found: Counter[str] = Counter()
    wanted = settings.features.samples / settings.rate
    for path in paths:
        header = read_header(path)
        seconds = header.length / header.rate
        told = {
            f"{header.channels} channels to 1": header.channels > 1,
            f"{header.bits} bits to 16": header.bits != 16,
            f"{header.rate} Hz to {settings.rate}": header.rate != settings.rate,
            "shorter, silence added": seconds < wanted,
            "longer, middle kept": seconds > wanted,
        }
        found.update(name for name, holds in told.items() if holds)
    return dict(found)
