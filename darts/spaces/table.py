"""A table of what a benchmark measured, keyed by its cells' strings: ground truth for searches and comparisons.

A table holds one entry a cell. Cells that compute the same function (`nasbench201.structure` says which) have entries
of their own, since each was trained for itself; a cell that a table lacks is refused.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.runtime.errors import UserError, one_line, require
from darts.runtime.files import read_regular
from darts.spaces import strings
from darts.spaces.genotype import Genotype
from darts.spaces.membership import known_spaces
from darts.spaces.search_space import SearchSpace

if TYPE_CHECKING:
    import numpy

LONGEST_MS = 1e5  # milliseconds of a cell's network; larger costs are counts, such as multiply-adds
MEAN = "mean of "  # begins a column that is the mean of others, named after it, with commas between them


@dataclass(frozen=True)
class Table:
    """Accuracies in percent by column, and the rank of each cell in them."""

    index: Mapping[str, int]
    columns: Mapping[str, numpy.ndarray]
    place: str = "benchmark.table"  # what messages begin with
    lines: Sequence[int] = ()  # of the file, by row; none where it is no text
    digest: str = ""  # SHA-256 of the file; none of an official one

    def require_accuracies(self, column: str) -> None:
        """`UserError` naming the line where a column that counts holds anything but a number from 0 to 100."""
        values = self.values(column)
        strange = ~((values >= 0) & (values <= 100))
        if strange.any():
            row = int(strange.argmax())
            cell = next(cell for cell, place in self.index.items() if place == row)
            where = f"line {self.lines[row]}, {cell}" if self.lines else cell
            told = f"{column} is {values[row]:g}; it must be a number from 0 to 100, percent"
            raise UserError(f"{self.place}: {one_line(where)}: {told}")

    def accuracy(self, genotype: Genotype, column: str) -> float:
        """Of a cell, in percent; raises `UserError` for a cell or a column that the table lacks."""
        return self.value(genotype, column)

    def value(self, genotype: Genotype, column: str) -> float:
        """What a column says of a cell; raises `UserError` for a cell or a column that the table lacks."""
        return float(self.values(column)[self._row(genotype)])

    def values_of(self, cells: Iterable[str], name: str) -> numpy.ndarray:
        """A column in the order of the given cells, as another table has them."""
        return self.values(name)[[self.index[cell] for cell in cells]]

    def require_costs(self, column: str) -> None:
        """`UserError` naming a cell whose cost in a column is no number of at least 0."""
        import numpy

        values = self.values(column)
        strange = ~(numpy.isfinite(values) & (values >= 0))
        if strange.any():
            row = int(strange.argmax())
            cell = next(cell for cell, place in self.index.items() if place == row)
            told = f"{column} of {one_line(cell)} is {values[row]:g}; it must be a number of at least 0"
            raise UserError(f"{self.place}: {told}")

    def rank(self, genotype: Genotype, column: str) -> int:
        """1 for the best cell; cells of equal accuracy share the better rank."""
        values = self.values(column)
        return int((values > values[self._row(genotype)]).sum()) + 1

    def metrics(self, genotype: Genotype, column: str) -> dict[str, float]:
        """What is written down of a cell: its accuracy and rank."""
        return {"table/accuracy": self.accuracy(genotype, column), "table/rank": self.rank(genotype, column)}

    def text(self, genotype: Genotype) -> str:
        """How the table names a cell; of another cell a text that is none of the index."""
        return strings.as_string(genotype)

    def _row(self, genotype: Genotype) -> int:
        text = self.text(genotype)
        if text not in self.index:
            raise UserError(f"{self.place.split()[0]} has no entry for {text}")
        return self.index[text]

    def values(self, name: str) -> numpy.ndarray:
        """A column by row, or the mean of several; raises `UserError` for one that the table lacks."""
        if name not in self.columns and name.startswith(MEAN):
            parts = [part.strip() for part in name.removeprefix(MEAN).split(",")]
            require(all(parts), "benchmark.column", name, "a column, or 'mean of A, B, C'")
            own = [self.values(part) for part in parts]
            return sum(own[1:], start=own[0]) / len(own)
        if name not in self.columns:
            told = f"has no column {name!r}; there are: {', '.join(self.columns)}"
            raise UserError(f"{self.place.split()[0]} {told}")
        return self.columns[name]


def read_table(path: Path, trust_pickle: bool = False, setting: str = "benchmark.table") -> Table:
    """Read a CSV table, gzipped or not: a column `arch` with the strings, the others numbers, each name once.

    Rows that say the same of a cell are one; `UserError` where they say different things.

    The official files are read by their own packages, where these are installed: NATS-Bench's topology folder
    (nats_bench) and NAS-Bench-201's .pth (nas_201_api). They are pickles: `UserError` unless `trust_pickle`.
    `setting`: what names the file, for messages.
    """
    if not path.exists():
        raise UserError(f"{setting} is {str(path)!r}; there is no such file")
    official = path.is_dir() or path.suffix == ".pth"
    if setting != "benchmark.table":
        require(not official, setting, str(path), "a CSV file")
    if official:
        allowed = f"true to open {path}: official files are pickles, which can run any code; or give a CSV file"
        require(trust_pickle, "benchmark.trust_pickle", trust_pickle, allowed)
        return _official(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{setting} {one_line(path)}: cannot be read ({error.strerror})") from None
    return _from_csv(path, setting, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@functools.lru_cache(maxsize=4)
def _from_csv(path: Path, setting: str, state: tuple[int, ...]) -> Table:
    """A CSV table, as Excel saves it too; rows that say the same of a cell are one.

    A file is read once in a process, as long as its `state` (time of change, size, number) stays.
    """
    import numpy

    place = f"{setting} {one_line(path)}"
    try:
        rows, digest = read_rows(path)
        lines, *values = zip(*rows, strict=True)
        names = [column[0].strip() for column in values]
        cells = [cell.strip() for cell in values[names.index("arch")][1:]]
        numbers = [(n, v[1:]) for n, v in zip(names, values, strict=True) if n not in ("arch", "index")]
        columns = {name: numpy.array(value, dtype=float) for name, value in numbers}
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise UserError(f"{place}: not a table with a column 'arch' and numbers ({one_line(error)})") from None
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise UserError(f"{place}: line {lines[0]} has the column {one_line(twice[0])!r} twice; each name once")
    if not cells:
        raise UserError(f"{place}: has a header and no row")
    table = _without_repeats(cells, columns, place, lines[1:])
    return dataclasses.replace(table, digest=digest)


def read_rows(path: Path) -> tuple[list[tuple[Any, ...]], str]:
    """The rows of a CSV file, gzipped or not, each behind the number of its line; and the file's SHA-256.

    Errors: OSError, EOFError, ValueError, csv.Error and zlib.error, for the caller to name the file.
    """
    data = read_regular(path)
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""))
    return [(reader.line_num, *row) for row in reader if row], hashlib.sha256(data).hexdigest()


def _without_repeats(
    cells: Sequence[str], columns: Mapping[str, numpy.ndarray], place: str, lines: Sequence[int]
) -> Table:
    """The table of these rows, each cell once; `UserError` where two rows say different things of one cell."""
    index: dict[str, int] = {}
    kept: list[int] = []  # rows
    for row, cell in enumerate(cells):
        first = index.setdefault(cell, len(kept))
        if first == len(kept):
            kept.append(row)
            continue
        for name, values in columns.items():
            before, again = values[kept[first]], values[row]
            if before != again and not (before != before and again != again):
                told = f"{name} is {again:g}, and {before:g} in line {lines[kept[first]]}"
                raise UserError(f"{place}: line {lines[row]}, {one_line(cell)}: {told}; leave one of them")
    return Table(index, {name: values[kept] for name, values in columns.items()}, place, [lines[row] for row in kept])


def load_table(settings: BenchmarkTable, space: SearchSpace) -> Table | None:
    """The table of true accuracies, where one is given, with its column that counts checked."""
    if settings.table is None:
        return None
    allowed = f"null with space={space.name}: {' and '.join(strings.SPACES)} have tables"
    require(space.name in strings.SPACES, "benchmark.table", settings.table, allowed)
    known = known_spaces()[space.name].chain
    allowed = f"as it is with space={space.name}, whose networks the table is of"
    require(space.chain == known, "space.chain", "changed", allowed)
    table = read_table(Path(settings.table).expanduser(), settings.trust_pickle)
    table.require_accuracies(settings.column)
    return table


def _official(path: Path) -> Table:
    """CIFAR-10 accuracies of the official files, through their own packages."""
    import numpy

    try:
        if path.is_dir():
            from nats_bench import create  # type: ignore[import-not-found]

            api = create(str(path), "tss", fast_mode=True, verbose=False)
        else:
            from nas_201_api import NASBench201API  # type: ignore[import-not-found]

            api = NASBench201API(str(path), verbose=False)
    except ImportError as error:
        raise UserError(f"benchmark.table {path}: needs the package {error.name!r}; pip install {error.name}") from None
    cells = [api.arch(index) for index in range(len(api))]
    test, valid = [], []
    for index in range(len(cells)):
        test.append(api.get_more_info(index, "cifar10", hp="200", is_random=False)["test-accuracy"])
        valid.append(api.get_more_info(index, "cifar10-valid", hp="12", is_random=False)["valid-accuracy"])
    columns = {"cifar10_test_200": numpy.array(test), "cifar10_valid_12": numpy.array(valid)}
    return Table({cell: row for row, cell in enumerate(cells)}, columns)


def names_of_columns(path: Path, setting: str) -> list[str]:
    """The first line of a CSV file, gzipped or not; `UserError` where it cannot be read."""
    require(path.is_file(), setting, str(path), "files that are there")
    try:
        rows, _ = read_rows(path)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise UserError(f"{setting} {one_line(path)}: not a table ({one_line(error)})") from None
    require(bool(rows), setting, str(path), "files with a line of columns; this one is empty")
    return [name.strip() for name in rows[0][1:]]


def file_with(column: str, files: Sequence[str], setting: str) -> str:
    """The file of `benchmark.tables` that has a column; `UserError` where none has it, or more than one."""
    parts = [part.strip() for part in column.removeprefix(MEAN).split(",")] if column.startswith(MEAN) else [column]
    own = {file: names_of_columns(Path(file).expanduser(), "benchmark.tables") for file in files}
    found = [file for file, names in own.items() if set(parts) <= set(names)]
    among = ", ".join(sorted({name for names in own.values() for name in names} - {"arch", "index"}))
    require(bool(found), setting, column, f"a column of benchmark.tables: {among}")
    require(len(found) == 1, setting, column, f"a column of one table; {' and '.join(map(one_line, found))} have it")
    return found[0]


@dataclass
class BenchmarkTable:
    """A table that knows the true accuracy of every cell of the space, for the record only."""

    table: str | None  # a CSV file, or an official file or folder of NAS-Bench-201 or NATS-Bench
    tables: list[str]  # CSV files in place of it: one has the column, another may have that of constraints.device
    column: str  # the accuracy that counts: a column, or 'mean of A, B, C'
    searched_by: str  # the column that evaluator=table says, if evaluator.column is not another
    trust_pickle: bool  # open official files, which are pickles: they can run any code when they are opened

    def __post_init__(self) -> None:
        require(not (self.tables and self.table), "benchmark.tables", self.tables, "empty with benchmark.table")
        different = len(set(self.tables)) == len(self.tables)
        require(different, "benchmark.tables", self.tables, "different files")

    def assign(self, device: str | None, latency_table: str | None) -> str | None:
        """Find the files of `tables` by their columns: that of `column` becomes `table`.

        Returns the table of latencies: the given one, or of `tables` the one that has the device's column. `UserError`
        where a device is given and no table of latencies.
        """
        if self.tables:
            files, self.tables = self.tables, []
            self.table = file_with(self.column, files, "benchmark.column")
            if device is not None and latency_table is None:
                latency_table = file_with(device, files, "constraints.device")
            unused = [file for file in files if file not in (self.table, latency_table)]
            allowed = "files with benchmark.column, or with the column of constraints.device"
            require(not unused, "benchmark.tables", unused, allowed)
        allowed = "null, or constraints.latency_table with it, or benchmark.tables"
        require(latency_table is not None or device is None, "constraints.device", device, allowed)
        return latency_table
