"""One picture file: what its header says of it, and its pixels as a network takes them."""

from __future__ import annotations

import functools
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from darts.runtime.errors import UserError, one_line
from darts.runtime.seeding import RESOLUTION, ambient_on_host
from darts.spaces.search_space import Size, sides_of

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".dib"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2"),
    }
)  # of the files that are pictures, in small letters
GREY_MODES = ("1", "L", "LA", "I", "F")  # and those of 16 bits, "I;16..."
TRANSPARENT_MODES = ("RGBA", "LA", "PA")
BACKGROUND = (255, 255, 255, 255)  # white, under transparent pixels
LONGEST = 4  # times the shorter side: what is longer is cut to its middle before it is resized
ORIENTATION = 0x0112  # the number of EXIF's tag
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, OverflowError, TypeError),
    *(struct.error, zlib.error),
)  # what Pillow raises for damaged files, by format

PALETTE = "palette to grey or colour"
SIXTEEN_BITS = "16 bits to 8"
CMYK = "CMYK to colour"
TRANSPARENT = "transparency onto white"
TURNED = "turned as EXIF says"
FIRST_FRAME = "first frame of several"


class Header(NamedTuple):
    """What a picture's header says: whether it has colours, and which conversions its pixels undergo."""

    colour: bool
    conversions: list[str]


def read_header(path: str) -> Header:
    """Read a picture's header without decoding its pixels; `UserError` naming a file that is no readable picture."""
    with _opened(path) as image:
        _refuse_wide_pixels(image, path)
        grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
        found = {
            PALETTE: image.mode in ("P", "PA"),
            SIXTEEN_BITS: image.mode.startswith("I;16") or _raw_mode(image).find(";16") > 0,
            CMYK: image.mode == "CMYK",
            TRANSPARENT: _is_transparent(image),
            TURNED: _orientation(image) in range(2, 9),
            FIRST_FRAME: bool(getattr(image, "is_animated", False)),
        }
    return Header(not grey, [name for name, holds in found.items() if holds])


class Decoder:
    """Image file -> uint8 tensor (C, height, width): upright, on white, resized to cover that, centre cropped.

    `channels` is 1 for grey or 3 for colour. EXIF's orientation is applied, transparent pixels are laid on white, 16
    bits are scaled to 8, and of an animation the first frame is taken. Of a square the shorter side is resized. A
    picture more than four times as long as it is wide, or than what is asked for, is cut to its middle first, so that
    it takes no more memory than others.
    """

    def __init__(self, size: Size, channels: int, resize: int | None = None) -> None:
        """`resize`: what the shorter side is resized to before the centre is cut out; None: no larger than `size`."""
        self.size = size
        self.channels = channels
        self.resize = resize

    @functools.cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """The deterministic torchvision transforms; random ones follow on the device."""
        from torchvision.transforms import v2

        if isinstance(self.size, int) or self.resize is not None:
            side, cut = self.resize or self.size, list(sides_of(self.size))
            return v2.Compose([v2.PILToTensor(), v2.Resize(side, antialias=True), v2.CenterCrop(cut)])
        sides = self.size

        def covering(picture: Image.Image) -> Tensor:
            whole = list(covering_sides((picture.height, picture.width), sides))
            return v2.Compose([v2.PILToTensor(), v2.Resize(whole, antialias=True), v2.CenterCrop(list(sides))])(picture)

        return covering

    def __call__(self, path: str) -> Tensor:
        """Raises `UserError` naming a file that is no whole image."""
        picture, sides = whole_picture(path, self.channels), sides_of(self.size)
        return self.transform(_middle(picture, LONGEST * max(sides) / min(sides)))


def whole_picture(path: str, channels: int) -> Image.Image:
    """A picture file in its own size: upright, on white, 8 bits, grey (`channels` 1) or colour (3)."""
    from PIL import ImageOps

    mode = "RGB" if channels == 3 else "L"
    with _opened(path) as image:
        _refuse_wide_pixels(image, path)
        ImageOps.exif_transpose(image, in_place=True)
        return _on_white(_eight_bits(image)).convert(mode)


