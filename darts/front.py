"""The cells of a table that no other beats: python -m darts.front table=FILE costs=FILE cost=[pixel2] limits=[18]."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.registry import command_settings
from darts.runtime.errors import UserError, one_line, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from darts.spaces.table import Table

log = logging.getLogger("darts")
DEAD = 0.1  # below it a cost in milliseconds is that of a network that a compiler has optimised away
SHOWN = 12  # cells of a front on the console, the last of which is the best


@command_settings("front")
@dataclass
class FrontSettings:
    """The settings of `python -m darts.front`."""

    table: str  # a CSV file, gzipped or not: a column arch with the cells' texts, and columns of numbers
    column: str  # the quality, in percent: more is better
    costs: str | None  # another CSV file of the same cells, which has the costs; null: table has them
    cost: list[str]  # columns of costs, each with a front of its own: less is better
    limits: list[float]  # of each cost: which cell is the best that costs no more
    json: bool  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.cost), "cost", self.cost, "names of columns, such as [pixel2]")
        require(len(set(self.cost)) == len(self.cost), "cost", self.cost, "different names")
        sound = all(0 <= limit < math.inf for limit in self.limits)
        require(sound, "limits", self.limits, "numbers of at least 0, finite")


@dataclass(frozen=True)
class Cells:
    """All cells of a table with their quality and one cost; arrays have an entry a cell."""

    texts: list[str]
    quality: NDArray[Any]  # percent
    cost: NDArray[Any]


@cli_command("front")
def main(settings: DictConfig) -> int:
    """Write front.json and a picture for each cost; returns how many cells the first front has."""
    typed = typed_settings(settings, FrontSettings)
    cells, sources = read(typed)
    found = fronts(typed, cells, sources)
    folder = Path(HydraConfig.get().runtime.output_dir)
    write(typed, cells, found, folder)
    if typed.json:
        print(json.dumps(found))
    else:
        for line in lines(typed, found):
            print(line)
        print(f"result: {folder / 'front.json'}, pictures beside it")
    return len(found["fronts"][0]["cells"])


def read(settings: FrontSettings) -> tuple[dict[str, Cells], dict[str, str]]:
    """By cost the cells of the tables, and by file its SHA-256.

    `UserError` where the tables have different cells or lack a column, and for what is no quality or cost.
    """
    from darts.spaces.table import MEAN

    accuracies = _table(settings.table, "table")
    costs = accuracies if settings.costs is None else _table(settings.costs, "costs")
    _require_same_cells(accuracies, costs, settings)
    known = settings.column in accuracies.columns or settings.column.startswith(MEAN)
    require(known, "column", settings.column, f"a column of table: {', '.join(accuracies.columns)}")
    accuracies.require_accuracies(settings.column)
    sources = {settings.table: accuracies.digest}
    if settings.costs is not None:
        sources[settings.costs] = costs.digest
    return {name: cells_of(accuracies, costs, settings.column, name) for name in settings.cost}, sources


def fronts(settings: FrontSettings, cells: Mapping[str, Cells], sources: Mapping[str, str]) -> dict[str, Any]:
    """By cost the true front of all cells, its hypervolume, and the best cell within each limit."""
    number = len(next(iter(cells.values())).texts)
    found = [_front(name, own, settings.limits) for name, own in cells.items()]
    return {"sources": dict(sources), "quality": settings.column, "cells": number, "fronts": found}


def cells_of(accuracies: Table, costs: Table, column: str, cost: str) -> Cells:
    """The cells of two tables, in the order of the first one's rows; `UserError` for a cost that is no number."""
    texts = list(accuracies.index)
    costs.require_costs(cost)
    own, spent = accuracies.values_of(texts, column), costs.values_of(texts, cost)
    require(bool(spent.max() > spent.min()), "cost", cost, f"a column of different numbers, not all {spent.max():g}")
    return Cells(texts, own, spent)


def _front(name: str, cells: Cells, limits: Sequence[float]) -> dict[str, Any]:
    from darts.spaces.fronts import best_within, front, hypervolume

    bounds = float(cells.cost.min()), float(cells.cost.max())
    within = {}
    for limit in limits:
        best = best_within(cells.quality, cells.cost, limit)
        within[f"{limit:.15g}"] = None if best is None else _described(cells, best)
    return {
        "cost": name,
        "lowest": bounds[0],
        "highest": bounds[1],
        "hypervolume": hypervolume(cells.quality / 100, cells.cost, bounds),
        "remarks": remarks(cells.cost),
        "cells": [_described(cells, int(place)) for place in front(cells.quality, cells.cost)],
        "within": within,
    }


