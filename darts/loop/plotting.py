"""Cells, mixtures over time and curves, as pictures that need no program outside pip."""

from __future__ import annotations

import io
import logging
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.models.activations import all_activations
from darts.runtime.errors import one_line
from darts.runtime.files import writing
from darts.spaces.genotype import Cell, Genotype, called
from darts.spaces.search_space import SearchSpace, Skeleton
from darts.tasks.metric import metric_among

if TYPE_CHECKING:
    import numpy
    from matplotlib.artist import Artist
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
    "inverted_3x3_e3": "#6baed6",
    "inverted_3x3_e6": "#1f77b4",
    "inverted_5x5_e3": "#fdae6b",
    "inverted_5x5_e6": "#e6550d",
    "inverted_7x7_e3": "#bcbddc",
    "inverted_7x7_e6": "#756bb1",
    "inverted_3x3_e3_relu": "#6baed6",
    "inverted_5x5_e6_relu": "#e6550d",
    "tanh": "#1f77b4",
    "relu": "#ff7f0e",
    "sigmoid": "#9467bd",
    "identity": "#2ca02c",
}

OTHERS = ("#d62728", "#bcbd22", "#17becf", "#f781bf", "#4daf4a", "#666600", "#7b3294", "#00441b")  # of plug-ins

BOX = {"boxstyle": "round,pad=0.35", "edgecolor": "#888888"}
VECTOR: dict[Any, Any] = {"svg.hashsalt": "darts", "svg.fonttype": "none", "pdf.fonttype": 42}
WITHOUT_DATE = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def colour(operation: str) -> str:
    """The colour of an operation in all pictures; that of a plug-in's depends on its name alone."""
    return COLOURS.get(operation) or OTHERS[zlib.crc32(operation.encode()) % len(OTHERS)]


def draw_cell(cell: Cell, title: str) -> Figure:
    """A cell as a chart: a column for each input, node and the output; a row for each edge, drawn as an arrow.

    A chain is one column, a box for each layer.
    """
    columns = columns_of(cell)
    figure = new_figure(1.15 * columns + 0.6, 0.42 * (rows_of(cell) + 3) + 0.4)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.88))
    figure.suptitle(title, fontsize=11)
    draw_cell_on(axes, cell)
    return figure


def columns_of(cell: Cell) -> int:
    """How many columns a cell's chart has."""
    return 2 if is_chain_cell(cell) else cell.inputs + len(cell.nodes) + 1


def rows_of(cell: Cell) -> int:
    """How many edges a cell keeps: the rows of its chart."""
    return sum(map(len, cell.nodes))


def end_names(cell: Cell) -> tuple[list[str], str]:
    """What the inputs of a cell and its output are called.

    Of a recurrent cell the first state and the new one, of a chain what is before and behind its layers.
    """
    if cell.inputs == 1 and all_activations(cell.operations()):
        return ["s₀"], "hₜ"
    if is_chain_cell(cell):
        return ["stem"], "head"
    return input_names(cell.inputs), "cₖ"


def is_chain_cell(cell: Cell) -> bool:
    """Whether each node reads the one before it only, so that a cell is a chain of layers."""
    in_a_row = cell.inputs == 1
    for number, edges in enumerate(cell.nodes):
        in_a_row = in_a_row and len(edges) == 1 and edges[0].source == number
    return in_a_row and not all_activations(cell.operations())


def input_names(inputs: int) -> list[str]:
    """What the inputs of a cell of images are called."""
    return ["cₖ₋₂", "cₖ₋₁"][-inputs:]


def draw_cell_on(axes: Axes, cell: Cell) -> None:
    """Draw the chart of a cell on given axes."""
    inputs, output = end_names(cell)
    if is_chain_cell(cell):
        draw_chain_on(axes, [*inputs, *cell.operations(), output])
        return
    columns = [*inputs, *map(str, range(len(cell.nodes))), output]
    rows = [(edge, node + cell.inputs) for node, edges in enumerate(cell.nodes) for edge in edges]
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) + 1.0, -1.5))
    axes.axis("off")
    for index, name in enumerate(columns):
        kind = "#fde9c9" if index < cell.inputs or index == len(columns) - 1 else "#dbe9f6"
        axes.plot([index, index], [-0.6, len(rows) + 0.6], color="#dddddd", linewidth=1, zorder=0)
        box = {**BOX, "facecolor": kind}
        axes.text(index, -0.95, name, ha="center", va="center", fontsize=10, bbox=box)
    for row, (edge, target) in enumerate(rows):
        _arrow(axes, (edge.source, target, row), colour(edge.operation))
        place = (edge.source + target) / 2
        white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        axes.text(place, row, edge.operation, ha="center", va="center", fontsize=7.5, bbox=white,
                  color=colour(edge.operation))  # fmt: skip
    for node in cell.concat:
        axes.plot([node], [len(rows)], "o", color="#888888", markersize=4)
    _arrow(axes, (min(cell.concat), len(columns) - 1, len(rows)), "#888888")


