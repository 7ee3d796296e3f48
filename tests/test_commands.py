"""The command lines, run as processes in fresh folders."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path

import pytest

from darts.spaces.genotype import from_json
from tests.conftest import ROOT, TINY_DATA, TINY_SEARCH, TINY_TRAIN, run_command

SEARCH, FINAL = str(ROOT / "train_search.py"), str(ROOT / "train_final.py")


def succeeded(command: list[str], folder: Path) -> str:
    done = run_command(command, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_search_retrain_evaluate_compare_describe(tmp_path):
    out = succeeded([SEARCH, *TINY_SEARCH, "search.epochs=2"], tmp_path)
    assert re.search(r"epoch 1/2  train loss \d\.\d+ accuracy \d+\.\d%, valid loss", out)
    assert "\r" not in out  # plain lines where the output is no terminal
    (folder,) = (tmp_path / "runs" / "search").iterdir()
    next_command = re.search(r"next: +python \S*/train_final.py (.*)", out).group(1)
    next_command = shlex.split(next_command)
    space = next_command[1:3]  # the search's space is not the default one as it is
    candidates = next(item for item in TINY_SEARCH if item.startswith("space.candidates="))
    assert next_command[0].startswith("genotype=") and space == ["space.nodes=2", candidates]
    assert next_command[3:] == TINY_DATA  # of what was typed, the data and the device

    out = succeeded([FINAL, *next_command, *TINY_TRAIN], tmp_path)
    (final,) = (tmp_path / "runs" / "final").iterdir()
    result = json.loads((final / "result.json").read_text())
    assert 0 <= result["test_accuracy"] <= 1
    assert {"parameters", "macs", "seconds", "seed", "config"} <= result.keys()
    assert result["genotype"] == json.loads((folder / "genotype.json").read_text())

    out = succeeded([FINAL, f"weights={final / 'weights.pt'}", "device=cpu"], tmp_path)
    assert f"test accuracy {result['test_accuracy']:.4f}, test loss {result['test_loss']:.4f}" in out

    comparison = [
        "-m",
        "darts.compare",
        *TINY_TRAIN,
        *space,
        "train.epochs=1",
        "random.samples=2",
        "allow_underpowered=true",
    ]
    out = succeeded(comparison, tmp_path)
    report = json.loads((tmp_path / "runs" / "compare" / "fashion_mini" / "report.json").read_text())
    assert len(report["outcomes"]) == 3
    (sentence,) = report["sentences"]
    assert sentence in out and sentence in (tmp_path / "runs/compare/fashion_mini/report.md").read_text()
    again = succeeded(comparison, tmp_path)
    assert sentence in again and "epoch 1/1" in out and "epoch 1/1" not in again

    out = succeeded(
        ["-m", "darts.describe", "genotype=latest", *space, "network.cells=3", "network.channels=4"], tmp_path
    )
    assert re.search(r"parameters +[\d,]+ \([\d,]+ with the auxiliary head\)", out)


def test_a_saved_network_gives_the_same_accuracy_to_the_digit_in_a_new_process(tmp_path):
    run = ["genotype=darts_v2", *TINY_TRAIN, f"hydra.run.dir={tmp_path / 'run'}"]
    succeeded([FINAL, *run, "train.auxiliary_weight=0.4"], tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    code = (
        "import sys, json, pathlib; from darts.train import saved; from tests.conftest import composed;"
        "print(json.dumps(saved.evaluate_file(composed('final', 'device=cpu'), pathlib.Path(sys.argv[1]))))"
    )
    out = succeeded(["-c", code, str(tmp_path / "run" / "weights.pt")], tmp_path)
    names = {"accuracy": "test_accuracy", "loss": "test_loss", "balanced_accuracy": "balanced_accuracy"}
    assert json.loads(out.splitlines()[-1]) == {name: result[key] for name, key in names.items()}


def test_multirun_runs_every_seed_in_a_folder_of_its_own(tmp_path):
    succeeded([SEARCH, "-m", *TINY_SEARCH, "search.epochs=1", "seed=0,1"], tmp_path)
    found = sorted((tmp_path / "runs" / "search").rglob("genotype.json"))
    assert [from_json(file.read_text()).provenance["seed"] for file in found] == [0, 1]


@pytest.mark.pictures
def test_describe_prints_only_one_json_object(tmp_path):
    sizes = ["network.channels=36", "network.cells=20"]
    out = succeeded(["-m", "darts.describe", "genotype=darts_v2", *sizes, "json=true", "device=cpu"], tmp_path)
    found = json.loads(out)
    assert found["parameters"] == 3_349_342 and found["parameters_with_auxiliary"] == 3_825_768
    assert round(found["macs"] / 1e6, 1) == 528.4 and found["latency_ms"] > 0
    assert list((tmp_path / "runs" / "describe").rglob("normal.png"))


def test_random_genotypes_are_drawn_with_the_seed(tmp_path):
    small = ["network.channels=4", "network.cells=3", "json=true", "genotype=random", "device=cpu"]
    digests = [
        json.loads(succeeded(["-m", "darts.describe", *small, f"seed={seed}"], tmp_path))["genotype"]
        for seed in (1, 1, 2)
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("experiment", ["quick", "darts_cifar10"])
@pytest.mark.parametrize("script", [[SEARCH], [FINAL], ["-m", "darts.compare"], ["-m", "darts.describe"]])
def test_help_shows_all_settings(script, experiment, tmp_path):
    chosen = [f"experiment={experiment}"]
    out = succeeded([*script, *chosen, "--help"], tmp_path)
    assert "seed=0" in out and "channels=" in out
    assert not list(tmp_path.iterdir())


def test_help_and_wrong_settings_answer_before_anything_slow_is_imported(tmp_path):
    code = (
        "import sys, runpy; sys.argv = ['train_search.py', *sys.argv[1:]]\n"
        f"try: runpy.run_path({SEARCH!r}, run_name='__main__')\n"
        "except SystemExit as stop: code = stop.code\n"
        "else: code = 0\n"
        "print('slow:', [name for name in ('torch', 'scipy', 'matplotlib') if name in sys.modules], code)"
    )
    for arguments, code_of_it in ((["--help"], 0), (["search.epochs=0"], 2)):
        start = time.monotonic()
        done = run_command(["-c", code, *arguments], tmp_path)
        assert f"slow: [] {code_of_it}" in done.stdout, done.stderr
        assert time.monotonic() - start < 6


def test_published_settings_run_on_a_folder_of_pictures(tmp_path):
    """The published search, cut to one small epoch, on pictures of an odd size."""
    import numpy as np
    from PIL import Image

    numbers = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            for index in range(8):
                pixels = numbers.integers(0, 256, (37, 41, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pictures" / part / name / f"{index}.png")
    small = ["search.epochs=1", "search.batch_size=4", "network.channels=2", "network.cells=3", "device=cpu"]
    own = ["dataset=image_folder", f"dataset.root={tmp_path / 'pictures'}", f"dataset.cache={tmp_path / 'cache'}"]
    succeeded([SEARCH, *own, "experiment=darts_cifar10", *small], tmp_path)
    assert len(list((tmp_path / "runs" / "search").rglob("genotype.json"))) == 1
