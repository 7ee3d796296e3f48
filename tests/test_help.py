"""`--help` explains every setting of every command in a phrase."""

from __future__ import annotations

import dataclasses
import typing

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from darts.config.help import composed as composed_settings
from darts.config.help import groups, phrases, settings_of
from darts.runtime.errors import UserError
from tests.conftest import ROOT, SCHEMAS, composed, run_command

COMMANDS = {
    "search": [str(ROOT / "train_search.py")],
    "final": [str(ROOT / "train_final.py")],
    **{name: ["-m", f"darts.{name}"] for name in SCHEMAS if name not in ("search", "final")},
}


def schemas():
    """Every settings class that a configuration can hold."""
    found = {}
    waiting = list(SCHEMAS.values())
    for kinds in ConfigStore.instance().repo["schema"].values():
        waiting += [OmegaConf.get_type(entry.node) for entry in kinds.values()]
    while waiting:
        kind = waiting.pop()
        if dataclasses.is_dataclass(kind) and kind.__name__ not in found and kind.__module__.startswith("darts."):
            found[kind.__name__] = kind
            waiting += [hint for hint in typing.get_type_hints(kind).values() if isinstance(hint, type)]
    return list(found.values())


@pytest.mark.parametrize("kind", schemas(), ids=lambda kind: kind.__name__)
def test_every_setting_has_a_phrase(kind):
    known, hints = phrases(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        section = dataclasses.is_dataclass(hints[field.name])  # its class says what it is
        phrase = known.get(field.name) or (section and hints[field.name].__doc__)
        assert phrase and len(phrase) > 5, f"{kind.__name__}.{field.name}: write a comment behind the field"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_prints_every_setting_with_its_value_and_its_meaning(command, tmp_path):
    done = run_command([*COMMANDS[command], "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed=0" in done.stdout and "of all random numbers" in done.stdout
    assert "schema" not in done.stdout and not list(tmp_path.iterdir())


def test_help_says_what_is_allowed_and_how_to_begin(tmp_path):
    shown = " ".join(run_command([*COMMANDS["final"], "--help"], tmp_path).stdout.split())
    assert "train.epochs=12 passes over the training images [at least 1]" in shown
    assert f"examples: python {ROOT}/train_final.py genotype=darts_v2 " in shown and "for_method" not in shown
    runs = run_command(["-m", "darts.runs", "--help"], tmp_path).stdout
    assert "experiment" not in runs and "cluster" not in runs and "python -m darts.runs kind=search" in runs


@pytest.mark.parametrize(
    ("topic", "wanted"),
    [
        ("search.epochs", "search.epochs=3 passes over the training split [at least 1]"),
        ("weight_optimiser", "weight_optimiser.momentum=0.9 of stochastic gradient descent [at least 0 and below 1]"),
        ("method/relaxation", "dirichlet: Weights drawn from Dirichlet(elu(alpha) + 1)"),
        ("method.channels", "method/channels=NAME, one of:"),
        ("recipe", "published: As DARTS' networks are retrained"),
    ],
)
def test_one_setting_or_group_is_explained_by_itself(topic, wanted, tmp_path):
    done = run_command([*COMMANDS["search"], "-h", topic], tmp_path)
    assert done.returncode == 0 and wanted in " ".join(done.stdout.split()), done.stdout
    assert "seed=0" not in done.stdout


def test_what_a_check_allows_is_what_its_error_says():
    """By the error itself: a value that is refused is refused in the words that help prints."""
    wrong = {
        "search.epochs": 0,
        "search.train_fraction": 2,
        "weight_optimiser.momentum": 1,
        "architecture_optimiser.beta2": 1,
        "budget.minutes": -1,
    }
    found = {described.name: described.allowed for described in settings_of(composed_settings("search"))}
    for setting, value in wrong.items():
        with pytest.raises(UserError) as error:
            composed("search", f"{setting}={value}")
        assert str(error.value).startswith(f"{setting} is ") and str(error.value).endswith(found[setting])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "search.epoch=3",
            "setting 'search.epoch' is unknown; did you mean 'search.epochs'? there are: search.epochs, ",
        ),
        (
            "netwrk.channels=3",
            "setting 'netwrk.channels' is unknown; did you mean 'network.channels'? --help lists all ",
        ),
        ("method=dart", "method 'dart' is unknown; did you mean 'darts'? there are: beta_darts, "),
        ("method/relaxation=softmx", "method/relaxation 'softmx' is unknown; did you mean 'softmax'? there are: "),
        ("-h nothing", "setting 'nothing' is unknown; --help lists all "),
    ],
)
def test_an_unknown_name_is_told_the_nearest_one(given, told, tmp_path):
    done = run_command([*COMMANDS["search"], *given.split()], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {told}"), done.stderr
    assert done.stderr.count("\n") == 1 and "+" not in done.stderr


def test_help_is_about_the_parts_that_are_chosen(tmp_path):
    done = run_command([*COMMANDS["search"], "--help", "method=pc_darts", "search.epochs=7"], tmp_path)
    assert "method.channels.k=[4]" in done.stdout and "search.epochs=7" in done.stdout
    wrong = run_command([*COMMANDS["search"], "--help", "method=none_such"], tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ")


def test_the_groups_are_the_folders_of_the_configuration():
    assert groups()["method/relaxation"] == sorted(
        file.stem for file in (ROOT / "conf" / "method" / "relaxation").glob("*.yaml")
    )
    assert not any(name.startswith(("schema", "hydra")) for name in groups())
    assert [name for name in groups() if name.startswith("experiment/")] == ["experiment/describe"]


def test_help_knows_a_folder_of_ones_own(tmp_path):
    (tmp_path / "mine" / "space").mkdir(parents=True)
    text = (ROOT / "conf" / "space" / "s2.yaml").read_text()
    (tmp_path / "mine" / "space" / "my_space.yaml").write_text(text)
    done = run_command([*COMMANDS["search"], "--config-dir", "mine", "--help", "space=my_space"], tmp_path)
    assert done.returncode == 0 and "space.candidates=[skip_connect, sep_conv_3x3]" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "topic, word", [("resume", "latest, or the folder of a run"), ("hydra.run.dir", "same folder")]
)
def test_what_is_typed_beside_settings_is_explained_too(topic, word, tmp_path):
    done = run_command([*COMMANDS["search"], "-h", topic], tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f"{topic}: ") and word in done.stdout
