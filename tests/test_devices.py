"""Comparisons on a device: what the report says of fronts, regret and picks, computed once more by brute force."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zlib
from pathlib import Path

import pytest

from darts.compare.devices import Offer, Offered, methods_of, pick_of, taken
from darts.runtime.errors import UserError
from darts.spaces.table import read_table
from tests.conftest import ROOT, TINY_DATA, composed, run_command
from tests.test_latency import TEXTS, of_text


def noise(text: str, salt: str) -> float:
    """From 0 to 10, the same for a text."""
    return zlib.crc32((text + salt).encode()) % 1000 / 100


def accuracy(text: str) -> float:
    return 50 + of_text(text) + noise(text, "tested")


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tables")
    rows = [f"{text},{accuracy(text) + noise(text, 'valid') / 10:.4f},{accuracy(text):.4f}" for text in TEXTS]
    (folder / "accuracies.csv").write_text("arch,valid,tested\n" + "\n".join(rows) + "\n")
    rows = [f"{of_text(text):.4f},{text}" for text in reversed(TEXTS)]
    (folder / "latencies.csv").write_text("toy,arch\n" + "\n".join(rows) + "\n")
    return folder / "accuracies.csv", folder / "latencies.csv"


def given(tables: tuple[Path, Path]) -> list[str]:
    return [
        *("space=nasbench201", "logger=none", *TINY_DATA),
        f"benchmark.table={tables[0]}",
        "benchmark.column=tested",
        f"constraints.latency_table={tables[1]}",
        "constraints.device=toy",
        "allow_underpowered=true",
    ]


@pytest.fixture(scope="module")
def report(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    own = ["methods=[nsga2,'darts constraints.latency_ms=12']", "seeds=[0,1]", "scored_by=table", "limits=[9,12]"]
    sizes = ["network.channels=2", "network.cells=3", "network.stem_reductions=2"]
    searches = ["search.epochs=1", "search.batch_size=16", "evaluator.accuracy.column=valid", *sizes]
    searches = [f"+searches.{item}" for item in searches]
    own += ["budget.evaluations=30", "random.samples=2"]
    shared = [item for item in given(tables) if "table=" not in item]
    shared.append(f"benchmark.tables=[{tables[1]},{tables[0]}]")
    command = ["-m", "darts.compare", *shared, *own, *searches, *sizes, f"hydra.run.dir={out}"]
    done = run_command(command, ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    return out, json.loads((out / "report.json").read_text())["device"]


def held(points: list[tuple[float, float]]) -> float:
    """The hypervolume as an integral over latency: what is best of all that is no slower."""
    costs = list(map(of_text, TEXTS))
    least, most = min(costs), max(costs)
    places = sorted({least, most, *(latency for _, latency in points)})
    total = 0.0
    for left, right in itertools.pairwise(places):
        best = max((quality for quality, latency in points if latency <= left), default=0.0)
        total += best / 100 * (right - left) / (most - least)
    return total


def test_the_true_front_and_what_searches_hold_are_those_of_brute_force(report):
    out, device = report
    whole = [(round(accuracy(text), 4), round(of_text(text), 4)) for text in TEXTS]
    assert device["hypervolume"] == pytest.approx(held(whole))
    assert {point["cell"] for point in map(as_point, device["true_front"])} <= set(TEXTS)
    searched = {}
    for folder in (out / "searches").iterdir():
        lines = json.loads((folder / "pareto.json").read_text()) if (folder / "pareto.json").exists() else None
        cells = json.loads((folder / "genotype.json").read_text())["cells"] if lines is None else None
        name = folder.name.split("_")[0]
        nodes = [cells["normal"]["nodes"]] if lines is None else [line["cells"]["normal"] for line in lines]
        searched.setdefault(name, []).append({text_of(own) for own in nodes})
    for own in device["methods"]:
        name = own["method"].split()[0]
        volumes = [held([(round(accuracy(t), 4), round(of_text(t), 4)) for t in texts]) for texts in searched[name]]
        assert own["hypervolume"] == pytest.approx(sum(volumes) / 2) and own["searches"] == 2
        assert own["regret"] == pytest.approx(held(whole) - sum(volumes) / 2)
    assert {own["method"] for own in device["methods"]} == {"nsga2", "darts constraints.latency_ms=12", "random"}


def as_point(values):
    return dict(zip(("cell", "accuracy", "latency"), values, strict=True))


def text_of(nodes) -> str:
    return "+".join(
        "|" + "|".join(f"{name}~{source}" for name, source in sorted(n, key=lambda e: e[1])) + "|" for n in nodes
    )


def test_within_a_limit_a_search_takes_the_best_by_what_it_was_told(report):
    _, device = report
    for offer in device["offers"]:
        cells = [Offered(*cell) for cell in offer["cells"]]
        for limit, cell in offer["within"].items():
            allowed = [own for own in cells if own.latency <= float(limit)]
            assert (cell is None) == (not allowed)
            assert cell is None or Offered(*cell).told == max(own.told for own in allowed)
    for limit, best in device["within"].items():
        assert best[1] == max(round(accuracy(t), 4) for t in TEXTS if round(of_text(t), 4) <= float(limit))


def test_the_page_and_the_text_show_fronts_and_picks(report):
    out, _ = report
    for file in ("report.html", "report.md"):
        text = (out / file).read_text()
        assert "On toy" in text and "hypervolume: mean" in text and "at most, ms" in text and "the true front" in text
    assert (out / "figures" / "device.svg").exists() and (out / "figures" / "device.pdf").exists()
    assert "Latencies" in (out / "report.html").read_text()


def test_two_aims_are_weighed_by_searches_by_scores_where_no_limit_is_given(report):
    out, _ = report
    for folder in (out / "searches").iterdir():
        settings = json.loads((folder / "run.json").read_text())["settings"]
        if not folder.name.startswith("darts"):
            assert (
                settings["evaluator.part"] == "MultiObjective" and settings["evaluator.accuracy.part"] == "TableLookup"
            )
            assert len((folder / "history.jsonl").read_text().splitlines()) == 30


def offer(method: str, seed: int, volume: float, *cells: Offered) -> Offer:
    return Offer(method, seed, list(cells), volume, {"10": taken(cells, 10.0)})


def test_methods_are_tested_against_random_search_and_picks_are_counted():
    a, b = Offered("a", 0.5, 60.0, 9.0), Offered("b", 0.7, 55.0, 10.0)
    slow = Offered("slow", 0.9, 90.0, 11.0)
    offers = [offer("evolution", seed, 0.9 + seed / 1000, a, b, slow) for seed in range(5)]
    offers += [offer("random", seed, 0.5 + seed / 1000, a) for seed in range(5)]
    offers += [offer("darts", 0, 0.7, slow)]
    evolution, drawn, darts = methods_of(offers, 1.0, ["10"])
    assert evolution.test is not None and evolution.test.superiority == 1.0 and evolution.p == pytest.approx(2 / 252)
    assert drawn.test is None and darts.test is None and drawn.p is None
    assert evolution.picks[0] == pick_of(offers[:5], "10")
    assert (evolution.picks[0].searches, evolution.picks[0].cell, evolution.picks[0].mean) == (5, "b", 55.0)
    assert (darts.picks[0].searches, darts.picks[0].mean) == (0, None)
    assert evolution.regret == pytest.approx(1 - 0.902)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("benchmark.table=null", r"benchmark\.table is null; it must be a table of the cells' accuracies"),
        ("limits=[5,5.0]", r"limits is \[5\.0, 5\.0\]; it must be different numbers"),
        ("limits=[0]", r"limits is \[0\.0\]; it must be numbers above 0"),
        ("methods=[]", r"methods is \[\]; it must be names of methods with constraints\.latency_table"),
        (
            "constraints.latency_table=null",
            r"constraints\.device is 'toy'; it must be null, or constraints\.latency_table",
        ),
    ],
)
def test_what_makes_no_comparison_on_a_device_is_refused(tables, override, told):
    with pytest.raises(UserError, match=told):
        composed("compare", *given(tables), "methods=[evolution]", override)
    with pytest.raises(UserError, match=r"limits is \[5\.0\]; it must be empty without constraints\.latency_table"):
        composed("compare", "limits=[5]")


def test_tables_of_other_cells_and_of_operations_are_refused_before_any_search(tables, tmp_path):
    head, *rows = tables[1].read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join([head, *rows[1:]]))
    (tmp_path / "operations.csv").write_text("operation,channels,stride,height,width,latency_ms\na,1,1,8,8,1\n")
    for name, device, told in (
        ("fewer.csv", "toy", "it must be a table of all 15,625 cells of the space, not of 15,624"),
        ("operations.csv", "null", "it must be a table of whole cells in a comparison"),
    ):
        own = [*given(tables), f"constraints.latency_table={tmp_path / name}", f"constraints.device={device}"]
        command = ["-m", "darts.compare", *own, "methods=[evolution]", "scored_by=table", "budget.evaluations=40",
                   "+searches.search.batch_size=16", "+searches.evaluator.accuracy.column=valid"]  # fmt: skip
        done = run_command([*command, f"hydra.run.dir={tmp_path / 'out'}"], ROOT)
        assert done.returncode == 2 and told in done.stderr, done.stderr
        assert not (tmp_path / "out" / "searches").exists()


def test_tables_are_told_apart_by_their_columns(tables, tmp_path):
    accuracies, latencies = tables
    packed = tmp_path / "latencies.csv.gz"
    packed.write_bytes(gzip.compress(latencies.read_bytes()))
    common = ["space=nasbench201", "benchmark.column=tested", "constraints.device=toy", "constraints.latency_ms=12"]
    for command, method in (("search", "method=darts"), ("search", "method=evolution"), ("compare", "methods=[darts]")):
        plain = [f"benchmark.table={accuracies}", f"constraints.latency_table={packed}"]
        expected = composed(command, *common, method, *plain)
        for files in ((packed, accuracies), (accuracies, packed)):
            found = composed(command, *common, method, f"benchmark.tables=[{','.join(map(str, files))}]")
            assert found == expected and found.benchmark.tables == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["benchmark.tables=[{0},{1}]", "constraints.device=pixel2"], "constraints.device is 'pixel2'; it must be a"),
        (["benchmark.tables=[{0}]"], "constraints.device is 'toy'; it must be a column of benchmark.tables: tested, v"),
        (["benchmark.tables=[{1}]"], "benchmark.column is 'tested'; it must be a column of benchmark.tables: toy"),
        (["benchmark.tables=[{0},{2}]"], "benchmark.column is 'tested'; it must be a column of one table; {0} and {2}"),
        (["benchmark.tables=[{0},{0}]"], "different files"),
        (["benchmark.tables=[{0},{1}]", "benchmark.table={0}"], "empty with benchmark.table"),
        (["benchmark.tables=[{0},missing.csv]"], "benchmark.tables is 'missing.csv'; it must be files that are there"),
        (["benchmark.tables=[{0},{3}]"], "it must be files with a line of columns; this one is empty"),
        (
            ["benchmark.tables=[{0},{1}]", "constraints.device=null", "constraints.latency_ms=9"],
            "it must be files with benchmark.column, or with the column of constraints.device",
        ),
        ([], "constraints.device is 'toy'; it must be null, or constraints.latency_table with it, or benchmark.tables"),
    ],
)
def test_tables_that_are_not_what_is_meant_are_told(settings, told, tables, tmp_path):
    again = tmp_path / "again.csv"
    again.write_text(tables[0].read_text())
    (tmp_path / "empty.csv").touch()
    files = [*map(str, tables), str(again), str(tmp_path / "empty.csv")]
    common = ["space=nasbench201", "benchmark.column=tested", "constraints.device=toy", "method=evolution"]
    with pytest.raises(UserError, match=re.escape(told.format(*files))):
        composed("search", *common, *(item.format(*files) for item in settings))


def test_a_column_may_be_the_mean_of_others(tables):
    table = read_table(tables[0])
    both = (table.values("valid") + table.values("tested")) / 2
    assert table.values("mean of valid, tested") == pytest.approx(both)
    with pytest.raises(UserError, match="has no column 'other'"):
        table.values("mean of valid, other")
    with pytest.raises(UserError, match=r"benchmark\.column is 'mean of '; it must be a column, or 'mean of A, B, C'"):
        table.values("mean of ")
