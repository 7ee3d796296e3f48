"""What is registered from outside, in every command: an operation, a part, a space, a data set, a strategy, ..."""

from __future__ import annotations

import importlib
import json
import shutil

import pytest
import torch

from darts.config import registry
from darts.config.registry import contents_of_plugins, register
from darts.models.shape_check import shape_checked
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces.published import published
from darts.spaces.sources import find_genotype
from darts.train import retraining as retrain
from tests.conftest import ROOT, TINY, TINY_SCORES, TINY_SEARCH, TINY_TRAIN, composed, run_command
from tests.test_use import draw_pictures

PLUGIN = '''
import random
from dataclasses import dataclass

import torch
from torch import nn

from darts.blackbox.exchange import Scorer
from darts.blackbox.settings import Evaluator
from darts.blackbox.strategy import Request, Strategy
from darts.config.registry import register
from darts.loop.loggers import Logger, LogWriter
from darts.methods.relaxation import Relaxation, softmax
from darts.models.mixture import MixtureWeights
from darts.models.settings import NetworkSettings
from darts.spaces.search_space import SearchSpace, Skeleton
from darts.tasks.datasets import ArrayImages
from darts.tasks.settings import Dataset


@register("operation", "blur")
def blur(channels, stride, affine):
    """Average pooling over 5 x 5 pixels and batch norm: (batch, C, H, W) to the size that the stride says."""
    return nn.Sequential(nn.AvgPool2d(5, stride, 2), nn.BatchNorm2d(channels, affine=affine))


@register("relaxation", "sharp", power=2.0)
@dataclass
class Sharp(Relaxation):
    """Softmax of alpha times a power."""

    power: float

    def weights(self, alpha, active, moment):
        return MixtureWeights(softmax(self.power * alpha, active))


@register(
    "space", "blurred", nodes=2, edges_kept=2, skeleton=Skeleton.darts, edge_candidates=None,
    candidates=["none", "blur"],
)
@dataclass
class Blurred(SearchSpace):
    """Cells of blurs only."""


@register(
    "dataset", "stripes", root="", fraction=1.0, image_size=16, mean=[0.5], std=[0.5],
    crop_padding=0, flip=False,
)
@dataclass
class Stripes(Dataset):
    """Two classes: lines across and lines down."""

    def images(self, train):
        labels = torch.arange(80) % 2
        pixels = torch.zeros(80, 1, self.image_size, self.image_size, dtype=torch.uint8)
        pixels[labels == 0, :, ::2] = 255
        pixels[labels == 1, :, :, ::2] = 255
        return ArrayImages(pixels, labels, ["across", "down"])


@register("strategy", "two_draws")
@dataclass
class TwoDraws(Strategy):
    """Ask for two random genotypes."""

    def ask(self, pool, generator: random.Random):
        for genotype in pool.draws(2, generator):
            yield Request(genotype)


class TextLog(LogWriter):
    def __init__(self, file):
        self.file = file

    def scalars(self, step, values):
        for name, value in values.items():
            print(step, name, value, file=self.file)

    def figure(self, step, name, figure):
        print(step, name, type(figure).__name__, file=self.file)

    def close(self):
        print("closed", file=self.file)
        self.file.close()


@register("logger", "text", file="values.txt")
@dataclass
class Text(Logger):
    """A line a value."""

    file: str

    def open(self, folder, first):
        return TextLog(open(folder / self.file, "a"))


@register("evaluator", "alphabet", network=NetworkSettings(2, 3, 2))
@dataclass
class Alphabet(Evaluator):
    """Scores a cell by the length of its operations' names."""

    def scorer(self, context):
        return Scorer(lambda genotype, fraction: (float(len(str(genotype.cells))), {}))
'''
BLURRED = ["plugins=[my_plugin]", "space=blurred"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("plugins")
    (place / "my_plugin.py").write_text(PLUGIN)
    small = [item for item in TINY_SEARCH if not item.startswith("space.")]
    search = [*small, "search.epochs=1", "method/relaxation=sharp", *BLURRED, "hydra.run.dir=found"]
    done = run(place, str(ROOT / "train_search.py"), *search)
    assert done.returncode == 0, done.stderr
    return place


def run(place, *command):
    return run_command([*command], place, PYTHONPATH=f"{ROOT}:{place}")


def test_a_found_cell_names_the_plugin_it_needs(folder):
    found = json.loads((folder / "found" / "genotype.json").read_text())
    assert found["plugins"] == ["my_plugin"] and found["space"] == "blurred"
    assert json.loads((folder / "found" / "run.json").read_text())["settings"]["method.relaxation.power"] == 2.0


@pytest.mark.parametrize(
    "command",
    [
        [str(ROOT / "train_final.py"), *TINY_TRAIN, "train.epochs=1", "genotype=found"],
        ["-m", "darts.describe", "network.cells=3", "network.channels=4", "genotype=found", "device=cpu"],
        [
            "-m",
            "darts.compare",
            *TINY_TRAIN,
            "train.epochs=1",
            "random.samples=2",
            "searched=[found]",
            "allow_underpowered=true",
        ],
        ["-m", "darts.select", *TINY_TRAIN, "train.epochs=1", "searched=[found,again]"],
        ["-m", "darts.tune", *TINY_TRAIN, "train.epochs=1", "trials=1", "genotype=found"],
    ],
    ids=lambda command: command[1] if command[0] == "-m" else "train_final",
)
def test_every_command_takes_plugins(folder, command):
    again = folder / "again"
    if not again.exists():
        again.mkdir()
        other = json.loads((folder / "found" / "genotype.json").read_text())
        other["provenance"]["seed"] = 1  # of another search, which found the same
        (again / "genotype.json").write_text(json.dumps(other))
    name = command[1] if command[0] == "-m" else "train_final"
    out = f"hydra.run.dir=out_{name}"
    done = run(folder, *command, *BLURRED, out)
    assert done.returncode == 0, done.stderr
    without = run(folder, *command, "space=darts", out + "_without")
    assert without.returncode == 2 and "plugins=[my_plugin]" in without.stderr, without.stderr


def test_a_plug_in_whose_source_has_changed_is_another_experiment(folder, tmp_path):
    """A run does not resume under other code, and a trained network says so before it answers."""
    place = tmp_path / "place"
    shutil.copytree(folder, place)
    final = [*TINY_TRAIN, "train.epochs=1", "genotype=found", *BLURRED, "hydra.run.dir=final"]
    assert run(place, str(ROOT / "train_final.py"), *final).returncode == 0
    draw_pictures(tmp_path / "pictures")
    predict = ["-m", "darts.predict", "weights=final", f"images={tmp_path / 'pictures'}", "plugins=[my_plugin]"]
    before = run(place, *predict)
    assert before.returncode == 0 and "source of plug-in" not in before.stdout + before.stderr
    (place / "my_plugin.py").write_text(PLUGIN + "\n# changed\n")
    again = run(place, str(ROOT / "train_final.py"), *final)
    assert again.returncode == 2 and "plugins.my_plugin was " in again.stderr and "and is now " in again.stderr
    after = run(place, *predict)
    told = after.stdout + after.stderr
    assert after.returncode == 0 and "the source of plug-in my_plugin is not that with which" in told


def test_the_source_of_a_package_is_all_of_its_files(tmp_path, monkeypatch):
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").write_text("")
    (tmp_path / "their_package" / "part.py").write_text("A = 1")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("their_package")
    first = contents_of_plugins(["their_package"])
    (tmp_path / "their_package" / "part.py").write_text("A = 2")
    assert first.keys() == {"their_package"} and contents_of_plugins(["their_package"]) != first


def test_a_data_set_a_strategy_and_an_evaluator_are_chosen_by_name(folder):
    small = [item for item in TINY_SCORES if not item.startswith(("dataset.", "space."))]
    given = [*small, "plugins=[my_plugin]", "dataset=stripes", "method=two_draws", "evaluator=alphabet"]
    done = run(folder, str(ROOT / "train_search.py"), *given, "hydra.run.dir=scored")
    assert done.returncode == 0, done.stderr
    assert len((folder / "scored" / "history.jsonl").read_text().splitlines()) == 2
    trained = [item for item in TINY_TRAIN if not item.startswith("dataset.")]
    done = run(folder, str(ROOT / "train_final.py"), *trained, "plugins=[my_plugin]", "dataset=stripes",
               "genotype=random", "hydra.run.dir=trained")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "trained" / "result.json").read_text())["config"]["dataset.name"] == "stripes"