def draw_chain_on(axes: Axes, parts: Sequence[str]) -> None:
    """Draw the parts of a chain below each other, the layers with their numbers and the colours of their operations."""
    axes.set(xlim=(-0.5, 1.5), ylim=(len(parts) - 0.4, -0.6))
    axes.axis("off")
    for row, name in enumerate(parts):
        outer = row in (0, len(parts) - 1)
        box = {**BOX, "facecolor": "#fde9c9" if outer else "white", "edgecolor": "#888888" if outer else colour(name)}
        axes.text(0.5, row, name, ha="center", va="center", fontsize=8, bbox=box)
        if not outer:
            axes.text(-0.4, row, f"{row - 1}", ha="center", va="center", fontsize=7, color="#888888")
        if row:
            arrow = {"arrowstyle": "-|>", "color": "#888888", "shrinkA": 8, "shrinkB": 8}
            axes.annotate("", xy=(0.5, row), xytext=(0.5, row - 1), arrowprops=arrow)


def edge_name(edge: tuple[int, int], space: SearchSpace) -> str:
    """An edge as all pictures and logs call it: from an input or node to a node."""
    source, node = edge
    if space.layout.chained:
        return f"layer {node}"
    inputs = space.layout.inputs
    if source >= inputs:
        return f"{source - inputs} to {node}"
    names = ["s₀"] if space.skeleton is Skeleton.recurrent else input_names(inputs)
    return f"{names[source]} to {node}"


def draw_alpha(matrix: Sequence[Sequence[float]], kind: str, space: SearchSpace) -> Figure:
    """The architecture parameters of a cell type as a heatmap: a row an edge, a column a candidate."""
    edges, candidates = space.edges(), list(space.candidates)
    longest = max(map(text_width, candidates))  # their names lie aslant, by 40 degrees
    size = max(2.2, 0.55 * len(candidates)), max(1.2, 0.3 * len(edges))
    around = max(0.8, 0.8 * longest), 1.0, 0.3 + 0.65 * longest, 0.35
    figure, (axes,) = charts(1, size, around)
    most = max((abs(value) for row in matrix for value in row), default=0.0) or 1.0
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(candidates)), candidates, rotation=40, ha="right", fontsize=7)
    axes.set_yticks(range(len(edges)), [edge_name(edge, space) for edge in edges], fontsize=7)
    axes.set_title(f"alpha, {called(kind)}", fontsize=10)
    bar = axes.inset_axes((1 + 0.2 / size[0], 0, 0.2 / size[0], 1))
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
    return figure


