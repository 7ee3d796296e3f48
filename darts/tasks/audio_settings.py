"""Settings of sounds: where they come from, what is computed of them, and how training sounds are changed."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from darts.config.registry import register
from darts.runtime.errors import UserError, require
from darts.spaces.search_space import Size
from darts.tasks.settings import LabelledDataset

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from darts.tasks.batches import AnyPreparation
    from darts.tasks.datasets import ImageSet
    from darts.tasks.folders import FolderListing


def mel(hertz: float) -> float:
    """A frequency on the mel scale (O'Shaughnessy 1987; HTK's form)."""
    return 2595 * math.log10(1 + hertz / 700)


def hertz(mels: float) -> float:
    """The frequency of a place on the mel scale: the inverse of `mel`."""
    return 700 * (10 ** (mels / 2595) - 1)


@dataclass(frozen=True)
class Features:
    """What is computed of a sound: a map of mel bands x frames (darts/tasks/features.py)."""

    rate: int  # samples a second
    samples: int  # of every sound
    window: int  # samples of a frame
    hop: int  # samples from frame to frame
    mel_bands: int
    lowest_hz: float
    highest_hz: float
    equal_level: bool = False  # whether each sound's features are brought to mean 0 and standard deviation 1

    @property
    def frames(self) -> int:
        """Frames of a sound, the last one padded with silence."""
        return -(-self.samples // self.hop)

    @property
    def size(self) -> Size:
        """Height and width of the map."""
        return (self.mel_bands, self.frames) if self.mel_bands != self.frames else self.frames

    def corners(self) -> list[float]:
        """The frequencies, mel_bands + 2 of them, at which the bands begin, peak and end: equal steps in mels."""
        low, high = mel(self.lowest_hz), mel(self.highest_hz)
        return [hertz(low + (high - low) * step / (self.mel_bands + 1)) for step in range(self.mel_bands + 2)]

    def empty_band(self) -> int | None:
        """The first band, counted from 1, within which no frequency of a frame lies; None where all hold one."""
        spacing, corners = self.rate / self.window, self.corners()
        for band in range(self.mel_bands):
            first = math.floor(corners[band] / spacing) + 1  # the first frequency above the band's beginning
            if first * spacing >= corners[band + 2]:
                return band + 1
        return None

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class SoundAugmentation:
    """Which random changes a training sound undergoes: a shift in time, and SpecAugment's masks (Park et al. 2019)."""

    shift: int  # samples, forward or backward at most
    frequency_masks: int
    frequency_mask: int  # mel bands of each at most
    time_masks: int
    time_mask: int  # frames of each at most

    @property
    def draws(self) -> int:
        """Uniform numbers that one sound needs."""
        return 1 + 2 * (self.frequency_masks + self.time_masks)


