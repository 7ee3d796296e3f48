"""Where and how a step runs: refusals, memory advice, and the bookkeeping of recorded steps."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from darts.loop.optimisation import architecture_optimiser, set_learning_rate, weight_optimiser
from darts.loop.optimiser_state import load_optimiser, optimiser_schema, optimiser_state_dict
from darts.runtime import device
from darts.runtime.device import (
    Graphed,
    check_execution,
    full_float32,
    placed,
    remedies,
    set_precision,
    warn_of_emulation,
)
from darts.runtime.errors import UserError
from darts.runtime.schema import require_schema
from darts.runtime.settings import Precision
from darts.search import compute, epoch_end
from darts.search import loop as search
from darts.spaces.published import published
from darts.train import retraining as retrain
from tests.conftest import TINY_SEARCH, TINY_TRAIN, composed, run_command

CPU = torch.device("cpu")


def test_graphs_need_cuda():
    with pytest.raises(UserError, match="graphs is true, but device is 'cpu'"):
        check_execution(CPU, Precision.fp32, graphs=True)
    check_execution(CPU, Precision.bf16, graphs=False)


@pytest.mark.parametrize("extra", [["precision=bf16"], ["memory.activation_checkpointing=true"]])
def test_retraining_in_other_ways_still_learns(extra, tmp_path):
    sizes = [*TINY_TRAIN, "train.drop_path=0.2", "train.auxiliary_weight=0.4", "train.epochs=1"]
    result = retrain.run(composed("final", *sizes, *extra), published("darts_v2"), tmp_path / "other")
    plain = retrain.run(composed("final", *sizes), published("darts_v2"), tmp_path / "plain")
    assert result["test_loss"] == pytest.approx(plain["test_loss"], rel=0.05)


def test_checkpointed_cells_of_a_network_give_the_same_step(tmp_path):
    steps = []
    for again in ("false", "true"):
        settings = composed("final", *TINY_TRAIN, "train.drop_path=0.2", f"memory.activation_checkpointing={again}")
        state = retrain.start_or_resume(settings, published("darts_v2"), tmp_path / again)
        state.epoch = 1
        raw = next(state.data.train.shuffled_raw(0))
        retrain.train_step(state, raw, *retrain.drop_path(state, len(raw.labels)))
        steps.append(state.network.state_dict())
    assert all(torch.equal(value, steps[1][name]) for name, value in steps[0].items())


def test_convolutions_are_placed_channels_last():
    module = placed(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)), CPU)
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_precision_is_what_it_says():
    for precision, rounded in ((Precision.tf32, True), (Precision.bf16, True), (Precision.fp32, False)):
        set_precision(precision)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is rounded


def test_products_are_exact_within_a_block_whatever_the_precision():
    set_precision(Precision.tf32)
    with pytest.raises(ZeroDivisionError), full_float32(torch.device("cuda")):
        assert not torch.backends.cuda.matmul.allow_tf32
        1 / 0  # noqa: B018
    assert torch.backends.cuda.matmul.allow_tf32
    set_precision(Precision.fp32)


def test_tf32_needs_a_gpu():
    with pytest.raises(UserError, match="precision is 'tf32', which device 'cpu' does not have; it must be fp32 or"):
        check_execution(CPU, Precision.tf32, graphs=False)


@pytest.mark.parametrize("there", [True, False])
def test_bf16_is_warned_of_and_not_recommended_where_the_processor_lacks_it(there, monkeypatch, caplog):
    monkeypatch.setattr(device, "BF16_INSTRUCTIONS", ("_is_invented_supported",))
    monkeypatch.setattr(torch.cpu, "_is_invented_supported", lambda: there, raising=False)
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    warn_of_emulation(CPU, Precision.bf16)
    warn_of_emulation(CPU, Precision.fp32)
    assert caplog.messages == ([] if there else [
        "precision is bf16, but this cpu has no instructions for it: expect steps several times as slow as with "
        "precision=fp32"
    ])  # fmt: skip
    bf16 = "precision=bf16, " if there else ""
    assert remedies("cpu", "engine=fused", "more=less") == f"{bf16}engine=fused or more=less"


class FakeGraph:
    """Stands in for CUDA: a replay runs the step again on the held inputs."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


def test_a_recorded_step_is_replayed_on_copied_inputs_and_other_shapes_run_as_they_are(monkeypatch):
    seen = []

    def step(x):
        seen.append(tuple(x.shape))
        return {"sum": x.sum()}

    def record(self, tensors):
        self.inputs = [tensor.clone() for tensor in tensors]
        self.graph = FakeGraph()
        self.outputs = {"sum": self.inputs[0]}  # a view of the input: shows what was copied into it

    monkeypatch.setattr(Graphed, "_record", record)
    monkeypatch.setattr(Graphed, "_aside", lambda self, tensors: self.step(*tensors))
    graphed = Graphed(step, enabled=True, warm_up=2)
    for value in (1.0, 2.0):
        assert graphed(torch.full((3,), value))["sum"] == 3 * value
    assert graphed.graph is None
    for value in (3.0, 4.0):
        assert torch.equal(graphed(torch.full((3,), value))["sum"], torch.full((3,), value))
    assert graphed.graph.replays == 2
    assert graphed(torch.ones(2))["sum"] == 2  # a last, smaller batch
    assert seen == [(3,), (3,), (2,)]


