"""Latencies in searches: the additive fit against a library, limits that hold, tables of any form, measuring."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder

from darts.blackbox import loop as blackbox
from darts.blackbox.generator import Generator, Lookup
from darts.models.cost import LATENCY, CostModel, zero_map
from darts.models.latency import CellLatencies, OperationLatencies, Place, latencies_of, places, read_operations
from darts.models.network import Network, build_network
from darts.models.settings import NetworkSettings
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces import nasbench201
from darts.spaces.search_space import InputShape
from tests.conftest import ROOT, TINY, TINY_DATA, composed, run_command, some
from tests.faults.test_kills import Killed, kill_after
from tests.test_generator import FREE, rules
from tests.test_strategies import STRATEGIES

DATA = ROOT.parent / "shared" / "data" / "nasbench201"
CPU = torch.device("cpu")
SHAPE = InputShape(3, 32, 10)
TEXTS = list(nasbench201.all_strings())
MILLISECONDS = {"none": 0.0, "skip_connect": 0.5, "nor_conv_1x1": 1.25, "nor_conv_3x3": 4.0, "avg_pool_3x3": 2.0}
SPACE201 = ["space=nasbench201", *TINY_DATA, "search.batch_size=16", "logger=none"]


def of_text(text: str) -> float:
    """An additive latency: 3 ms, and of each edge its operation's, more on later edges."""
    names = [part.split("~")[0] for part in text.replace("+", "").split("|") if part]
    return 3.0 + sum((1 + edge / 10) * MILLISECONDS[name] for edge, name in enumerate(names))


def write_cells(path: Path, columns: list[str], rows: list[str], accuracies: bool = False) -> Path:
    """A table of cells; "toy" is their latency, "half" half of it."""
    values = {"arch": lambda text: text, "toy": of_text, "half": lambda text: of_text(text) / 2}
    if accuracies:
        values |= {"valid": lambda text: 20 + of_text(text), "tested": lambda text: 21 + of_text(text)}
    lines = [",".join(columns), *(",".join(str(values[name](text)) for name in columns) for text in rows)]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    return write_cells(tmp_path_factory.mktemp("tables") / "cells.csv", ["arch", "toy"], TEXTS)


def constraints(file: Path, device: str | None, *more: str):
    named = [] if device is None else [f"constraints.device={device}"]
    return composed(
        "search", "space=nasbench201", "constraints.latency_ms=20", f"constraints.latency_table={file}", *named, *more
    ).constraints


def known(file: Path, device: str | None = "toy", space: str = "nasbench201"):
    return latencies_of(constraints(file, device), composed("search", f"space={space}").space, SHAPE)


# Tables of cells.


def test_an_additive_table_is_fitted_as_it_is(cells):
    found = known(cells)
    assert isinstance(found, CellLatencies) and found.quality.cells == 15_625
    assert found.quality.r2 == pytest.approx(1) and found.quality.rank_correlation > 0.9999  # but for ties
    space = composed("search", "space=nasbench201").space
    for text in random.Random(0).sample(TEXTS, 50):
        genotype = nasbench201.from_string(text)
        assert found.of(genotype) == pytest.approx(of_text(text))
        assert found.sums.of(genotype, space) == pytest.approx(of_text(text))
    assert found.sums.rest == pytest.approx(3) and found.least() == pytest.approx(3)
    assert float(found.sums.tables["normal"].min()) == 0


def test_the_order_of_rows_and_columns_and_compression_change_nothing(cells, tmp_path):
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    others = [
        write_cells(tmp_path / "a.csv", ["half", "toy", "arch"], shuffled),
        write_cells(tmp_path / "b.csv.gz", ["arch", "toy", "half"], TEXTS[::-1]),
    ]
    expected = known(cells)
    for other in map(known, others):
        np.testing.assert_allclose(other.sums.tables["normal"], expected.sums.tables["normal"], atol=1e-9)
        assert other.sums.rest == pytest.approx(expected.sums.rest)
        assert other.quality == pytest.approx(expected.quality)


# R2 and Spearman's rank correlation of the additive fit on NAS-Bench-201's latencies, recorded from scikit-learn
DEVICES = ["titan_rtx_256", "gold_6226", "pixel2", "raspi4", "eyeriss", "fpga"]