def _described(cells: Cells, place: int) -> dict[str, Any]:
    return {"cell": cells.texts[place], "quality": float(cells.quality[place]), "cost": float(cells.cost[place])}


def remarks(cost: NDArray[Any]) -> list[str]:
    """What a reader should know of a column of costs: whole numbers, and entries of networks that compute nothing."""
    found = []
    from darts.spaces.table import LONGEST_MS

    times = float(cost.max()) < LONGEST_MS
    if times and bool((cost == cost.round()).all()):
        found.append("whole numbers: cells of equal cost may differ by almost one")
    dead = int((cost < DEAD).sum())
    if times and dead:
        cells = "1 cell" if dead == 1 else f"{dead} cells"
        found.append(f"{cells} below {DEAD:g}: as milliseconds, networks that a compiler has optimised away")
    return found


def _table(place: str, setting: str) -> Table:
    from darts.spaces.table import read_table

    return read_table(Path(place).expanduser(), setting=setting)


def _require_same_cells(accuracies: Table, costs: Table, settings: FrontSettings) -> None:
    """`UserError` naming a cell that only one of two tables has."""
    alone = sorted(accuracies.index.keys() ^ costs.index.keys())
    if alone:
        owner, other = ("table", "costs") if alone[0] in accuracies.index else ("costs", "table")
        told = f"{one_line(alone[0])} is in {owner} and not in {other}, like {len(alone) - 1} more"
        raise UserError(f"costs: {settings.costs} has other cells than table: {told}")


def write(settings: FrontSettings, cells: Mapping[str, Cells], found: dict[str, Any], folder: Path) -> None:
    """Write front.json and, for each cost, the picture of all cells and of the front."""
    from darts.loop.plotting import save_figure
    from darts.runtime.files import write_json

    for own in found["fronts"]:
        save_figure(draw(cells[own["cost"]], own, settings.column), folder / picture_of(own["cost"]))
    write_json(folder / "front.json", found)


def picture_of(cost: str) -> str:
    """How the picture of a column is called, whatever the column is."""
    return f"front_{re.sub(r'[^A-Za-z0-9_.-]', '_', cost)}"


def draw(cells: Cells, own: dict[str, Any], quality: str) -> Figure:
    """All cells as points, the front as a line with its cells on it."""
    from darts.loop.plotting import new_figure

    figure = new_figure(5.4, 3.6)
    axes = figure.subplots()
    axes.plot(cells.cost, cells.quality, ".", color="#b8b8b8", markersize=1.5, rasterized=True, label="all cells")
    places = [cell["cost"] for cell in own["cells"]], [cell["quality"] for cell in own["cells"]]
    axes.plot(*places, "o-", color="#d62728", markersize=4, linewidth=1, drawstyle="steps-post", label="front")
    lowest = min(cell["quality"] for cell in own["cells"])
    axes.set(xlabel=own["cost"], ylabel=f"{quality}, %", ylim=(max(lowest - 5, 0), 100))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def lines(settings: FrontSettings, found: dict[str, Any]) -> list[str]:
    """What the console says."""
    told = [f"{found['cells']:,} cells, quality {found['quality']} in percent"]
    told += [f"{place}: SHA-256 {digest}" for place, digest in found["sources"].items()]
    for own in found["fronts"]:
        size = f"{len(own['cells'])} cells, hypervolume {own['hypervolume']:.5f}"
        bounds = f"from {own['lowest']:,.12g} to {own['highest']:,.12g}"
        told += ["", f"{own['cost']}: {bounds}; the front has {size}"]
        told += [f"  {remark}" for remark in own["remarks"]]
        told += [_line(cell) for cell in own["cells"][: SHOWN - 1]]
        if len(own["cells"]) > SHOWN:
            told.append(f"  ... {len(own['cells']) - SHOWN} more in front.json")
        told += [_line(cell) for cell in own["cells"][SHOWN - 1 :][-1:]]
        for limit, best in own["within"].items():
            cell = "no cell" if best is None else _line(best).strip()
            told.append(f"  at most {limit}: {cell}")
    return told


def _line(cell: dict[str, Any]) -> str:
    return f"  {cell['cost']:10.3f}  {cell['quality']:6.3f}%  {cell['cell']}"


if __name__ == "__main__":
    main()
