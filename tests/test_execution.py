"""Where and how a step runs: refusals, memory advice, and the bookkeeping of recorded steps."""

from __future__ import annotations

import ctypes

import pytest
import torch

from darts.runtime.device import Graphed, check_execution, placed
from darts.runtime.errors import UserError
from darts.runtime.settings import Precision
from darts.spaces.published import published
from darts.train import retraining as retrain
from tests.conftest import TINY_TRAIN, composed, run_command

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