@pytest.mark.parametrize("device", DEVICES)
def test_the_fit_is_that_of_a_library(device):
    if not (DATA / "latency_ms.csv.gz").exists():
        pytest.skip(f"the table is not at hand ({DATA})")
    found = known(DATA / "latency_ms.csv.gz", device)
    values = found.table.values(device)
    names = [[part.split("~")[0] for part in text.replace("+", "").split("|") if part] for text in found.table.index]
    codes = OneHotEncoder().fit_transform(names)
    library = LinearRegression().fit(codes, values)
    space = composed("search", "space=nasbench201").space
    own = [found.sums.of(nasbench201.from_string(text), space) for text in list(found.table.index)[:300]]
    np.testing.assert_allclose(own, library.predict(codes[:300]), rtol=1e-5, atol=1e-5)
    assert found.quality.r2 == pytest.approx(library.score(codes, values), abs=1e-9)
    assert found.quality.r2 > 0.75 and found.quality.rank_correlation > 0.9


def test_the_expected_latency_of_a_mixture_is_the_mean_over_drawn_cells(cells):
    settings = composed("search", "space=nasbench201")
    model = CostModel(constraints(cells, "toy"), settings.space, SHAPE, CPU, known(cells))
    scores = {"normal": torch.rand(6, 5, generator=torch.Generator().manual_seed(0)).softmax(1)}
    expected = 3.0
    for edge, row in enumerate(scores["normal"].tolist()):
        expected += sum(
            w * (1 + edge / 10) * MILLISECONDS[n] for w, n in zip(row, settings.space.candidates, strict=True)
        )
    assert float(model.expected(scores)[LATENCY]) == pytest.approx(expected, rel=1e-5)
    assert model.measured(nasbench201.from_string(TEXTS[77])) == {LATENCY: pytest.approx(of_text(TEXTS[77]))}