@dataclass(frozen=True)
class RandomDecoder:
    """Image file and random numbers -> uint8 tensor (C, height, width), each time another part of the picture.

    As networks are trained on ImageNet: a part of random size and shape is resized (Szegedy et al. 2015), and its
    brightness, contrast, saturation and hue are changed. Equal numbers give equal pixels, whichever process reads them.
    """

    size: Size
    channels: int
    crops: bool  # false: the whole picture as `Decoder` gives it, with other colours
    jitter: tuple[float, ...]  # most change of brightness, contrast, saturation and hue; empty: none
    whole: Decoder

    @functools.cached_property
    def transform(self) -> Callable[[Image.Image | Tensor], Tensor]:
        """torchvision's random transforms, of a picture in its own size or of one that `whole` has read."""
        from torchvision.transforms import v2

        steps: list[Callable[..., object]] = []
        if self.crops:
            steps.append(v2.RandomResizedCrop(list(sides_of(self.size)), antialias=True))
        if self.jitter:
            steps.append(v2.ColorJitter(*self.jitter))
        if self.crops:
            steps.append(v2.PILToTensor())
        return v2.Compose(steps)

    def __call__(self, path: str, draws: Sequence[float]) -> Tensor:
        """Two numbers from 0 to 1 decide; raises `UserError` naming a file that is no whole image."""
        given = whole_picture(path, self.channels) if self.crops else self.whole(path)
        first, second = (int(draw * RESOLUTION) for draw in draws)
        with ambient_on_host(first, "picture", second):
            return self.transform(given)


def covering_sides(sides: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a picture of `sides` that is scaled, ratio kept, to just cover `wanted`."""
    scale = max(wanted[0] / sides[0], wanted[1] / sides[1])
    return max(wanted[0], round(scale * sides[0])), max(wanted[1], round(scale * sides[1]))


@functools.cache
def _pillow() -> ModuleType:
    """Pillow, whose warning of large pictures is not printed: above its limit it refuses them."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """An open picture file within the block; what Pillow raises there becomes a `UserError` naming the file."""
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"{one_line(path)}: the picture is gone; it was there when the folder was listed") from None
    except (pillow.DecompressionBombError, *UNREADABLE) as error:
        reason = one_line(" ".join(str(error).split())) or type(error).__name__
        raise UserError(f"{one_line(path)}: not a readable image ({reason}); mend it or remove it") from None


def _refuse_wide_pixels(image: Image.Image, path: str) -> None:
    """`UserError` where pixels are 32-bit integers or floating point, whose range no file says."""
    if image.mode in ("I", "F"):
        advice = "save it with 8 or 16 bits a channel"
        raise UserError(f"{one_line(path)}: pixels of 32 bits, whose range is unknown; {advice}")


def _raw_mode(image: Image.Image) -> str:
    """How the file stores a pixel: "RGB;16B" for colours of 16 bits, which Pillow itself reduces to 8."""
    tiles = getattr(image, "tile", [])
    return str(tiles[0][3]) if tiles else ""


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none; Pillow's own method for PNG would decode the pixels to find it."""
    return int(_pillow().Image.getexif(image).get(ORIENTATION, 1))


def _is_transparent(image: Image.Image) -> bool:
    with_alpha = str(getattr(image.palette, "mode", "")).endswith("A")
    return image.mode in TRANSPARENT_MODES or "transparency" in image.info or with_alpha


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture with 8 bits a pixel where it has 16; Pillow itself would cut off what is over 255."""
    if not image.mode.startswith("I;16"):
        return image
    values, transparent = np.asarray(image), image.info.get("transparency")
    if isinstance(transparent, int):  # the one shade that is transparent
        values = np.where(values == transparent, 65535, values)
    return _pillow().fromarray((values // 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not _is_transparent(image):
        return image
    pillow, picture = _pillow(), image.convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", picture.size, BACKGROUND), picture)


def _middle(image: Image.Image, longest: float) -> Image.Image:
    """The middle of a very long picture, as long as `longest` of its shorter sides; other pictures as they are."""
    width, height = image.size
    most = int(longest * min(width, height))
    if max(width, height) <= most:
        return image
    left, top = max(width - most, 0) // 2, max(height - most, 0) // 2
    return image.crop((left, top, left + min(width, most), top + min(height, most)))
