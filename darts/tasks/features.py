"""Log-mel features of sounds, computed on their device, and the random changes of training sounds.

Each sound has its own draws, a row of uniform numbers that depends on (seed, epoch, index) only: the same sound is
changed alike whatever the batch, the device or the number of workers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from darts.runtime.device import convolutions
from darts.runtime.seeding import generator
from darts.tasks.audio_settings import Features, SoundAugmentation
from darts.tasks.batches import AnyPreparation, RawBatch
from darts.tasks.task import Batch

FLOOR = 1e-6  # added to the energy of a band before the logarithm: about what rounding to 16 bits leaves
LEAST_DEVIATION = 1e-3  # of a sound's features, with equal_level: silence stays silence
FULL = 32768.0  # of an int16 sample, which stands for 1


def mel_filters(features: Features) -> Tensor:
    """Triangles over the frequencies of a frame: (mel_bands, window // 2 + 1), 1 at the peak of each band."""
    frequencies = torch.arange(features.window // 2 + 1).double() * features.rate / features.window
    corners = torch.tensor(features.corners()).double()[:, None]
    begin, peak, end = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (frequencies - begin) / (peak - begin), (end - frequencies) / (end - peak)
    return torch.minimum(rising, falling).clamp_min(0)


class LogMel(nn.Module):
    """Sounds (batch, 1, samples), int16 -> natural logarithms of mel energies (batch, 1, mel_bands, frames), float32.

    Frame t is `window` samples, weighted by a periodic Hann window, around the middle of the t-th hop; what lies before
    the beginning or behind the end is silence. A band's energy is the sum over frequencies of a triangle times the
    squared modulus of the Fourier transform. With `equal_level` the features of a sound are then standardised by their
    own mean and standard deviation.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("window", torch.hann_window(features.window, periodic=True), persistent=False)
        self.register_buffer("filters", mel_filters(features).float(), persistent=False)

    def forward(self, sounds: Tensor) -> Tensor:
        """The features of a batch."""
        of, waves = self.features, sounds[:, 0] / FULL  # (batch, samples)
        before = (of.window - of.hop) // 2
        behind = (of.frames - 1) * of.hop + of.window - before - of.samples
        padded = nn.functional.pad(waves, (before, behind))
        spectrum = torch.stft(padded, of.window, of.hop, window=self.window, center=False, return_complex=True)
        energy = self.filters @ (spectrum.real.square() + spectrum.imag.square())  # (batch, mel_bands, frames)
        found = (energy + FLOOR).log()[:, None]
        if not of.equal_level:
            return found
        mean, std = found.mean((2, 3), keepdim=True), found.std((2, 3), keepdim=True, correction=0)
        return (found - mean) / (std + LEAST_DEVIATION)


@functools.cache
def log_mel_of(features: Features, device: torch.device) -> LogMel:
    """The module of some features on a device, made once."""
    return LogMel(features).to(device)


def sound_draws(sounds: int, numbers: int, seed: int, *counters: int) -> Tensor:
    """Uniform numbers for one pass over a set: (sounds, numbers); `counters`: epoch, and pass within it."""
    return torch.rand(sounds, numbers, generator=generator(seed, "sound augmentation", *counters))


def shifted(sounds: Tensor, most: int, draws: Tensor) -> Tensor:
    """Move each sound (batch, 1, samples) by -most to most samples, as its draw (batch,) says."""
    samples = sounds.shape[2]
    by = (draws * (2 * most + 1)).long() - most  # (batch,), above 0: later
    source = torch.arange(samples, device=sounds.device) - by[:, None]  # (batch, samples)
    within = (source >= 0) & (source < samples)
    moved = sounds[:, 0].gather(1, source.clamp(0, samples - 1))
    return torch.where(within, moved, torch.zeros_like(moved))[:, None]


def masked(features: Tensor, settings: SoundAugmentation, draws: Tensor) -> Tensor:
    """Set bands and stretches of normalised features (batch, 1, mel_bands, frames) to 0, the mean (SpecAugment).

    `draws`: (batch, 2 a mask): a width from 0 to the greatest, and a place where a mask of that width fits.
    """
    pairs = draws.unflatten(1, (-1, 2))  # (batch, masks, 2)
    hidden = torch.zeros(features.shape, dtype=torch.bool, device=features.device)
    for number in range(settings.frequency_masks + settings.time_masks):
        of_bands = number < settings.frequency_masks
        most, side = (settings.frequency_mask, features.shape[2])
        if not of_bands:
            most, side = (settings.time_mask, features.shape[3])
        interval = _interval(pairs[:, number], most, side)  # (batch, side)
        hidden |= interval[:, None, :, None] if of_bands else interval[:, None, None, :]
    return features.masked_fill(hidden, 0.0)


def _interval(draws: Tensor, most: int, side: int) -> Tensor:
    """Which places of `side` a mask hides: (batch, side)."""
    width = (draws[:, :1] * (most + 1)).long()
    first = (draws[:, 1:] * (side - width + 1)).long()
    place = torch.arange(side, device=draws.device)
    return (place >= first) & (place < first + width)


@dataclass(frozen=True)
class SoundPreparation(AnyPreparation):
    """What happens to raw sounds on the device."""

    features: Features
    augmentation: SoundAugmentation
    mean: list[float]
    std: list[float]
    device: torch.device

    def normalised(self, pixels: Tensor, labels: Tensor) -> Batch:
        """Features of sounds (batch, 1, samples), normalised; for evaluation."""
        found = (self._log_mel(pixels.to(self.device)) - self.mean[0]) / self.std[0]
        return Batch(found.contiguous(memory_format=convolutions.memory_format), labels.to(self.device))

    def augmented(self, raw: RawBatch) -> Batch:
        """Shifted in time, then features, normalised, masked; of a batch that is on the device."""
        moved = shifted(raw.pixels, self.augmentation.shift, raw.draws[:, 0])
        batch = self.normalised(moved, raw.labels)
        return Batch(masked(batch.inputs, self.augmentation, raw.draws[:, 1:]), batch.targets)

    def draws(self, sounds: int, seed: int, *counters: int) -> Tensor:
        return sound_draws(sounds, self.augmentation.draws, seed, *counters)

    @cached_property
    def _log_mel(self) -> LogMel:
        return log_mel_of(self.features, self.device)
