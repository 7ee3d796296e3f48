"""The benchmark: its measurements against known answers, and the command from outside."""

from __future__ import annotations

import json
import time

import pytest
import torch

from darts.benchmark import checks, gpu, scaling, times
from darts.benchmark.__main__ import _sizes
from darts.benchmark.measure import exponent, footprint, in_turn
from darts.benchmark.settings import GpuPhase
from darts.runtime.errors import UserError
from tests.conftest import TINY_SEARCH, composed, run_command

CPU = torch.device("cpu")
SMALL = [
    "device=cpu", "network.channels=2", "network.cells=3", "retrained.channels=2", "retrained.cells=3",
    "dataset.image_size=16", "search.batch_size=4", "train.batch_size=4", "space.nodes=2", "repetitions=1",
    "smaller=[]",
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
    done = run_command(["-m", "darts.benchmark", *SMALL, "json=true", "images=100", "smaller=[[3,2]]"], tmp_path, 900)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    names = composed("benchmark").rows
    sizes = [(batch, 2, threads) for threads in (1, 2) for batch in (3, 4)]
    found = [(row["name"], row["batch"], row["channels"], row["threads"]) for row in figures["rows"]]
    assert found == [(name, *size) for size in sizes for name in names]
    medians = {row["name"]: row["variants"]["ours"]["median_ms"] for row in figures["rows"][-len(names) :]}
    steps = 50 / 4  # half of 100 images in batches of 4, the last of them smaller
    hours = 50 * (13 * medians["search step, first order"] + 13 * medians["evaluation"]) / 3.6e6
    assert steps < 13 and figures["extrapolation"]["search, first order, 50 epochs"] == pytest.approx(hours)
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


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("smaller=[[8]]", r"smaller is \[\[8\]\]; it must be pairs \[batch, channels\]"),
        ("smaller=[[0,8]]", r"smaller is \[\[0, 8\]\]; it must be pairs"),
        ("threads=[0]", r"threads is \[0\]; it must be different numbers from 1 to 1024"),
        ("threads=[2,2]", r"threads is \[2, 2\]; it must be different numbers"),
    ],
)
def test_sizes_and_threads_that_make_no_sense_are_refused(override, told):
    with pytest.raises(UserError, match=told):
        composed("benchmark", override)


def test_rows_have_the_threads_asked_for_and_leave_pytorchs_as_they_were():
    before = torch.get_num_threads()
    settings = composed("benchmark", *SMALL, "smaller=[[3,4]]", "threads=[2,1]")
    seen = [
        (sized.search.batch_size, sized.train.batch_size, sized.network.channels, sized.retrained.channels, count)
        for sized, count in _sizes(settings, CPU)
        if torch.get_num_threads() == count
    ]
    assert seen == [(3, 3, 4, 4, 2), (4, 4, 2, 2, 2), (3, 3, 4, 4, 1), (4, 4, 2, 2, 1)]
    assert torch.get_num_threads() == before


def of_gpu(phase, folder, *more):
    return run_command(["-m", "darts.benchmark", *SMALL, f"gpu={phase}", f"hydra.run.dir={folder}", *more], folder)


def test_a_phase_goes_on_where_it_was_stopped(tmp_path):
    done = of_gpu("correctness", tmp_path, "gpu_minutes=0.0001")
    assert done.returncode == 0, done.stderr
    assert "rows are left for the next call" in done.stdout
    file = tmp_path / "gpu-correctness.json"
    record = json.loads(file.read_text())
    first = "first order, fused, fp32"
    record["rows"] = {"ceilings": {"GB/s": 1234.5}, first: {"failed": "no reason", "seconds": 1.0}}
    file.write_text(json.dumps(record))
    done = of_gpu("correctness", tmp_path, "gpu_minutes=0.05", "json=true")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows["ceilings"] == {"GB/s": 1234.5}  # what was measured stays, what failed is measured again
    assert rows[first]["right"] is True and 0 < rows[first]["weights"] < 1e-3


def test_a_phase_of_another_device_is_refused(tmp_path):
    (tmp_path / "gpu-steps.json").write_text('{"environment": {"device": "another"}, "rows": {}}')
    done = of_gpu("steps", tmp_path)
    assert done.returncode == 2
    assert "gpu-steps.json was measured on another, not cpu" in done.stderr
    assert "give another hydra.run.dir" in done.stderr


def test_a_row_that_fails_says_why_and_the_others_follow(tmp_path, monkeypatch, capsys):
    def fail():
        raise RuntimeError("no kernel\nand much more")

    rows = {"broken": fail, "whole": lambda: {"ms": 1.5}}
    monkeypatch.setitem(gpu.PHASES, GpuPhase.steps, lambda *_: rows)
    record = gpu.measure_phase(composed("benchmark", *SMALL), GpuPhase.steps, tmp_path)
    assert record["rows"]["broken"]["failed"] == "RuntimeError: no kernel"
    assert record["rows"]["whole"]["ms"] == 1.5
    assert "RuntimeError: no kernel" in capsys.readouterr().out


def test_depthwise_and_steps_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "SHAPES", [(2, 4, 6, 3, 1, 1)])
    settings = composed("benchmark", *SMALL)
    found = gpu.measure_phase(settings, GpuPhase.depthwise, tmp_path)["rows"]
    assert [len(row["channels last"].split()) for row in found.values()] == [3]
    found = gpu.measure_phase(settings, GpuPhase.steps, tmp_path)["rows"]
    assert {"search, first order, fused, fp32", "retraining, fp32", "evaluation, reference, fp32"} <= set(found)
    assert all(0 < row["least"] <= row["ms"] <= row["most"] for row in found.values())


def test_a_whole_search_and_retraining_go_on_over_calls(tmp_path):
    sizes = [*TINY_SEARCH, "search.epochs=1", "retrained.channels=2", "retrained.cells=3", "train.epochs=1",
             "train.batch_size=32", "retrained.stem_reductions=2", "train.auxiliary_weight=0"]  # fmt: skip
    settings = composed("benchmark", *sizes, "gpu_minutes=0.0001")
    rows = gpu.measure_phase(settings, GpuPhase.search, tmp_path)["rows"]
    assert rows["search"]["failed"] == "stopped in time after 0 epochs; the next call goes on"
    settings = composed("benchmark", *sizes)
    rows = gpu.measure_phase(settings, GpuPhase.search, tmp_path)["rows"]
    assert len(rows["search"]["epochs"]) == len(rows["retraining"]["epochs"]) == 1
    assert rows["search"]["epochs"][0].startswith("epoch 1  train/accuracy")
    assert 0 <= rows["retraining"]["test_accuracy"] <= 1


def test_an_error_on_the_gpu_is_not_taken_for_right():
    assert not checks.judged({"weights": float("nan")}, 0.1)["right"]
    assert not checks.judged({"weights": 0.2, "loss": 0.0}, {"weights": 0.1, "loss": 1.0})["right"]
    with pytest.raises(ValueError, match="there are other tensors"):
        checks.error({}, {"weight a": torch.ones(2)}, "weight")


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
