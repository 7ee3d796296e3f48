"""Every wrong setting is caught at the door: one line that names setting, value and what is allowed."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import darts
from darts.config.arguments import at_home
from darts.config.compose import typed_settings
from darts.config.identity import identity
from darts.runtime.errors import UserError
from darts.spaces.search_space import SearchSpace
from tests.conftest import ROOT, SCHEMAS, composed, configuration
from tests.test_use import draw_pictures

SEARCH, FINAL, COMPARE = "search", "final", "compare"


@pytest.mark.parametrize(
    "command, overrides, message",
    [
        (SEARCH, "seed=-1", r"seed is -1; it must be from 0 to 4294967295"),
        (SEARCH, "search.epochs=0", r"search\.epochs is 0; it must be at least 1"),
        (SEARCH, "search.batch_size=1", r"search\.batch_size is 1; it must be at least 2"),
        (SEARCH, "search.train_fraction=1.0", r"search\.train_fraction is 1\.0; it must be above 0 and below 1"),
        (SEARCH, "search.initial_alpha=-1", r"search\.initial_alpha"),
        (SEARCH, "dataset.fraction=1.5", r"dataset\.fraction is 1\.5; it must be above 0 and at most 1"),
        (SEARCH, "dataset.fraction=0", r"dataset\.fraction"),
        (SEARCH, "dataset.fraction=nan", r"dataset\.fraction is nan"),
        (SEARCH, "dataset.std=[0]", r"dataset\.std"),
        (SEARCH, "dataset.mean=null", r"dataset\.std"),
        (SEARCH, "dataset.image_size=8", r"dataset\.image_size is 8; it must be at least 16"),
        (SEARCH, "dataset=image_folder", r"dataset\.root is missing; give dataset\.root=VALUE"),
        (SEARCH, "+search.epoch=1", r"search: setting 'epoch' is unknown; did you mean 'epochs'"),
        (SEARCH, "+foo=1", r"setting 'foo' is unknown; .*there are: seed, device"),
        (SEARCH, "+foo.bar=1", r"setting 'foo' is unknown"),
        (SEARCH, "+method.relaxation.temperature=1", r"method\.relaxation: setting 'temperature' is unknown"),
        (SEARCH, "network.cells=2", r"network\.cells is 2; it must be from 3"),
        (SEARCH, "network.channels=0", r"network\.channels"),
        (SEARCH, "network.stem_reductions=-1", r"network\.stem_reductions"),
        (SEARCH, "space.nodes=0", r"space\.nodes"),
        (SEARCH, "space.edges_kept=3", r"space\.edges_kept is 3; it must be from 1 to 2"),
        (SEARCH, "space.candidates=[none]", r"space\.candidates"),
        (SEARCH, "space.candidates=[skip_connect,skip_connect]", r"space\.candidates"),
        (SEARCH, "weight_optimiser.learning_rate=0", r"weight_optimiser\.learning_rate"),
        (SEARCH, "weight_optimiser.final_learning_rate=1", r"weight_optimiser\.final_learning_rate"),
        (SEARCH, "weight_optimiser.momentum=1", r"weight_optimiser\.momentum"),
        (SEARCH, "weight_optimiser.clip=0", r"weight_optimiser\.clip"),
        (SEARCH, "weight_optimiser.weight_decay=-1", r"weight_optimiser\.weight_decay"),
        (SEARCH, "architecture_optimiser.beta2=1", r"architecture_optimiser\.beta2"),
        (SEARCH, "architecture_optimiser.learning_rate=inf", r"architecture_optimiser\.learning_rate"),
        (SEARCH, "checkpoint.minutes=0", r"checkpoint\.minutes"),
        (SEARCH, "method=darts_second_order method.hypergradient.scale=0", r"method\.hypergradient\.scale"),
        (SEARCH, "method=darts_second_order weight_optimiser.nesterov=true", r"weight_optimiser\.nesterov"),
        (FINAL, "train.epochs=0", r"train\.epochs"),
        (FINAL, "train.drop_path=1", r"train\.drop_path"),
        (FINAL, "train.cutout=-1", r"train\.cutout"),
        (FINAL, "train.auxiliary_weight=-1", r"train\.auxiliary_weight"),
        (COMPARE, "random.samples=1", r"random\.samples is 1; it must be from 2"),
        (COMPARE, "searched=[]", r"searched is \[\]"),
        (COMPARE, "searched=[darts_v1,darts_v1]", r"searched"),
        ("describe", "input.classes=0", r"input\.classes"),
        ("describe", "input.size=2", r"input\.size is 2; it must be at least 4"),
    ],
)
def test_values_out_of_range(command, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        composed(command, *overrides.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    ["serch.epochs=3", "search.epoch=3", "search.epochs=three", "method=drats",
     "dataset=mnist", "experiment=none", "space=darts2", "seed=null", "dataset.flip=maybe",
     "weight_optimiser.cosine_unit=minute", "method/relaxation=hardmax"],
)  # fmt: skip
def test_what_hydra_refuses_while_composing(overrides):
    with pytest.raises((HydraException, OmegaConfBaseException)):
        composed(SEARCH, overrides)


def leaves(values: dict, prefix: str = ""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


VALUES = ["-1", "0", "nan", "inf", "1e30", "''", "null", "[]", "text", "{}"]


@pytest.mark.parametrize("command", SCHEMAS)
def test_any_value_of_any_number_is_taken_or_refused_in_a_line(command):
    whole = configuration(command)
    flat = dict(leaves(OmegaConf.to_container(whole)))
    numbers = [key for key, value in flat.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    refused = 0
    for name, text in itertools.product(numbers, VALUES):
        changed = copy.deepcopy(whole)
        try:  # as Hydra does with an override
            value = OverridesParser.create().parse_override(f"{name}={text}").value()
            OmegaConf.update(changed, name, value, merge=True)
        except (HydraException, OmegaConfBaseException):
            continue
        try:
            found = typed_settings(changed, SCHEMAS[command])
            found = found.narrowed() if command == SEARCH else found
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            mentioned = (name.split(".")[-1], "image_size", "learning_rate")
            assert any(key in str(error) for key in mentioned), (name, text, str(error))
        else:
            assert not any(isinstance(v, float) and math.isnan(v) for v in identity(found).values())
    assert refused > len(numbers) / 2


@pytest.mark.parametrize("command", ["search", "final", "compare"])
@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml")))
def test_every_key_of_every_experiment_reaches_the_settings(command, name):
    """An experiment must not be overwritten by the command's own defaults."""
    kind = "search" if command == "search" else "final"
    file = ROOT / "conf" / "experiment" / kind / f"{name}.yaml"
    stated = dict(leaves(OmegaConf.to_container(OmegaConf.load(file), resolve=True))) if file.exists() else {}
    found = configuration(command, f"experiment={name}")
    stated.pop("defaults", None)
    stated = {key: value for key, value in stated.items() if not key.startswith("hydra.")}
    for key, value in stated.items():
        expected = float(value) if isinstance(OmegaConf.select(found, key), float) else value
        reached = OmegaConf.select(found, key)
        assert getattr(reached, "name", reached) == expected, key


