"""Cells as graphs in the papers' style, two genotypes side by side, and a cell's changes over a search as a strip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from darts.loop.plotting import (
    BOX,
    charts,
    colour,
    columns_of,
    draw_cell,
    draw_cell_on,
    edge_name,
    end_names,
    is_chain_cell,
    least_width,
    legend_below,
    legend_height,
    new_figure,
    rows_of,
)
from darts.spaces.genotype import Cell, Genotype, called
from darts.spaces.search_space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = tuple[float, float]


def draw_graph(cell: Cell, title: str) -> Figure:
    """A cell as a graph: inputs on the left, nodes in the order of their depth, the output on the right."""
    if is_chain_cell(cell):
        return draw_cell(cell, title)
    places = graph_places(cell)
    width = max(x for x, _ in places)
    low, high = min(y for _, y in places), max(y for _, y in places)
    figure = new_figure(2.1 * width + 1.6, 1.15 * (high - low) + 1.8)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.86))
    axes.set(xlim=(-0.5, width + 0.5), ylim=(low - 0.7, high + 0.7))
    axes.axis("off")
    figure.suptitle(title, fontsize=11)
    for node, edges in enumerate(cell.nodes):
        for number, edge in enumerate(edges):
            bend = 0.18 if number % 2 else -0.18
            _edge(axes, places[edge.source], places[cell.inputs + node], edge.operation, bend)
    for node in cell.concat:
        _edge(axes, places[node], places[-1], "", 0.0)
    inputs, output = end_names(cell)
    names = [*inputs, *map(str, range(len(cell.nodes))), output]
    for index, ((x, y), name) in enumerate(zip(places, names, strict=True)):
        outer = index < cell.inputs or index == len(places) - 1
        box = {**BOX, "facecolor": "#fde9c9" if outer else "#dbe9f6"}
        axes.text(x, y, name, ha="center", va="center", fontsize=10, bbox=box, zorder=3)
    return figure


def graph_places(cell: Cell) -> list[Place]:
    """Where inputs, nodes and the output lie: x is the longest way from an input, y keeps those of one depth apart."""
    depths = [0] * cell.inputs
    for edges in cell.nodes:
        sources = [depths[edge.source] for edge in edges]
        depths.append(1 + max(sources, default=0))
    last = 1 + max(depths)
    columns: dict[int, list[int]] = {}
    for state, depth in enumerate(depths):
        columns.setdefault(depth, []).append(state)
    places: dict[int, Place] = {}
    for depth, states in columns.items():
        for number, state in enumerate(states):
            spread = 1.5 if depth else 1.9
            stagger = 0.35 * (-1) ** depth if depth and len(states) == 1 else 0.0  # edges of one row would hide others
            places[state] = float(depth), spread * ((len(states) - 1) / 2 - number) + stagger
    return [*(places[state] for state in range(len(depths))), (float(last), 0.0)]


def _edge(axes: Axes, start: Place, end: Place, operation: str, bend: float) -> None:
    """An arrow from a state to another with its operation's name on it; without a name an edge to the output."""
    from matplotlib.patches import FancyArrowPatch

    line = colour(operation) if operation else "#888888"
    axes.add_patch(
        FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=12,
                        color=line, linewidth=1.6, shrinkA=14, shrinkB=14, zorder=1)
    )  # fmt: skip
    if not operation:
        return
    part = 0.4 if bend > 0 else 0.58  # names of two arrows to one node do not meet
    x, y = _on_curve(start, end, bend, part)
    white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(x, y, operation, ha="center", va="center", fontsize=7.5, color=line, bbox=white, zorder=2)


def _on_curve(start: Place, end: Place, bend: float, part: float) -> Place:
    """The point of an arrow's curve (a quadratic Bezier curve) at a part of it, 0 to 1."""
    across, up = end[0] - start[0], end[1] - start[1]
    middle = (start[0] + end[0]) / 2 + bend * up, (start[1] + end[1]) / 2 - bend * across
    weights = (1 - part) ** 2, 2 * part * (1 - part), part**2
    place = [0.0, 0.0]
    for weight, point in zip(weights, (start, middle, end), strict=True):
        place = [place[0] + weight * point[0], place[1] + weight * point[1]]
    return place[0], place[1]


def draw_side_by_side(first: Genotype, second: Genotype, names: tuple[str, str]) -> Figure:
    """The cells of two genotypes of one layout, a row a cell type, each genotype in a column."""
    kinds = [kind for kind in first.cells if kind in second.cells]
    heights, columns = [], 0
    for kind in kinds:
        cells = first.cells[kind], second.cells[kind]
        heights.append(max(rows_of(cell) for cell in cells))
        columns = max(columns, *map(columns_of, cells))
    figure = new_figure(2 * (1.05 * columns + 0.5), sum(0.42 * (rows + 3) + 0.5 for rows in heights))
    grid = figure.subplots(len(kinds), 2, squeeze=False, gridspec_kw={"height_ratios": [rows + 3 for rows in heights]})
    for row, kind in zip(grid, kinds, strict=True):
        for axes, genotype, name in zip(row, (first, second), names, strict=True):
            draw_cell_on(axes, genotype.cells[kind])
            axes.set_title(f"{name}, {called(kind)}", fontsize=10)
    figure.tight_layout()
    return figure


def draw_changes(history: Sequence[Mapping[str, Any]], kind: str, space: SearchSpace) -> Figure:
    """A strip of what a search would have kept after each epoch: a row an edge, a column an epoch; blank: not kept."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    edges, epochs = space.edges(), [line["epoch"] for line in history]
    rows = {edge: row for row, edge in enumerate(edges)}
    squares: dict[str, list[Any]] = {}  # by operation the corners of its squares
    for line in history:
        for node, operation, source in line["cells"][kind]:
            left, low = line["epoch"] - 0.5, rows[source, node] - 0.5
            corners = [(left, low), (left + 1, low), (left + 1, low + 1), (left, low + 1)]
            squares.setdefault(operation, []).append(corners)
    names = sorted(squares)
    chart = 1.7 + 0.16 * max(20, len(epochs)), 0.55 + 0.24 * len(edges)
    width = max(chart[0] + 0.9, least_width(names))
    around = 0.8, width - chart[0] - 0.8, 0.42 + legend_height(names, width), 0.3
    figure, (axes,) = charts(1, chart, around)
    for operation, own in squares.items():
        axes.add_collection(PolyCollection(own, facecolors=colour(operation), edgecolors="white", linewidths=0.4))
    axes.set_yticks(range(len(edges)), [edge_name(edge, space) for edge in edges], fontsize=7)
    axes.set(xlim=(epochs[0] - 0.5, epochs[-1] + 0.5), ylim=(len(edges) - 0.5, -0.5), xlabel="epoch", ylabel="edge")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title(f"kept operations, {called(kind)}", fontsize=10)
    legend_below(figure, [Patch(color=colour(name)) for name in names], names)
    return figure
