"""One search for a front: alpha as a function of the preference, its gradient, what it leaves, and that it resumes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import darts
from darts.compare.devices import genotype_of
from darts.methods.preference import AlongFront
from darts.models.cost import LATENCY, CostModel
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.search import step as search_steps
from darts.search.front import cells_of_preferences
from darts.search.preferences import alpha_at, step_preference
from darts.spaces import nasbench201
from darts.spaces.search_space import InputShape
from tests.conftest import composed
from tests.faults.test_kills import Killed, kill_after
from tests.test_latency import SPACE201, cells, constraints, known, of_text  # noqa: F401  fixtures

SIZE = ["search.epochs=2", "network.channels=2", "network.cells=3", "network.stem_reductions=2"]


def settings(cells, *overrides: str):  # noqa: F811
    table = [f"constraints.latency_table={cells}", "constraints.device=toy"]
    return composed("search", *SPACE201, *SIZE, "method=darts_front", *table, *overrides)


def rule(points: int = 4, weight: float = 0.5) -> AlongFront:
    return AlongFront(points, weight, LATENCY, 0.5, 5, [])


def test_between_two_points_alpha_is_interpolated():
    parameters = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for preference in (0.0, 0.2, 1 / 3, 0.5, 0.9, 1.0):
        found = rule().alpha(parameters, torch.tensor(preference, dtype=torch.float64), None)
        for edge in range(3):
            for column in range(2):
                expected = np.interp(preference, np.linspace(0, 1, 4), parameters[:, edge, column].numpy())
                assert float(found[edge, column]) == pytest.approx(expected, abs=1e-12)


def test_a_step_moves_the_two_points_beside_its_preference(cells, tmp_path):  # noqa: F811
    state = search.start_or_resume(settings(cells), tmp_path)
    state.epoch = state.step = 0
    preference = float(step_preference(state))
    before = {name: matrix.detach().clone() for name, matrix in state.alpha.items()}
    batches = next(state.data.train.shuffled(0)), next(state.data.valid.shuffled(0))
    search_steps.architecture_step(state, *batches)
    gradient = state.alpha["normal"].grad
    points = gradient.abs().sum((1, 2)) > 0
    left = int(preference * 4)
    assert points.nonzero()[:, 0].tolist() == [left, left + 1]
    assert not torch.equal(before["normal"], state.alpha["normal"])
    near = preference * 4 - left
    torch.testing.assert_close(gradient[left] * near, gradient[left + 1] * (1 - near), rtol=1e-4, atol=1e-8)


def test_its_gradient_is_that_of_loss_and_cost_weighed_by_hand(cells, tmp_path):  # noqa: F811
    """Autograd through softmax, supernet and the table's sums, written out here."""
    state = search.start_or_resume(settings(cells, "engine=reference", "method.preference.weight=3"), tmp_path)
    state.supernet.double()
    preference = step_preference(state).double()
    valid = next(state.data.valid.shuffled(0))
    valid = valid._replace(inputs=valid.inputs.double())
    parameters = state.alpha["normal"].detach().double().requires_grad_()
    place = float(preference) * 4
    left = int(place)
    alpha = (1 - (place - left)) * parameters[left] + (place - left) * parameters[left + 1]
    weights = alpha.softmax(-1)
    from darts.models.batch_norm import frozen_statistics
    from darts.models.mixture import dense_mixture

    sums = known(cells).sums.tables["normal"]
    table = torch.tensor(sums)
    cost = (weights * table).sum() / table.amax(1).sum()
    with frozen_statistics(state.supernet):
        logits = state.supernet(valid.inputs, dense_mixture({"normal": weights}))
    loss = torch.nn.functional.cross_entropy(logits, valid.targets)
    (expected,) = torch.autograd.grad((1 - preference) * loss + preference * 3 * cost, parameters)
    for name, matrix in list(state.alpha.items()):
        state.alpha[name] = torch.nn.Parameter(matrix.detach().double())
    problem_loss = search_steps.loss_on(state, valid, of_alpha=True, regularised=True)
    with frozen_statistics(state.supernet):
        total = problem_loss(list(state.supernet.parameters()), list(state.alpha.values()))
    (found,) = torch.autograd.grad(total, list(state.alpha.values()))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_relative_cost_is_0_of_the_cheapest_mixture_and_1_of_the_dearest(cells):  # noqa: F811
    space = composed("search", "space=nasbench201").space
    given = constraints(cells, "toy"), space, InputShape(3, 32, 10), torch.device("cpu"), known(cells)
    model = CostModel(*given, also=[LATENCY])
    none, conv = space.candidates.index("none"), space.candidates.index("nor_conv_3x3")
    sure = torch.eye(5)
    for column, expected in ((none, 0.0), (conv, 1.0), (space.candidates.index("avg_pool_3x3"), 0.5)):
        found = model.relative(LATENCY, {"normal": sure[column].repeat(6, 1)})
        assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def searched(cells, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("front")
    own = ["method.preference.weight=0.5", "architecture_optimiser.learning_rate=0.3", "method.preference.cells=9"]
    return folder, search.run(settings(cells, *own, "search.epochs=4"), folder), own


def test_a_search_leaves_a_front_that_no_cell_of_it_beats(searched):
    folder, genotype, _ = searched
    lines = json.loads((folder / "pareto.json").read_text())
    space = composed("search", "space=nasbench201").space
    assert lines and {"preference", "accuracy", LATENCY, "cells"} <= lines[0].keys()
    costs, accuracies = [line[LATENCY] for line in lines], [line["accuracy"] for line in lines]
    assert costs == sorted(costs) and accuracies == sorted(accuracies)
    for line in lines:
        text = nasbench201.to_string(genotype_of(line["cells"], space))
        assert line[LATENCY] == pytest.approx(of_text(text))
    assert genotype.cells.keys() == {"normal"} and "collapsed" in genotype.provenance


def test_the_dearer_the_preference_for_cost_the_cheaper_the_cells(searched, cells):  # noqa: F811
    folder, _, own = searched
    state = search.start_or_resume(settings(cells, *own, "search.epochs=4"), folder)
    latencies = [
        of_text(nasbench201.to_string(genotype)) for genotype in cells_of_preferences(state, state.costs).values()
    ]
    assert latencies[-1] < latencies[0]
    ends = [alpha_at(state, state.alpha, preference)["normal"] for preference in (0.0, 1.0)]
    assert torch.equal(ends[0], state.alpha["normal"][0]) and torch.equal(ends[1], state.alpha["normal"][-1])


@pytest.mark.parametrize("moment", [1, 4])
def test_a_search_killed_resumes_bit_for_bit(cells, tmp_path, moment, monkeypatch):  # noqa: F811
    own = settings(cells, "checkpoint.minutes=1e-9")
    search.run(own, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_after(patched, search, "search_step", moment)
        search.run(own, tmp_path / "again")
    search.run(own, tmp_path / "again")
    for file in ("history.jsonl", "genotype.json", "pareto.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("method/relaxation=binary_paths", "gives every step an alpha of its own"),
        ("method/hypergradient=single_level", "gives every step an alpha of its own"),
        ("method.preference.points=1", r"method\.preference\.points is 1; it must be from 2 to 1000"),
        (
            "method.preference.cost=time",
            r"method\.preference\.cost is 'time'; it must be parameters, macs,",
        ),
        ("method.preference.chosen=2", r"method\.preference\.chosen is 2\.0; it must be from 0 to 1"),
    ],
)
def test_parts_and_values_that_make_no_sense_are_refused(override, told):
    with pytest.raises(UserError, match=told):
        composed("search", "method=darts_front", override)


def test_a_limit_and_a_cost_that_is_the_same_for_all_cells_are_refused(tmp_path):
    told = r"constraints\.parameters is 1000000\.0; it must be null with method/preference=along_front"
    with pytest.raises(UserError, match=told):
        composed("search", "method=darts_front", "constraints.parameters=1e6")
    free = "space.candidates=[none,skip_connect,avg_pool_3x3]"  # which cost no multiply-add
    with pytest.raises(UserError, match=r"method\.preference\.cost is 'macs'; it must be another cost: this one is"):
        search.start_or_resume(composed("search", *SPACE201, *SIZE, "method=darts_front", free), tmp_path)


def test_one_step_in_ones_own_loop_weighs_the_cost_as_a_search_does():
    """The cost's weight reaches alpha: the same step with more weight on it has a larger gradient."""
    norms = []
    for weight in ("0.001", "1000"):
        own = ["method=darts_front", "space=nasbench201", f"method.preference.weight={weight}", *SIZE]
        loop = darts.Bilevel(*own, channels=1, size=8, classes=3, steps=4)
        torch.manual_seed(0)
        batches = [(torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))) for _ in range(2)]
        loop.step(*batches)
        norms.append(float(loop.alpha["normal"].grad.norm()))
    assert norms[1] > 100 * norms[0]


def test_several_tasks_and_texts_have_no_front():
    for own in (["space=recurrent"], ["tasks=[fashion_mini,spoken_digits_mini]"]):
        with pytest.raises(UserError, match="method/preference is 'along_front'; it must be one_alpha"):
            composed("search", *own, "method=darts_front")


def test_without_a_table_the_cost_is_counted(tmp_path):
    own = [*SPACE201, *SIZE, "search.epochs=1", "method=darts_front", "method.preference.cells=3"]
    for cost, given in (("macs", []), ("parameters", ["method.preference.cost=parameters"])):
        search.run(composed("search", *own, *given), tmp_path / cost)
        lines = json.loads((tmp_path / cost / "pareto.json").read_text())
        assert lines and all(line[cost] > 0 and LATENCY not in line for line in lines)


def test_random_numbers_of_the_preference_are_uniform_and_the_steps_own(cells, tmp_path):  # noqa: F811
    state = search.start_or_resume(settings(cells), tmp_path)
    drawn = []
    for step in range(400):
        state.step = step
        drawn.append(float(step_preference(state)))
        assert drawn[-1] == float(step_preference(state))
    counts, _ = np.histogram(drawn, bins=4, range=(0, 1))
    assert counts.min() > 70 and len(set(drawn)) == 400
