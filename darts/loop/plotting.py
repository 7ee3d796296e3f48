"""Cells, mixtures over time and curves, as pictures that need no program outside pip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.runtime.files import writing
from darts.spaces.genotype import Cell, Genotype
from darts.spaces.search_space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "none": "#b0b0b0",
    "max_pool_3x3": "#8c564b",
    "avg_pool_3x3": "#c49c94",
    "skip_connect": "#2ca02c",
    "sep_conv_3x3": "#1f77b4",
    "sep_conv_5x5": "#17537f",
    "sep_conv_7x7": "#0b2d47",
    "dil_conv_3x3": "#ff7f0e",
    "dil_conv_5x5": "#c45500",
    "conv_7x1_1x7": "#9467bd",
    "nor_conv_1x1": "#1f77b4",
    "nor_conv_3x3": "#17537f",
    "noise": "#e377c2",
}


def colour(operation: str) -> str:
    """The colour of an operation in all pictures."""
    return COLOURS.get(operation, "#d62728")


def draw_cell(cell: Cell, title: str) -> Figure:
    """A cell as a chart: a column for each input, node and the output; a row for each edge, drawn as an arrow."""
    inputs = ["c_{k-2}", "c_{k-1}"][-cell.inputs :]
    columns = [*inputs, *map(str, range(len(cell.nodes))), "c_{k}"]
    rows = [(edge, node + cell.inputs) for node, edges in enumerate(cell.nodes) for edge in edges]
    figure = new_figure(1.15 * len(columns) + 0.6, 0.42 * (len(rows) + 3) + 0.4)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.88))
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) + 1.0, -1.5))
    axes.axis("off")
    figure.suptitle(title, fontsize=11)
    for index, name in enumerate(columns):
        kind = "#fde9c9" if index < cell.inputs or index == len(columns) - 1 else "#dbe9f6"
        axes.plot([index, index], [-0.6, len(rows) + 0.6], color="#dddddd", linewidth=1, zorder=0)
        box = {"boxstyle": "round,pad=0.35", "facecolor": kind, "edgecolor": "#888888"}
        axes.text(index, -0.95, f"${name}$", ha="center", va="center", fontsize=10, bbox=box)
    for row, (edge, target) in enumerate(rows):
        _arrow(axes, (edge.source, target, row), colour(edge.operation))
        place = (edge.source + target) / 2
        white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        axes.text(place, row, edge.operation, ha="center", va="center", fontsize=7.5, bbox=white,
                  color=colour(edge.operation))  # fmt: skip
    for node in cell.concat:
        axes.plot([node], [len(rows)], "o", color="#888888", markersize=4)
    _arrow(axes, (min(cell.concat), len(columns) - 1, len(rows)), "#888888")
    return figure


def draw_mixtures(history: Sequence[Mapping[str, Any]], kind: str, space: SearchSpace) -> Figure:
    """How the mixture weights of every edge of a cell type went: a small chart an edge, a line a candidate."""
    edges = space.edges()
    across = 5 if len(edges) > 5 else len(edges)
    down = -(-len(edges) // across)
    figure = new_figure(2.4 * across, 1.7 * down + 0.8)
    figure.suptitle(f"mixture weights, {kind} cell", fontsize=11)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    epochs = [line["epoch"] for line in history]
    for index, axes in enumerate(grid.flat):
        axes.tick_params(labelsize=7)
        if index >= len(edges):
            axes.axis("off")
            continue
        source, node = edges[index]
        axes.set_title(f"{_state(source, space.layout.inputs)} to {node}", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        for column, name in enumerate(space.candidates):
            values = [line["mixture"][kind][index][column] for line in history]
            axes.plot(epochs, values, color=colour(name), marker=_marker(epochs), label=name)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=7, frameon=False)
    figure.subplots_adjust(left=0.06, right=0.99, top=1 - 0.65 / (1.7 * down + 0.8), bottom=0.75 / (1.7 * down + 0.8),
                           hspace=0.35)  # fmt: skip
    return figure


def draw_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses and accuracies over the epochs."""
    figure = new_figure(8, 3)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split in ("train", "valid"):
            if history and f"{split}/{quantity}" in history[0]:
                epochs = [line["epoch"] for line in history]
                values = [line[f"{split}/{quantity}"] for line in history]
                axes.plot(epochs, values, marker=_marker(history), label=split)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    figure.tight_layout()
    return figure


PANELS = {
    "entropy of the mixtures": ("entropy/",),
    "skip connections": ("skips/",),
    "edges changed": ("changes/",),
    "dominant eigenvalue": ("eigenvalue",),
    "discretisation gap": ("gap",),
    "true accuracy %": ("table/accuracy",),
}


def draw_diagnostics(history: Sequence[Mapping[str, Any]]) -> Figure:
    """What was measured of a search from inside, a small chart each."""
    measured = sorted({key for line in history for key in line})
    shown = {}
    for title, starts in PANELS.items():
        keys = [key for key in measured if key.startswith(starts)]
        if keys:
            shown[title] = keys
    figure = new_figure(2.9 * max(1, len(shown)), 2.6)
    grid = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
    for axes, (title, keys) in zip(grid, shown.items(), strict=False):
        for key in keys:
            points = [(line["epoch"], line[key]) for line in history if key in line]
            axes.plot(*zip(*points, strict=True), marker=_marker(points), label=key.split("/")[-1])
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(keys) > 1:
            axes.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def draw_progress(history: Sequence[Mapping[str, Any]]) -> Figure:
    """The score of every evaluation and the best so far."""
    figure = new_figure(6, 3)
    axes = figure.subplots()
    numbers = [line["evaluation"] for line in history]
    axes.plot(numbers, [line["score"] for line in history], ".", color="#b0b0b0", label="score")
    axes.plot(numbers, [line["best"] for line in history], color="#1f77b4", drawstyle="steps-post", label="best so far")
    axes.set(xlabel="evaluation", ylabel="score")
    axes.legend(frameon=False)
    figure.tight_layout()
    return figure


def save_cells(genotype: Genotype, folder: Path, prefix: str = "") -> list[Path]:
    """Write each cell of a genotype as PNG and SVG; returns the files."""
    files = []
    for kind, cell in genotype.cells.items():
        files += save_figure(draw_cell(cell, f"{kind} cell"), folder / f"{prefix}{kind}")
    return files


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a picture as PNG and SVG, the same bytes for the same picture; returns both files."""
    import matplotlib

    files = [path.with_name(path.name + ending) for ending in (".png", ".svg")]
    with matplotlib.rc_context({"svg.hashsalt": "darts"}), writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(files[0], dpi=150, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None})
    return files


def new_figure(width: float, height: float) -> Figure:
    """An empty picture, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _marker(points: Sequence[Any]) -> str:
    """Dots where there are few points, a line only where there are many."""
    return "." if len(points) < 20 else ""


def _state(source: int, inputs: int) -> str:
    return ("c_{k-2}", "c_{k-1}")[-inputs:][source].join("$$") if source < inputs else str(source - inputs)


def _arrow(axes: Axes, place: tuple[float, float, float], line_colour: str) -> None:
    start, end, row = place
    arrow = {"arrowstyle": "-|>", "color": line_colour, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=(end, row), xytext=(start, row), arrowprops=arrow)
    axes.plot([start], [row], "o", color=line_colour, markersize=4)