def draw_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses and metrics over the epochs."""
    names = history[0] if history else {}
    metric = metric_among(names, "train/")
    figure, pair = charts(2, (2.9, 2.35), around=(0.95, 0.15, 0.5, 0.3), between=1.05)
    for axes, quantity in zip(pair, ("loss", metric.name), strict=True):
        for split in ("train", "valid"):
            if history and f"{split}/{quantity}" in history[0]:
                epochs = [line["epoch"] for line in history]
                values = [line[f"{split}/{quantity}"] for line in history]
                axes.plot(epochs, values, marker=_marker(history), label=split)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.locator_params("x", integer=True, min_n_ticks=1)
        axes.legend(frameon=False)
    return figure


PANELS = {
    "entropy of the mixtures": ("entropy/", "nats"),
    "skip connections": ("skips/", "edges"),
    "edges changed": ("changes/", "edges"),
    "dominant eigenvalue": ("eigenvalue", "of the Hessian in alpha"),
    "discretisation gap": ("gap", "lost by discretisation"),
    "alpha's gradients alike": ("gradient/", "cosine; norm of mean / mean of norms"),
    "true accuracy": ("table/accuracy", "%"),
}  # by title, how the names of the values begin, and the axis


def draw_diagnostics(history: Sequence[Mapping[str, Any]], candidates: int) -> Figure:
    """What was measured of a search from inside, a small chart each; `candidates` an edge: for the largest entropy."""
    measured = sorted({key for line in history for key in line})
    shown = {}
    for title, (starts, _) in PANELS.items():
        keys = [key for key in measured if key.startswith(starts)]
        if keys:
            shown[title] = keys
    figure, grid = charts(max(1, len(shown)), (2.0, 1.75), around=(0.75, 0.2, 0.5, 0.5), between=0.9)
    for axes, (title, keys) in zip(grid, shown.items(), strict=False):
        for key in keys:
            points = [(line["epoch"], line[key]) for line in history if key in line]
            axes.plot(*zip(*points, strict=True), marker=_marker(points), label=key.split("/")[-1])
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.set_ylabel(PANELS[title][1], fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params("x", integer=True, min_n_ticks=1)
        if PANELS[title][1] == "edges":
            axes.locator_params("y", integer=True, min_n_ticks=1)
        if title.startswith("entropy"):
            axes.axhline(math.log(candidates), color="#999999", linestyle="--", linewidth=1, label="maximum")
        if len(keys) > 1:
            axes.legend(fontsize=7, frameon=False)
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
        files += save_figure(draw_cell(cell, called(kind)), folder / f"{prefix}{kind}")
    return files


def save_figure(figure: Figure, path: Path, endings: Sequence[str] = (".png", ".svg")) -> list[Path]:
    """Write a picture in these forms, the same bytes for the same picture; returns the files.

    The text of an SVG is text; a PDF holds its fonts.
    """
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table of a font
    files = [path.with_name(path.name + ending) for ending in endings]
    figure.set_layout_engine(None)  # it has been laid out, and would be drawn once more for that in each form
    with matplotlib.rc_context(VECTOR), writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            figure.savefig(file, dpi=150, metadata=WITHOUT_DATE[file.suffix])
    return files


def pixels_of(figure: Figure) -> numpy.ndarray:
    """A picture as numbers, (height, width, 3) bytes, at its own resolution."""
    import numpy
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())[:, :, :3]


def svg_text(figure: Figure, name: str) -> str:
    """A picture as an SVG element for a page; `name` keeps its identifiers apart from those of others there."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(VECTOR):
        figure.savefig(buffer, format="svg", metadata=WITHOUT_DATE[".svg"])
    text = buffer.getvalue()
    element = text[text.index("<svg") :]
    return re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", element)


def drawn(text: str) -> str:
    """A name as a picture shows it: in one line, in characters that every file takes, without mathematics."""
    return one_line(text).replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty picture, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def charts(
    count: int, size: tuple[float, float], around: tuple[float, float, float, float], between: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A picture with a row of charts, each of this size (width, height); all numbers are inches.

    `around`: what is left free at the left, right, bottom and top, for numbers and names; `between`: from the right of
    a chart to the left of the next one. `tight_layout` would find this out by drawing all texts once more.
    """
    (width, height), (left, right, bottom, top) = size, around
    across, down = left + count * width + (count - 1) * between + right, bottom + height + top
    figure, row = new_figure(across, down), []
    for number in range(count):
        start = left + number * (width + between)
        row.append(figure.add_axes((start / across, bottom / down, width / across, height / down)))
    return figure, row


def text_width(text: str) -> float:
    """About how many inches a text of 7 points is wide, rather more than less."""
    return 0.065 * len(text)


def least_width(names: Sequence[str]) -> float:
    """How many inches a picture must be wide for a legend of these names in one column."""
    return 0.7 + max(map(text_width, names), default=0.0)


def legend_shape(names: Sequence[str], width: float) -> tuple[int, int]:
    """How many columns and rows a legend has below a picture that is so many inches wide."""
    columns = int((width - 0.2) / (least_width(names) - 0.2))
    columns = max(1, min(4, columns))
    return columns, max(1, -(-len(names) // columns))


def legend_height(names: Sequence[str], width: float) -> float:
    """How many inches that legend is high, with what is free below it."""
    return 0.12 + 0.17 * legend_shape(names, width)[1]


def legend_below(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Draw the legend at the bottom of a picture."""
    columns, _ = legend_shape(names, figure.get_figwidth())
    figure.legend(handles, names, loc="lower center", ncols=columns, fontsize=7, frameon=False)


def _marker(points: Sequence[Any]) -> str:
    """Dots where there are few points, a line only where there are many."""
    return "." if len(points) < 20 else ""


def _arrow(axes: Axes, place: tuple[float, float, float], line_colour: str) -> None:
    start, end, row = place
    arrow = {"arrowstyle": "-|>", "color": line_colour, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=(end, row), xytext=(start, row), arrowprops=arrow)
    axes.plot([start], [row], "o", color=line_colour, markersize=4)