@dataclass
class AudioDataset(LabelledDataset):
    """What every set of sounds has; the classes below say where they come from."""

    is_sound: ClassVar[bool] = True
    value_limits: ClassVar[tuple[float, float]] = (-1000.0, 1000.0)
    noun: ClassVar[str] = "sounds"
    watched_setting: ClassVar[str] = "dataset.watch_validation"

    rate: int  # samples a second; sounds of other rates are resampled
    seconds: float  # of every sound; shorter ones get silence on both sides, of longer ones the middle is kept
    window: int  # samples of a frame, whose Fourier transform is taken
    hop: int  # samples from frame to frame
    mel_bands: int  # height of the map that a network is given
    lowest_hz: float  # at which the first mel band begins
    highest_hz: float | None  # at which the last one ends; null: half the rate
    equal_level: bool  # bring each sound's features to mean 0 and deviation 1: loud and quiet speakers sound alike
    shift_ms: float  # milliseconds by which a training sound is moved, forward or backward, at most; 0: not
    frequency_masks: int  # bands of a training sound's frequencies that are set to the mean (Park et al. 2019); 0: none
    frequency_mask: int  # mel bands of each at most
    time_masks: int  # stretches of time of a training sound that are set to the mean; 0: none
    time_mask: int  # frames of each at most

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1000 <= self.rate <= 384_000, "dataset.rate", self.rate, "from 1000 to 384000")
        require(0.05 <= self.seconds <= 60, "dataset.seconds", self.seconds, "from 0.05 to 60")
        require(16 <= self.window <= 16384, "dataset.window", self.window, "from 16 to 16384")
        fits = 1 <= self.hop <= self.window
        require(fits, "dataset.hop", self.hop, "from 1 to dataset.window, so that frames leave no gap")
        require(1 <= self.mel_bands <= 1024, "dataset.mel_bands", self.mel_bands, "from 1 to 1024")
        highest, half = self.highest_hz, self.rate / 2
        within = highest is None or 0 < highest <= half
        require(within, "dataset.highest_hz", highest, f"above 0 and at most half of dataset.rate, {half:g}, or null")
        top = half if highest is None else highest
        require(0 <= self.lowest_hz < top, "dataset.lowest_hz", self.lowest_hz, f"at least 0 and below {top:g}")
        empty = self.features.empty_band()
        spacing = self.rate / self.window
        allowed = (
            f"less, for no frequency of a frame lies in band {empty}: they are {spacing:.3g} Hz apart (dataset.rate"
        )
        require(empty is None, "dataset.mel_bands", self.mel_bands, f"{allowed} / dataset.window)")
        frames = self.features.frames
        allowed = f"such that a sound has at most {MOST_FRAMES} frames (dataset.seconds x dataset.rate / dataset.hop)"
        require(frames <= MOST_FRAMES, "dataset.hop", f"{self.hop} ({frames} frames)", allowed)
        self._check_statistics()
        self._check_augmentation()

    def _check_statistics(self) -> None:
        require((self.mean is None) == (self.std is None), "dataset.std", self.std, "given together with dataset.mean")
        for setting, values in (("dataset.mean", self.mean), ("dataset.std", self.std)):
            one = values is None or (len(values) == 1 and math.isfinite(values[0]))
            require(one, setting, values, "null, or one finite number in brackets")
        least, most = self.value_limits
        within = self.mean is None or least <= self.mean[0] <= most
        require(within, "dataset.mean", self.mean, f"from {least:g} to {most:g}")
        within = self.std is None or 1e-9 <= self.std[0] <= most
        require(within, "dataset.std", self.std, f"above 0 and at most {most:g}")

    def _check_augmentation(self) -> None:
        most = 1000 * self.seconds
        require(0 <= self.shift_ms <= most, "dataset.shift_ms", self.shift_ms, f"from 0 to {most:g}, the whole sound")
        for name in ("frequency_masks", "time_masks"):
            require(0 <= getattr(self, name) <= 100, f"dataset.{name}", getattr(self, name), "from 0 to 100")
        bands, frames = self.mel_bands, self.features.frames
        widest = f"from 0 to {bands}, the mel bands there are"
        require(0 <= self.frequency_mask <= bands, "dataset.frequency_mask", self.frequency_mask, widest)
        widest = f"from 0 to {frames}, the frames there are"
        require(0 <= self.time_mask <= frames, "dataset.time_mask", self.time_mask, widest)

    @property
    def features(self) -> Features:
        """What is computed of a sound."""
        highest = self.rate / 2 if self.highest_hz is None else self.highest_hz
        samples = round(self.rate * self.seconds)
        frames = self.rate, samples, self.window, self.hop
        return Features(*frames, self.mel_bands, self.lowest_hz, highest, self.equal_level)

    @property
    def size(self) -> Size:
        return self.features.size

    @property
    def size_setting(self) -> str:
        return "mel bands x frames (dataset.mel_bands, dataset.seconds, dataset.hop)"

    @property
    def augmentation(self) -> SoundAugmentation:
        """What happens to training sounds."""
        shift = round(self.rate * self.shift_ms / 1000)
        masks = self.frequency_masks, self.frequency_mask, self.time_masks, self.time_mask
        return SoundAugmentation(shift, *masks)

    def statistics_key(self, channels: int) -> tuple[Any, ...]:
        return ("log-mel", self.features.to_json())

    def values(self, raw: Tensor) -> Tensor:
        from darts.tasks.features import log_mel_of

        return log_mel_of(self.features, raw.device)(raw)

    def preparation(self, cutout: int, mean: list[float], std: list[float], device: torch.device) -> AnyPreparation:
        from darts.tasks.features import SoundPreparation

        return SoundPreparation(self.features, self.augmentation, mean, std, device)


