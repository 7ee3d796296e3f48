"""Odd picture files: each with the pixels it must give, or with the line that refuses it."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from darts.runtime.errors import UserError
from darts.tasks import pictures
from darts.tasks.pictures import Decoder, read_header

ORIENTATION = 0x0112


def png(path, width, height, bits, kind, row: bytes) -> None:
    """A PNG written by hand, each row of the same bytes (none: pixels are missing); kind 0 is grey, 2 is RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * (height if row else 0))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    parts = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
             for name, body in chunks]  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def saved(mode, colour, size=(6, 6), **options):
    return lambda path: Image.new(mode, size, colour).save(path, **options)


def palette(**options):
    """All pixels have the palette's second colour."""

    def make(path):
        image = Image.new("P", (6, 6), 1)
        image.putpalette([1, 2, 3, 10, 200, 30])
        image.save(path, **options)

    return make


def red_then_blue(**options):
    def make(path):
        frames = [Image.new("RGB", (6, 6), colour) for colour in ((255, 0, 0), (0, 0, 255))]
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)

    return make


def sixteen_bit_grey(path):
    Image.fromarray(np.full((6, 6), 50 * 257, np.uint16)).save(path)


def sixteen_bit_colour(path):
    png(path, 6, 6, 16, 2, struct.pack(">HHH", 10 * 257, 20 * 257, 30 * 257) * 6)


def sixteen_bit_transparent(path):
    """The only shade is the transparent one."""
    png(path, 6, 6, 16, 0, struct.pack(">H", 5) * 6)
    content = path.read_bytes()
    body = struct.pack(">H", 5)
    chunk = struct.pack(">I", 2) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    path.write_bytes(content[:33] + chunk + content[33:])  # behind the header


READ = {  # file: how it is made, its colour as RGB, its grey, what the summary counts
    "colour.png": (saved("RGB", (10, 20, 30)), (10, 20, 30), 18, []),  # 0.299, 0.587, 0.114
    "colour.bmp": (saved("RGB", (10, 20, 30)), (10, 20, 30), 18, []),
    "colour.tiff": (saved("RGB", (10, 20, 30)), (10, 20, 30), 18, []),
    "colour.webp": (saved("RGB", (10, 20, 30), lossless=True), (10, 20, 30), 18, []),
    "colour.avif": (saved("RGB", (80, 80, 80)), (80, 80, 80), 80, []),
    "colour.jpeg": (saved("RGB", (80, 80, 80)), (80, 80, 80), 80, []),
    "grey.png": (saved("L", 77), (77, 77, 77), 77, []),
    "one_bit.png": (saved("1", 1), (255, 255, 255), 255, []),
    "sixteen_grey.png": (sixteen_bit_grey, (50, 50, 50), 50, [pictures.SIXTEEN_BITS]),
    "sixteen_grey.tif": (sixteen_bit_grey, (50, 50, 50), 50, [pictures.SIXTEEN_BITS]),
    "sixteen_colour.png": (sixteen_bit_colour, (10, 20, 30), 18, [pictures.SIXTEEN_BITS]),
    "sixteen_transparent.png": (
        *(sixteen_bit_transparent, (255, 255, 255), 255, [pictures.SIXTEEN_BITS, pictures.TRANSPARENT]),
    ),
    "cmyk.tif": (saved("CMYK", (255, 0, 0, 0)), (0, 255, 255), 179, [pictures.CMYK]),
    "cmyk.jpg": (saved("CMYK", (0, 0, 0, 0)), (255, 255, 255), 255, [pictures.CMYK]),
    "palette.png": (palette(), (10, 200, 30), 124, [pictures.PALETTE]),
    "palette.gif": (palette(), (10, 200, 30), 124, [pictures.PALETTE]),
    "palette_transparent.png": (
        *(palette(transparency=1), (255, 255, 255), 255, [pictures.PALETTE, pictures.TRANSPARENT]),
    ),
    "transparent.png": (saved("RGBA", (0, 0, 0, 0)), (255, 255, 255), 255, [pictures.TRANSPARENT]),
    "half.png": (saved("RGBA", (0, 0, 0, 127)), (128, 128, 128), 128, [pictures.TRANSPARENT]),
    "opaque.png": (saved("RGBA", (10, 20, 30, 255)), (10, 20, 30), 18, [pictures.TRANSPARENT]),
    "grey_transparent.png": (saved("LA", (0, 0)), (255, 255, 255), 255, [pictures.TRANSPARENT]),
    "moving.gif": (red_then_blue(), (255, 0, 0), 76, [pictures.PALETTE, pictures.FIRST_FRAME]),
    "moving.webp": (red_then_blue(lossless=True), (255, 0, 0), 76, [pictures.FIRST_FRAME]),
    "pages.tiff": (red_then_blue(), (255, 0, 0), 76, [pictures.FIRST_FRAME]),
    "one_pixel.png": (saved("RGB", (10, 20, 30), (1, 1)), (10, 20, 30), 18, []),
    "line_down.png": (saved("RGB", (10, 20, 30), (1, 5000)), (10, 20, 30), 18, []),
    "line_across.png": (saved("RGB", (10, 20, 30), (5000, 1)), (10, 20, 30), 18, []),
}