@pytest.mark.parametrize(
    ("device", "space", "told"),
    [
        (None, "nasbench201", r"constraints\.device is null; it must be a column of constraints\.latency_table: toy"),
        ("pixel9", "nasbench201", r"constraints\.device is 'pixel9'; it must be a column .*: toy"),
        ("toy", "darts", r"constraints\.latency_table is .*; it must be of operations with space=darts"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(cells, device, space, told):
    with pytest.raises(UserError, match=told):
        known(cells, device, space)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("arch,toy\nx,1,2\n", r"bad\.csv: not a table"),
        ("cell,toy\nx,1\n", r"bad\.csv: not a table with a column 'arch'"),
        (f"arch,toy\n{TEXTS[0]},fast\n", r"bad\.csv: not a table"),
        (f"arch,toy\n{TEXTS[0]},1\n{TEXTS[1]},-1\n", r"bad\.csv: toy of .* is -1; it must be a number of at least 0"),
        (f"arch,toy\n{TEXTS[0]},1\n{TEXTS[0]},2\n", r"bad\.csv: line 3, .*: toy is 2, and 1 in line 2; leave one"),
        (f"arch,toy\n{TEXTS[0]},1\n", r"it must be a table of all 15,625 cells of the space, not of 1"),
        ("arch,toy\n|a~0|,1\n|b~0|,2\n", r"constraints\.latency_table .*bad\.csv: .* is not a cell of NAS-Bench-201"),
        (
            "arch,toy\n" + "".join(f"{text},2\n" for text in TEXTS),
            r"a column of different numbers, not 2 for",
        ),
        (
            "arch,toy\n" + "".join(f"{text},{1_000_000 + row}\n" for row, text in enumerate(TEXTS)),
            r"device is 'toy'; it must be a column of milliseconds; the largest number in this one is 1,015,624",
        ),
        ("arch,toy\n", r"bad\.csv: has a header and no row"),
        ("arch;toy\nx;1\n", r"bad\.csv: its columns are divided by ';'; they must be by ','"),
    ],
    ids=range(11),
)
def test_a_damaged_table_of_cells_is_named(content, told, tmp_path):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(UserError, match=told):
        known(tmp_path / "bad.csv")


def test_a_missing_file_and_settings_that_miss_their_other_half_are_refused(tmp_path, cells):
    with pytest.raises(UserError, match=r"constraints\.latency_table is .*none\.csv'; there is no such file"):
        known(tmp_path / "none.csv")
    with pytest.raises(
        UserError, match=r"constraints\.device is 'toy'; it must be null, or constraints\.latency_table"
    ):
        composed("search", "constraints.device=toy")
    for method, also in (("darts", ""), ("random", " or evaluator=multi_objective")):
        told = rf"it must be null, or constraints\.latency_ms{also} with it"
        with pytest.raises(UserError, match=told):
            composed("search", f"method={method}", f"constraints.latency_table={cells}", "constraints.device=toy")


# Limits that hold.


def test_a_limit_is_kept_in_every_one_of_a_thousand_draws(cells):
    space, found = composed("search", "space=nasbench201").space, known(cells)
    for uniform in (True, False):
        lookup = Lookup(LATENCY, 9.0, found.least(), found.of)
        grown = Generator(space, rules(uniform=uniform), [], [lookup])
        numbers = random.Random(0)
        drawn = {nasbench201.to_string(grown.draw(numbers)) for _ in range(1000)}
        assert max(map(of_text, drawn)) <= 9.0 < max(map(of_text, TEXTS)) and len(drawn) > 300


def test_draws_within_a_limit_are_uniform(cells):
    """Of the cells within 5 ms, counted by hand, each comes as often: chi-square at 1 in 1,000."""
    from scipy.stats import chisquare

    space, found = composed("search", "space=nasbench201").space, known(cells)
    allowed = [text for text in TEXTS if of_text(text) <= 5.0]
    grown = Generator(space, FREE, [], [Lookup(LATENCY, 5.0, found.least(), found.of)])
    numbers = random.Random(0)
    counts = dict.fromkeys(allowed, 0)
    for _ in range(10 * len(allowed)):
        counts[nasbench201.to_string(grown.draw(numbers))] += 1
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_a_limit_that_no_cell_keeps_is_refused_with_the_least(cells):
    space, found = composed("search", "space=nasbench201").space, known(cells)
    with pytest.raises(UserError, match=r"constraints\.latency_ms is 2; the least in the table is 3"):
        Generator(space, FREE, [], [Lookup(LATENCY, 2.0, found.least(), found.of)])


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    return write_cells(tmp_path_factory.mktemp("tables") / "judged.csv", ["arch", "valid", "tested"], TEXTS, True)


def by_table(judged: Path, cells: Path) -> list[str]:
    return [
        *(*SPACE201, f"benchmark.table={judged}", "benchmark.column=tested", "budget.evaluations=60"),
        *(f"constraints.latency_table={cells}", "constraints.device=toy"),
    ]


@pytest.mark.parametrize("method", some(STRATEGIES, "random", "evolution"))
def test_every_strategy_keeps_the_limit_of_a_table(method, judged, cells, tmp_path):
    own = [f"method={method}", "evaluator=table", "evaluator.column=valid", "constraints.latency_ms=12"]
    settings = composed("search", *by_table(judged, cells), *own)
    blackbox.run(settings, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    latencies = [line["score"] * 100 - 20 for line in lines]  # the better the slower
    assert len(lines) >= 40 and max(latencies) <= 12 + 1e-9
    assert (tmp_path / "run.json").read_text().count("constraints.latency_content") == 1


def test_a_search_is_not_resumed_by_another_table(judged, cells, tmp_path):
    own = ["method=random", "evaluator=table", "evaluator.column=valid", "constraints.latency_ms=12"]
    blackbox.run(composed("search", *by_table(judged, cells), *own), tmp_path / "run")
    other = write_cells(tmp_path / "cells.csv", ["arch", "half", "toy"], TEXTS)
    with pytest.raises(UserError, match=r"constraints\.latency_content was .* and is now"):
        blackbox.run(composed("search", *by_table(judged, other), *own), tmp_path / "run")


def test_the_targets_of_several_aims_are_the_tables(judged, cells, tmp_path):
    own = ["method=random", "evaluator=multi_objective", "evaluator@evaluator.accuracy=table",
           "evaluator.accuracy.column=valid", "evaluator.targets.latency_ms=10", "evaluator.exponent=-0.5"]  # fmt: skip
    blackbox.run(composed("search", *by_table(judged, cells), *own), tmp_path)
    for line in map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines()):
        assert line["score"] == pytest.approx(line["accuracy"] * (line[LATENCY] / 10) ** -0.5)
        assert line[LATENCY] == pytest.approx(line["accuracy"] * 100 - 20) and "macs" not in line


def test_a_search_by_gradients_looks_at_the_table(cells, tmp_path):
    own = [*SPACE201, "search.epochs=4", "network.channels=2", "network.cells=3",
           "network.stem_reductions=2", "architecture_optimiser.learning_rate=0.3"]  # fmt: skip
    limit = ["constraints.latency_ms=4", f"constraints.latency_table={cells}", "constraints.device=toy",
             "constraints.weight=50"]  # fmt: skip
    genotype = search.run(composed("search", *own, *limit), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    expected = [line[f"expected/{LATENCY}"] for line in lines]
    assert expected[0] > expected[1] > expected[2] > expected[3]
    costs = genotype.provenance["costs"]
    assert costs == {LATENCY: pytest.approx(of_text(nasbench201.to_string(genotype)))} and costs[LATENCY] <= 4


# Tables of operations.


REST = "rest of 3 cells of 2 nodes in the skeleton darts, stem 2, 1 to 10"
SIZE = ["network.channels=2", "network.cells=3", "network.stem_reductions=2"]
CONSTRAINED = [f"constraints.{item}" for item in SIZE]
CANDIDATES = ["space.candidates=[none,skip_connect,max_pool_3x3,sep_conv_3x3]", "space.nodes=2"]


@pytest.fixture(scope="module")
def operations(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    own = [*SIZE, *CANDIDATES, "repetitions=3", "warm_up=1", "device=cpu", f"hydra.run.dir={folder}"]
    done = run_command(["-m", "darts.measure", *own], ROOT)
    assert done.returncode == 0, done.stderr
    assert "operations and the rest of the network on cpu, 1 threads: medians of 3 passes of 1 image" in done.stdout
    assert f"result: {folder}/operations.csv" in done.stdout
    return folder / "operations.csv"


def test_measured_operations_are_those_of_the_networks_edges(operations):
    """Their places, by hand: one normal cell on maps of 8 x 8, two reduction cells to 4 x 4 and to 2 x 2."""
    found = read_operations(operations)
    by_place = {(key.channels, key.stride, key.height) for key in found if not key.operation.startswith("rest")}
    assert by_place == {(4, 2, 8), (4, 1, 4), (8, 2, 4), (8, 1, 2), (2, 1, 8)}
    names = {key.operation for key in found}
    assert names == {"skip_connect", "max_pool_3x3", "sep_conv_3x3", REST}
    rows = list(csv.DictReader(operations.open()))
    assert len(rows) == len(found) and {row["threads"] for row in rows} == {"1"}
    for row in rows[:-1]:
        assert 0 < float(row["first_quartile_ms"]) <= float(row["latency_ms"]) <= float(row["third_quartile_ms"])


def test_the_places_of_operations_are_where_the_network_has_them():
    """A network is built and every edge's module is given its map: nothing is asserted but what hooks see."""
    settings = composed("search", "space.nodes=2")
    space, size = settings.space, NetworkSettings(4, 5, 1)
    genotype = space.sample(random.Random(3))
    network = build_network(genotype, size.cells, size.channels, size.stem_reductions, SHAPE, False)
    seen = inputs_of_edges(network, zero_map(SHAPE.map_shape, CPU))
    kinds = ["normal", "reduction", "normal", "reduction", "normal"]
    told = list(places(space, size, SHAPE))
    for cell, (kind, maps) in enumerate(zip(kinds, seen, strict=True)):
        chosen = sorted(row for row, _ in space.places(genotype.cells[kind]))
        own = told[cell * len(space.edges()) : (cell + 1) * len(space.edges())]
        assert [Place(kind, row, maps[at][0], *maps[at]) for at, row in enumerate(chosen)] == [
            own[row] for row in chosen
        ]


def inputs_of_edges(network: Network, image: torch.Tensor) -> list[list[tuple[int, int, tuple[int, ...]]]]:
    """Cell by cell and edge by edge: channels, stride and sides of the map that an operation is given."""
    found: list[list[tuple[int, int, tuple[int, ...]]]] = []

    def note(module, given, output):
        before, after = given[0].shape, output.shape
        found[owners[module]].append((before[1], round(before[-1] / after[-1]), tuple(before[2:])))

    owners = {operation: number for number, cell in enumerate(network.cells) for operation in cell.operations}
    for operation in owners:
        operation.register_forward_hook(note)
    found += [[] for _ in network.cells]
    network.eval()(image)
    return found


def test_a_search_adds_up_what_was_measured(operations, tmp_path):
    limit = ["constraints.latency_ms=1000", f"constraints.latency_table={operations}", *CONSTRAINED]
    own = [*TINY, *CANDIDATES, "search.epochs=1", "search.batch_size=16", "logger=none"]
    settings = composed("search", *own, *limit)
    genotype = search.run(settings, tmp_path)
    shape = InputShape(1, 32, 10)
    latencies = latencies_of(settings.constraints, settings.space, shape)
    assert isinstance(latencies, OperationLatencies)
    rows = {tuple(row.values())[:5]: float(row["latency_ms"]) for row in csv.DictReader(operations.open())}
    expected = rows[REST, "2", "1", "32", "32"]
    for place in places(settings.space, settings.constraints.network, shape):
        chosen = dict(settings.space.places(genotype.cells[place.kind]))
        if place.edge in chosen:
            name = settings.space.candidates[chosen[place.edge]]
            expected += rows[name, str(place.channels), str(place.stride), *map(str, place.sides)]
    assert genotype.provenance["costs"] == {LATENCY: pytest.approx(expected, rel=1e-6)}


def test_a_table_of_other_operations_names_what_it_lacks_and_how_to_measure_it(operations):
    given = ["constraints.latency_ms=1", f"constraints.latency_table={operations}", *CONSTRAINED]
    told = r"no row of avg_pool_3x3, 2 channels, stride 1, 8 x 8; measure with python -m darts\.measure space=darts "
    with pytest.raises(UserError, match=told + r"network\.channels=2 .* input\.size=32"):
        settings = composed("search", *given)
        latencies_of(settings.constraints, settings.space, InputShape(1, 32, 10))
    with pytest.raises(UserError, match=r"constraints\.device is 'pixel2'; it must be null, for .* is of operations"):
        settings = composed("search", *given, *CANDIDATES, "constraints.device=pixel2")
        latencies_of(settings.constraints, settings.space, InputShape(1, 32, 10))


@pytest.mark.parametrize(
    ("override", "channels"),
    [("space.nodes=2", 3), ("space.nodes=1", 1), ("constraints.network.cells=4", 1)],
)
def test_a_table_of_another_network_is_not_taken_for_this_one(operations, override, channels):
    own = ["constraints.latency_ms=1", f"constraints.latency_table={operations}", *CONSTRAINED, *CANDIDATES, override]
    settings = composed("search", *own)
    with pytest.raises(UserError, match=r"has no row of rest of .*; measure with python -m darts\.measure"):
        latencies_of(settings.constraints, settings.space, InputShape(channels, 32, 10))


def test_sums_below_0_are_refused_and_costs_of_0_are_not_weighed(operations, judged, tmp_path):
    head, *rows = operations.read_text().splitlines()
    worse = [*rows[:-1], rows[-1].replace(rows[-1].split(",")[-6], "-100")]
    (tmp_path / "worse.csv").write_text("\n".join([head, *worse]))
    assert "-100" in worse[-1]
    own = ["constraints.latency_ms=1", f"constraints.latency_table={tmp_path / 'worse.csv'}", *CONSTRAINED, *CANDIDATES]
    settings = composed("search", *own)
    with pytest.raises(UserError, match=r"the least sum of a cell is -.* ms, with -100 ms for the rest of the network"):
        latencies_of(settings.constraints, settings.space, InputShape(1, 32, 10))
    lines = ["arch,toy", *(f"{text},{of_text(text) - 3}" for text in TEXTS)]
    (tmp_path / "zero.csv").write_text("\n".join(lines))
    own = [*by_table(judged, tmp_path / "zero.csv"), "method=breadth_first", "budget.evaluations=15625"]
    own += ["evaluator=multi_objective", "evaluator@evaluator.accuracy=table", "evaluator.accuracy.column=valid"]
    settings = composed("search", *own, "evaluator.targets.latency_ms=10", "rules.forbidden=[nor_conv_3x3]")
    with pytest.raises(UserError, match=r"evaluator\.targets\.latency_ms: a cell costs 0, which no exponent can weigh"):
        blackbox.run(settings, tmp_path / "run")


HEAD = "operation,channels,stride,height,width,latency_ms\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("operation,channels,stride,height,width\n", r"a table of operations has a column 'latency_ms'"),
        (HEAD + "a,2,1,8,8,fast\n", r"line 2 is a,2,1,8,8,fast; it needs 6 columns, whole numbers"),
        (
            HEAD + "a,2,1,8,8,1\na,2,1,8,8,-1\n",
            r"line 3 is .*; it needs 6 columns, whole numbers, and a latency of at least 0",
        ),
        (HEAD + "a,2,1,8,8,nan\n", r"line 2 is"),
        (HEAD + "a,2,1,8\n", r"line 2 is"),
        (HEAD + "a,2,1,8,8,1\na,2,1,8,8,2\n", r"line 3 says another latency of a again"),
        (HEAD + "a,2,1,8,8,0,123\n", r"line 2 is a,2,1,8,8,0,123; it needs 6 columns"),
        (HEAD.replace("stride", "channels"), r"the column 'channels' is there twice; each name once"),
    ],
    ids=range(8),
)
def test_a_damaged_table_of_operations_is_named(content, told, tmp_path):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(UserError, match=rf"constraints\.latency_table .*bad\.csv.*{told}"):
        read_operations(tmp_path / "bad.csv")


def test_measuring_refuses_what_makes_no_sense():
    for override, told in (
        ("repetitions=0", "repetitions is 0; it must be from 1 to 100000"),
        ("batch_size=0", "batch_size is 0"),
        ("space=recurrent", "it must be a space of images"),
    ):
        done = run_command(["-m", "darts.measure", override], ROOT)
        assert done.returncode == 2 and told in done.stderr, done.stderr


# Latencies measured by the search itself.


def test_a_resumed_search_goes_on_with_the_latencies_it_began_with(tmp_path):
    """Measuring again gives other numbers, and with them another search; the folder keeps the first ones."""
    own = [*TINY, *CANDIDATES, "search.epochs=2", "search.batch_size=16", "logger=none", *CONSTRAINED]
    own += ["constraints.latency_ms=1e-3", "constraints.weight=3", "checkpoint.minutes=1e-9"]
    settings, again = composed("search", *own), tmp_path / "again"
    with pytest.raises(UserError, match=r"constraints\.latency_ms allows 0\.001"):
        search.run(settings, tmp_path / "whole")
    again.mkdir()
    (again / "latency.json").write_bytes((tmp_path / "whole" / "latency.json").read_bytes())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, search, "search_step", 4)
        search.run(settings, again)
    with pytest.raises(UserError, match=r"constraints\.latency_ms allows 0\.001"):
        search.run(settings, again)
    assert (again / "history.jsonl").read_bytes() == (tmp_path / "whole" / "history.jsonl").read_bytes()


def test_a_limit_of_a_search_by_scores_stays_where_it_was_measured(tmp_path):
    own = [*TINY_DATA, *CANDIDATES, "search.batch_size=16", "logger=none", *CONSTRAINED, "method=random"]
    own += ["evaluator=zero_cost", "evaluator.proxy=PARAMETERS", "evaluator.network.channels=2", "budget.evaluations=6"]
    settings = composed("search", *own, "constraints.latency_ms=1e6")
    blackbox.run(settings, tmp_path)
    (tmp_path / "genotype.json").unlink()
    kept = json.loads((tmp_path / "latency.json").read_text())
    kept["tables"]["normal"] = [[0.0 if value == 0 else 1e9 for value in row] for row in kept["tables"]["normal"]]
    (tmp_path / "latency.json").write_text(json.dumps(kept))
    with pytest.raises(
        UserError, match=r"constraints\.latency_ms is 1e\+06; the smallest cell that the rules allow needs"
    ):
        blackbox.run(settings, tmp_path)
    (tmp_path / "latency.json").write_text("{}")
    with pytest.raises(UserError, match=r"latency\.json is damaged: .*; remove it to measure again"):
        blackbox.run(settings, tmp_path)
