"""One WAV file: what its header says of it, and its sound as a network takes it.

A file is RIFF: chunks, each with a name of four letters and its length in bytes. "fmt " says how samples are kept,
"data" holds them; all others are passed over.
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from darts.runtime.errors import UserError, one_line

SOUND_ENDINGS = frozenset({".wav", ".wave"})  # of the files that are sounds, in small letters
OTHER_ENDINGS = frozenset({".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aiff", ".aif", ".au"})  # not read
INTEGER, FLOATING, EXTENSIBLE = 1, 3, 0xFFFE  # how samples are kept, by the numbers of the format
OTHERS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "IMA ADPCM", 0x55: "MP3"}
BITS = {INTEGER: (8, 16, 24, 32), FLOATING: (32, 64)}
STREAMED = 0x7FFFF000  # a length from which on a program that wrote to a pipe did not know it: all that follows counts
FULL = 32768.0  # the loudest of 16 bits, in which sounds are held
LOUDEST = 2.0  # of a float sample, 1 being full scale: a little more is clipped, much more is another scale
EXTENSIBLE_REST = bytes.fromhex("000000001000800000aa00389b71")  # of the name of a format that has a number
EDGE = 0.05  # seconds around the part that is kept, which resampling needs
RATES = (1000, 384_000)  # samples a second, least and greatest

Array = np.ndarray[Any, Any]


class WaveHeader(NamedTuple):
    """How a file keeps its sound."""

    kind: int  # INTEGER or FLOATING
    bits: int  # of a sample
    channels: int
    rate: int  # samples a second
    start: int  # byte at which the samples begin
    length: int  # samples of each channel

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.bits // 8


class Wave(NamedTuple):
    """A sound as a file holds it: samples (length, channels) from -32768 to 32767, whatever the bits are."""

    rate: int
    samples: Array


def read_header(path: str) -> WaveHeader:
    """Read how a file keeps its sound; `UserError` naming a file that is no readable WAV file, and why."""
    try:
        with open(path, "rb") as opened:
            return _header(opened, path)
    except OSError as error:
        raise UserError(f"{one_line(path)}: cannot be read ({error.strerror}); mend it or remove it") from None


def read_wave(content: bytes, name: str) -> Wave:
    """The whole sound of a WAV file's bytes; `UserError` naming it where it is none."""
    opened = io.BytesIO(content)
    header = _header(opened, name)
    return Wave(header.rate, _samples(opened, header, 0, header.length, name))


class SoundReader:
    """WAV file -> int16 tensor (1, samples): mono, at one rate, its middle or with silence around it.

    Channels are averaged. Another rate is resampled (scipy.signal.resample_poly). A sound that is shorter gets as much
    silence before as behind, of a longer one the middle is kept.
    """

    channels = 1

    def __init__(self, rate: int, samples: int) -> None:
        self.rate = rate
        self.samples = samples

    def __call__(self, path: str) -> Tensor:
        """Raises `UserError` naming a file that is no readable WAV file."""
        try:
            with open(path, "rb") as opened:
                header = _header(opened, path)
                seconds = self.samples / self.rate + 2 * EDGE
                count = min(header.length, math.ceil(seconds * header.rate))
                first = (header.length - count) // 2
                sound = _samples(opened, header, first, count, path).mean(axis=1)
        except OSError as error:
            raise UserError(f"{one_line(path)}: cannot be read ({error.strerror}); mend it or remove it") from None
        return torch.from_numpy(fitted(resampled(sound, header.rate, self.rate), self.samples))[None]


