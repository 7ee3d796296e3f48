"""Measured latencies in milliseconds, as sums over edges: of whole cells on a device, or of operations on a machine.

A table of whole cells (NAS-Bench-201's on many devices) answers for a cell; what a mixture is expected to take is the
answer of an additive model, fitted to all cells of the table. A table of operations, which python -m darts.measure
writes, answers for both by a sum.
"""

from __future__ import annotations

import csv
import logging
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from darts.models.settings import ConstraintSettings, NetworkSettings
from darts.runtime.errors import UserError, one_line, require
from darts.spaces.chain import CHAIN
from darts.spaces.genotype import Genotype
from darts.spaces.search_space import InputShape, SearchSpace, Sides, divided, halvings, plan_cells
from darts.spaces.strings import SPACES, from_string
from darts.spaces.table import LONGEST_MS, Table, read_rows, read_table

log = logging.getLogger(__name__)
SETTING = "constraints.latency_table"
REST = "rest"  # begins the name of what is not an operation
Numbers = NDArray[numpy.float64]


class Place(NamedTuple):
    """Where an operation stands in the network that is made of a cell."""

    kind: str  # of the cell
    edge: int
    input_channels: int  # of the map that it is given
    channels: int  # of what it gives
    stride: int
    sides: Sides  # of the map that it is given

    def measured(self, operation: str) -> Measured:
        """What a row of a table of operations says of an operation here."""
        return Measured(operation, self.channels, self.stride, *self.sides, self.input_channels)


class Measured(NamedTuple):
    """What a row of a table of operations is of."""

    operation: str
    channels: int
    stride: int
    height: int
    width: int
    input_channels: int


NUMBERS = Measured._fields[1:-1]
OPERATION_COLUMNS = ("operation", *NUMBERS, "latency_ms")  # that every table has
INPUTS = "input_channels"  # a column that may be left out: as many as channels


@dataclass(frozen=True)
class Sums:
    """Latencies that add up over edges."""

    tables: Mapping[str, Numbers]  # cell type -> (edges, candidates), of all cells of the type, ms
    rest: float  # of what does not lie on edges, ms

    def of(self, genotype: Genotype, space: SearchSpace) -> float:
        """Of the network of a genotype, ms."""
        total = self.rest
        for kind, cell in genotype.cells.items():
            for edge, column in space.places(cell):
                total += float(self.tables[kind][edge, column])
        return total

    def least(self, space: SearchSpace) -> float:
        """Of the fastest network, ms: at each node the edges that may stay and take least."""
        total = self.rest
        for kind, table in self.tables.items():
            for node in range(space.nodes):
                edges = [table[edge, space.selectable(kind, edge)].min() for edge in space.incoming(node)]
                total += float(sum(sorted(edges)[: space.kept(node)]))
        return total


class Quality(NamedTuple):
    """How well sums say what was measured."""

    r2: float
    rank_correlation: float  # Spearman's
    cells: int


@dataclass(frozen=True)
class CellLatencies:
    """A table of the latencies of all cells of a space, on the device of one column."""

    table: Table
    device: str
    sums: Sums
    quality: Quality

    def of(self, genotype: Genotype) -> float:
        """What the table says, ms; `UserError` for a cell that it lacks."""
        return self.table.value(genotype, self.device)

    def least(self) -> float:
        """Of the fastest cell, ms."""
        return float(self.table.values(self.device).min())

    def told(self) -> str:
        """What the sums are worth, for people."""
        fit = self.quality
        return (
            f"latency on {self.device}: sums over edges, fitted to {fit.cells:,} cells, say R2 {fit.r2:.3f} of it "
            f"(rank correlation {fit.rank_correlation:.3f})"
        )


@dataclass(frozen=True)
class OperationLatencies:
    """Latencies of single operations, added up."""

    space: SearchSpace
    sums: Sums

    def of(self, genotype: Genotype) -> float:
        """The sum, ms."""
        return self.sums.of(genotype, self.space)

    def told(self) -> str:
        """What the sums are worth, for people."""
        return "latency: the sum of the operations' measurements and of the rest of the network"


Latencies = CellLatencies | OperationLatencies
_fitted: dict[tuple[str, str, tuple[str, ...]], tuple[Sums, Quality]] = {}  # what a process has fitted, by content


