"""Sounds: WAV files of every kind, features against plain numpy, folders and their divisions, runs that resume."""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal
import torch

import darts
from darts.blackbox import loop as blackbox
from darts.models.cost import count_macs, network_costs
from darts.runtime.checkpoint import read_state
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.spaces.published import published
from darts.spaces.search_space import InputShape
from darts.tasks import batches
from darts.tasks.audio import conversions
from darts.tasks.audio_settings import Features, SoundAugmentation
from darts.tasks.batches import train_data
from darts.tasks.content import content_identity, warn_of_shared_examples
from darts.tasks.datasets import channel_statistics, open_test, open_training
from darts.tasks.features import FLOOR, LogMel, masked, mel_filters, shifted, sound_draws
from darts.tasks.settings import AnyDataset, require_images
from darts.tasks.sound_folders import list_sounds
from darts.tasks.sounds import SoundReader, fitted, read_header, read_wave
from darts.tasks.spoken_digits import DIGITS, HOP, basis, coefficients, quantised, read_digits, restored, samples
from darts.tasks.summary import summarise
from darts.train import retraining
from darts.train.saved import evaluate_file, network_of
from darts.train.starting import started
from darts.use.answers import pictures_of, predict
from darts.use.exporting import export, largest_difference
from tests.conftest import TINY_SCORES, composed, run_command
from tests.faults.leavings import left, saved
from tests.faults.test_kills import Killed, kill_after
from tests.test_export import need

CPU = torch.device("cpu")
RATE = 2000
DIGITS_SMALL = ["dataset=spoken_digits_mini", "dataset.fraction=0.02"]
OWN = [
    *("dataset=audio_folder", f"dataset.rate={RATE}", "dataset.seconds=0.5", "dataset.window=64", "dataset.hop=50"),
    *("dataset.mel_bands=16", "dataset.lowest_hz=0", "dataset.frequency_mask=3", "dataset.time_mask=4"),
]
TINY_SOUND = ["network.channels=2", "network.cells=3", "network.stem_reductions=2", "device=cpu", "logger=none"]


