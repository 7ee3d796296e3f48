"""Files whose checksum is right and whose contents are not ours: answered in a line, never by a traceback."""

from __future__ import annotations

import copy
import random
import shutil

import pytest
import torch

from darts.runtime.checkpoint import Checkpoints, read_state, write_state
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces.published import published
from darts.train import retraining as retrain
from darts.train import saved
from tests.conftest import TINY_SEARCH, TINY_TRAIN, composed

WRONG = [None, -1, 10**12, 2.5, float("nan"), "text", True, [], {}, [[1]], torch.zeros(3), torch.zeros(2, 2).int()]
MANY = {"darts": 300, "oles": 150, "sgas": 150, "p_darts": 100}  # mutants in the slow tests; p_darts is the slowest
SEARCHES = {
    "darts": [],
    "oles": ["method.weight_gradient.steps=3"],
    "sgas": ["method.schedule.history=2"],
    "p_darts": [],
}


def places(value, path=()):
    """The way to every value within nested dictionaries and lists."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def mutated(state: dict, path: tuple, draw: random.Random, wrong: list = WRONG) -> dict:
    """The state with the value at one place replaced, taken away or given twice."""
    changed = copy.deepcopy(state)
    if not path:
        return draw.choice(wrong)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if isinstance(parent, tuple):
        return {}
    how = draw.choice(["replace", "replace", "remove", "add"])
    if how == "replace":
        parent[path[-1]] = draw.choice(wrong)
    elif how == "remove":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[path[-1]]))
    else:
        parent["another"] = draw.choice(wrong)
    return changed


def mutants(state: dict, number: int):
    """So many mutants: first one at each place that is not deep, then at random ones."""
    draw = random.Random(number)
    every = list(places(state))
    shallow = [path for path in every if len(path) <= 3]
    chosen = draw.sample(shallow, min(number // 2, len(shallow)))
    for path in [*chosen, *(draw.choice(every) for _ in range(number - len(chosen)))]:
        yield path, mutated(state, path, draw)


@pytest.mark.parametrize(
    ("method", "number"),
    [
        *((name, 10) for name in SEARCHES),
        *(pytest.param(name, MANY[name], marks=pytest.mark.slow(60)) for name in SEARCHES),
    ],
)
def test_a_search_checkpoint_of_other_contents_is_refused_in_a_line(method, number, tmp_path, monkeypatch, injected):
    settings = composed("search", *TINY_SEARCH, f"method={method}", *SEARCHES[method])
    whole = tmp_path / "whole"
    search.run(settings, whole)
    (whole / "genotype.json").unlink()
    state = Checkpoints(whole).load()
    refused = 0
    for path, mutant in mutants(state, number):
        folder = tmp_path / "mutant"
        shutil.copytree(whole, folder)
        (folder / "checkpoints" / "previous.pt").unlink()
        write_state(folder / "checkpoints" / "last.pt", mutant)
        try:
            search.run(settings, folder)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), path
        shutil.rmtree(folder)
    assert refused > number / 2
    injected("checkpoint of other contents", number)


@pytest.mark.parametrize("number", [40, pytest.param(200, marks=pytest.mark.slow(30))])
def test_a_retraining_checkpoint_of_other_contents_is_refused_in_a_line(number, tmp_path, injected):
    settings, whole = composed("final", *TINY_TRAIN, "train.epochs=1"), tmp_path / "whole"
    retrain.run(settings, published("darts_v2"), whole)
    (whole / "result.json").unlink()
    state = Checkpoints(whole).load()
    refused = 0
    for path, mutant in mutants(state, number):
        write_state(whole / "checkpoints" / "last.pt", mutant)
        try:
            retrain.run(settings, published("darts_v2"), whole)
            (whole / "result.json").unlink()
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), path
    assert refused > number / 2
    injected("checkpoint of other contents", number)


@pytest.mark.parametrize("number", [150, pytest.param(800, marks=pytest.mark.slow(60))])
def test_a_weights_file_of_other_contents_is_refused_in_a_line(number, tmp_path, injected):
    settings = composed("final", *TINY_TRAIN, "train.epochs=1")
    retrain.run(settings, published("darts_v2"), tmp_path)
    state, file = read_state(tmp_path / "weights.pt"), tmp_path / "mutant.pt"
    refused = 0
    for path, mutant in mutants(state, number):
        write_state(file, mutant)
        try:
            saved.evaluate_file(settings, file)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), path
    assert refused > number / 2
    injected("weights of other contents", number)