@pytest.mark.parametrize(
    "given, expected",
    [
        ("dataset.root=~/a", "dataset.root={home}/a"),
        ("dataset.root='~/a b'", "dataset.root='{home}/a b'"),
        ("searched=[~/x,'~/y z']", "searched=[{home}/x,'{home}/y z']"),
        ("runs=~", "runs={home}"),
        ("runs=a~b", "runs=a~b"),
        ("genotype=|none~0|+|none~0|none~1|", "genotype=|none~0|+|none~0|none~1|"),
        ("~logger", "~logger"),
    ],
)
def test_a_tilde_is_the_home_folder(monkeypatch, given, expected):
    """Where a path begins: no shell does so behind a dotted name."""
    monkeypatch.setenv("HOME", "/home/me")
    assert at_home([given]) == [expected.format(home="/home/me")]


def test_a_data_folder_at_home_is_found(tmp_path, monkeypatch):
    draw_pictures(tmp_path / "set")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = darts.run_search(
        "dataset=image_folder", "dataset.root=~/set", "dataset.image_size=16", "search.epochs=1", "runs=~/runs",
        "search.batch_size=4", "network.channels=2", "network.cells=3", "device=cpu", "logger=none",
    )  # fmt: skip
    assert found.folder.is_relative_to(tmp_path / "runs")


