"""Pad-and-crop, flip, cutout and normalisation, as functions of a batch on its device and of given random draws.

Each image has its own draws, a row of uniform numbers that depends on (seed, epoch, index) only: the same image is
augmented alike whatever the batch, the device or the number of workers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from darts.runtime.seeding import generator
from darts.tasks.settings import Augmentation

DRAWS = 5  # crop row, crop column, flip, cutout row, cutout column


def augmentation_draws(images: int, seed: int, *counters: int) -> Tensor:
    """Uniform numbers for one pass over a set of images: (images, DRAWS); `counters`: epoch, and pass within it."""
    return torch.rand(images, DRAWS, generator=generator(seed, "augmentation", *counters))


def crop_and_flip(pixels: Tensor, settings: Augmentation, draws: Tensor) -> Tensor:
    """Pad with zeros, crop to the old size, mirror every other image: pixels (batch, C, H, W), draws (batch, DRAWS)."""
    batch, _, height, width = pixels.shape
    padding, device = settings.crop_padding, pixels.device
    top, left = (draws[:, :2] * (2 * padding + 1)).long().unbind(1)
    rows = top[:, None] + torch.arange(height, device=device)  # (batch, H)
    columns = left[:, None] + torch.arange(width, device=device)  # (batch, W)
    if settings.flip:
        columns = torch.where(draws[:, 2:3] < 0.5, columns, columns.flip(1))
    padded = F.pad(pixels, (padding, padding, padding, padding))
    image = torch.arange(batch, device=device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: Tensor, settings: Augmentation, draws: Tensor) -> Tensor:
    """Set a square of normalised images to zero, the mean; its centre is anywhere, its edges end at the border."""
    if not settings.cutout:
        return images
    height, width = images.shape[2:]
    rows = _drawn_interval(draws[:, 3], height, settings.cutout)
    columns = _drawn_interval(draws[:, 4], width, settings.cutout)
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


def _drawn_interval(draws: Tensor, side: int, length: int) -> Tensor:
    """Which positions lie within an interval around the drawn centre: (batch, side)."""
    centre = (draws * side).long()[:, None]
    positions = torch.arange(side, device=draws.device)
    return (positions >= centre - length // 2) & (positions < centre + (length + 1) // 2)


def normalisation(mean: list[float], std: list[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift, (C, 1, 1) each, that bring raw pixels to the given statistics of the channels (range 0 to 1)."""
    scale = torch.tensor([1 / (255 * deviation) for deviation in std], device=device)
    shift = torch.tensor([-m / deviation for m, deviation in zip(mean, std, strict=True)], device=device)
    return scale[:, None, None], shift[:, None, None]


def normalise(pixels: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Raw pixels (batch, C, H, W), 0 to 255, to float32; see `normalisation`."""
    return pixels * scale + shift
