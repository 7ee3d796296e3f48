"""The pictures of a comparison: accuracies by group, best so far over cost, accuracy over size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from darts.blackbox.pareto import UNITS, front
from darts.compare.plan import RANDOM
from darts.compare.report import Report, by_cell
from darts.loop.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2"]
History = Sequence[Mapping[str, Any]]


def colours(report: Report) -> dict[str, str]:
    """A colour for each group; grey for the random cells."""
    names = [group.name for group in report.groups if group.name != RANDOM]
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)} | {RANDOM: "#7f7f7f"}


def draw_accuracies(report: Report) -> Figure:
    """Every network as a point, every cell's mean as a bar, the group's mean with its interval."""
    figure = new_figure(7.5, 0.75 * len(report.groups) + 1.1)
    axes = figure.subplots()
    colour = colours(report)
    for row, group in enumerate(report.groups):
        for values in by_cell(report.outcomes, group.name).values():
            shown = [100 * value for value in values]
            axes.plot(shown, [row + 0.18] * len(shown), "o", color=colour[group.name], alpha=0.45, markersize=4)
            axes.plot([statistics.fmean(shown)], [row + 0.18], "|", color=colour[group.name], markersize=12)
        mean = 100 * group.accuracy
        if group.interval is not None:
            axes.plot(
                [100 * bound for bound in group.interval], [row - 0.15] * 2, color=colour[group.name], linewidth=2
            )
        axes.plot([mean], [row - 0.15], "D", color=colour[group.name], markersize=6)
    axes.set_yticks(range(len(report.groups)), [group.name for group in report.groups])
    axes.set(ylim=(len(report.groups) - 0.5, -0.5), xlabel="test accuracy %")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    figure.tight_layout()
    return figure


def draw_sizes(report: Report) -> Figure:
    """Accuracy over parameters and over multiply-adds, the front of both marked."""
    figure = new_figure(7.5, 3.2)
    colour = colours(report)
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("parameters", "macs"), strict=True):
        unit, title = UNITS[name]
        lines = [{"accuracy": 100 * o.test_accuracy, name: getattr(o, name) / unit} for o in report.outcomes]
        for group in report.groups:
            own = [line for line, o in zip(lines, report.outcomes, strict=True) if o.group == group.name]
            axes.plot([line[name] for line in own], [line["accuracy"] for line in own], "o", color=colour[group.name],
                      alpha=0.6, markersize=4, label=group.name)  # fmt: skip
        kept = front(lines, [name])
        axes.plot([line[name] for line in kept], [line["accuracy"] for line in kept], color="#333333", linewidth=1,
                  drawstyle="steps-post", label="front")  # fmt: skip
        axes.set_xlabel(title)
    figure.axes[0].set_ylabel("test accuracy %")
    figure.axes[1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def draw_progress(report: Report, histories: Mapping[str, Sequence[History]]) -> Figure | None:
    """What each method held for best after so much cost: the mean over its searches, and from the worst to the best.

    With a table its true accuracy, for all methods; else the best score so far, of those that score cells.
    """
    curves = {name: [curve for curve in map(_curve, runs) if curve] for name, runs in histories.items()}
    known = {name: own for name, own in curves.items() if own}
    if not known:
        return None
    figure = new_figure(7.5, 3.2)
    axes = figure.subplots()
    colour = colours(report)
    for name, own in known.items():
        places = sorted({x for curve in own for x, _ in curve})
        first = max(curve[0][0] for curve in own)
        places = [x for x in places if x >= first]
        values = [[_at(curve, x) for curve in own] for x in places]
        axes.plot(places, [statistics.fmean(v) for v in values], color=colour[name], drawstyle="steps-post", label=name)
        axes.fill_between(places, list(map(min, values)), list(map(max, values)), color=colour[name], alpha=0.15,
                          step="post", linewidth=0)  # fmt: skip
    lines = [line for runs in histories.values() for history in runs for line in history]
    trained = any(line.get("cost/epochs") for line in lines)
    axes.set_xlabel("epochs of training spent" if trained else "evaluations or epochs")
    axes.set_ylabel("true accuracy %" if any("table/accuracy" in line for line in lines) else "best score so far")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _curve(history: History) -> list[tuple[float, float]]:
    """(cost, value) after every line."""
    spent, curve = 0.0, []
    for line in history:
        spent += line.get("cost/epochs", 1.0) or 1.0
        value = line.get("table/accuracy", line.get("best"))
        if value is not None:
            curve.append((spent, float(value)))
    return curve


def _at(curve: Sequence[tuple[float, float]], place: float) -> float:
    return [value for x, value in curve if x <= place][-1]