def test_a_step_that_is_not_recorded_runs_every_time(monkeypatch):
    monkeypatch.setattr(Graphed, "_record", lambda *_: pytest.fail("recorded"))
    graphed = Graphed(lambda x: {"sum": x.sum()}, enabled=False)
    assert [float(graphed(torch.full((2,), float(value)))["sum"]) for value in range(6)] == [0, 2, 4, 6, 8, 10]


def test_a_recording_that_fails_is_one_line_and_the_run_goes_on_without_graphs(monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")

    streams = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream of before")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    graphed = Graphed(lambda x: {"sum": x.sum()}, enabled=True, warm_up=0)
    assert [float(graphed(torch.full((2,), value))["sum"]) for value in (1.0, 2.0, 3.0)] == [2, 4, 6]
    (line,) = caplog.messages
    assert line == (
        "a step could not be recorded as a CUDA graph (operation not permitted when stream is capturing); "
        "the run goes on without graphs"
    )
    assert streams == ["the stream of before"]


RULE = composed("search").weight_optimiser


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (True, True)])
def test_an_optimiser_is_taken_up_with_graphs_and_without(before, after):
    """What a graph reads stays where it is, and follows the schedule; the checkpoint does not tell which it was."""
    states, weights = [], []
    for graphs in (False, before):
        weight = torch.nn.Parameter(torch.ones(3))
        optimiser = weight_optimiser([weight], RULE, graphs)
        set_learning_rate(optimiser, 0.25)
        weight.grad = torch.arange(3.0)
        optimiser.step()
        states.append(optimiser_state_dict(optimiser))
        weights.append(weight)
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert torch.equal(weights[0], weights[1])
    taking = weight_optimiser(weights[1:], RULE, after)
    rate = taking.param_groups[0]["lr"]
    load_optimiser(taking, states[1])
    assert taking.param_groups[0]["lr"] is rate and isinstance(rate, torch.Tensor) == after
    set_learning_rate(taking, 0.5)
    weights[1].grad = torch.zeros(3)
    taking.step()
    expected = weights[0] - 0.5 * (
        RULE.momentum * states[0]["state"][0]["momentum_buffer"] + RULE.weight_decay * weights[0]
    )
    torch.testing.assert_close(weights[1], expected)


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_the_count_of_steps_is_where_the_optimiser_reads_it(before, after):
    rule = composed("search").architecture_optimiser
    weight = torch.nn.Parameter(torch.ones(3))
    optimisers = [architecture_optimiser([weight], rule, graphs) for graphs in (before, after)]
    state = {"step": torch.tensor(4.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    optimisers[0].state[weight] = state
    saved = optimiser_state_dict(optimisers[0])
    require_schema(saved, optimiser_schema(optimisers[1]))
    load_optimiser(optimisers[1], saved)
    assert optimisers[1].param_groups[0]["capturable"] is after
    assert optimisers[1].state[weight]["step"] == 4


GRAPHS = ["graphs=true", "network.channels=12"]


@pytest.mark.parametrize(("overrides", "reason"), [
    (["method=gdas"], "decide on the host"),
    (["method=oles"], "decide on the host"),
    (["method=snas"], "draw random numbers"),
    (["method=drnas", "architecture_optimiser.weight_decay=0"], "draw random numbers"),
    (["space=s4"], "space.candidates noise, which draw random numbers"),
])  # fmt: skip
def test_steps_that_cannot_be_recorded_are_refused_with_the_reason(overrides, reason):
    with pytest.raises(UserError, match=f"graphs is True; it must be false with .*{reason}"):
        composed("search", *GRAPHS, *overrides)
    composed("search", *GRAPHS)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="known to glibc alone")
def test_freed_memory_is_kept_and_needs_no_fresh_pages(tmp_path):
    """In processes of their own: what a process freed before stays with it."""
    code = (
        "import resource, sys, torch; from darts.runtime import device as execution\n"
        "execution.keep_freed_memory(sys.argv[1] == 'keep')\n"
        "for _ in range(20): torch.zeros(10_000_000)  # 40 MB; at first the heap grows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): torch.zeros(10_000_000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    by_default, kept = (int(run_command(["-c", code, how], tmp_path).stdout) for how in ("default", "keep"))
    assert kept < by_default / 10


def test_a_recorded_evaluation_measures_and_counts_what_an_unrecorded_one_does(tmp_path, monkeypatch):
    """Replays are stood in for by the step itself, whose supernet then does not count."""

    def record(self, tensors):
        self.inputs = [tensor.clone() for tensor in tensors]
        self.graph = FakeGraph()
        step = self.step

        def replay():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(compute, "is_recording", lambda: True)
                self.outputs = step(*self.inputs)
            recorded.append(len(self.inputs[0]))

        self.graph.replay = replay

    recorded: list[int] = []
    monkeypatch.setattr(Graphed, "_record", record)
    monkeypatch.setattr(Graphed, "_aside", lambda self, tensors: self.step(*tensors))
    found = []
    for graphs in (False, True):
        state = search.start_or_resume(composed("search", *TINY_SEARCH), tmp_path / str(graphs))
        state.settings.graphs = graphs
        batches = [*state.data.valid.mixed()]
        measured = epoch_end.evaluated(state, state.deterministic_mixture(), batches)
        found.append((measured, state.tracker.macs))
    assert found[0] == found[1]
    assert recorded == [16, 16]  # 50 images in batches of 16: the first warms up, the last is smaller


@pytest.mark.parametrize("given, due", [
    ({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None),
], ids=str)  # fmt: skip
def test_threads_without_work_sleep_soon_unless_something_else_is_said(given, due):
    script = "import os, darts; print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment | given, capture_output=True, text=True)
    assert done.stdout == f"{due}\n"
