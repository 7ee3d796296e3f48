"""Fronts of several devices by one search: alpha's dependence on a device, its gradient, its fronts, unseen ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import darts
from darts.blackbox.pareto import dominates
from darts.compare.devices import genotype_of
from darts.methods.preference import AlongFront
from darts.models.batch_norm import frozen_statistics
from darts.models.cost import LATENCY
from darts.models.mixture import dense_mixture
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.search.front import cells_of_preferences
from darts.search.preferences import alpha_at, scores_at, step_device, step_preference
from darts.spaces import nasbench201
from tests.conftest import composed, run_command
from tests.faults.test_kills import Killed, kill_after
from tests.test_latency import MILLISECONDS, SPACE201, TEXTS, write_cells

SIZE = ["search.epochs=2", "network.channels=2", "network.cells=3", "network.stem_reductions=2"]
SLOW_POOLS = {"none": 0.0, "skip_connect": 0.1, "nor_conv_1x1": 2.0, "nor_conv_3x3": 3.0, "avg_pool_3x3": 9.0}
BETWEEN = {name: (MILLISECONDS[name] + SLOW_POOLS[name]) / 2 for name in MILLISECONDS}
DEVICES = {"phone": MILLISECONDS, "board": SLOW_POOLS, "between": BETWEEN}


def of_text(text: str, device: str) -> float:
    """An additive latency: 1 ms, and of each edge its operation's, more on later edges."""
    names = [part.split("~")[0] for part in text.replace("+", "").split("|") if part]
    return 1.0 + sum((1 + edge / 10) * DEVICES[device][name] for edge, name in enumerate(names))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "devices.csv"
    rows = [",".join([text, *(str(of_text(text, device)) for device in DEVICES)]) for text in TEXTS]
    path.write_text("\n".join([",".join(["arch", *DEVICES]), *rows]))
    return path


def settings(table: Path, *overrides: str, device: str = "phone", devices: str = "[phone,board]"):
    given = [f"constraints.latency_table={table}", f"constraints.device={device}"]
    own = ["method=darts_front", f"method.preference.devices={devices}"]
    return composed("search", *SPACE201, *SIZE, *own, *given, *overrides)


def scaled_of(device: str) -> np.ndarray:
    """What candidates add to the relative cost, from the operations' own milliseconds."""
    candidates = composed("search", "space=nasbench201").space.candidates
    table = np.array([[(1 + edge / 10) * DEVICES[device][name] for name in candidates] for edge in range(6)])
    return (table - table.min(1, keepdims=True)) / (table.max(1) - table.min(1)).sum()


def test_alpha_is_a_common_part_and_a_gain_times_the_cost():
    numbers = torch.Generator().manual_seed(0)
    parameters = torch.randn(2, 4, 3, 2, generator=numbers, dtype=torch.float64)
    cost = torch.rand(3, 2, generator=numbers, dtype=torch.float64)
    rule = AlongFront(4, 0.5, LATENCY, 0.5, 5, ["a", "b"])
    assert rule.shape(3, 2) == (2, 4, 3, 2)
    for preference, edge, column in itertools.product((0.0, 0.2, 1 / 3, 1.0), range(3), range(2)):
        points = np.linspace(0, 1, 4)
        common, gain = (np.interp(preference, points, own[:, edge, column].numpy()) for own in parameters)
        found = rule.alpha(parameters, torch.tensor(preference, dtype=torch.float64), cost)[edge, column]
        assert float(found) == pytest.approx(common + 3 * gain * float(cost[edge, column]), abs=1e-12)


def test_scaled_tables_add_up_to_the_relative_cost(table, tmp_path):
    state = search.start_or_resume(settings(table), tmp_path)
    assert list(state.devices) == ["phone", "board"]
    for device, costs in state.devices.items():
        own = costs.scaled[LATENCY]["normal"]
        np.testing.assert_allclose(own.numpy(), scaled_of(device), atol=1e-5)
        scores = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)).softmax(-1)
        assert float((scores * own).sum()) == pytest.approx(
            float(costs.relative(LATENCY, {"normal": scores})), abs=1e-6
        )


