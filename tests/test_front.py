"""Fronts of tables: against brute force, and the counted facts of NAS-Bench-201 on six devices."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest

from darts.spaces.fronts import best_within, front, hypervolume
from tests.conftest import ROOT, run_command

DATA = ROOT.parent / "shared" / "data"
FACTS = {  # device: cells of the front, hypervolume, best accuracy under three limits
    "titan_rtx_256": (43, 0.92754, {18: 93.597, 21: 93.750, 25: 94.090}),
    "gold_6226": (36, 0.92536, {8: 92.993, 11: 94.015, 14: 94.245}),
    "pixel2": (13, 0.93567, {14: 93.743, 18: 94.015, 22: 94.307}),
    "raspi4": (43, 0.91422, {}),
    "eyeriss": (None, 0.93464, {5: 94.015, 7: 94.343, 9: 94.373}),  # 19 of unrounded latencies, which the table lacks
    "fpga": (13, 0.93132, {4: 93.910, 5: 94.090, 6: 94.343}),
}


def brute_force(quality, cost) -> list[int]:
    """Every cell against every other; of equal ones the first."""
    kept = []
    for i in range(len(cost)):
        others = [j for j in range(len(cost)) if j != i]
        beaten = any(
            quality[j] >= quality[i] and cost[j] <= cost[i] and (quality[j] > quality[i] or cost[j] < cost[i])
            for j in others
        )
        twin = any(quality[j] == quality[i] and cost[j] == cost[i] for j in range(i))
        if not beaten and not twin:
            kept.append(i)
    return sorted(kept, key=lambda i: cost[i])


def points(seed: int, number: int = 40):
    """Few different values, so that many are equal in one or in both."""
    numbers = np.random.default_rng(seed)
    return numbers.integers(0, 12, number) / 12, numbers.integers(1, 12, number).astype(float)


@pytest.mark.parametrize("seed", range(30))
def test_the_front_is_that_of_brute_force(seed):
    quality, cost = points(seed)
    assert front(quality, cost).tolist() == brute_force(quality, cost)


@pytest.mark.parametrize("seed", range(10))
def test_the_hypervolume_is_the_part_of_random_points_that_are_dominated(seed):
    """Monte Carlo: 40,000 points, whose standard error is at most 0.0025; cells beyond the limit hold nothing."""
    quality, cost = points(seed)
    limits = float(cost.min()), float(np.quantile(cost, 0.8))
    numbers = np.random.default_rng(99).random((40_000, 2))
    places = limits[0] + numbers[:, 1] * (limits[1] - limits[0])
    dominated = ((quality >= numbers[:, :1]) & (cost <= places[:, None])).any(1)
    assert hypervolume(quality, cost, limits) == pytest.approx(dominated.mean(), abs=0.0125)


@pytest.mark.parametrize("seed", range(10))
def test_the_best_within_a_limit_is_the_cheapest_of_the_best(seed):
    quality, cost = points(seed)
    for limit in (0.5, 3.0, 7.5, 20.0):
        allowed = [(-q, c) for q, c in zip(quality, cost, strict=True) if c <= limit]
        found = best_within(quality, cost, limit)
        assert (found is None) == (not allowed)
        assert found is None or (-quality[found], cost[found]) == min(allowed)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    if not (DATA / "nasbench201" / "latency_ms.csv.gz").exists():
        pytest.skip("the benchmark's tables are not at hand")
    limits = sorted({limit for *_, limits in FACTS.values() for limit in limits})
    typed = [
        *("-m", "darts.front", f"table={DATA / 'nasbench201' / 'cifar10.csv.gz'}", "json=true"),
        *(f"costs={DATA / 'nasbench201' / 'latency_ms.csv.gz'}", f"cost=[{','.join(FACTS)}]", f"limits={limits}"),
    ]
    done = run_command([item.replace(" ", "") for item in typed], tmp_path_factory.mktemp("front"))
    assert done.returncode == 0, done.stderr
    return {own["cost"]: own for own in json.loads(done.stdout)["fronts"]}


@pytest.mark.parametrize("device", FACTS)
def test_the_fronts_of_the_benchmark_are_the_counted_ones(counted, device):
    """Counted from latencies of full precision; the table is rounded to microseconds."""
    cells, volume, within = FACTS[device]
    found = counted[device]
    assert cells is None or len(found["cells"]) == cells
    assert found["hypervolume"] == pytest.approx(volume, abs=2e-5)
    assert {limit: found["within"][str(limit)]["quality"] for limit in within} == pytest.approx(within, abs=5e-4)
    assert found["cells"][-1]["quality"] == 94.373


def test_what_is_odd_of_a_device_is_told(counted):
    assert counted["pixel2"]["remarks"] == ["whole numbers: cells of equal cost may differ by almost one"]
    assert counted["raspi4"]["remarks"] == [
        "157 cells below 0.1: as milliseconds, networks that a compiler has optimised away"
    ]
    assert counted["eyeriss"]["remarks"] == []


def test_networks_of_nasbench_macro_are_a_table_like_any_other(tmp_path):
    file = DATA / "nasbench_macro" / "cifar10.csv.gz"
    if not file.exists():
        pytest.skip("the benchmark's table is not at hand")
    done = run_command(
        ["-m", "darts.front", f"table={file}", "column=test_1", "cost=[macs]", "limits=[60000000]"], tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "6,561 cells" in done.stdout and "macs: from 7,713,280 to" in done.stdout
    assert "at most 60000000:" in done.stdout and "compiler" not in done.stdout and "whole numbers" not in done.stdout


def tables(folder, rows, order=("arch", "ms"), packed=False):
    """A table of accuracies and one of costs, of the same cells in other orders."""
    accuracies = [["arch", "acc"], *([cell, acc] for cell, acc, _ in rows)]
    costs = [
        [{"arch": cell, "ms": ms, "acc": 0}[name] for name in order if name != "acc"] for cell, _, ms in rows[::-1]
    ]
    for name, content in (("a", accuracies), ("c", [[name for name in order if name != "acc"], *costs])):
        text = "\n".join(",".join(map(str, row)) for row in content) + "\n"
        data = gzip.compress(text.encode()) if packed else text.encode()
        (folder / f"{name}.csv{'.gz' if packed else ''}").write_bytes(data)
    ending = ".csv.gz" if packed else ".csv"
    return [f"table={folder}/a{ending}", f"costs={folder}/c{ending}", "column=acc", "cost=[ms]"]


ROWS = [("x", 50, 1.5), ("y", 70, 3), ("z", 60, 3.5), ("w", 90, 9)]


def test_order_and_compression_of_a_table_change_nothing(tmp_path):
    found = []
    for number, given in enumerate([{}, {"order": ("ms", "arch")}, {"packed": True}]):
        place = tmp_path / str(number)
        place.mkdir()
        done = run_command(
            ["-m", "darts.front", *tables(place, ROWS, **given), "json=true"], place, pictures=number == 0
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["fronts"])
    assert found[0] == found[1] == found[2]
    assert [cell["cell"] for cell in found[0][0]["cells"]] == ["x", "y", "w"]
    assert found[0][0]["hypervolume"] == pytest.approx((0.5 * 1.5 + 0.7 * 6) / 7.5)
    (file,) = (tmp_path / "0").rglob("front.json")
    assert json.loads(file.read_text())["fronts"] == found[0] and (file.parent / "front_ms.svg").exists()


@pytest.mark.parametrize(
    "rows, typed, message",
    [
        (ROWS, ["cost=[nothing]"], "costs has no column 'nothing'; there are: ms"),
        (ROWS, ["column=none"], "column is 'none'; it must be a column of table: acc"),
        (ROWS, ["cost=[]"], "cost is []; it must be names of columns"),
        (ROWS, ["cost=[ms,ms]"], "it must be different names"),
        (ROWS, ["limits=[nan]"], "limits is [nan]; it must be numbers of at least 0, finite"),
        (ROWS, ["costs=."], "costs is '.'; it must be a CSV file"),
        (ROWS, ["costs=nowhere.csv"], "costs is 'nowhere.csv'; there is no such file"),
        ([("x", 50, 1), ("y", 60, "nan")], [], "ms of y is nan; it must be a number of at least 0"),
        ([("x", 50, 1), ("y", 60, 1)], [], "cost is 'ms'; it must be a column of different numbers, not all 1"),
        ([("x", 150, 1), ("y", 60, 2)], [], "acc is 150; it must be a number from 0 to 100, percent"),
    ],
)
def test_what_gives_no_front_is_one_line(tmp_path, rows, typed, message):
    done = run_command(["-m", "darts.front", *tables(tmp_path, rows), *typed], tmp_path)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def test_tables_of_other_cells_are_refused_with_one_of_them(tmp_path):
    given = tables(tmp_path, ROWS)
    with open(tmp_path / "c.csv", "a", newline="") as file:
        csv.writer(file).writerow(["v", 4])
    done = run_command(["-m", "darts.front", *given], tmp_path)
    assert done.returncode == 2 and "v is in costs and not in table, like 0 more" in done.stderr