@pytest.mark.pictures
def test_a_logger_is_given_every_value_and_closed_once(folder):
    small = [item for item in TINY_SEARCH if not item.startswith("space.")]
    given = [*small, "search.epochs=2", *BLURRED, "logger=text", "logger.file=log.txt", "hydra.run.dir=logged"]
    done = run(folder, str(ROOT / "train_search.py"), *given)
    assert done.returncode == 0, done.stderr
    *lines, last = (folder / "logged" / "log.txt").read_text().splitlines()
    history = [json.loads(line) for line in (folder / "logged" / "history.jsonl").read_text().splitlines()]
    logged = [line.split()[2] for line in lines if line.split()[1] == "valid/loss"]
    assert logged == [str(line["valid/loss"]) for line in history] and len(logged) == 2
    assert "2 cell/normal Figure" in lines and last == "closed"
    assert not list((folder / "logged").glob("events*"))
    scores = [item for item in TINY_SCORES if not item.startswith("space.")]
    done = run(folder, str(ROOT / "train_search.py"), *scores, *BLURRED, "method=two_draws", "evaluator=alphabet",
               "logger=text", "hydra.run.dir=scores_logged")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 score" in (folder / "scores_logged" / "values.txt").read_text()


@pytest.mark.parametrize("command", ["search", "final"])
def test_without_a_logger_a_run_writes_its_own_files_only(command, tmp_path):
    if command == "search":
        search.run(composed("search", *TINY_SEARCH, "search.epochs=1", "logger=none"), tmp_path)
    else:
        retrain.run(composed("final", *TINY_TRAIN, "train.epochs=1", "logger=none"), published("snas"), tmp_path)
    assert (tmp_path / "history.jsonl").exists() and not list(tmp_path.rglob("events*"))


