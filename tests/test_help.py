"""`--help` explains every setting of every command in a phrase."""

from __future__ import annotations

import dataclasses
import typing

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from darts.config.help import groups, phrases
from tests.conftest import ROOT, SCHEMAS, run_command

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


def test_help_is_about_the_parts_that_are_chosen(tmp_path):
    done = run_command([*COMMANDS["search"], "--help", "method=pc_darts", "search.epochs=7"], tmp_path)
    assert "method.channels.k=[4]" in done.stdout and "search.epochs=7" in done.stdout
    wrong = run_command([*COMMANDS["search"], "--help", "method=none_such"], tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ")


def test_the_groups_are_the_folders_of_the_configuration():
    assert groups()["method/relaxation"] == sorted(
        file.stem for file in (ROOT / "conf" / "method" / "relaxation").glob("*.yaml")
    )
    assert not any(name.startswith(("schema", "hydra", "experiment/")) for name in groups())


def test_help_knows_a_folder_of_ones_own(tmp_path):
    (tmp_path / "mine" / "space").mkdir(parents=True)
    text = (ROOT / "conf" / "space" / "s2.yaml").read_text()
    (tmp_path / "mine" / "space" / "my_space.yaml").write_text(text)
    done = run_command([*COMMANDS["search"], "--config-dir", "mine", "--help", "space=my_space"], tmp_path)
    assert done.returncode == 0 and "space.candidates=[skip_connect, sep_conv_3x3]" in done.stdout, done.stderr