MOST_FRAMES = 4096  # of a map's width, as a saved network's file may say


@register("dataset", "bundled_audio")
@dataclass
class BundledAudio(AudioDataset):
    """The spoken digits that ship with this package: synthetic speech by eSpeak NG."""

    def images(self, train: bool) -> ImageSet:
        from darts.tasks.audio import bundled_sounds

        return bundled_sounds(self, train)


@register("dataset", "audio_folder")
@dataclass
class AudioFolder(AudioDataset):
    """One's own sounds: root/CLASS/*.wav, divided by lists, by speakers, or by chance; or root/train and root/test."""

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ()

    name_pattern: str | None  # regular expression of a file's name without ending: groups speaker, label; or null
    speakers_held_out: list[str]  # whose sounds are the test set; by the group speaker of name_pattern
    testing_list: str | None  # a file in root with the test sounds, CLASS/NAME.wav a line, where it is there; or null
    validation_list: str | None  # likewise, those that are no training sounds
    watch_validation: bool  # a retraining watches the sounds of validation_list, and keeps the best epoch
    test_fraction: float  # where nothing else divides: fraction of each class that is the test set, always the same
    device_megabytes: int  # a set whose sounds take more than this is streamed from disk instead
    workers: int  # processes that read a streamed set
    cache: str  # folder for the features' mean and standard deviation; one that cannot be written does not matter

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.test_fraction < 1, "dataset.test_fraction", self.test_fraction, "above 0 and below 1")
        require(self.device_megabytes >= 0, "dataset.device_megabytes", self.device_megabytes, "at least 0")
        require(0 <= self.workers <= 256, "dataset.workers", self.workers, "from 0 to 256")
        groups = self._groups()
        held = self.speakers_held_out
        allowed = "empty, or dataset.name_pattern must have a group (?P<speaker>...)"
        require(not held or "speaker" in groups, "dataset.speakers_held_out", held, allowed)

    def _groups(self) -> set[str]:
        """The names of the groups of `name_pattern`."""
        if self.name_pattern is None:
            return set()
        allowed = "a regular expression with a group (?P<speaker>...) or (?P<label>...), or null"
        try:
            found = set(re.compile(self.name_pattern).groupindex)
        except re.error as error:
            raise UserError(f"dataset.name_pattern is {self.name_pattern!r}; it must be {allowed} ({error})") from None
        require(bool(found & {"speaker", "label"}), "dataset.name_pattern", self.name_pattern, allowed)
        return found

    @property
    def labelled_by_name(self) -> bool:
        """Whether a file's name says its class, and no folder."""
        return "label" in self._groups()

    def images(self, train: bool) -> ImageSet:
        from darts.tasks.audio import folder_sounds

        part = "training" if train else "test"
        return folder_sounds(self, part)

    def validation_images(self) -> ImageSet | None:
        from darts.tasks.audio import folder_sounds

        return folder_sounds(self, "validation") if self.watch_validation else None

    def check_header(self, path: str) -> None:
        from darts.tasks.sounds import read_header

        read_header(path)

    def listing(self) -> FolderListing:
        from darts.tasks.sound_folders import list_sounds

        return list_sounds(self)