def tone(seconds: float, frequency: float, rate: int = RATE, loudness: float = 0.5) -> np.ndarray:
    """A sine as int16."""
    return (32767 * loudness * np.sin(2 * math.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype("<i2")


def write_sounds(root: Path, names: dict[str, float], number: int = 6) -> Path:
    """Class folders of tones at a frequency each, a little different in every file."""
    for name, frequency in names.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            sound = tone(0.3 + 0.05 * index, frequency + 3 * index)
            scipy.io.wavfile.write(root / name / f"{name}_{('ann', 'bob', 'eve')[index % 3]}_{index}.wav", RATE, sound)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sounds(tmp_path / "sounds", {"high": 800, "low": 150, "middle": 400})


def dataset(root: Path, *overrides: str) -> AnyDataset:
    own = [*OWN, f"dataset.root={root}", f"dataset.cache={root.parent / 'cache'}"]
    return composed("search", *own, *overrides).dataset


# WAV files.


def riff(data: bytes, kind: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, **more: bytes) -> bytes:
    """A WAV file byte by byte; `more`: chunks before the data, `extension` of the format, `size` of the data."""
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    form += more.pop("extension", b"")
    size = more.pop("size", struct.pack("<I", len(data)))
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    for name, content in more.items():
        chunks += name.encode() + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    chunks += b"data" + size + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


OF_OTHERS = struct.pack("<HHIH", 22, 16, 4, 1) + bytes.fromhex("000000001000800000aa00389b99")  # a GUID of its own
VALUES = np.array([0, 1, -1, 256, -256, 12800, -12800, 32512, -32768])


@pytest.mark.parametrize(
    ("kind", "bits", "data"),
    [
        (1, 8, (VALUES // 256 + 128).astype(np.uint8).tobytes()),
        (1, 16, VALUES.astype("<i2").tobytes()),
        (1, 24, b"".join(int(value * 256).to_bytes(3, "little", signed=True) for value in VALUES)),
        (1, 32, (VALUES * 65536).astype("<i4").tobytes()),
        (3, 32, (VALUES / 32768).astype("<f4").tobytes()),
        (3, 64, (VALUES / 32768).astype("<f8").tobytes()),
    ],
)
@pytest.mark.parametrize("extensible", [False, True])
def test_samples_of_every_width_are_read_as_they_are(kind, bits, data, extensible):
    guid = struct.pack("<HHIH", 22, bits, 4, kind) + bytes.fromhex("000000001000800000aa00389b71")
    content = riff(data, 0xFFFE, 1, RATE, bits, extension=guid) if extensible else riff(data, kind, 1, RATE, bits)
    expected = VALUES // 256 * 256 if bits == 8 else VALUES
    assert read_wave(content, "a.wav").samples[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_files_of_the_wave_module_are_read_alike(width, channels, tmp_path):
    draws = np.random.default_rng(0).integers(0, 256, 60 * width * channels, np.uint8).tobytes()
    with wave.open(str(tmp_path / "a.wav"), "wb") as opened:
        opened.setparams((channels, width, 11025, 0, "NONE", ""))
        opened.writeframes(draws)
    held = read_wave((tmp_path / "a.wav").read_bytes(), "a.wav")
    assert held.rate == 11025 and held.samples.shape == (60, channels)
    if width == 3:
        return  # scipy shifts these by a byte
    rate, expected = scipy.io.wavfile.read(tmp_path / "a.wav")
    scaled = (expected.astype(float) - (128 if width == 1 else 0)) / 256.0 ** (width - 2)
    assert rate == 11025 and np.array_equal(held.samples, scaled.reshape(60, channels))


def test_other_chunks_are_passed_over_and_a_length_that_a_pipe_did_not_know_is_what_follows():
    data = VALUES.astype("<i2").tobytes()
    with_others = riff(data, LIST=b"odd", fact=b"\1\0\0\0", bext=b"x" * 603)
    assert read_wave(with_others, "a").samples[:, 0].tolist() == VALUES.tolist()
    for unknown in (b"\xff\xff\xff\xff", struct.pack("<I", 0x7FFFF000)):
        assert read_wave(riff(data, size=unknown), "a").samples[:, 0].tolist() == VALUES.tolist()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"it is empty"),
        (b"RIFF\0\0", r"it begins with b'RIFF'"),
        (b"OggS" + b"\0" * 50, r"it begins with b'OggS', not with RIFF"),
        (b"RIFX" + riff(b"\0\0")[4:], r"it begins with b'RIFX'"),
        (riff(b"\0\0")[:12], r"it ends before its data chunk"),
        (riff(b"\0\0")[:30], r"it ends before its data chunk"),
        (riff(b""), r"it holds no sample"),
        (riff(b"\0" * 100)[:-10], r"it is cut off: 100 bytes of samples are announced and 90 are there"),
        (riff(b"\0\0", kind=7, bits=8), r"its samples are mu-law; integers and floats are read"),
        (riff(b"\0\0", kind=6, bits=8), r"its samples are A-law"),
        (riff(b"\0\0", kind=99), r"its samples are of format 99"),
        (riff(b"\0" * 12, bits=12), r"its samples have 12 bits; 8, 16, 24, 32 are read"),
        (riff(b"\0\0", kind=3), r"its samples have 16 bits; 32, 64 are read"),
        (riff(b"\0\0", rate=0), r"1 channels at 0 Hz"),
        (riff(b"\0\0", channels=0), r"0 channels at"),
        (riff(b"\0\0").replace(b"fmt \x10", b"fmt \x08"), r"its format chunk has 8 bytes|it ends before"),
        (riff(np.array([0, np.nan], "<f4").tobytes(), kind=3, bits=32), r"it holds a sample that is no finite number"),
        (
            riff(np.array([0, -2.5], "<f4").tobytes(), kind=3, bits=32),
            r"its float samples reach 2\.5; they must",
        ),
        (
            riff(b"\0\0", kind=0xFFFE, extension=OF_OTHERS),
            r"its samples are of the format 01000000.*9b99",
        ),
        (riff(b"\0\0", kind=0xFFFE), r"its samples are of format 65534"),
    ],
    ids=range(20),
)
def test_what_is_no_sound_is_refused_with_its_name_and_the_reason(content, told, tmp_path):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.wav: not a readable WAV file \({told}"):
        SoundReader(RATE, 100)(str(tmp_path / "bad.wav"))


def test_float_samples_a_little_beyond_full_scale_are_clipped(tmp_path):
    (tmp_path / "a.wav").write_bytes(riff(np.array([0.5, 1.5, -1.5, 0], "<f4").tobytes(), kind=3, bits=32))
    assert SoundReader(RATE, 4)(str(tmp_path / "a.wav"))[0].tolist() == [16384, 32767, -32768, 0]


def test_silent_and_clipped_sounds_are_told_at_the_start(folder, caplog):
    open_training(dataset(folder))
    assert not caplog.records
    scipy.io.wavfile.write(folder / "low" / "hushed_ann_9.wav", RATE, np.zeros(600, "<i2"))
    scipy.io.wavfile.write(folder / "low" / "loud_ann_9.wav", RATE, np.tile(np.array([32767, -32768], "<i2"), 300))
    open_training(dataset(folder))
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(", for")[0] for line in told] == [
        "1 of 16 training sounds hold nothing but silence",
        "1 of 16 training sounds are clipped (over 1% of their samples are at full scale)",
    ]
    assert told[0].endswith("low/hushed_ann_9.wav") and told[1].endswith("low/loud_ann_9.wav")


def test_a_missing_file_is_named(tmp_path):
    for read in (SoundReader(RATE, 100), read_header):
        with pytest.raises(UserError, match=r"none\.wav: cannot be read \(No such file"):
            read(str(tmp_path / "none.wav"))


def test_channels_are_averaged_and_lengths_are_made_equal(tmp_path):
    sound = np.stack([np.arange(1, 8) * 100, np.arange(1, 8) * 300], axis=1).astype("<i2")
    scipy.io.wavfile.write(tmp_path / "a.wav", RATE, sound)
    means = (np.arange(1, 8) * 200).tolist()
    assert SoundReader(RATE, 7)(str(tmp_path / "a.wav"))[0].tolist() == means
    assert SoundReader(RATE, 10)(str(tmp_path / "a.wav"))[0].tolist() == [0, *means, 0, 0]
    assert SoundReader(RATE, 4)(str(tmp_path / "a.wav"))[0].tolist() == means[1:5]
    assert fitted(np.array([1e9, -1e9, 0.6]), 3).tolist() == [32767, -32768, 1]


@pytest.mark.parametrize("rate", [1000, 1999, 2001, 4000, 11025, 44100, 48000])
def test_another_rate_is_resampled(rate, tmp_path):
    """The tone keeps its frequency, phase and loudness, away from the ends, where the filter meets silence."""
    scipy.io.wavfile.write(tmp_path / "a.wav", rate, tone(1.0, 100, rate))
    found = SoundReader(RATE, RATE)(str(tmp_path / "a.wav"))[0].numpy()[200:-200]
    assert np.abs(found - tone(1.0, 100)[200:-200].astype(float)).max() < 0.02 * 16384


def test_of_a_long_file_only_the_middle_is_read_and_it_is_that_of_the_whole(tmp_path):
    sound = np.random.default_rng(0).integers(-9000, 9000, 50 * 4410).astype("<i2")
    scipy.io.wavfile.write(tmp_path / "a.wav", 4410, sound)
    whole = fitted(scipy.signal.resample_poly(sound.astype(float), 200, 441), RATE)
    found = SoundReader(RATE, RATE)(str(tmp_path / "a.wav"))[0].numpy()
    best = max(np.corrcoef(found[5:-5], np.roll(whole, shift)[5:-5])[0, 1] for shift in (-1, 0, 1))
    assert best > 0.9  # but for a fraction of a sample, by which the middles of both may differ


# Features.

SHAPES = [
    Features(8000, 8000, 256, 250, 32, 50, 4000), Features(16000, 16000, 512, 160, 40, 20, 8000),
    Features(2000, 999, 64, 50, 16, 0, 1000), Features(1000, 77, 33, 33, 5, 10, 400),
    Features(8000, 8000, 256, 250, 32, 50, 4000, equal_level=True),
]  # fmt: skip


def plain_log_mel(sound: np.ndarray, of: Features) -> np.ndarray:
    """The definition, frame by frame and band by band, in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(of.window) / of.window)
    edges = np.linspace(2595 * np.log10(1 + of.lowest_hz / 700), 2595 * np.log10(1 + of.highest_hz / 700),
                        of.mel_bands + 2)  # fmt: skip
    corners = 700 * (10 ** (edges / 2595) - 1)
    frames = math.ceil(of.samples / of.hop)
    found = np.zeros((of.mel_bands, frames))
    for frame in range(frames):
        first = frame * of.hop - (of.window - of.hop) // 2
        piece = [sound[place] / 32768 if 0 <= place < len(sound) else 0.0 for place in range(first, first + of.window)]
        power = np.abs(np.fft.rfft(window * np.array(piece))) ** 2
        frequencies = np.arange(len(power)) * of.rate / of.window
        for band in range(of.mel_bands):
            triangle = np.interp(frequencies, corners[band : band + 3], [0, 1, 0], left=0, right=0)
            found[band, frame] = np.log((triangle * power).sum() + FLOOR)
    return (found - found.mean()) / (found.std() + 1e-3) if of.equal_level else found


@pytest.mark.parametrize("of", SHAPES, ids=str)
def test_features_are_those_of_the_definition(of):
    draws = np.random.default_rng(0)
    sounds = draws.integers(-20000, 20000, (2, of.samples)).astype(np.int16)
    sounds[1] = tone(of.samples / of.rate, 0.2 * of.rate, of.rate)[: of.samples]
    found = LogMel(of)(torch.from_numpy(sounds)[:, None])
    assert found.shape == (2, 1, of.mel_bands, of.frames) and found.dtype is torch.float32
    for number in range(2):
        np.testing.assert_allclose(found[number, 0], plain_log_mel(sounds[number], of), atol=2e-3)


def test_with_equal_levels_loud_and_quiet_sounds_are_alike_and_silence_stays_silent():
    of = Features(8000, 8000, 256, 250, 32, 50, 4000, equal_level=True)
    loud = np.random.default_rng(0).normal(scale=8000, size=8000)
    sounds = np.stack([loud, loud / 8, np.zeros(8000)]).astype(np.int16)
    found = LogMel(of)(torch.from_numpy(sounds)[:, None])
    assert torch.allclose(found[0], found[1], atol=0.05) and found[2].abs().max() < 0.01
    assert found[0].mean().abs() < 1e-4 and abs(float(found[0].std(correction=0)) - 1) < 0.01


def test_every_band_peaks_at_one_place_and_neighbours_add_up_to_one_between_peaks():
    of = SHAPES[1]
    filters, corners = mel_filters(of), np.array(of.corners())
    frequencies = np.arange(of.window // 2 + 1) * of.rate / of.window
    between = (frequencies >= corners[1]) & (frequencies <= corners[-2])
    np.testing.assert_allclose(filters.sum(0).numpy()[between], 1)
    assert (filters.sum(1) > 0).all() and of.empty_band() is None
    assert corners[0] == pytest.approx(20) and corners[-1] == pytest.approx(8000)


@pytest.mark.parametrize("bands", range(10, 80, 7))
def test_a_band_without_a_frequency_is_noticed(bands):
    of = Features(8000, 8000, 256, 250, bands, 50, 4000)
    empty = (mel_filters(of).sum(1) == 0).nonzero().flatten().tolist()
    assert of.empty_band() == (empty[0] + 1 if empty else None)


# Random changes.


def test_a_shift_moves_a_sound_and_fills_the_gap_with_silence():
    sounds = torch.arange(1, 10, dtype=torch.int16).repeat(7, 1)[:, None]
    draws = (torch.arange(7) + 0.5) / 7  # -3 to 3
    expected = [np.zeros(9, np.int16) for _ in range(7)]
    for number, by in enumerate(range(-3, 4)):
        own = np.arange(1, 10)
        expected[number][max(by, 0) : 9 + min(by, 0)] = own[max(-by, 0) : 9 - max(by, 0)]
    assert np.array_equal(shifted(sounds, 3, draws)[:, 0].numpy(), np.stack(expected))
    assert torch.equal(shifted(sounds, 0, draws), sounds)


def test_masks_hide_bands_and_stretches_as_drawn():
    settings = SoundAugmentation(0, 2, 3, 1, 5)
    features, draws = torch.ones(40, 1, 8, 12), sound_draws(40, settings.draws, 0)[:, 1:]
    found = masked(features, settings, draws)[:, 0].numpy()
    for number in range(40):
        expected = np.ones((8, 12))
        for mask, (most, side) in enumerate([(3, 8), (3, 8), (5, 12)]):
            width = int(draws[number, 2 * mask] * (most + 1))
            first = int(draws[number, 2 * mask + 1] * (side - width + 1))
            if mask < 2:
                expected[first : first + width] = 0
            else:
                expected[:, first : first + width] = 0
        assert np.array_equal(found[number], expected)
    assert torch.equal(masked(features, SoundAugmentation(0, 0, 0, 0, 0), draws[:, :0]), features)


def test_only_training_sounds_are_changed_and_each_by_its_own_draws():
    settings = composed("search", *DIGITS_SMALL).dataset
    data = batches.search_data(settings, 0.5, 8, 0, CPU)
    plain = {int(target): None for target in range(10)}
    assert len(plain) == 10 and data.shape.map_shape == (1, 32, 32)
    first, second = (list(data.train.shuffled(epoch)) for epoch in (0, 1))
    whole, rest = list(data.train.shuffled(3)), list(data.train.shuffled(3, start=1))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[1:], rest, strict=True))
    assert not torch.equal(first[0].inputs, second[0].inputs)
    still = [torch.cat([batch.inputs for batch in data.valid.in_order()]) for _ in range(2)]
    assert torch.equal(*still)
    nothing = ["dataset.shift_ms=0", "dataset.frequency_masks=0", "dataset.time_masks=0"]
    unchanged = batches.search_data(composed("search", *DIGITS_SMALL, *nothing).dataset, 0.5, 8, 0, CPU)
    inputs = torch.cat([batch.inputs for batch in unchanged.train.shuffled(0)])
    known = torch.cat([batch.inputs for batch in unchanged.train.in_order()])
    assert len(inputs) == len(known) and torch.isclose(inputs.sum(), known.sum(), rtol=1e-4)


# Settings.


@pytest.mark.parametrize("name", ["spoken_digits_mini", "fsdd"])
def test_smaller_sets_are_shown_more_often_unless_it_is_typed(name):
    own = [f"dataset={name}", "dataset.root=x"]
    assert composed("search", *own).search.epochs == 12 and composed("search").search.epochs == 3
    assert composed("search", *own, "search.epochs=5").search.epochs == 5
    for command in ("final", "select", "tune"):
        more = ["searched=[darts_v1,darts_v2]"] if command == "select" else []
        assert composed(command, *own, *more).train.epochs == 30 > composed(command, *more).train.epochs
    assert composed("compare", *own).train.epochs == 12 > composed("compare").train.epochs  # of each of twenty cells


def test_keyword_spotting_is_of_mobile_size():
    """Below 100,000 parameters and 20 million multiply-adds a second of sound, with the cell DARTS_V2."""
    settings = composed("final", "experiment=keyword_spotting", "dataset.root=x")
    shape, size = InputShape(1, settings.dataset.size, 35), settings.network
    costs = network_costs(published("darts_v2"), size, shape, CPU, ["parameters", "macs"])
    assert shape.map_shape == (1, 40, 100) and costs["parameters"] == 80_579
    assert costs["macs"] == pytest.approx(14.2e6, rel=0.01)
    assert composed("search", "experiment=keyword_spotting", "dataset.root=x").dataset == settings.dataset


def test_a_command_for_pictures_alone_says_so():
    with pytest.raises(UserError, match=r"dataset is spoken_digits_mini, which holds no images"):
        require_images(composed("search", "dataset=spoken_digits_mini").dataset)


# The bundled set.


def test_the_transform_gives_back_the_sound_and_rounding_loses_little():
    draws = np.random.default_rng(0)
    for length in (1, HOP, HOP + 1, 1000):
        sound = draws.normal(0, 3000, length)
        np.testing.assert_allclose(samples(coefficients(sound), length), sound, atol=1e-6)
    np.testing.assert_allclose(basis() @ basis().T, np.eye(HOP), atol=1e-12)
    values = np.array([[0.0, 400, -400, 9000, -70000]])
    assert quantised(values, 1000.0).tolist() == [[0, 1, -1, 4, -13]]
    np.testing.assert_allclose(restored(quantised(values, 1000.0), 1000.0), values, rtol=0.2, atol=700)


def test_the_bundled_digits_are_balanced_and_divided_by_voice():
    parts = {part: read_digits(part) for part in ("train", "test")}
    for part, number in (("train", 2000), ("test", 500)):
        held = parts[part]
        assert np.bincount(held.labels).tolist() == [number // 10] * 10
        assert all(sound.shape == (8000,) and sound.dtype == np.int16 for sound in held.sounds)
    assert not set(parts["train"].voices) & set(parts["test"].voices)
    variants = [{voice.split("+")[1] for voice in parts[part].voices} for part in parts]
    assert (len(variants[0]), len(variants[1])) == (40, 10) and not variants[0] & variants[1]
    settings = composed("search", "dataset=spoken_digits_mini").dataset
    opened = open_test(settings)
    assert opened.pixels.shape == (500, 1, 8000) and opened.classes == list(DIGITS)


def test_a_damaged_asset_is_told(tmp_path):
    for content in (b"", b"x" * 100):
        (tmp_path / "a.xz").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.xz is damaged"):
            read_digits("test", tmp_path / "a.xz")


# Folders.


def names(files) -> list[str]:
    return sorted(Path(file.path).name for file in files)


def test_without_lists_a_part_of_each_class_is_set_aside(folder):
    listing = list_sounds(dataset(folder, "dataset.test_fraction=0.34"))
    assert listing.classes == ["high", "low", "middle"] and len(listing.test) == 6 and len(listing.training) == 12
    assert listing.set_aside and not set(names(listing.test)) & set(names(listing.training))


def test_lists_divide_as_those_of_speech_commands(folder):
    test = [f"{name}/{name}_bob_1.wav" for name in ("high", "low", "middle")]
    watched = [f"{name}/{name}_eve_2.wav" for name in ("high", "low", "middle")]
    (folder / "testing_list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(test).encode())
    (folder / "validation_list.txt").write_text("\n".join([*watched, "", ""]))
    (folder / "_background_noise_").mkdir()
    scipy.io.wavfile.write(folder / "_background_noise_" / "noise.wav", RATE, tone(1, 300))
    listing = list_sounds(dataset(folder))
    assert names(listing.test) == sorted(Path(name).name for name in test) and len(listing.training) == 12
    assert listing.validation == [] and listing.unused == ["validation_list.txt"]
    assert listing.skipped == {"outside the class folders": 2, "folder _background_noise_": 1}
    watching = list_sounds(dataset(folder, "dataset.watch_validation=true"))
    assert names(watching.validation) == sorted(Path(name).name for name in watched)
    assert watching.training == listing.training
    (folder / "testing_list.txt").write_text("high/nobody.wav\n")
    with pytest.raises(UserError, match=r"testing_list\.txt names 1 sounds that dataset\.root does not hold: high/nob"):
        list_sounds(dataset(folder))


def test_a_speaker_is_held_out(folder):
    pattern = r"dataset.name_pattern='\w+_(?P<speaker>[a-z]+)_\d+'"
    listing = list_sounds(dataset(folder, pattern, "dataset.speakers_held_out=[eve]"))
    assert len(listing.test) == 6 and all("_eve_" in name for name in names(listing.test))
    assert len(listing.training) == 12 and not any("_eve_" in name for name in names(listing.training))
    with pytest.raises(UserError, match=r"speaker 'evi' is unknown; did you mean 'eve'\? there are: ann, bob, eve"):
        list_sounds(dataset(folder, pattern, "dataset.speakers_held_out=[evi]"))
    (folder / "testing_list.txt").write_text("")
    with pytest.raises(UserError, match=r"speakers_held_out is \['eve'\]; it must be empty, for dataset.root holds"):
        list_sounds(dataset(folder, pattern, "dataset.speakers_held_out=[eve]"))
    without = dataset(folder, pattern, "dataset.speakers_held_out=[eve]", "dataset.testing_list=null")
    assert names(list_sounds(without).test) == names(listing.test)


def test_a_name_may_say_the_class(folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in folder.rglob("*.wav"):
        file.rename(flat / file.name)
    pattern = r"dataset.name_pattern='(?P<label>[a-z]+)_(?P<speaker>[a-z]+)_\d+'"
    settings = dataset(flat, pattern, "dataset.speakers_held_out=[ann]")
    listing = list_sounds(settings)
    assert listing.classes == ["high", "low", "middle"] and len(listing.test) == 6
    assert all(listing.classes[file.label] in file.path for file in [*listing.test, *listing.training])
    before = content_identity(settings, tested=True)
    (flat / "low_bob_4.wav").rename(flat / "low_bob_44.wav")
    assert content_identity(settings, tested=True)["dataset.content"] != before["dataset.content"]
    (flat / "stray.wav").write_bytes((flat / "low_bob_44.wav").read_bytes())
    with pytest.raises(UserError, match=r"finds no label in 'stray'"):
        list_sounds(settings)


def test_folders_of_parts_are_taken_and_their_classes_must_agree(folder, tmp_path):
    root = tmp_path / "parts"
    for part in ("train", "test", "valid"):
        write_sounds(root / part, {"high": 800, "low": 150}, 3)
    listing = list_sounds(dataset(root))
    assert len(listing.training) == len(listing.test) == 6 and not listing.set_aside and listing.unused == ["valid"]
    assert len(list_sounds(dataset(root, "dataset.watch_validation=true")).validation) == 6
    write_sounds(root / "test", {"other": 200}, 3)
    with pytest.raises(UserError, match=r"class folders of train and test differ: only in test: other"):
        list_sounds(dataset(root))
    with pytest.raises(UserError, match=r"dataset\.watch_validation is true, but dataset\.validation_list names no"):
        list_sounds(dataset(folder, "dataset.watch_validation=true"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["dataset.hop=65"], r"dataset\.hop is 65; it must be from 1 to dataset\.window"),
        (["dataset.mel_bands=60"], r"dataset\.mel_bands is 60; it must be less, for no frequency of a frame lies in"),
        (["dataset.highest_hz=1001"], r"dataset\.highest_hz is 1001.0; it must be above 0 and at most half"),
        (["dataset.lowest_hz=1000"], r"dataset\.lowest_hz is 1000.0; it must be at least 0 and below 1000"),
        (["dataset.time_mask=21"], r"dataset\.time_mask is 21; it must be from 0 to 20, the frames"),
        (["dataset.shift_ms=501"], r"dataset\.shift_ms is 501.0; it must be from 0 to 500"),
        (["dataset.mean=[1,2]", "dataset.std=[1,2]"], r"dataset\.mean is \[1.0, 2.0\]; it must be null, or one"),
        (["dataset.speakers_held_out=[x]"], r"speakers_held_out is \['x'\]; it must be empty, or dataset\.name_pat"),
        (["dataset.name_pattern='('"], r"dataset\.name_pattern is '\('; it must be a regular expression"),
        (["dataset.name_pattern='a'"], r"dataset\.name_pattern is 'a'; it must be a regular expression with a group"),
        (["dataset.mel_bands=8"], r"mel bands x frames .* is \(8, 20\); it must be at least 16"),
    ],
)
def test_wrong_settings_are_told_in_a_line(folder, overrides, told):
    with pytest.raises(UserError, match=told):
        dataset(folder, *overrides)


@pytest.mark.parametrize(
    ("command", "overrides", "told"),
    [
        ("final", ["train.cutout=4"], r"train\.cutout is 4; it must be 0 with sounds"),
        ("final", ["recipe=modern"], r"train\.recipe\.randaugment is 9; it must be 0 with sounds"),
        ("compare", ["train.cutout=4"], r"train\.cutout is 4; it must be 0 with sounds"),
        ("search", ["method=random", "evaluator.train.cutout=4"], r"evaluator\.train\.cutout is 4; it must be 0"),
        ("search", ["space=recurrent"], r"dataset is spoken_digits_mini; it must be "),
    ],
)  # fmt: skip
def test_what_changes_pictures_is_refused_with_sounds(command, overrides, told):
    with pytest.raises(UserError, match=told.replace("spoken_digits_mini", "'spoken_digits_mini'")):
        composed(command, "dataset=spoken_digits_mini", *overrides)


def test_a_setting_of_pictures_is_no_setting_of_sounds(tmp_path):
    done = run_command(["-m", "darts.search", "dataset=spoken_digits_mini", "dataset.flip=true"], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: setting 'dataset.flip' is no setting of"), (
        done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_folders_that_hold_no_classes_are_told(tmp_path, folder):
    with pytest.raises(UserError, match=r"dataset\.root .* is no folder; it must hold CLASS/\*\.wav"):
        list_sounds(dataset(tmp_path / "nowhere"))
    (folder / "mp3").mkdir()
    (folder / "mp3" / "a.mp3").write_bytes(b"ID3")
    with pytest.raises(UserError, match=r"class mp3 holds no sound; sounds end in \.wav \.wave; other forms"):
        list_sounds(dataset(folder))
    with pytest.raises(UserError, match=r"there is no class in it; at least 2 are needed"):
        (tmp_path / "empty").mkdir()
        list_sounds(dataset(tmp_path / "empty"))


def test_a_damaged_training_file_is_named_before_anything_is_trained(folder):
    (folder / "low" / "cut.wav").write_bytes(riff(b"\0" * 100)[:-9])
    with pytest.raises(UserError, match=r"low/cut\.wav: not a readable WAV file \(it is cut off"):
        open_training(dataset(folder, "dataset.test_fraction=0.01"))


def test_the_summary_counts_what_is_converted(folder):
    scipy.io.wavfile.write(folder / "low" / "low_zoe_9.wav", 3000, np.stack([tone(0.2, 99)] * 2, axis=1))
    settings = dataset(folder, "dataset.testing_list=null", "dataset.test_fraction=0.01")
    paths = [file.path for file in list_sounds(settings).training]
    told = conversions(settings, [path for path in paths if "zoe" in path])
    assert told == {"2 channels to 1": 1, "3000 Hz to 2000": 1, "shorter, silence added": 1}
    lines = summarise(settings, open_training(settings)).lines()
    assert "1 x 16 x 20" in lines[0] and "training sounds" in lines[0] and "test sounds set aside" in lines[0]
    assert any(line.startswith("converted training sounds: ") for line in lines)


def test_the_settings_of_fsdd_hold_a_speaker_out_or_divide_by_take(tmp_path):
    for number in range(60):
        name = f"{number % 2}_{('theo', 'lucas', 'george')[number % 3]}_{number // 6}.wav"
        scipy.io.wavfile.write(tmp_path / name, 8000, tone(0.1, 200 + number, 8000))
    own = ["dataset=fsdd", f"dataset.root={tmp_path}"]
    listing = list_sounds(composed("final", *own).dataset)
    assert listing.classes == ["0", "1"] and len(listing.test) == 20
    assert all("_theo_" in file.path for file in listing.test)
    official = [r"dataset.name_pattern='(?P<label>\d)_\w+_(?P<speaker>\d+)'", "dataset.speakers_held_out=[0,1,2,3,4]"]
    listing = list_sounds(composed("final", *own, *official).dataset)
    assert sorted(Path(file.path).stem.split("_")[2] for file in listing.test) == sorted("01234" * 6)
    assert not {file.path for file in listing.test} & {file.path for file in listing.training}


def test_a_sound_that_is_in_two_parts_is_warned_of(folder, caplog):
    settings = dataset(folder)
    listing = list_sounds(settings)
    Path(listing.test[0].path).write_bytes(Path(listing.training[0].path).read_bytes())
    warn_of_shared_examples(settings)
    assert "1 test sounds are training sounds too, byte for byte" in caplog.text


# Streaming, statistics, identity.


def test_streamed_sounds_are_those_in_memory(folder):
    settings = dataset(folder)
    streamed = dataset(folder, "dataset.device_megabytes=0", "dataset.workers=0")
    held = open_training(settings).pixels
    read = torch.cat(
        [batch.images for batch in open_training(streamed).batches([torch.arange(5), torch.arange(5, 15)])]
    )
    assert torch.equal(read, held[:15]) and held.dtype is torch.int16


def test_mean_and_deviation_are_those_of_all_features_and_are_remembered(folder):
    settings = dataset(folder)
    images = open_training(settings)
    values = np.stack([plain_log_mel(sound, settings.features) for sound in images.pixels[:, 0].numpy()])
    mean, std = channel_statistics(settings, images)
    assert mean == pytest.approx([values.mean()], abs=1e-3) and std == pytest.approx([values.std()], abs=1e-3)
    (kept,) = (folder.parent / "cache").glob("statistics-*.json")
    kept.write_text(json.dumps({"mean": [-3.0], "std": [2.0]}))
    assert channel_statistics(settings, images) == ([-3.0], [2.0])
    other = dataset(folder, "dataset.hop=40")
    assert channel_statistics(other, open_training(other)) != ([-3.0], [2.0])


def test_the_same_names_with_other_bytes_are_other_data(folder):
    settings = dataset(folder)
    before = content_identity(settings, tested=True)
    assert content_identity(dataset(folder), tested=True) == before
    listing = list_sounds(settings)
    for part, key in ((listing.test, "dataset.test_content"), (listing.training, "dataset.content")):
        path = Path(part[0].path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        now = content_identity(settings, tested=True)
        assert [name for name in before if now[name] != before[name]] == [key]
        before = now


# Runs.


def search_settings(*overrides: str):
    small = ["search.batch_size=8", "search.epochs=2", "space.nodes=2"]
    candidates = "space.candidates=[none,skip_connect,max_pool_3x3]"
    return composed("search", *DIGITS_SMALL, *TINY_SOUND, *small, candidates, *overrides)


def final_settings(*overrides: str):
    return composed("final", *DIGITS_SMALL, *TINY_SOUND, "train.batch_size=8", "train.epochs=2", *overrides)


@pytest.mark.parametrize("minutes", ["inf", "1e-9"])
def test_a_search_of_sounds_killed_at_a_step_resumes_bit_for_bit(tmp_path, minutes):
    settings = search_settings(f"checkpoint.minutes={minutes}")
    search.run(settings, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search_steps, "weight_step", 3)
        search.run(settings, tmp_path / "cut")
    search.run(settings, tmp_path / "cut")
    assert left(tmp_path / "cut") == left(tmp_path / "whole")


def test_a_training_of_sounds_killed_at_a_step_resumes_bit_for_bit(tmp_path):
    settings, genotype = final_settings("checkpoint.minutes=1e-9"), published("darts_v2")
    whole = retraining.run(settings, genotype, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, retraining, "train_step", 5)
        retraining.run(settings, genotype, tmp_path / "cut")
    cut = retraining.run(settings, genotype, tmp_path / "cut")
    assert saved(tmp_path / "cut") == saved(tmp_path / "whole")
    assert (cut["test_loss"], cut["test_accuracy"]) == (whole["test_loss"], whole["test_accuracy"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny retraining on own sounds of three pitches, which it learns to tell apart."""
    place = tmp_path_factory.mktemp("trained")
    sounds = write_sounds(place / "sounds", {"high": 800, "low": 150, "middle": 400}, 12)
    own = [*OWN, f"dataset.root={sounds}", f"dataset.cache={place / 'cache'}", "dataset.shift_ms=20"]
    loop = ["train.batch_size=8", "train.epochs=8", "train.auxiliary_weight=0.4", "network.channels=4"]
    settings = composed("final", *TINY_SOUND, *own, *loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("darts.loop.plotting.save_figure", lambda *_: [])
        result = retraining.run(settings, published("darts_v2"), place / "run")
    return place / "run", sounds, settings, result


def test_a_network_of_sounds_is_trained_saved_tested_again_and_asked(trained):
    run, sounds, settings, result = trained
    network = darts.load_network(run)
    assert result["test_accuracy"] > 0.8 and network.classes == ["high", "low", "middle"]
    assert network.features_of_sound == settings.dataset.features and network.raw_shape == (1, 1000)
    assert result["macs"] == count_macs(network.network, torch.zeros(1, 1, 16, 20))
    assert evaluate_file(settings, run / "weights.pt")["accuracy"] == result["test_accuracy"]
    files = [Path(file.path) for file in list_sounds(settings.dataset).test]
    answers = predict(network, files)
    best = [network.classes[max(range(3), key=row.__getitem__)] for row in answers.probabilities]
    right = sum(name == file.parent.name for name, file in zip(best, files, strict=True))
    assert right / len(files) == result["test_accuracy"]
    assert (
        set(files) < set(pictures_of(sounds, endings=network.endings))
        and len(pictures_of(sounds, True, network.endings)) == 36
    )
    (prediction,) = network.predict(files[0])
    assert prediction.probability == pytest.approx(max(answers.probabilities[0]), abs=1e-5)


def test_raw_sounds_and_features_are_answered_alike_and_others_are_refused(trained):
    run, sounds, settings, _ = trained
    network = darts.load_network(run)
    file = next((sounds / "low").glob("*.wav"))
    raw = SoundReader(RATE, 1000)(str(file))[None]
    described = network.described
    expected = (plain_log_mel(raw[0, 0].numpy(), settings.dataset.features) - described["mean"][0]) / described["std"][
        0
    ]
    np.testing.assert_allclose(network.preprocess(file)[0, 0], expected, atol=2e-3)
    torch.testing.assert_close(network(raw), network(network.preprocess(file)))
    assert network.picture(str(file)).shape == (1, 16, 20) and network.picture(str(file)).dtype is torch.uint8
    for wrong in (raw.to(torch.uint8), raw[..., :-1], raw[0]):
        with pytest.raises(UserError, match=r"this network takes int16 \(batch, 1, 1000\)"):
            network(wrong)
    with pytest.raises(UserError, match=r"this network takes \(batch, 1, 16, 20\)"):
        network(torch.zeros(1, 1, 20, 16))


@pytest.mark.parametrize("preparation", [True, False])
@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_an_export_of_a_network_of_sounds_answers_as_it_does(trained, form, preparation, tmp_path):
    need(form)
    network = darts.load_network(trained[0])
    raw = torch.randint(-9000, 9000, (5, 1, 1000), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    answer = export(network, form, tmp_path / f"network.{form}", preparation, False)
    assert largest_difference(network, answer, raw, preparation) < 1e-4


def test_a_network_is_not_tested_or_tuned_further_on_what_it_does_not_hear(trained, tmp_path):
    run, sounds = trained[:2]
    other = composed("final", *TINY_SOUND, *OWN, f"dataset.root={sounds}", "dataset.lowest_hz=20")
    with pytest.raises(UserError, match=r"dataset\.lowest_hz is 20.0; .* was trained with 0"):
        evaluate_file(other, run / "weights.pt")
    pictures = composed("final", *TINY_SOUND, f"start_from={run}", "head_epochs=0")
    with pytest.raises(UserError, match=r"was trained on sounds, but dataset is 'fashion_mini', of images"):
        started(pictures)
    own = composed("final", *TINY_SOUND, *OWN, f"dataset.root={sounds}", f"start_from={run}", "head_epochs=0")
    assert started(own)[0].dataset.mean == darts.load_network(run).described["mean"]


def test_a_file_whose_features_do_not_fit_its_network_is_refused(trained):
    described = read_state(trained[0] / "weights.pt")
    for change in ({"hop": 49}, {"window": 20}, {"rate": 0}, {"highest_hz": 1001.0}, {"mel_bands": None}):
        content = {**described, "sound": {**described["sound"], **change}}
        with pytest.raises(UserError, match=r"does not describe a network: sound"):
            network_of(content, Path("weights.pt"))


def test_a_search_by_scores_takes_sounds(tmp_path):
    small = [item for item in TINY_SCORES if not item.startswith("dataset.")]
    settings = composed("search", *small, *DIGITS_SMALL, "method=random", "evaluator=zero_cost", "budget.evaluations=2",
                        "search.batch_size=8", "evaluator.batch_size=8", "logger=none")  # fmt: skip
    assert set(blackbox.run(settings, tmp_path).cells) == {"normal", "reduction"}


def test_watched_sounds_are_told_by_the_setting_that_sounds_have(tmp_path):
    for part in ("train", "test", "valid"):
        write_sounds(tmp_path / part, {"high": 800, "low": 150})
    own = dataset(tmp_path, "dataset.watch_validation=true")
    with pytest.raises(UserError, match=r"0 with dataset\.watch_validation, whose sounds are watched"):
        train_data(own, 0, 4, 0, torch.device("cpu"), validation=0.2)
