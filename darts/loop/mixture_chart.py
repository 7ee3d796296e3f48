"""How the mixture weights of every edge went over a search: a small panel an edge, all on one pair of axes.

With axes of its own for every panel, a chart of fourteen took more than twice as long to draw and save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darts.loop.plotting import charts, colour, edge_name, least_width, legend_below, legend_height
from darts.spaces.genotype import called
from darts.spaces.search_space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ACROSS = 5  # panels in a row
WIDTH, HEIGHT = 0.86, 0.76  # of a panel; the distance from one to the next is 1 both ways
BREAK = float("nan")  # ends a line within a panel


@dataclass(frozen=True)
class Panels:
    """Where panels lie on the axes: rows of `across`, the first panel's upper left corner at (0, 0).

    Attributes:
        count: how many there are.
        epochs, weights: least and largest value of the axes that all panels share.

    """

    count: int
    epochs: tuple[float, float]
    weights: tuple[float, float]

    @property
    def down(self) -> int:
        """How many rows there are."""
        return -(-self.count // MOST_ACROSS)

    @property
    def across(self) -> int:
        """How many panels a row has; the last one may have fewer."""
        return -(-self.count // self.down)

    def x(self, panel: int, epoch: float) -> float:
        """Where an epoch lies on the axes, in a panel."""
        return panel % self.across + WIDTH * _part(epoch, self.epochs)

    def y(self, panel: int, weight: float) -> float:
        """Where a mixture weight lies on the axes, in a panel."""
        return HEIGHT * _part(weight, self.weights) - HEIGHT - panel // self.across

    def first_of_rows(self) -> range:
        """The first panel of each row."""
        return range(0, self.count, self.across)

    def last_of_columns(self) -> range:
        """The lowest panel of each column."""
        return range(self.count - self.across, self.count)


def _part(value: float, limits: tuple[float, float]) -> float:
    least, largest = limits
    return (value - least) / (largest - least)


def draw_mixtures(history: Sequence[Mapping[str, Any]], kind: str, space: SearchSpace) -> Figure:
    """How the mixture weights of every edge of a cell type went: a panel an edge, a line a candidate."""
    edges, epochs = space.edges(), [line["epoch"] for line in history]
    matrices = [line["mixture"][kind] for line in history]  # an epoch's: (edges, candidates)
    weights = [weight for matrix in matrices for row in matrix for weight in row]
    panels = Panels(len(edges), _limits(epochs, least=0.5), _limits(weights, least=0.001))
    names = list(space.candidates)
    width = max(3.5, 2.2 * panels.across + 0.9, least_width(names))
    legend = legend_height(names, width)
    size, around = (width - 0.9, 1.7 * panels.down - 0.6), (0.75, 0.15, 0.3 + legend, 0.65)
    figure, (axes,) = charts(1, size, around)
    figure.suptitle(f"mixture weights, {called(kind)}", fontsize=11, y=1 - 0.12 / figure.get_figheight())
    figure.supxlabel("epoch", fontsize=8, y=(legend - 0.03) / figure.get_figheight())
    figure.supylabel("weight", fontsize=8, x=0.12 / width)
    _draw_panels(axes, panels, [edge_name(edge, space) for edge in edges])
    marker = "." if len(epochs) == 1 else ""
    for column, name in enumerate(names):
        xs, ys = [], []
        for panel in range(panels.count):
            xs += [*(panels.x(panel, epoch) for epoch in epochs), BREAK]
            ys += [*(panels.y(panel, matrix[panel][column]) for matrix in matrices), BREAK]
        axes.plot(xs, ys, color=colour(name), marker=marker, label=name)
    legend_below(figure, axes.lines, names)
    return figure


def _limits(values: Sequence[float], least: float) -> tuple[float, float]:
    """The range of an axis: that of the values and a twentieth, at least `least`, on both sides."""
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), least)
    return low - margin, high + margin


def _draw_panels(axes: Axes, panels: Panels, titles: Sequence[str]) -> None:
    """Draw frames, titles and a grid, with the weights at the left of each row and the epochs below each column."""
    from matplotlib.collections import LineCollection, PolyCollection

    axes.set(xlim=(0, panels.across - 1 + WIDTH), ylim=(1 - panels.down - HEIGHT, 0), xticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=7)
    epochs, weights = _ticks(panels.epochs, integer=True), _ticks(panels.weights, integer=False)
    places = [(panels.y(panel, weight), f"{weight:g}") for panel in panels.first_of_rows() for weight in weights]
    axes.set_yticks([place for place, _ in places], [text for _, text in places])
    frames, grid = [], []
    for panel, title in enumerate(titles):
        left, right = (panels.x(panel, epoch) for epoch in panels.epochs)
        low, high = (panels.y(panel, weight) for weight in panels.weights)
        frames.append([(left, low), (right, low), (right, high), (left, high)])
        for weight in weights:
            grid.append([(left, panels.y(panel, weight)), (right, panels.y(panel, weight))])
        for epoch in epochs:
            grid.append([(panels.x(panel, epoch), low), (panels.x(panel, epoch), high)])
        axes.text((left + right) / 2, high + 0.03, title, ha="center", va="bottom", fontsize=8)
    axes.add_collection(LineCollection(grid, colors="#e8e8e8", linewidths=0.6, zorder=0))
    axes.add_collection(PolyCollection(frames, facecolors="none", edgecolors="black", linewidths=0.8, clip_on=False))
    for panel in panels.last_of_columns():
        for epoch in epochs:
            place = panels.x(panel, epoch), panels.y(panel, panels.weights[0]) - 0.03
            axes.text(*place, f"{epoch:g}", ha="center", va="top", fontsize=7)


def _ticks(limits: tuple[float, float], integer: bool) -> list[float]:
    """Some five round values within the range of an axis."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(5, steps=[1, 2, 5, 10], integer=integer).tick_values(*limits)
    return [value for value in found if limits[0] <= value <= limits[1] and (not integer or value == round(value))]