def places(space: SearchSpace, size: NetworkSettings, shape: InputShape) -> Iterator[Place]:
    """Every edge of every cell of the network that is made of a cell."""
    sides = divided(shape.sides, 2 ** halvings(size.stem_reductions))
    if space.chain is not None:
        for number, layer in enumerate(space.chain.plan(size.channels)):
            yield Place(CHAIN, number, *layer, sides)
            sides = divided(sides, layer.stride)
        return
    for plan in plan_cells(size.cells, size.channels, space.multipliers(), space.layout):
        after = divided(sides, plan.stride)
        edges = space.edges() if plan.kind in space.cell_types else []
        for edge, (source, _) in enumerate(edges):
            outer = source < space.layout.inputs
            stride, before = (plan.stride, sides) if outer else (1, after)
            yield Place(plan.kind, edge, plan.channels, plan.channels, stride, before)
        sides = after


def rest_of(space: SearchSpace, size: NetworkSettings, shape: InputShape) -> Measured:
    """What the row of a network's rest, all but the operations on edges, is called."""
    cells = f"{size.cells} cells of {space.nodes} nodes in the skeleton {space.skeleton.value}"
    if space.chain is not None:
        chain = space.chain
        cells = f"the chain {chain.stem} {chain.first} {chain.stages} {chain.head}".replace(",", "")
    name = f"{REST} of {cells}, stem {size.stem_reductions}, {shape.channels} to {shape.classes}"
    return Measured(name, size.channels, 1, *shape.sides, size.channels)


def latencies_of(settings: ConstraintSettings, space: SearchSpace, shape: InputShape) -> Latencies | None:
    """The latencies of `constraints.latency_table`; None where it is null. `UserError` for one that does not fit."""
    if settings.latency_table is None:
        return None
    path = Path(settings.latency_table).expanduser()
    if not path.is_file():
        raise UserError(f"{SETTING} is {settings.latency_table!r}; there is no such file")
    operations = read_operations(path)
    if operations is None:
        return cell_latencies(read_table(path, setting=SETTING), settings.device, space)
    allowed = f"null, for {one_line(path)} is of operations, measured on one machine"
    require(settings.device is None, "constraints.device", settings.device, allowed)
    return OperationLatencies(space, added_up(operations, space, settings.network, shape, str(path)))


def read_operations(path: Path) -> dict[Measured, float] | None:
    """What a table of operations says, ms; None for a table of another form. `UserError` naming a damaged line."""
    try:
        rows, _ = read_rows(path)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise UserError(f"{SETTING} {one_line(path)}: not a table ({one_line(error)})") from None
    names = [name.strip() for name in rows[0][1:]] if rows else []
    if len(names) == 1 and ";" in names[0]:
        raise UserError(f"{SETTING} {one_line(path)}: its columns are divided by ';'; they must be by ','")
    if "operation" not in names:
        return None
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise UserError(f"{SETTING} {one_line(path)}: the column {one_line(twice[0])!r} is there twice; each name once")
    missing = [name for name in OPERATION_COLUMNS if name not in names]
    if missing:
        raise UserError(f"{SETTING} {one_line(path)}: a table of operations has a column {missing[0]!r}")
    inputs = INPUTS if INPUTS in names else "channels"
    columns = [names.index(name) for name in ("operation", *NUMBERS, inputs, "latency_ms")]
    found: dict[Measured, float] = {}
    for line, *values in rows[1:]:
        try:
            if len(values) != len(names):
                raise ValueError
            operation, *numbers, latency = (values[column] for column in columns)
            key, milliseconds = Measured(operation.strip(), *map(int, numbers)), float(latency)
            sound = math.isfinite(milliseconds) and (milliseconds >= 0 or key.operation.startswith(REST))
        except (IndexError, ValueError):
            sound = False
        if not sound:
            told = f"{len(names)} columns, whole numbers, and a latency of at least 0"
            raise UserError(f"{SETTING} {one_line(path)}: line {line} is {one_line(','.join(values))}; it needs {told}")
        if found.setdefault(key, milliseconds) != milliseconds:
            raise UserError(f"{SETTING} {one_line(path)}: line {line} says another latency of {key.operation} again")
    return found


def added_up(
    known: Mapping[Measured, float], space: SearchSpace, size: NetworkSettings, shape: InputShape, file: str
) -> Sums:
    """The sums over edges of a table of operations; `UserError` naming the first that it lacks."""
    tables = {kind: numpy.zeros((len(space.edges()), len(space.candidates))) for kind in space.cell_types}

    def latency(wanted: Measured) -> float:
        if wanted not in known:
            inputs = "" if wanted.input_channels == wanted.channels else f"{wanted.input_channels} to "
            what = f"{wanted.operation}, {inputs}{wanted.channels} channels, stride {wanted.stride}"
            raise UserError(
                f"{SETTING} {one_line(file)} has no row of {what}, {wanted.height} x {wanted.width}; measure with "
                f"python -m darts.measure {measuring(space, size, shape)}"
            )
        return known[wanted]

    for place in places(space, size, shape):
        for column in space.selectable(place.kind, place.edge):
            for carried in (space.candidates[column], *space.always):
                tables[place.kind][place.edge, column] += latency(place.measured(carried))
    sums = Sums(tables, latency(rest_of(space, size, shape)))
    least = sums.least(space)
    if least <= 0:
        told = f"the least sum of a cell is {least:.3g} ms, with {sums.rest:.3g} ms for the rest of the network"
        raise UserError(f"{SETTING} {one_line(file)}: {told}; measure again, with more warm_up and repetitions")
    return sums