@pytest.mark.parametrize(
    "kind, name, message",
    [
        ("relaxations", "x", "register: kind 'relaxations' is unknown; did you mean 'relaxation'"),
        ("relaxation", "softmax", "relaxation 'softmax' is registered by darts.methods.relaxation already"),
    ],
)
def test_a_wrong_registration_is_told(kind, name, message):
    with pytest.raises(UserError, match=message):
        register(kind, name)(type("Mine", (), {"__module__": "mine"}))


def test_a_part_that_lacks_a_value_is_told():
    from dataclasses import make_dataclass

    part = make_dataclass("Mine", [("power", float), ("base", float)])
    with pytest.raises(UserError, match="relaxation 'lacking' lacks a value for base"):
        register("relaxation", "lacking", power=2.0)(part)


ODD = """
from torch import nn
from darts.config.registry import register

register("operation", "no_stride")(lambda channels, stride, affine: nn.Conv2d(channels, channels, 1))
register("operation", "wide")(lambda channels, stride, affine: nn.Conv2d(channels, channels + 1, 1, stride))
register("layer", "no_stride")(lambda inputs, channels, stride, affine: nn.Conv2d(inputs, channels, 1))
register("layer", "narrow")(lambda inputs, channels, stride, affine: nn.Conv2d(inputs, inputs, 1, stride))
register("layer", "three")(lambda inputs, channels, stride: nn.Conv2d(inputs, channels, 1, stride))
register("layer", "nothing")(lambda inputs, channels, stride, affine: None)


class Part(nn.Module):
    def __init__(self, inputs, channels, stride, residual=False, answer=lambda map: map):
        super().__init__()
        self.convolution, self.residual, self.answer = nn.Conv2d(inputs, channels, 1, stride), residual, answer

    def forward(self, x):
        return self.answer(self.convolution(x))


register("layer", "one_image")(lambda inputs, channels, stride, affine: Part(inputs, channels, stride, False, first))
register("layer", "pair")(lambda inputs, channels, stride, affine: Part(inputs, channels, stride, False, pair))
register("layer", "residual")(lambda inputs, channels, stride, affine: Part(inputs, channels, stride, True))


def first(images):
    return images[:1]


def pair(images):
    return images, images


register("layer", "valid")(lambda inputs, channels, stride, affine: nn.Conv2d(inputs, channels, 1, stride))
"""