def resampled(sound: Array, rate: int, wanted: int) -> Array:
    """A sound (samples,) of `rate` samples a second at `wanted`."""
    if rate == wanted:
        return sound
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return np.asarray(resample_poly(sound, wanted // common, rate // common))


def fitted(sound: Array, samples: int) -> Array:
    """A sound as int16 of a length: the middle of a longer one, a shorter one in the middle of silence."""
    missing = samples - len(sound)
    if missing < 0:
        first = -missing // 2
        sound = sound[first : first + samples]
    else:
        sound = np.pad(sound, (missing // 2, missing - missing // 2))
    return np.clip(np.rint(sound), -FULL, FULL - 1).astype(np.int16)


def silent(sounds: Tensor) -> Tensor:
    """Of each raw sound (sounds, 1, samples), whether all its samples are equal: nothing can be heard."""
    return sounds.amin(dim=(1, 2)) == sounds.amax(dim=(1, 2))


def clipped(sounds: Tensor) -> Tensor:
    """Of each raw sound (sounds, 1, samples), whether over 1% of its samples are at an end of the scale."""
    at_the_end = (sounds <= -FULL) | (sounds >= FULL - 1)
    return at_the_end.float().mean(dim=(1, 2)) > 0.01


def _refuse(name: str, reason: str) -> UserError:
    return UserError(f"{one_line(name)}: not a readable WAV file ({reason}); mend it or remove it")


def _header(opened: BinaryIO, name: str) -> WaveHeader:
    """Find the two chunks that matter."""
    begin = opened.read(12)
    if len(begin) < 12 or begin[:4] != b"RIFF" or begin[8:] != b"WAVE":
        told = "it is empty" if not begin else f"it begins with {begin[:4]!r}, not with RIFF ... WAVE"
        raise _refuse(name, told)
    format_chunk = None
    while True:
        chunk = opened.read(8)
        if len(chunk) < 8:
            raise _refuse(name, "it ends before its data chunk")
        kind, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        if kind == b"data":
            if format_chunk is None:
                raise _refuse(name, "its data chunk stands before its format")
            return _with_data(format_chunk, opened, length, name)
        if kind == b"fmt ":
            format_chunk = opened.read(length) if length <= 1024 else b""
            opened.seek(length % 2, io.SEEK_CUR)
        else:
            opened.seek(length + length % 2, io.SEEK_CUR)  # chunks are padded to an even length


def _with_data(chunk: bytes, opened: BinaryIO, length: int, name: str) -> WaveHeader:
    """The header of a format chunk and a data chunk of `length` bytes that begins here."""
    if len(chunk) < 16:
        raise _refuse(name, f"its format chunk has {len(chunk)} bytes, at least 16 are needed")
    kind, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", chunk[:16])
    if kind == EXTENSIBLE and len(chunk) >= 40:
        kind = struct.unpack("<H", chunk[24:26])[0]  # the first two bytes of the name of the true format
        if chunk[26:40] != EXTENSIBLE_REST:
            raise _refuse(name, f"its samples are of the format {chunk[24:40].hex()}; integers and floats are read")
    if kind not in BITS:
        raise _refuse(name, f"its samples are {OTHERS.get(kind, f'of format {kind}')}; integers and floats are read")
    if bits not in BITS[kind]:
        shown = ", ".join(map(str, BITS[kind]))
        raise _refuse(name, f"its samples have {bits} bits; {shown} are read")
    if not channels or not RATES[0] <= rate <= RATES[1] or frame_bytes != channels * bits // 8:
        raise _refuse(name, f"{channels} channels at {rate} Hz in frames of {frame_bytes} bytes")
    start = opened.tell()
    there = opened.seek(0, io.SEEK_END) - start
    if length > there and length < STREAMED:
        raise _refuse(name, f"it is cut off: {length} bytes of samples are announced and {there} are there")
    samples = min(length, there) // frame_bytes
    if samples == 0:
        raise _refuse(name, "it holds no sample")
    return WaveHeader(kind, bits, channels, rate, start, samples)


def _samples(opened: BinaryIO, header: WaveHeader, first: int, count: int, name: str) -> Array:
    """Samples `first` to `first + count`: (count, channels), from -32768 to 32767."""
    opened.seek(header.start + first * header.frame_bytes)
    content = opened.read(count * header.frame_bytes)
    if header.kind == FLOATING:
        values = np.frombuffer(content, f"<f{header.bits // 8}").astype(np.float64) * FULL
        if not np.isfinite(values).all():
            raise _refuse(name, "it holds a sample that is no finite number")
        loudest = float(np.abs(values).max(initial=0)) / FULL
        if loudest > LOUDEST:
            raise _refuse(name, f"its float samples reach {loudest:.6g}; they must lie within -1 and 1")
    elif header.bits == 8:  # the one width without a sign
        values = (np.frombuffer(content, np.uint8).astype(np.float64) - 128) * 256
    elif header.bits == 24:
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0] / 65536
    else:
        values = np.frombuffer(content, f"<i{header.bits // 8}") / 2.0 ** (header.bits - 16)
    return values.reshape(-1, header.channels)