def test_the_command_line_wins_over_an_experiment():
    found = composed(SEARCH, "experiment=darts_cifar10", "search.epochs=7", "dataset=fashion_mini")
    assert found.search.epochs == 7 and found.dataset.name == "fashion_mini" and found.network.channels == 16


def test_the_published_search_is_the_published_one():
    found = composed(SEARCH, "experiment=darts_cifar10")
    assert (found.network.channels, found.network.cells, found.network.stem_reductions) == (16, 8, 0)
    assert (found.search.epochs, found.search.batch_size, found.search.train_fraction) == (50, 64, 0.5)
    weights, alpha = found.weight_optimiser, found.architecture_optimiser
    assert (weights.learning_rate, weights.final_learning_rate, weights.momentum) == (0.025, 0.001, 0.9)
    assert (weights.weight_decay, weights.clip, weights.nesterov, weights.cosine_unit.value) == (
        3e-4,
        5,
        False,
        "epoch",
    )
    assert (alpha.learning_rate, alpha.beta1, alpha.beta2, alpha.weight_decay) == (3e-4, 0.5, 0.999, 1e-3)
    assert found.dataset.mean == [0.4914, 0.4822, 0.4465] and found.dataset.std == [0.2470, 0.2435, 0.2616]
    assert (found.dataset.crop_padding, found.dataset.flip, found.search.initial_alpha) == (4, True, 1e-3)
    assert composed(SEARCH, "method=darts_second_order").method.hypergradient.scale == 0.01


def test_the_published_retraining_is_the_published_one():
    found = composed(FINAL, "experiment=darts_cifar10")
    assert (found.network.channels, found.network.cells, found.network.stem_reductions) == (36, 20, 0)
    train, weights = found.train, found.weight_optimiser
    assert (train.epochs, train.batch_size, train.cutout, train.drop_path, train.auxiliary_weight) == (
        600,
        96,
        16,
        0.2,
        0.4,
    )
    assert (weights.learning_rate, weights.final_learning_rate, weights.momentum) == (0.025, 0, 0.9)
    assert (weights.weight_decay, weights.clip, weights.nesterov, weights.cosine_unit.value) == (
        3e-4,
        5,
        False,
        "epoch",
    )


@pytest.mark.parametrize("command", SCHEMAS)
def test_no_setting_has_a_default_in_python(command):
    """Constants stand in conf/ alone, so that none stands twice.

    But for what only a few spaces have: the spaces of plug-ins need not know it, and its default is to have none.
    """
    import dataclasses

    of_few_spaces = {"chain": None, "joins": None, "edge_skips": False}

    def check(settings: object) -> None:
        for field in dataclasses.fields(settings):
            if isinstance(settings, SearchSpace) and field.name in of_few_spaces:
                assert field.default is of_few_spaces[field.name]
                continue
            assert field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING, field.name
            if dataclasses.is_dataclass(getattr(settings, field.name)):
                check(getattr(settings, field.name))

    check(composed(command))


def test_the_readme_names_every_method_and_data_set():
    readme = (ROOT / "README.md").read_text()
    for group in ("method", "dataset"):
        for file in Path(ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{file.stem}`" in readme, file.stem