@pytest.mark.parametrize("name", READ)
def test_an_odd_picture_gives_the_pixels_that_it_shows(name, tmp_path):
    make, colour, grey, conversions = READ[name]
    make(tmp_path / name)
    header = read_header(str(tmp_path / name))
    assert header.conversions == conversions and name[name.rindex(".") :] in pictures.ENDINGS
    for expected in (colour, (grey,)):
        found = Decoder(4, len(expected))(str(tmp_path / name))
        assert found.shape == (len(expected), 4, 4)
        difference = np.abs(found.numpy().astype(int) - np.array(expected)[:, None, None])
        assert difference.max() <= 2  # lossy formats, rounding


def test_a_palette_or_a_colour_space_counts_as_colour_and_depths_of_grey_do_not(tmp_path):
    grey = {name for name in READ if "grey" in name or name in ("one_bit.png", "sixteen_transparent.png")}
    for name, (make, *_) in READ.items():
        make(tmp_path / name)
        assert read_header(str(tmp_path / name)).colour == (name not in grey), name


TURNED = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),  # clockwise
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("ending", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", TURNED)
def test_a_picture_is_turned_as_exif_says(orientation, ending, tmp_path):
    stored = np.arange(16, dtype=np.uint8).reshape(4, 4) * 15
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(stored).save(tmp_path / f"a.{ending}", exif=exif, **options)
    path = str(tmp_path / f"a.{ending}")
    assert np.array_equal(Decoder(4, 1)(path)[0].numpy(), TURNED[orientation](stored))
    assert (pictures.TURNED in read_header(path).conversions) == (orientation > 1)


def test_a_very_long_picture_is_cut_to_its_middle(tmp_path):
    strip = np.zeros((2, 400), np.uint8)
    strip[:, 196:204] = 200  # four times the height
    Image.fromarray(strip).save(tmp_path / "a.png")
    assert (Decoder(8, 1)(str(tmp_path / "a.png")) == 200).all()


def truncated(ending):
    def make(path):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path.with_suffix(ending))
        content = path.with_suffix(ending).read_bytes()
        path.write_bytes(content[: len(content) // 2])

    return make


def wide(kind):
    return lambda path: Image.fromarray(np.ones((4, 4), kind)).save(path)


REFUSED = {
    "half.jpg": (truncated(".jpg"), "not a readable image"),
    "half.png": (truncated(".png"), "not a readable image"),
    "half.webp": (truncated(".webp"), "not a readable image"),
    "half.gif": (truncated(".gif"), "not a readable image"),
    "half.avif": (truncated(".avif"), "not a readable image"),
    "empty.png": (lambda path: path.write_bytes(b""), "not a readable image"),
    "text.jpg": (lambda path: path.write_text("no picture"), "not a readable image"),
    "bomb.png": (lambda path: png(path, 30_000, 30_000, 8, 2, b""), r"exceeds limit of \d+ pixels"),
    "float.tiff": (wide(np.float32), "pixels of 32 bits, whose range is unknown"),
    "integers.tiff": (wide(np.int32), "pixels of 32 bits, whose range is unknown"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_gives_no_pixels_is_refused_in_a_line_that_names_it(name, tmp_path):
    make, message = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as refused:
        Decoder(4, 3)(str(tmp_path / name))
    assert str(refused.value).startswith(str(tmp_path / name)) and str(refused.value).isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(tmp_path):
    saved("L", 77)(tmp_path / "closed.png")
    (tmp_path / "closed.png").chmod(0)
    with pytest.raises(UserError, match=r"closed\.png: not a readable image .*Permission denied"):
        Decoder(4, 1)(str(tmp_path / "closed.png"))


def test_a_large_picture_below_the_limit_is_read_without_a_warning(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # Pillow warns above it and refuses above twice as many
    pictures._pillow.cache_clear()  # what it sets for a process has been put aside by this test's recording
    saved("L", 77, (6, 6))(tmp_path / "large.png")
    assert (Decoder(4, 1)(str(tmp_path / "large.png")) == 77).all()
    assert not recwarn.list
    saved("L", 77, (8, 8))(tmp_path / "larger.png")
    with pytest.raises(UserError, match="exceeds limit of 60 pixels"):
        Decoder(4, 1)(str(tmp_path / "larger.png"))
