"""The benchmark: its measurements against known answers, and the command from outside."""

from __future__ import annotations

import json
import time

import pytest
import torch

from darts.benchmark import scaling
from darts.benchmark.measure import exponent, footprint, in_turn
from tests.conftest import composed, run_command

CPU = torch.device("cpu")
SMALL = [
    "device=cpu", "network.channels=2", "network.cells=3", "retrained.channels=2", "retrained.cells=3",
    "dataset.image_size=16", "search.batch_size=4", "train.batch_size=4", "space.nodes=2", "repetitions=1",
]  # fmt: skip


def test_actions_are_timed_in_turn():
    order = []
    actions = {name: lambda name=name: (order.append(name), time.sleep(0.002 if name == "b" else 0)) for name in "ab"}
    timings = in_turn(actions, 3, CPU)
    assert order == list("ab" * 4)  # once to warm up
    assert timings["b"].median >= 2 > timings["a"].least
    assert timings["b"].least <= timings["b"].median <= timings["b"].most


def test_peak_memory_is_what_is_held_at_once():
    def action():
        first = torch.zeros(250_000)  # 1 MB
        second = first + 1
        del first
        return (second * 2).sum()

    found = footprint(action, CPU)
    assert found.peak_mb == pytest.approx(2, abs=0.01)
    assert found.operators == 4


def test_a_view_is_counted_once():
    assert footprint(lambda: torch.zeros(1000).view(10, 100).t(), CPU).peak_mb == pytest.approx(0.004)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_an_exponent_is_found_again(power):
    sizes = [2, 3, 8]
    assert exponent(sizes, [5 * size**power for size in sizes]) == pytest.approx(power)


@pytest.mark.pictures
def test_the_command_prints_json_last_and_leaves_table_and_plot(tmp_path):
    done = run_command(["-m", "darts.benchmark", *SMALL, "json=true", "images=100"], tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert [row["name"] for row in figures["rows"]] == composed("benchmark").rows
    for row in figures["rows"]:
        before, after = row["variants"]["original"], row["variants"]["ours"]
        assert row["speedup"] == pytest.approx(before["median_ms"] / after["median_ms"])
        assert row["memory_ratio"] == pytest.approx(after["peak_mb"] / before["peak_mb"])
    first, second = figures["rows"][:2]
    assert second["gflops"] and second["variants"]["ours"]["operators"] > first["variants"]["ours"]["operators"]
    assert first["memory_ratio"] < 0.7
    assert figures["scaling"].keys() == {"batch", "channels", "cells", "nodes"}
    assert len(figures["extrapolation"]) == 3
    folder = next(tmp_path.glob("runs/benchmark/*"))
    assert {"benchmark.json", "benchmark.png", "benchmark.svg"} <= {file.name for file in folder.iterdir()}


@pytest.mark.pictures
def test_the_table_has_a_line_a_row(tmp_path):
    done = run_command(["-m", "darts.benchmark", *SMALL, "rows=[evaluation,data loading]", "scaling=false"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "evaluation" in done.stdout and "data loading" in done.stdout and "retraining" not in done.stdout


def test_an_unknown_row_is_refused(tmp_path):
    done = run_command(["-m", "darts.benchmark", "rows=[inference]"], tmp_path)
    assert done.returncode == 2
    assert "rows is ['inference']" in done.stderr


def test_scaling_reports_efficiency_and_what_was_sent(monkeypatch, capsys):
    def started(count, overrides):
        given = dict(item.split("=") for item in overrides)
        batch = int(given.get("search.batch_size", 8))
        sent = {"messages": 5, "bytes": 2_000_000} if count > 1 else {}
        return {"batch": batch, "median_ms": 100.0 * batch / 8 / (1.6 if count > 1 else 1), **sent}

    monkeypatch.setattr(scaling, "started", started)
    scaling.main([])
    *lines, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)
    assert [(row["processes"], row["batch"]) for row in rows] == [(1, 8), (2, 8), (1, 8), (2, 16)] * 2
    assert [row["synchronised"] for row in rows] == [True] * 4 + [False] * 4
    assert [line.split()[-3] for line in lines[1:]] == ["100%", "80%"] * 4  # 1.6 times as fast on two
    assert lines[2].split()[-2:] == ["5", "2.00"]


def test_scaling_answers_a_mistake_in_a_line(tmp_path):
    done = run_command(["-m", "darts.benchmark", "scaling", "search.epochs=0"], tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: search.epochs is 0; it must be at least 1\n"
