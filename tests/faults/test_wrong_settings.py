"""Forty wrong commands: each answers in a line that names the setting, with its exit code, and writes over nothing."""

from __future__ import annotations

import time

import pytest

from tests.conftest import ROOT, run_command

SEARCH, FINAL = str(ROOT / "train_search.py"), str(ROOT / "train_final.py")
COMPARE, DESCRIBE, BENCHMARK, TUNE = (["-m", f"darts.{name}"] for name in ("compare", "describe", "benchmark", "tune"))
WRONG = [
    ([SEARCH, "seed=-1"], 2, "seed"),
    ([SEARCH, "seed=null"], 2, "seed"),
    ([SEARCH, "device=gpu"], 2, "device is 'gpu'"),
    ([SEARCH, "device=cuda:7"], 2, "device is 'cuda:7'; this machine has: auto, cpu"),
    ([SEARCH, "graphs=true", "device=cpu"], 2, "graphs"),
    ([SEARCH, "precision=fp16"], 2, "precision"),
    ([SEARCH, "engine=fast"], 2, "engine"),
    ([SEARCH, "method=drats"], 2, "darts_second_order"),
    ([SEARCH, "space=darts2"], 2, "space 'darts2' is unknown; did you mean 'darts'?"),
    ([SEARCH, "dataset=mnist"], 2, "dataset 'mnist' is unknown"),
    ([SEARCH, "experiment=published"], 2, "published"),
    ([SEARCH, "experiment=pc_darts_cifar10"], 2, "method"),
    ([SEARCH, "dataset=image_folder"], 2, "dataset.root"),
    ([SEARCH, "dataset=image_folder", "dataset.root=nowhere"], 2, "dataset.root 'nowhere' is no folder"),
    ([SEARCH, "dataset=cifar10", "dataset.root=nowhere", "dataset.download=false"], 2, "nowhere"),
    ([SEARCH, "dataset.fraction=0"], 2, "dataset.fraction"),
    ([SEARCH, "dataset.image_size=4"], 2, "dataset.image_size"),
    ([SEARCH, "search.epochs=0"], 2, "search.epochs is 0; it must be at least 1"),
    ([SEARCH, "search.epoch=3"], 2, "setting 'search.epoch' is unknown; did you mean 'search.epochs'?"),
    ([SEARCH, "+search.epoch=3"], 2, "search: setting 'epoch' is unknown; did you mean 'epochs'? there are: epochs"),
    ([SEARCH, "search.epochs=three"], 2, "search.epochs"),
    ([SEARCH, "search.batch_size=9999"], 2, "search.batch_size"),
    ([SEARCH, "search.train_fraction=1"], 2, "search.train_fraction"),
    ([SEARCH, "network.cells=2"], 2, "network.cells"),
    ([SEARCH, "method=pc_darts", "network.channels=6"], 2, "network.channels"),
    ([SEARCH, "space.edges_kept=5"], 2, "space.edges_kept"),
    ([SEARCH, "space.candidates=[none,sep_conv_9x9]"], 2, "'sep_conv_9x9' is unknown; did you mean"),
    ([SEARCH, "method=darts_second_order", "weight_optimiser.nesterov=true"], 2, "weight_optimiser.nesterov"),
    ([SEARCH, "weight_optimiser.learning_rate=nan"], 2, "weight_optimiser.learning_rate"),
    ([SEARCH, "budget.epochs=1"], 2, "budget.epochs"),
    ([SEARCH, "method=random", "budget.evaluations=null"], 2, "budget"),
    ([SEARCH, "method=random", "evaluator=table"], 2, "benchmark.table"),
    ([SEARCH, "space=nasbench201", "benchmark.table=nowhere.csv"], 2, "nowhere.csv"),
    ([SEARCH, "hydra.run.dir=taken"], 2, "search.epochs was"),
    ([FINAL], 2, "genotype is 'latest', but there is no finished search in"),
    ([FINAL, "genotype=darts_v3"], 2, "genotype 'darts_v3' is unknown; did you mean 'darts_v"),
    ([FINAL, "genotype=darts_v2", "train.drop_path=1"], 2, "train.drop_path"),
    ([FINAL, "genotype=broken.json"], 2, "broken.json: not a JSON genotype"),
    ([FINAL, "genotype=other.json"], 2, "other.json: the genotype is of space 'mine', but"),
    ([FINAL, "weights=broken.json"], 2, "weights: broken.json: not a file of this program"),
    ([FINAL, "weights=missing.pt"], 2, "weights: missing.pt: No such file"),
    ([*COMPARE, "searched=[darts_v1,darts_v1]"], 2, "searched"),
    ([*COMPARE, "methods=[darts,drats]"], 2, "drats"),
    ([*DESCRIBE, "genotype=darts_v2", "input.size=2"], 2, "input.size"),
    ([*BENCHMARK, "rows=[everything]"], 2, "rows"),
    ([*TUNE, "genotype=darts_v2", "parameters=['weight_optimiser.learning_rate 1 0']"], 2, "parameters"),
]
FAST = WRONG[::4]


def checked(commands, folder, injected) -> None:
    taken = folder / "taken"
    taken.mkdir()
    done = run_command([SEARCH, "dataset.fraction=0.01", "network.channels=2", "search.epochs=1",
                        "search.batch_size=16", "space.nodes=1", "hydra.run.dir=taken"], folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    one = '{"nodes": [[["skip_connect", 0]]], "concat": [2]}'
    (folder / "broken.json").write_text('{"format": ')
    (folder / "other.json").write_text(
        f'{{"format": "darts genotype", "version": 1, "space": "mine", "provenance": {{}}, '
        f'"cells": {{"normal": {one}, "reduction": {one}}}}}'
    )
    ours = ("genotype.json", "history.jsonl", "run.json", "split.json", "checkpoints/last.pt")
    before = {name: (taken / name).read_bytes() for name in ours}
    for command, code, named in commands:
        begun = time.monotonic()
        done = run_command(command, folder)
        assert done.returncode == code, (command, done.stderr)
        assert named in done.stderr, (command, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout, command
        if code == 2:
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (command, done.stderr)
        assert time.monotonic() - begun < 60  # a second or two alone; tests beside it may take most of the machine
    assert before == {name: (taken / name).read_bytes() for name in ours}
    injected("wrong command", len(commands))


def test_some_wrong_commands(tmp_path, injected):
    checked(FAST, tmp_path, injected)


@pytest.mark.slow(75)
def test_forty_wrong_commands(tmp_path, injected):
    assert len(WRONG) >= 40
    checked(WRONG, tmp_path, injected)
