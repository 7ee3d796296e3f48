"""What runs leave as JSON or in a database, of other contents: answered in a line, never by a traceback."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path

import pytest

from darts import correlate, tune
from darts.blackbox import loop as blackbox
from darts.runtime.errors import UserError
from darts.spaces.published import published
from darts.spaces.sources import random_genotype
from darts.train import brief
from darts.train import retraining as retrain
from tests.conftest import TINY, TINY_DATA, TINY_SCORES, TINY_TRAIN, composed, configuration
from tests.faults.test_foreign_files import mutated, places

WRONG = [None, -1, 10**400, 2.5, float("nan"), float("inf"), "te\nxt", "", True, [], {}, [[1]], {"a": {"b": None}}]
WHOLE_FILES = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'"text"', b"\0" * 50]


def search_of_scores(folder: Path) -> None:
    own = ["method=random", "budget.evaluations=2", "evaluator=zero_cost", "evaluator.network.channels=2"]
    blackbox.run(composed("search", *TINY_SCORES, *own, "evaluator.batch_size=8"), folder)


def retraining(folder: Path) -> None:
    retrain.run(composed("final", *TINY_TRAIN, "train.epochs=1"), published("darts_v2"), folder)


def study(folder: Path) -> None:
    own = ["genotype=darts_v2", "train.epochs=1", "train.batch_size=16", "trials=2"]
    tune.run(copy.deepcopy(configuration("tune", *TINY, *own)), folder)


def correlation(folder: Path) -> None:
    own = ["search.batch_size=16", "evaluator.network.channels=2", "evaluator.batch_size=8"]
    trained = folder.parent / "trained"
    settings = composed("final", *TINY_TRAIN, "train.epochs=1")
    for number in range(3):
        if not (trained / str(number) / "result.json").exists():
            retrain.run(settings, random_genotype(settings.space, 0, number), trained / str(number))
    correlate.measure(composed("correlate", *TINY_DATA, *own, f"results=[{trained}]"), folder)


FILES = [
    (search_of_scores, "run.json", ("genotype.json",)),
    (search_of_scores, "history.jsonl", ("genotype.json",)),
    (search_of_scores, "timing.jsonl", ("genotype.json",)),
    (retraining, "run.json", ("result.json",)),
    (retraining, "result.json", ()),
    (study, "run.json", ("best.json",)),
    (study, "cells.json", ("best.json",)),
    (correlation, "points.jsonl", ()),
    (correlation, "../trained/0/result.json", ()),
]


def contents_of_others(text: str, lines: bool, number: int):
    """Whole files that are none of ours, and so many of ours with one value changed."""
    yield from WHOLE_FILES
    draw = random.Random(0)
    first, *rest = text.splitlines(keepends=True) if lines else (text,)
    value = json.loads(first)
    for path in [()] * 5 + draw.choices(list(places(value)), k=number):
        changed = mutated(value, path, draw, WRONG)
        yield (json.dumps(changed) + "\n" + "".join(rest)).encode()


@pytest.mark.parametrize("number", [15, pytest.param(400, marks=pytest.mark.slow(120))])
@pytest.mark.parametrize(("run", "name", "last"), FILES, ids=[f"{run.__name__} {name}" for run, name, _ in FILES])
def test_a_file_of_other_contents_is_refused_in_a_line(run, name, last, number, tmp_path, monkeypatch, injected):
    monkeypatch.setattr(brief, "validation_accuracy", lambda *_, **__: 0.5)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run(whole)
    for ending in last:
        (whole / ending).unlink()
    text, refused, tried = (whole / name).read_text(), 0, 0
    for content in contents_of_others(text, name.endswith("jsonl"), number):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(content)
        tried += 1
        try:
            run(folder)
        except UserError as error:
            refused += 1
            assert len(str(error)) < 1000, content[:200]
    assert refused >= len(WHOLE_FILES) - 3
    injected("record of other contents", tried)


def test_a_damaged_study_is_refused_in_a_line(tmp_path, monkeypatch, injected):
    monkeypatch.setattr(brief, "validation_accuracy", lambda *_, **__: 0.5)
    study(tmp_path)
    file, draw = tmp_path / "study.db", random.Random(0)
    whole = file.read_bytes()
    contents = [b"text", whole[:100], whole[: len(whole) // 2], whole[: len(whole) - 4096], bytes(len(whole))]
    for _ in range(40):
        changed = bytearray(whole)
        for _ in range(200):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        contents.append(bytes(changed))
    refused = 0
    for content in contents:
        file.write_bytes(content)
        try:
            study(tmp_path)
        except UserError as error:
            refused += 1
            assert str(error).startswith(str(file)) and "damaged, remove the folder" in str(error)
    assert refused > len(contents) / 2
    injected("study of other contents", len(contents))


@pytest.mark.parametrize("run, name", [(study, "cells.json"), (retraining, "result.json")])
def test_a_record_whose_cell_is_not_the_one_of_its_digest_is_refused(run, name, tmp_path):
    """The cell was exchanged by hand, its digest left alone."""
    folder = tmp_path / "run"
    run(folder)
    text = (folder / name).read_text()
    assert '"sep_conv_3x3"' in text
    (folder / name).write_text(text.replace('"sep_conv_3x3"', '"dil_conv_5x5"', 1))
    with pytest.raises(UserError, match=rf"{name} is damaged: .*remove"):
        run(folder)


@pytest.mark.parametrize("accuracy", [float("nan"), 7.0, "0.5", -0.1, None])
def test_an_accuracy_that_is_none_is_no_result(accuracy, tmp_path):
    settings = composed("final", *TINY_TRAIN, "train.epochs=1")
    retrain.run(settings, published("darts_v2"), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**result, "test_accuracy": accuracy}))
    with pytest.raises(UserError, match=r"result.json is damaged: test_accuracy is .*, not a number from 0 to 1"):
        retrain.run(settings, published("darts_v2"), tmp_path)


@pytest.mark.parametrize("run", [search_of_scores, retraining])
def test_a_run_whose_network_cannot_be_built_claims_no_folder(run, tmp_path):
    wrong = ["evaluator=brief_training", "evaluator.train.batch_size=500", "method=random"]
    with pytest.raises(UserError, match=r"^(evaluator\.train|train)\.batch_size is 500; it must be at most"):
        if run is search_of_scores:
            blackbox.run(composed("search", *TINY_SCORES, *wrong), tmp_path)
        else:
            settings = composed("final", *TINY_TRAIN, "train.batch_size=500")
            retrain.run(settings, published("darts_v2"), tmp_path)
    assert not (tmp_path / "run.json").exists()
    run(tmp_path)
