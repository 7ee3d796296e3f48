"""Where sounds come from: the bundled digits, and folders of WAV files; in memory or streamed from disk."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from darts.tasks.audio_settings import AudioDataset, AudioFolder
from darts.tasks.datasets import ArrayImages, FileImages, FolderOrigin, ImageSet
from darts.tasks.sound_folders import list_sounds
from darts.tasks.sounds import SoundReader, fitted, read_header, resampled
from darts.tasks.spoken_digits import DIGITS, RATE, read_digits


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
    return sounds.in_memory() if megabytes <= settings.device_megabytes else sounds


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
