"""The way to convolve that a GPU is fastest with: measured once, kept by the run, never on a CPU unless asked."""

from __future__ import annotations

import json

import pytest
import torch

from darts.models import layout
from darts.models.layout import CHOICES, STEPS, choose_layout, measured, use
from darts.runtime.device import convolutions
from darts.runtime.errors import UserError

CPU = torch.device("cpu")
DEFAULT, *OTHERS = CHOICES


@pytest.fixture(autouse=True)
def default_after():
    yield
    use(DEFAULT)


def present() -> str:
    ways = {way: name for name, way in CHOICES.items()}
    return ways[convolutions.memory_format, convolutions.own_depthwise, convolutions.kernels]


def fastest_with(*names: str):
    """A clock by which the ways of these names are fast, without running anything."""
    return lambda action: 1.0 if present() in names else 2.0


@pytest.mark.parametrize("name", CHOICES)
def test_the_fastest_way_is_chosen_and_recorded(name, tmp_path):
    choose_layout(CPU, torch.float32, tmp_path, fastest_with(name))
    assert present() == name
    record = json.loads((tmp_path / "layout.json").read_text())
    expected = {way: (1.0 if way == name else 2.0) * len(STEPS) for way in CHOICES}
    assert record == {"device": "cpu", "choice": name, "milliseconds": expected}


def test_a_resumed_run_takes_its_own_choice_and_measures_nothing(tmp_path):
    choose_layout(CPU, torch.float32, tmp_path, fastest_with(OTHERS[1]))
    use(DEFAULT)
    choose_layout(CPU, torch.float32, tmp_path, lambda _: pytest.fail("measured again"))
    assert present() == OTHERS[1]


def test_another_device_is_measured_again(tmp_path):
    choose_layout(CPU, torch.float32, tmp_path, fastest_with(OTHERS[1]))
    file = tmp_path / "layout.json"
    file.write_text(file.read_text().replace('"cpu"', '"another"'))
    choose_layout(CPU, torch.float32, tmp_path, fastest_with(OTHERS[0]))
    assert present() == OTHERS[0]


def test_a_damaged_choice_is_one_line(tmp_path):
    (tmp_path / "layout.json").write_text('{"device": "cpu", "choice": "sideways", "milliseconds": {}}')
    with pytest.raises(UserError, match=r"layout.json.*sideways.*remove it to measure again"):
        choose_layout(CPU, torch.float32, tmp_path, fastest_with(DEFAULT))


def test_a_cpu_is_not_measured_unless_asked(tmp_path):
    choose_layout(CPU, torch.float32, tmp_path)
    assert present() == DEFAULT and not list(tmp_path.iterdir())


def test_a_measurement_leaves_the_process_as_it_was():
    def fail(_):
        raise ZeroDivisionError

    use(OTHERS[0])
    with pytest.raises(ZeroDivisionError):
        measured(CPU, torch.float32, fail)
    assert present() == OTHERS[0]


def test_what_is_timed_is_the_same_in_every_way(monkeypatch):
    monkeypatch.setattr(layout, "BATCH", 2)
    found = {name: [] for name in CHOICES}

    def run(action):
        found[present()].append(action())
        return 1.0

    measured(CPU, torch.float32, run)
    for name in OTHERS:
        for default, other in zip(found[DEFAULT], found[name], strict=True):
            for one, same in zip(default, other, strict=True):
                torch.testing.assert_close(one, same, check_stride=False)
