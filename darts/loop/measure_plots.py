"""The pictures of answers whose classes are known: the confusion matrix, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from darts.loop.measures import Measures
from darts.loop.plotting import drawn, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED, NAMED = 30, 60  # classes up to which a confusion matrix has its numbers and the classes' names
LARGEST = 32.0  # inches, whatever the number of classes


def save_measures(measures: Measures, folder: Path) -> None:
    """Draw the confusion matrix and calibration into a folder."""
    save_figure(draw_confusion(measures), folder / "confusion")
    save_figure(draw_calibration(measures), folder / "calibration")


def draw_confusion(measures: Measures) -> Figure:
    """Rows: the true class; columns: the answer; the number of pictures, shaded by the share of the row."""
    counts = np.array(measures.confusion)
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(3.5, 0.5 * len(counts) + 1.8), LARGEST)
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    names = [drawn(name[:16]) for name in measures.classes]
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xlabel="answer", ylabel="true class")
    if len(counts) <= NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if fractions[row, column] > 0.6 else "#222222"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)
    figure.tight_layout()
    return figure


def draw_calibration(measures: Measures) -> Figure:
    """Accuracy over the mean probability of the answers in each bin; on the diagonal probabilities are right."""
    figure = new_figure(3.6, 3.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    largest = max(found["pictures"] for found in measures.bins)
    for found in measures.bins:
        size = 3 + 9 * (found["pictures"] / largest) ** 0.5
        axes.plot([found["probability"]], [found["accuracy"]], "o", color="#1f77b4", markersize=size, alpha=0.8)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the answer", ylabel="accuracy",
             title=f"calibration error {100 * measures.calibration_error:.1f}%")  # fmt: skip
    figure.tight_layout()
    return figure
