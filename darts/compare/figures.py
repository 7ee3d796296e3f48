"""The pictures of a comparison: the metric by group, best so far over cost, the metric over size."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from darts.blackbox.pareto import UNITS, front
from darts.compare.devices import Device
from darts.compare.plan import RANDOM
from darts.compare.report import Report, by_cell
from darts.compare.scale import Scale
from darts.compare.trials import Outcome
from darts.loop.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2"]
History = Sequence[Mapping[str, Any]]


def colours(report: Report) -> dict[str, str]:
    """A colour for each group; grey for the random cells."""
    names = [group.name for group in report.groups if group.name != RANDOM]
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)} | {RANDOM: "#7f7f7f"}


WIDTH, LINES = 34, 3  # of a name in a picture: characters of a line, lines


def label(name: str) -> str:
    """A group's name as pictures show it: a long one, with the settings of a method, on a few lines, cut at the end."""
    lines = textwrap.wrap(name, WIDTH)
    cut = "…" if len(lines) > LINES else ""
    return "\n".join(lines[:LINES]) + cut


def draw_accuracies(report: Report) -> Figure:
    """Every network as a point, every cell's mean as a bar, the group's median with its interval."""
    figure = new_figure(7.5, 0.75 * len(report.groups) + 1.1)
    axes = figure.subplots()
    colour, factor = colours(report), report.scale.factor
    for row, group in enumerate(report.groups):
        for values in by_cell(report.outcomes, group.name).values():
            shown = [factor * value for value in values]
            axes.plot(shown, [row + 0.18] * len(shown), "o", color=colour[group.name], alpha=0.45, markersize=4)
            axes.plot([statistics.fmean(shown)], [row + 0.18], "|", color=colour[group.name], markersize=12)
        if group.interval is not None:
            bounds = [factor * group.interval.low, factor * group.interval.high]
            axes.plot(bounds, [row - 0.15] * 2, color=colour[group.name], linewidth=2)
        axes.plot([factor * group.median], [row - 0.15], "D", color=colour[group.name], markersize=6)
    axes.set_yticks(range(len(report.groups)), [label(group.name) for group in report.groups])
    axes.set(ylim=(len(report.groups) - 0.5, -0.5), xlabel=report.scale.title)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    figure.tight_layout()
    return figure


def draw_sizes(report: Report) -> Figure:
    """The metric over parameters and over multiply-adds, the front of both marked."""
    figure = new_figure(7.5, 3.2)
    colour, scale = colours(report), report.scale
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("parameters", "macs"), strict=True):
        unit, title = UNITS[name]
        lines = [_place(outcome, name, unit, scale) for outcome in report.outcomes]
        for group in report.groups:
            own = [line for line, o in zip(lines, report.outcomes, strict=True) if o.group == group.name]
            axes.plot([line[name] for line in own], [line["shown"] for line in own], "o", color=colour[group.name],
                      alpha=0.6, markersize=4, label=label(group.name))  # fmt: skip
        kept = front(lines, [name])
        axes.plot([line[name] for line in kept], [line["shown"] for line in kept], color="#333333", linewidth=1,
                  drawstyle="steps-post", label="front")  # fmt: skip
        axes.set_xlabel(title)
    figure.axes[0].set_ylabel(scale.title)
    figure.axes[1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _place(outcome: Outcome, cost: str, unit: float, scale: Scale) -> dict[str, float]:
    """A network in the picture; "accuracy" is what the front takes: its score, of which more is better."""
    shown = scale.factor * outcome.value
    return {"accuracy": scale.metric.score(shown), "shown": shown, cost: getattr(outcome, cost) / unit}


def draw_device(device: Device, colour: Mapping[str, str]) -> Figure:
    """The true front of a device, and of each method the cells that its searches offer."""
    figure = new_figure(7.5, 4)
    axes = figure.subplots()
    for method in dict.fromkeys(offer.method for offer in device.offers):
        cells = [cell for offer in device.offers if offer.method == method for cell in offer.cells]
        axes.plot([cell.latency for cell in cells], [cell.accuracy for cell in cells], "o", alpha=0.5, markersize=4,
                  color=colour.get(method, "#7f7f7f"), label=label(method))  # fmt: skip
    places = [point.latency for point in device.true_front], [point.accuracy for point in device.true_front]
    axes.plot(*places, "-", color="#333333", linewidth=1, drawstyle="steps-post", label="true front")
    for limit in device.within:
        axes.axvline(float(limit), color="#999999", linewidth=1, linestyle=":")
    shown = [value for value in places[1] if value > 0]
    lowest = min([cell.accuracy for offer in device.offers for cell in offer.cells] + shown)
    axes.set(xlabel=f"latency on {device.name}, ms", ylabel="accuracy %", ylim=(max(lowest - 3, 0), None))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    figure.tight_layout()
    return figure


COSTS = {  # unit and words
    "epochs": (1, "epochs of the search"),
    "seconds": (60, "minutes of the search"),
    "macs": (1e12, "multiply-adds of the search, 10$^{12}$"),
}


def draw_costs(report: Report) -> Figure | None:
    """The metric of each search's cell over what the search spent: in epochs, in seconds, in multiply-adds."""
    spent = {name: _spent_on(report, name) for name in COSTS}
    shown = [name for name, points in spent.items() if any(x > 0 for own in points.values() for x, _ in own)]
    if not shown:
        return None
    figure = new_figure(7.5, 3.2)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    colour, median = colours(report), report.scale.factor * report.groups[-1].median
    for axes, name in zip(panels, shown, strict=True):
        for group, points in spent[name].items():
            axes.plot([x for x, _ in points], [y for _, y in points], "o", color=colour[group], alpha=0.6, markersize=4,
                      label=label(group))  # fmt: skip
        axes.axhline(median, color=colour[RANDOM], linewidth=1, linestyle="--", label="median of random cells")
        axes.set(xlabel=COSTS[name][1], xlim=(0, None))
    panels[0].set_ylabel(report.scale.title)
    panels[-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _spent_on(report: Report, cost: str) -> dict[str, list[tuple[float, float]]]:
    """By method (cost of a search, mean of its cell in the metric)."""
    found = {}
    for group in report.groups:
        cells = by_cell(report.outcomes, group.name)
        known = [(cells.get(f"{group.name}, seed {search['seed']:.0f}"), search.get(cost)) for search in group.searches]
        unit, factor = COSTS[cost][0], report.scale.factor
        pairs = [(spent / unit, factor * statistics.fmean(own)) for own, spent in known if own and spent is not None]
        if pairs:
            found[group.name] = pairs
    return found


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
        means = [statistics.fmean(v) for v in values]
        axes.plot(places, means, color=colour[name], drawstyle="steps-post", label=label(name))
        axes.fill_between(places, list(map(min, values)), list(map(max, values)), color=colour[name], alpha=0.15,
                          step="post", linewidth=0)  # fmt: skip
    lines = [line for runs in histories.values() for history in runs for line in history]
    trained = any(line.get("cost/epochs") for line in lines)
    axes.set_xlabel("epochs of training spent" if trained else "evaluations or epochs")
    axes.set_ylabel("true accuracy %" if any("table/accuracy" in line for line in lines) else "best score so far")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def methods_with_curves(histories: Mapping[str, Sequence[History]]) -> list[str]:
    """The methods of which something is known over time, in every search."""
    return [name for name, runs in histories.items() if runs and all(_curve(history) for history in runs)]


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