def test_its_gradient_is_that_of_loss_and_the_drawn_devices_cost_by_hand(table, tmp_path):
    """Autograd through softmax, supernet and the operations' own milliseconds, written out here, on both devices."""
    state = search.start_or_resume(settings(table, "engine=reference", "method.preference.weight=3"), tmp_path)
    state.supernet.double()
    valid = next(state.data.valid.shuffled(0))
    valid = valid._replace(inputs=valid.inputs.double())
    for costs in state.devices.values():  # float32 tables of the fit: its own rounding is not what is tested
        costs.tables = {LATENCY: {kind: own.double() for kind, own in costs.tables[LATENCY].items()}}
        costs.scaled = {LATENCY: {kind: own.double() for kind, own in costs.scaled[LATENCY].items()}}
    for name, matrix in list(state.alpha.items()):
        state.alpha[name] = torch.nn.Parameter(matrix.detach().double())
    seen = set()
    for state.step in range(6):
        device = list(state.devices)[int(step_device(state))]
        seen.add(device)
        preference = step_preference(state).double()
        parameters = state.alpha["normal"].detach().requires_grad_()
        cost = torch.tensor(scaled_of(device))
        left, place = int(float(preference) * 4), float(preference) * 4
        common, gain = (1 - (place - left)) * parameters[:, left] + (place - left) * parameters[:, left + 1]
        weights = (common + gain * 6 * cost).softmax(-1)
        with frozen_statistics(state.supernet):
            logits = state.supernet(valid.inputs, dense_mixture({"normal": weights}))
        loss = torch.nn.functional.cross_entropy(logits, valid.targets)
        whole = (1 - preference) * loss + preference * 3 * (weights * cost).sum()
        (expected,) = torch.autograd.grad(whole, parameters)
        loss_of = search_steps.loss_on(state, valid, of_alpha=True, regularised=True)
        with frozen_statistics(state.supernet):
            total = loss_of(list(state.supernet.parameters()), list(state.alpha.values()))
        (found,) = torch.autograd.grad(total, list(state.alpha.values()))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert seen == {"phone", "board"}


def test_every_step_draws_one_of_the_devices_whatever_its_preference(table, tmp_path):
    state = search.start_or_resume(settings(table), tmp_path)
    drawn = []
    for state.step in range(400):
        drawn.append((int(step_device(state)), float(step_preference(state))))
        assert int(step_device(state)) == drawn[-1][0]
    numbers = np.array(drawn)
    assert 160 < numbers[:, 0].sum() < 240
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.15


OWN = ["method.preference.weight=2", "architecture_optimiser.learning_rate=0.3", "method.preference.cells=9"]


