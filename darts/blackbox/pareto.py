"""The Pareto front: evaluations that no other beats in accuracy and in all costs at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from darts.loop.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = Mapping[str, Any]
UNITS = {
    "parameters": (1e3, "parameters, thousands"),
    "macs": (1e6, "multiply-adds, millions"),
    "latency_ms": (1.0, "latency, ms"),
}


def dominates(first: Line, second: Line, costs: Sequence[str]) -> bool:
    """Whether `first` is at least as good in all respects, and better in one."""
    pairs = [(first["accuracy"], second["accuracy"]), *((-first[name], -second[name]) for name in costs)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(lines: Sequence[Line], costs: Sequence[str]) -> list[Line]:
    """The lines that no other line dominates, from the cheapest to the dearest."""
    kept = [line for line in lines if not any(dominates(other, line, costs) for other in lines)]
    return sorted(kept, key=lambda line: line[costs[0]])


def draw_fronts(fronts: Mapping[Any, Sequence[Line]], cost: str) -> Figure:
    """Accuracy over the cost, a panel for each device; the keys are their names."""
    columns = min(3, len(fronts))
    rows = math.ceil(len(fronts) / columns)
    figure = new_figure(2.8 * columns, 2.4 * rows)
    unit, title = UNITS[cost]
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axes, (name, lines) in zip(panels, fronts.items(), strict=False):
        places = [line[cost] / unit for line in lines], [100 * line["accuracy"] for line in lines]
        axes.plot(*places, "o-", color="#d62728", markersize=4, linewidth=1, drawstyle="steps-post")
        axes.set(title=name, xlabel=title)
        axes.title.set_fontsize(9)
    for axes in figure.axes[len(fronts) :]:
        axes.set_visible(False)
    for row in range(rows):
        figure.axes[row * columns].set_ylabel("accuracy by the supernet, %")
    figure.tight_layout()
    return figure


def draw_front(lines: Sequence[Line], kept: Sequence[Line], costs: Sequence[str]) -> Figure:
    """Accuracy over each cost: all evaluations, and those on the front."""
    figure = new_figure(3.4 * len(costs), 3)
    for axes, name in zip(figure.subplots(1, len(costs), sharey=True, squeeze=False)[0], costs, strict=True):
        unit, title = UNITS[name]
        for shown, colour, size, label in ((lines, "#b0b0b0", 4, "evaluated"), (kept, "#d62728", 5, "on the front")):
            places = [line[name] / unit for line in shown], [100 * line["accuracy"] for line in shown]
            axes.plot(*places, "o", color=colour, markersize=size, label=label)
        axes.set_xlabel(title)
    figure.axes[0].set_ylabel("accuracy %")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