def measuring(space: SearchSpace, size: NetworkSettings, shape: InputShape) -> str:
    """The settings of python -m darts.measure that measure what a network of this size needs."""
    height, width = shape.sides
    image = height if height == width else f"[{height},{width}]"
    given = {
        "space": space.name,
        "network.channels": size.channels,
        **({} if space.chain is not None else {"network.cells": size.cells}),
        "network.stem_reductions": size.stem_reductions,
        "input.channels": shape.channels,
        "input.size": image,
        "input.classes": shape.classes,
    }
    return " ".join(f"{key}={value}" for key, value in given.items())


def cell_latencies(
    table: Table, device: str | None, space: SearchSpace, setting: str = "constraints.device"
) -> CellLatencies:
    """The column of a device, and the additive model fitted to it; `setting` names the device."""
    allowed = f"of operations with space={space.name}: {' and '.join(SPACES)} have tables of whole cells"
    require(space.name in SPACES, SETTING, table.place.partition(" ")[2], allowed)
    require(device in table.columns, setting, device, f"a column of {SETTING}: {', '.join(table.columns)}")
    if device is None:
        raise TypeError("null is no column")
    table.require_costs(device)
    longest = float(table.values(device).max())
    counts = longest >= LONGEST_MS
    require(not counts, setting, device, f"a column of milliseconds; the largest number in this one is {longest:,.12g}")
    key = table.digest, device, tuple(space.candidates)
    if key not in _fitted:
        _fitted[key] = fitted_sums(table, device, space, setting)
    return CellLatencies(table, device, *_fitted[key])


def fitted_sums(table: Table, device: str, space: SearchSpace, setting: str) -> tuple[Sums, Quality]:
    """The sums over edges that come nearest to the cells of a table, by least squares, and how near they come.

    The cheapest candidate of each edge counts 0; `rest` is the sum of the cell that has these. `UserError` for a table
    that lacks cells of the space, or says the same of all; `setting` names the device.
    """
    chosen, rows = cells_in(table, space)
    place, number = table.place.partition(" ")[2], space.count()
    require(len(rows) == number, SETTING, place, f"a table of all {number:,} cells of the space, not of {len(rows):,}")
    edges, candidates = len(space.edges()), len(space.candidates)
    codes = numpy.eye(candidates)[numpy.array(chosen)].reshape(len(rows), edges * candidates)
    values = table.values(device)[rows]
    different = bool(values.max() > values.min())
    require(different, setting, device, f"a column of different numbers, not {values[0]:g} for all cells")
    design = numpy.hstack([codes, numpy.ones((len(rows), 1))])
    solution = numpy.linalg.lstsq(design, values, rcond=None)[0]
    matrix, rest = solution[:-1].reshape(edges, candidates), float(solution[-1])
    least = matrix.min(axis=1, keepdims=True)
    sums = Sums(dict.fromkeys(space.cell_types, matrix - least), rest + float(least.sum()))
    return sums, quality_of(design @ solution, values)


def cells_in(table: Table, space: SearchSpace) -> tuple[list[list[int]], list[int]]:
    """Of the cells of a table that are in the space, the candidates' columns by edge, and the rows."""
    kind = space.cell_types[0]
    allowed = space.allowed(kind)
    chosen, rows = [], []
    for text, row in table.index.items():
        try:
            genotype = from_string(text, space.name)
        except UserError as error:
            raise UserError(f"{table.place}: {error}") from None
        cell = genotype.cells[kind]
        if len(cell.nodes) == space.nodes and set(cell.operations()) <= set(space.candidates):
            places = list(space.places(cell))
            if all(allowed[edge][column] for edge, column in places):
                chosen.append([column for _, column in places])
                rows.append(row)
    return chosen, rows


def quality_of(predicted: Numbers, values: Numbers) -> Quality:
    """R2 and Spearman's rank correlation of predictions."""
    from scipy.stats import spearmanr

    spread = float(((values - values.mean()) ** 2).sum())
    r2 = 1 - float(((values - predicted) ** 2).sum()) / max(spread, 1e-30)
    return Quality(r2, float(spearmanr(predicted, values).statistic), len(values))