@pytest.mark.parametrize(
    ("space", "name", "told"),
    [
        (
            "darts",
            "no_stride",
            "operation 'no_stride' with stride 2 makes a map (2, 4, 9, 8) of a map (2, 4, 9, 8); it",
        ),
        (
            "darts",
            "wide",
            "operation 'wide' with stride 1 makes a map (2, 3, 9, 8) of a map (2, 2, 9, 8); it must make",
        ),
        ("nasbench_macro", "no_stride", "layer 'no_stride' with stride 2 makes a map"),
        ("nasbench_macro", "narrow", "layer 'narrow' with stride 2 makes a map"),
        (
            "nasbench_macro",
            "three",
            "layer 'three' is a function of other arguments; it must be one of (input",
        ),
        ("nasbench_macro", "nothing", "layer 'nothing' returns a NoneType; it must return a torch.nn.Module"),
        ("nasbench_macro", "one_image", "layer 'one_image' with stride 2 makes a map (1, "),
        ("nasbench_macro", "pair", "layer 'pair' with stride 2 makes a tuple of a map"),
        ("nasbench_macro", "residual", "layer 'residual' has residual=True; its forward must take a map, and as"),
        ("nasbench_macro", "valid", None),
    ],
)
def test_an_operation_of_another_shape_is_refused_in_a_line(tmp_path, space, name, told):
    (tmp_path / "odd_shapes.py").write_text(ODD)
    given = ["plugins=[odd_shapes]", f"space={space}", f"space.candidates=[skip_connect,{name}]", "hydra.run.dir=run"]
    tiny = [item for item in TINY_SEARCH if space == "darts" or not item.startswith(("space.", "network.cells"))]
    command = [str(ROOT / "train_search.py"), *tiny, *given, "search.epochs=1", "logger=none"]
    done = run_command(command, tmp_path, PYTHONPATH=str(tmp_path))
    if told is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: {told}"), done.stderr


def test_trying_a_shape_leaves_the_module_and_the_random_numbers_as_they_were():
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(2).eval(), torch.nn.Dropout(0.5))
    module[0].training = False
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    built = shape_checked("it", lambda channels, stride, affine: module)(2, 1, True)
    assert torch.equal(torch.rand(1), expected)
    assert [part.training for part in built] == [False, True]
    assert built[0].num_batches_tracked == 0


def test_a_missing_plugin_is_told(tmp_path):
    done = run_command([str(ROOT / "train_search.py"), *TINY, "plugins=[not_there]"], tmp_path)
    assert done.returncode == 2 and "plugins: no module 'not_there'" in done.stderr


def test_a_cell_of_a_missing_plugin_is_refused_with_what_to_add(folder):
    space = composed("search").space
    assert ("operation", "blur") not in registry._modules
    with pytest.raises(UserError, match=r"needs plugins=\[my_plugin\]"):
        find_genotype(str(folder / "found"), space, "runs", 0)