@pytest.fixture(scope="module")
def searched(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fronts")
    search.run(settings(table, *OWN, "search.epochs=4", device="between"), folder)
    return folder


def test_a_search_leaves_a_front_of_every_device_and_of_one_that_it_never_drew(searched, table):
    fronts = json.loads((searched / "fronts.json").read_text())
    assert list(fronts) == ["between", "phone", "board"]
    assert fronts["between"] == json.loads((searched / "pareto.json").read_text())
    space = composed("search", "space=nasbench201").space
    for device, lines in fronts.items():
        for line in lines:
            text = nasbench201.to_string(genotype_of(line["cells"], space))
            assert line[LATENCY] == pytest.approx(of_text(text, device))
        assert not any(dominates(a, b, [LATENCY]) for a, b in itertools.permutations(lines, 2))
    assert (searched / "cells" / "fronts.png").exists()


def test_devices_have_cells_of_their_own(searched, table):
    """Pools are dear on one device and cheap on the other: where cost counts alone, only the cheap ones stay."""
    state = search.start_or_resume(settings(table, *OWN, "search.epochs=4", device="between"), searched)
    pool = state.settings.space.candidates.index("avg_pool_3x3")
    weights = {}
    for device, costs in {"between": state.costs, **state.devices}.items():
        scores = scores_at(state, 1.0, costs.scaled[LATENCY])["normal"]
        weights[device] = float(scores[:, pool].mean())
        slowest = [of_text(nasbench201.to_string(cell), device) for cell in cells_of_preferences(state, costs).values()]
        assert slowest[-1] < slowest[0]
    assert weights["board"] < weights["between"] < weights["phone"]
    judged = alpha_at(state, state.alpha)["normal"]
    own = alpha_at(state, state.alpha, 0.5, state.costs.scaled[LATENCY])["normal"]
    torch.testing.assert_close(judged, own, rtol=0, atol=0)


@pytest.mark.parametrize("moment", [1, 4])
def test_a_search_killed_resumes_bit_for_bit(table, tmp_path, moment, monkeypatch):
    own = settings(table, "checkpoint.minutes=1e-9", "method.preference.cells=3")
    search.run(own, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_after(patched, search, "search_step", moment)
        search.run(own, tmp_path / "again")
    search.run(own, tmp_path / "again")
    for file in ("history.jsonl", "genotype.json", "pareto.json", "fronts.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("devices", "more", "told"),
    [
        ("[phone]", [], r"method\.preference\.devices is \['phone'\]; it must be \[\], or two or more different names"),
        ("[phone,phone]", [], r"devices is \['phone', 'phone'\]; it must be \[\], or two or more different"),
        (
            "[phone,board]",
            ["method.preference.cost=macs"],
            r"preference\.cost is 'macs'; it must be latency_ms or null",
        ),
        (
            "[phone,board]",
            ["constraints.latency_table=null", "constraints.device=null"],
            r"devices is \['phone', 'board'\]; it must be \[\] without constraints\.latency_table",
        ),
    ],
)
def test_devices_that_make_no_sense_are_refused(table, devices, more, told):
    with pytest.raises(UserError, match=told):
        settings(table, *more, devices=devices)


def test_a_device_that_the_table_lacks_is_named(table, tmp_path):
    told = r"method\.preference\.devices is 'tablet'; it must be a column of constraints\.latency_table: phone, board"
    with pytest.raises(UserError, match=told):
        search.start_or_resume(settings(table, devices="[phone,tablet]"), tmp_path)


def test_a_column_that_is_the_same_for_all_cells_is_named_by_its_setting(table, tmp_path):
    lines = [f"{line},{'flat' if line.startswith('arch') else 7}" for line in table.read_text().splitlines()]
    (tmp_path / "flat.csv").write_text("\n".join(lines))
    told = r"method\.preference\.devices is 'flat'; it must be a column of different numbers, not 7 for all"
    with pytest.raises(UserError, match=told):
        search.start_or_resume(settings(tmp_path / "flat.csv", devices="[phone,flat]"), tmp_path / "run")


def test_a_comparison_names_an_unknown_device_before_it_searches(table, tmp_path):
    accuracies = write_cells(tmp_path / "accuracies.csv", ["arch", "valid", "tested"], TEXTS, accuracies=True)
    given = ["space=nasbench201", f"benchmark.table={accuracies}", "benchmark.column=tested", "scored_by=table"]
    given += [f"constraints.latency_table={table}", "constraints.device=phone", "budget.evaluations=5", "seeds=[0,1]"]
    given += ["benchmark.searched_by=valid", "hydra.run.dir=run", "allow_underpowered=true"]
    method = "darts_front method.preference.devices=[phone,tablet]"
    done = run_command(["-m", "darts.compare", *given, f"methods=['{method}']"], tmp_path)
    assert done.returncode == 2 and not (tmp_path / "run" / "searches").exists()
    told = f"error: methods: '{method}': method.preference.devices is 'tablet'; it must be a column of"
    assert done.stderr.splitlines()[-1].startswith(told), done.stderr


def test_a_loop_of_ones_own_learns_for_devices_too(table):
    own = [f"constraints.latency_table={table}", "constraints.device=phone", "method.preference.devices=[phone,board]"]
    loop = darts.Bilevel("method=darts_front", "space=nasbench201", *SIZE, *own, channels=1, size=8, classes=3, steps=4)
    assert loop.alpha["normal"].shape == (2, 5, 6, 5)
    loop.step(*[(torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))) for _ in range(2)])
    assert all(float(own.abs().sum()) > 0 for own in loop.alpha["normal"].grad)
