"""Nothing of version 0.1.0 is lost: its searches repeat bit for bit, its files are read or refused with its number."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from darts.models.compiled import library
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces.sources import read_genotype
from darts.train import retraining as retrain
from darts.train import saved
from tests.conftest import ROOT, TINY, TINY_SEARCH, composed
from tests.test_methods import SHORT

GOLDEN = ROOT / "tests" / "golden"
RECORDED = json.loads((GOLDEN / "version_0_1_0.json").read_text())
NASBENCH = [*TINY, "space=nasbench201"]


def digest(tensors):
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def same_machine() -> bool:
    """Bits depend on PyTorch's version, the processor, its vector instructions and the number of threads.

    Recorded on an AMD EPYC; with the same instructions an Intel processor adds up in another order.
    """
    here = {
        "torch": torch.__version__.split("+")[0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    cpu = Path("/proc/cpuinfo")
    of_its_maker = not cpu.exists() or "AuthenticAMD" in cpu.read_text()
    return of_its_maker and here == RECORDED["environment"]


CORRECTED = {  # to their authors' code, which tests/test_golden.py holds them to
    *("beta_darts", "darts_minus", "darts_pt", "darts_pt_fixed", "drnas", "drnas_progressive", "gdas", "idarts"),
    *("lambda_darts", "oles", "p_darts", "proxyless", "r_darts", "random_weight_sharing", "sdarts_adv", "sdarts_rs"),
    *("sgas", "snas"),
}


@pytest.mark.parametrize("method", sorted(RECORDED["searches"].keys() - CORRECTED))
def test_a_search_of_every_method_that_was_right_repeats_that_of_version_0_1_0(method, tmp_path):
    expected = RECORDED["searches"][method]
    settings = composed("search", *TINY_SEARCH, f"method={method}", *SHORT.get(method, []))
    with library.switched_off():  # which version 0.1.0 had not
        genotype = search.run(settings, tmp_path)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    losses = [[line["train/loss"], line["valid/loss"]] for line in history]
    assert losses == [pytest.approx(pair, rel=0.02) for pair in expected["losses"]]
    if not same_machine():
        return  # other bits, of the same search
    state = search.start_or_resume(settings, tmp_path)
    reference = state.supernet.to_reference(state.supernet.state_dict())
    assert json.loads(json.dumps({kind: {"nodes": cell.nodes, "concat": cell.concat}
                                  for kind, cell in genotype.cells.items()})) == expected["cells"]  # fmt: skip
    assert hashlib.sha256((tmp_path / "history.jsonl").read_bytes()).hexdigest()[:16] == expected["history"]
    assert digest(reference) == expected["weights"]
    assert digest(state.alpha) == expected["alpha"]
    assert digest(state.supernet.to_reference(state.momentum())) == expected["momentum"]


def test_a_genotype_of_version_0_1_0_is_read():
    space = composed("search", *NASBENCH).space
    genotype = read_genotype(GOLDEN / "search_0_1_0", space)
    assert str(genotype.cells["normal"]) == (
        "nor_conv_3x3 0; skip_connect 0, nor_conv_1x1 1; none 0, skip_connect 1, nor_conv_1x1 2"
    )


@pytest.mark.parametrize("finished", [True, False])
def test_a_search_of_version_0_1_0_is_not_resumed_and_the_version_named(finished, tmp_path):
    shutil.copytree(GOLDEN / "search_0_1_0", tmp_path / "run")
    if not finished:
        (tmp_path / "run" / "genotype.json").unlink()
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    settings = composed("search", *NASBENCH, "search.epochs=1", "search.batch_size=16")
    with pytest.raises(UserError, match=r"holds a run of version 0\.1\.0, which version \d+\.\d+\.\d+ cannot resume"):
        search.run(settings, tmp_path / "run")
    after = {file.name: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert {name: after[name] for name in before} == before


def test_a_black_box_search_of_version_0_1_0_is_not_resumed_either(tmp_path):
    from darts.blackbox import loop as blackbox

    shutil.copytree(GOLDEN / "search_0_1_0", tmp_path / "run")
    (tmp_path / "run" / "genotype.json").unlink()
    settings = composed("search", "device=cpu", "space=nasbench201", "method=random")
    with pytest.raises(UserError, match=r"version 0\.1\.0"):
        blackbox.run(settings, tmp_path / "run")
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == (GOLDEN / "search_0_1_0" / "history.jsonl").read_bytes()


def test_a_network_of_version_0_1_0_is_loaded_and_gives_its_accuracy():
    result = json.loads((GOLDEN / "final_0_1_0" / "result.json").read_text())
    settings = composed("final", *NASBENCH)
    found = saved.evaluate_file(settings, GOLDEN / "final_0_1_0" / "weights.pt")
    assert found["loss"] == pytest.approx(result["test_loss"], rel=1e-4)


def test_a_retraining_of_version_0_1_0_is_not_resumed_and_the_version_named(tmp_path):
    shutil.copytree(GOLDEN / "final_0_1_0", tmp_path / "run")
    settings = composed("final", *NASBENCH, "train.epochs=1", "train.batch_size=32")
    genotype = read_genotype(GOLDEN / "search_0_1_0", settings.space)
    with pytest.raises(UserError, match=r"holds a run of version 0\.1\.0"):
        retrain.run(settings, genotype, tmp_path / "run")


def test_a_result_of_version_0_1_0_is_read_by_a_correlation():
    from darts import correlate

    settings = composed("correlate", "device=cpu", "space=nasbench201", f"results=[{GOLDEN / 'final_0_1_0'}]")
    with pytest.raises(UserError, match="needs 3 cells, there are 1"):  # read, and counted
        correlate.trained_cells(settings)
