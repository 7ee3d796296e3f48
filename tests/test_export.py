"""Exported networks answer as the network does: every form, published cells, both spaces, odd sizes, one channel."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import darts
from darts.export import ExportSettings, model_card
from darts.models.network import build_network
from darts.runtime.errors import UserError
from darts.runtime.files import lock_folder
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.nasbench201 import from_string
from darts.spaces.published import published
from darts.spaces.search_space import InputShape
from darts.train import retraining
from darts.train.saved import network_of
from darts.use import exporting
from darts.use.exporting import export, folded, largest_difference
from darts.use.trained import TrainedNetwork, load_network
from tests.conftest import TINY_TRAIN, composed, run_command

LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",), "pt2": ()}


def need(form: str) -> None:
    for name in LIBRARIES[form]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (requirements-export.txt)")


def network_of_cell(genotype: Genotype, shape: InputShape, reductions: int = 0) -> TrainedNetwork:
    """A network with random weights and statistics that are not those of the beginning."""
    torch.manual_seed(0)
    network = build_network(genotype, 3, 4, reductions, shape, auxiliary=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
    described = {
        "genotype": to_json(genotype),
        "network": {"channels": 4, "cells": 3, "stem_reductions": reductions, "auxiliary": False},
        "input": {"channels": shape.channels, "size": shape.size, "classes": shape.classes},
        "dataset": "toy", "settings": {}, "weights": network.state_dict(),
        "mean": [0.4] * shape.channels, "std": [0.25] * shape.channels,
        "class_names": [f"class {n}" for n in range(shape.classes)],
    }  # fmt: skip
    checked, described = network_of(described, Path("toy"))
    return TrainedNetwork(checked, described, described["class_names"], genotype)


NB201 = from_string("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
CASES = {
    "darts_v2": (published("darts_v2"), InputShape(3, 32, 10), 0),
    "snas, one channel, 28": (published("snas"), InputShape(1, 28, 7), 1),
    "nasnet, 17": (published("nasnet"), InputShape(3, 17, 2), 0),
    "amoebanet": (published("amoebanet"), InputShape(3, 16, 3), 0),
    "nasbench201": (NB201, InputShape(3, 16, 10), 0),
    "darts_v1 of ImageNet, 70": (published("darts_v1"), InputShape(3, 70, 4), "imagenet"),
}


QUICK = "snas, one channel, 28"
OF_ALL = [pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow]) for name in CASES]


@pytest.mark.parametrize("case", OF_ALL)
@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_every_form_answers_as_the_network(tmp_path, form, case):
    need(form)
    network = network_of_cell(*CASES[case])
    side, channels = network.shape.size, network.shape.channels
    pixels = torch.randint(0, 256, (5, channels, side, side), dtype=torch.uint8)
    answer = export(network, form, tmp_path / f"network.{form}", preparation=True, fold=False)
    assert largest_difference(network, answer, pixels, True) < 1e-5
    found = answer(pixels[:3])  # another batch than the exporter's example
    assert found.shape == (3, network.shape.classes) and np.allclose(found.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_without_preparation_and_folded_the_function_is_the_same(tmp_path, form):
    need(form)
    network = network_of_cell(*CASES[QUICK])
    pixels = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    answer = export(network, form, tmp_path / f"network.{form}", preparation=False, fold=True)
    assert largest_difference(network, answer, pixels, False) < 1e-5
    expected = network(pixels).detach().numpy()
    np.testing.assert_allclose(answer(network.prepared(pixels).contiguous()), expected, atol=1e-4)


def test_folding_removes_batch_norms_behind_convolutions_and_keeps_the_function():
    network = network_of_cell(*CASES["darts_v2"])
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    less = folded(network)
    norms, left = (sum(isinstance(m, torch.nn.BatchNorm2d) for m in one.modules()) for one in (network, less))
    assert left < norms / 3
    torch.testing.assert_close(less(pixels), network(pixels), atol=1e-4, rtol=1e-4)
    assert norms == sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())  # the original is untouched


def test_a_safetensors_file_is_loaded_whole_and_damage_is_told(tmp_path):
    need("safetensors")
    network = network_of_cell(*CASES["snas, one channel, 28"])
    file = tmp_path / "network.safetensors"
    export(network, "safetensors", file, preparation=True, fold=False)
    again = darts.load_network(file)
    pixels = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(again(pixels), network(pixels)) and again.classes == network.classes
    content = file.read_bytes()
    for damaged in (content[:100], content[:-10], b"x" * 50, b""):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"network\.safetensors"):
            load_network(file)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, str(file))
    with pytest.raises(UserError, match="has no metadata of this program"):
        load_network(file)


def test_a_file_that_answers_otherwise_is_refused(tmp_path):
    network = network_of_cell(*CASES["snas, one channel, 28"])
    file = tmp_path / "network.pt2"
    answer = export(network, "pt2", file, preparation=True, fold=False)
    pixels = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    off = largest_difference(network, lambda images: answer(images) + 0.001, pixels, True)
    with pytest.raises(UserError, match=r"largest difference is 0\.001, 0\.0001 is allowed; it was not kept"):
        exporting.require_equal(off)
    with pytest.raises(UserError, match="nan"):
        exporting.require_equal(float("nan"))


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"to=onnx needs onnx, .* pip install -r requirements-export\.txt"):
        export(network_of_cell(*CASES["darts_v2"]), "onnx", tmp_path / "x.onnx", preparation=True, fold=False)


def test_the_command_exports_checks_and_describes(tmp_path):
    need("onnx")
    settings = composed("final", *TINY_TRAIN, "train.epochs=1", "logger=none")
    retraining.run(settings, published("snas"), tmp_path / "runs" / "final" / "one")
    done = run_command(["-m", "darts.export", "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "largest difference from the network on 64 pictures: " in done.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    result = json.loads((tmp_path / "runs" / "final" / "one" / "result.json").read_text())
    assert f"{100 * result['test_accuracy']:.2f}% (one seed)" in card and "T-shirt/top" in card
    assert "its weights were trained from scratch" in card and "fine-tuned from" not in card
    assert done.stdout.count("\n") == 3  # of the exporter's own lines none is shown
    with lock_folder(tmp_path / "out"):
        busy = run_command(["-m", "darts.export", "hydra.run.dir=out"], tmp_path)
    assert busy.returncode == 2 and "is in use by process" in busy.stderr
    assert "uint8 pixels (batch, 1, 32, 32)" in card and "| licence | to be filled in |" in card
    import onnx

    model = onnx.load(str(tmp_path / "out" / "network.onnx"))
    onnx.checker.check_model(model)
    assert json.loads({entry.key: entry.value for entry in model.metadata_props}["classes"])[0] == "T-shirt/top"
    import onnxruntime

    network = darts.load_network(tmp_path / "runs" / "final" / "one")
    pixels = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "network.onnx"))
    found = session.run(None, {"pixels": pixels.numpy()})[0]
    np.testing.assert_allclose(found, network(pixels).softmax(1).detach().numpy(), atol=1e-5)


def test_the_card_of_a_fine_tuned_network_says_so():
    network = network_of_cell(*CASES[QUICK])
    network.described["start_from"] = {"dataset": "cifar10", "content": "abc", "weights": "w", "class_names": None}
    settings = ExportSettings("latest", "onnx", True, False, None, "runs", [])
    card = model_card(network, settings, Path("weights.pt"), Path("network.onnx"), 0.0)
    assert "its weights were fine-tuned." in card and "| fine-tuned from | a network of cifar10, content abc |" in card


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["to=tflite"], "to is 'tflite'; it must be one of onnx, pt2, safetensors"),
        (["to=safetensors", "fold=true"], "fold is True; it must be false with to=safetensors"),
        (["weights=nothing.pt"], "weights: nothing.pt: No such file"),
        ([], "there is no trained network in"),
    ],
)
def test_wrong_exports_are_refused(tmp_path, overrides, words):
    done = run_command(["-m", "darts.export", *overrides, "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 2 and words in done.stderr and not list(tmp_path.rglob("network.*")), done.stderr


@pytest.mark.slow(120)
@pytest.mark.skipif("PYTHON_WITH_ONNX2TF" not in os.environ, reason="PYTHON_WITH_ONNX2TF names no environment")
def test_onnx_becomes_a_saved_model_with_the_same_probabilities(tmp_path):
    pytest.importorskip("onnxscript")
    python = Path(os.environ["PYTHON_WITH_ONNX2TF"])
    given = [
        "genotype=darts_v2",
        *TINY_TRAIN,
        "network.channels=8",
        "train.epochs=1",
        "logger=none",
        "hydra.run.dir=run",
    ]
    assert run_command(["-m", "darts.train", *given], tmp_path).returncode == 0
    done = run_command(["-m", "darts.export", "weights=run", "to=onnx", "hydra.run.dir=onnx"], tmp_path)
    assert done.returncode == 0, done.stderr
    convert = [str(python.parent / "onnx2tf"), "-i", "onnx/network.onnx", "-o", "converted", "-osd"]
    path = f"{python.parent}:{os.environ['PATH']}"
    subprocess.run(convert, cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    (tmp_path / "compare.py").write_text(COMPARE)
    done = subprocess.run([python, "compare.py"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert float(done.stdout.split()[-1]) < 1e-5


COMPARE = """
import numpy, onnxruntime, tensorflow
pixels = numpy.random.default_rng(0).integers(0, 256, (16, 1, 32, 32)).astype(numpy.uint8)
first = onnxruntime.InferenceSession("onnx/network.onnx").run(None, {"pixels": pixels})[0]
call = tensorflow.saved_model.load("converted").signatures["serving_default"]
second = next(iter(call(pixels=tensorflow.constant(pixels.transpose(0, 2, 3, 1))).values())).numpy()
print(abs(first - second).max())
"""
