"""The picture of predictions: a contact sheet, of all or of the worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from darts.loop.plotting import drawn, new_figure
from darts.runtime.text import utf8_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

ACROSS = 6
SHOWN = 36  # pictures of a sheet


class Shown(NamedTuple):
    """A picture of a sheet, with what stands below it."""

    file: str
    words: str
    right: bool | None = None  # None: the answer is not known


def draw_sheet(shown: Sequence[Shown], seen: Callable[[str], Tensor], title: str) -> Figure:
    """Files as the network sees them, at most `SHOWN`, each with its words; `seen`: file -> uint8 (C, H, W)."""
    chosen = list(shown[:SHOWN])
    rows = -(-len(chosen) // ACROSS)
    figure = new_figure(1.5 * ACROSS, 1.85 * rows + 0.5)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, ACROSS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture in zip(grid.flat, chosen, strict=False):
        pixels = seen(picture.file).permute(1, 2, 0).numpy()
        axes.imshow(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
        colour = {None: "#222222", True: "#2ca02c", False: "#d62728"}[picture.right]
        name = utf8_name(Path(picture.file).name)[:18]
        axes.set_title(f"{drawn(name)}\n{drawn(picture.words)}", fontsize=6.5, color=colour)
    figure.tight_layout()
    return figure
