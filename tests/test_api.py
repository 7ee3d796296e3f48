"""Python's way in: calls do what the commands do, and a step of one's own is the engine's."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import darts
from darts.runtime.errors import UserError
from darts.search.state import new_state
from darts.search.step import architecture_step, joint_step, weight_step
from darts.tasks.batches import search_data
from darts.tasks.datasets import ArrayImages, images_of
from darts.tasks.task import cross_entropy
from tests.conftest import TINY, TINY_SEARCH, TINY_TRAIN, composed, run_command

SMALL = [*TINY, "space.nodes=2", "space.candidates=[none,max_pool_3x3,skip_connect,sep_conv_3x3]", "logger=none"]
SEARCH = [*SMALL, "search.epochs=2", "search.batch_size=16"]
TRAIN = [*SMALL, "train.epochs=1", "train.batch_size=16"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return darts.run_search(*SEARCH, folder=tmp_path_factory.mktemp("api") / "search")


def test_every_public_name_exists_and_stands_alone():
    for name in darts.__all__:
        thing = getattr(darts, name)
        assert callable(thing) and thing.__doc__ and len(thing.__doc__) > 20, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = darts.nothing


def test_a_search_from_python_is_the_commands(found, tmp_path):
    done = run_command(["-m", "darts.search", *SEARCH, f"hydra.run.dir={tmp_path / 'run'}"], tmp_path)
    assert done.returncode == 0, done.stderr
    own, theirs = (folder / "genotype.json" for folder in (found.folder, tmp_path / "run"))
    assert own.read_bytes() == theirs.read_bytes()
    assert (found.folder / "history.jsonl").read_bytes() == (tmp_path / "run" / "history.jsonl").read_bytes()
    assert [line["epoch"] for line in found.history] == [1, 2] and found.cost["epochs"] == 2
    again = darts.run_search(*SEARCH, folder=found.folder)
    assert again == found


def test_a_search_by_scores_from_python(tmp_path):
    scores = [item for item in SMALL if not item.startswith("network.")]
    given = ["method=random", "evaluator=zero_cost", "budget.evaluations=3", "search.batch_size=16"]
    result = darts.run_search(*scores, *given, folder=tmp_path)
    assert [line["evaluation"] for line in result.history] == [1, 2, 3] and result.cost["evaluations"] == 3


def test_a_retraining_and_its_network(found, tmp_path):
    result = darts.run_retraining(found.genotype, *TRAIN, folder=tmp_path / "run")
    assert result.test_accuracy == json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"]
    pixels = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    assert result.network()(pixels).shape == (2, 10) and result.genotype.cells == found.genotype.cells
    by_name = darts.run_retraining("darts_v1", *TINY_TRAIN, "train.epochs=1", "logger=none", folder=tmp_path / "v1")
    assert by_name.genotype.cells == darts.published("darts_v1").cells
    given = [f"start_from={tmp_path / 'run'}", "head_epochs=1", "train.epochs=1", "logger=none", "device=cpu"]
    tuned = darts.run_retraining(None, *given, "dataset.fraction=0.01", folder=tmp_path / "tuned")
    assert tuned.result["start_from"]["weights"].endswith("weights.pt")
    with pytest.raises(UserError, match=r"overrides are texts, .* each by itself; \['seed=1'\] is none"):
        darts.run_retraining(tmp_path / "run", ["seed=1"])
    with pytest.raises(UserError, match="genotype is given with start_from"):
        darts.run_retraining("darts_v1", f"start_from={tmp_path / 'run'}")


def test_a_comparison_from_python_is_the_commands(found, tmp_path):
    given = [*TRAIN, f"searched=[{found.folder}]", "random.samples=2", "allow_underpowered=true"]
    handlers = logging.getLogger().handlers[:]
    result = darts.run_comparison(*given, folder=tmp_path / "here")
    assert logging.getLogger().handlers == handlers
    done = run_command(["-m", "darts.compare", *given, f"hydra.run.dir={tmp_path / 'there'}"], tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "there" / "report.json").read_text())
    assert result.sentences == theirs["sentences"] and (tmp_path / "here" / "report.html").exists()
    accuracies = [[outcome["value"] for outcome in report["outcomes"]] for report in (result.report, theirs)]
    assert accuracies[0] == accuracies[1]
    assert composed("search", *TINY_SEARCH)  # Hydra is as it was
    with pytest.raises(UserError, match="can show no difference"):
        darts.run_comparison(*given[:-1], folder=tmp_path / "weak")


def test_results_can_be_pickled(found, tmp_path):
    trained = darts.run_retraining(found.genotype, *TRAIN, folder=tmp_path)
    for thing in (found, trained, darts.settings_of("search", *SEARCH)):
        assert pickle.loads(pickle.dumps(thing)) == thing  # noqa: S301


def test_settings_are_those_of_the_command_and_can_be_changed():
    settings = darts.settings_of("search", *TINY_SEARCH, "method=pc_darts", "network.channels=4")
    assert settings == composed("search", *TINY_SEARCH, "method=pc_darts", "network.channels=4")
    longer = dataclasses.replace(settings, search=dataclasses.replace(settings.search, epochs=7))
    assert longer.search.epochs == 7
    for overrides, message in (
        (["search.epochs=0"], "search.epochs is 0; it must be at least 1"),
        (["search.epoch=3"], "epoch"),
        (["method=nothing"], "nothing"),
        (["network.init_channels=4"], "network.init_channels"),
    ):
        with pytest.raises(UserError, match=message):
            darts.settings_of("search", *overrides)
    with pytest.raises(UserError, match="command is 'find'"):
        darts.settings_of("find")


def test_a_folder_of_its_own_each_time(tmp_path):
    given = [*SMALL, "search.epochs=1", "search.batch_size=16", f"runs={tmp_path}"]
    first, second = (darts.run_search(*given, f"seed={seed}") for seed in range(2))
    assert first.folder != second.folder and first.folder.parent == tmp_path / "search"


@pytest.mark.parametrize("method", ["darts", "darts_second_order", "pc_darts", "gdas", "snas", "drnas"])
def test_a_step_of_ones_own_loop_is_the_engines(method, tmp_path):
    """Three steps on the same batches from the same seed: alpha, weights and losses are equal, bit for bit."""
    given = [*TINY_SEARCH, f"method={method}", "network.channels=4", "logger=none"]
    settings = composed("search", *given)
    data = search_data(settings.dataset, 0.5, 16, 0, torch.device("cpu"))
    state = new_state(settings, data, torch.device("cpu"), tmp_path)
    model = darts.Bilevel(*given, channels=1, size=32, classes=10, steps=3)
    batches = zip(data.train.shuffled(0), data.valid.shuffled(0), strict=True)
    for _, (train, valid) in zip(range(3), batches, strict=False):
        moment = model.moment
        if settings.method.hypergradient.single_level:
            expected = joint_step(state, train, moment)
        else:
            expected = architecture_step(state, train, valid, moment) | weight_step(state, train, valid, moment)
        state.step += 1
        state.epoch = min(int(state.step / 3 * settings.search.epochs), settings.search.epochs - 1)
        measured = model.step(tuple(train), tuple(valid))
        assert measured == {name: float(mean.total) / mean.count for name, mean in expected.items()}
    for name, matrix in state.alpha.items():
        assert torch.equal(matrix, model.alpha[name])
    own, theirs = model.supernet.state_dict(), state.supernet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    assert model.genotype() == state.genotype()


def test_a_loop_of_ones_own_learns_and_its_gradient_reaches_alpha():
    small = ["device=cpu", "network.channels=4", "network.cells=3"]
    model = darts.Bilevel(*small, channels=1, size=32, classes=10, steps=5)
    images, labels = torch.randn(8, 1, 32, 32), torch.arange(8)
    loss = cross_entropy(model.supernet(images, model.mixture()), labels)
    loss.backward()
    assert all(matrix.grad is not None and matrix.grad.abs().sum() > 0 for matrix in model.alpha.values())
    first = [model.step((images, labels), (images, labels))["train/loss"] for _ in range(8)]
    assert first[-1] < first[0] and model.evaluate(images).shape == (8, 10)


def test_a_bilevel_model_needs_a_method_by_gradients():
    with pytest.raises(UserError, match="Bilevel needs a method by gradients"):
        darts.Bilevel("method=evolution", channels=3, size=32, classes=10, steps=1)
    with pytest.raises(UserError, match="steps is 0"):
        darts.Bilevel(channels=3, size=32, classes=10, steps=0)


class Pairs(torch.utils.data.Dataset):
    classes = ("dark", "light")

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 6

    def __getitem__(self, index):
        level = 60 + 20 * index
        if self.kind == "picture":
            return Image.fromarray(np.full((8, 8, 3), level, np.uint8)), index % 2
        if self.kind == "grey":
            return Image.fromarray(np.full((8, 8), level, np.uint8)), index % 2
        if self.kind == "float":
            return torch.full((3, 8, 8), level / 255), index % 2
        return torch.full((3, 8, 8), level, dtype=torch.uint8), index % 2


@pytest.mark.parametrize("kind", ["picture", "grey", "float", "bytes"])
def test_a_torch_dataset_becomes_images(kind):
    images = images_of(Pairs(kind))
    assert isinstance(images, ArrayImages) and images.classes == ["dark", "light"]
    assert images.pixels.dtype is torch.uint8 and images.pixels.shape == (6, 1 if kind == "grey" else 3, 8, 8)
    assert images.pixels[:, 0, 0, 0].tolist() == [60, 80, 100, 120, 140, 160]
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_torch_dataset_that_is_none_is_told():
    for items, message in (
        ([], "empty"),
        ([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 8), 1)], "one size"),
        ([(torch.full((3, 8, 8), 2.0), 0)], "values beyond 0 to 1"),
        ([(torch.zeros(8, 8), 0)], "must be .C, H, W."),
        ([(torch.zeros(3, 8, 8, dtype=torch.int64), 0)], "must be uint8"),
    ):
        with pytest.raises(UserError, match=message):
            images_of(items)
