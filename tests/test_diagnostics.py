"""What is measured of a search, and what its result may cost."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from darts.methods.relaxation import softmax
from darts.models.cost import CostModel
from darts.runtime.errors import UserError
from darts.runtime.seeding import generator
from darts.search import epoch_end as search_record
from darts.search import loop as search
from darts.search.diagnostics import changes, collapsed, discrete_mixture, dominant_eigenvalue, entropy
from darts.search.state import reference_supernet
from darts.spaces.published import published
from darts.spaces.search_space import InputShape
from tests.conftest import TINY, TINY_SEARCH, composed

pytestmark = pytest.mark.pictures


def test_entropy_is_log_of_the_candidates_where_nothing_is_decided():
    assert entropy(torch.full((3, 8), 1 / 8)) == pytest.approx(math.log(8))
    assert entropy(torch.tensor([[1.0, 0, 0], [0, 0, 0]])) == 0


def test_lanczos_finds_the_largest_eigenvalue_of_a_known_matrix():
    draws = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 30, generator=draws, dtype=torch.float64)
    matrix = matrix + matrix.T
    found = dominant_eigenvalue(lambda x: matrix @ x, torch.zeros(30).double(), generator(0, "test"), steps=30)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-6)


def test_the_eigenvalue_of_a_search_is_that_of_the_dense_hessian(tmp_path):
    settings = composed("search", *TINY_SEARCH, "space.nodes=1", "search.initial_alpha=0.5")
    state = search.start_or_resume(settings, tmp_path)
    found = search_record.eigenvalue(state)  # through a plain twin of the fused supernet
    state.supernet = reference_supernet(state)
    batch = next(iter(state.data.valid.mixed()))
    loss, weights = search_record.loss_on(state, batch), [w.detach() for w in state.supernet.parameters()]
    shape = state.alpha["normal"].shape

    def of_vector(vector):
        return loss(weights, [part.view(shape) for part in vector.chunk(2)])

    at = torch.cat([matrix.detach().flatten() for matrix in state.alpha.values()])
    dense = torch.autograd.functional.hessian(of_vector, at)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)


def test_costly_diagnostics_come_when_they_are_due_and_are_drawn(tmp_path):
    settings = composed("search", *TINY_SEARCH, "diagnostics.gap_every=1", "diagnostics.eigenvalue_every=2")
    search.run(settings, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(-1 <= line["gap"] <= 1 for line in lines) and ["eigenvalue" in line for line in lines] == [
        False,
        True,
        False,
    ]
    assert all(line["changes/normal"] >= 0 for line in lines[1:]) and "changes/normal" not in lines[0]
    assert (tmp_path / "cells" / "diagnostics.svg").stat().st_size > 0
    state = search.start_or_resume(settings, tmp_path)
    genotype = state.genotype()
    state.alpha = {
        kind: torch.nn.Parameter(1e4 * matrix) for kind, matrix in
        discrete_mixture(genotype, settings.space, state.scores()).items()
    }  # fmt: skip
    assert search_record.recorded_genotype(lines[-1], settings.space) == genotype


def test_the_gap_is_none_where_the_mixture_is_discrete_already(tmp_path):
    settings = composed("search", *TINY, "search.batch_size=16", "space=nasbench201", "diagnostics.gap_every=1")
    state = search.start_or_resume(settings, tmp_path)
    genotype = state.genotype()
    undecided = search_record.validation_metrics(state, state.deterministic_mixture())
    selected = search_record.validation_metrics(state, search_record.selecting(state, genotype))
    assert selected["loss"] != undecided["loss"]
    with torch.no_grad():
        for kind, matrix in discrete_mixture(genotype, settings.space, state.scores()).items():
            state.alpha[kind].copy_(1e4 * matrix)
    decided = search_record.validation_metrics(state, state.deterministic_mixture())
    assert decided == selected
    assert dict(search_record.costly_metrics(state, genotype, decided["accuracy"]))["gap"] == 0


def test_changes_count_the_edges_that_are_new():
    assert changes([[0, "a", 0], [0, "b", 1]], [[0, "b", 1], [0, "a", 0]]) == 0
    assert changes([[0, "a", 0], [0, "b", 1]], [[0, "b", 1], [0, "c", 0]]) == 1


@pytest.fixture(params=["darts", "nasbench201", "s1"])
def model(request):
    limits = ["constraints.parameters=1e5", "constraints.macs=1e6", "network.stem_reductions=0"]
    settings = composed("search", f"space={request.param}", *limits)
    return CostModel(settings.constraints, settings.space, InputShape(3, 16, 10), torch.device("cpu"))


def test_the_expected_cost_of_a_genotype_that_is_sure_is_its_own(model):
    genotype = model.space.sample(random.Random(5))
    like = {kind: torch.zeros(len(model.space.edges()), len(model.space.candidates)) for kind in model.space.cell_types}
    sure = discrete_mixture(genotype, model.space, like)
    model.kept = torch.ones(len(model.space.edges()))  # the chosen edges alone have weights: each is sure
    for name, value in model.expected(sure).items():
        assert float(value) == pytest.approx(model.measured(genotype)[name], rel=1e-6)


def test_the_expected_cost_is_the_mean_over_drawn_genotypes(model):
    uniform = {kind: torch.tensor(model.space.allowed(kind)).float() for kind in model.space.cell_types}
    expected = {name: float(value) for name, value in model.expected(uniform).items()}
    drawn = [model.rest["parameters"] + model._on_edges("parameters", model.space.sample(random.Random(seed)))
             for seed in range(3000)]  # fmt: skip
    spread = torch.tensor(drawn).std() / len(drawn) ** 0.5
    assert abs(torch.tensor(drawn).mean() - expected["parameters"]) < 4 * spread + 1


def test_the_penalty_moves_alpha_to_cheaper_candidates_and_vanishes_below_the_limit(model):
    alpha = {
        kind: torch.zeros(len(model.space.edges()), len(model.space.candidates), requires_grad=True)
        for kind in model.space.cell_types
    }
    model.limits = {"parameters": 0.8 * float(model.expected(softmaxed(alpha, model))["parameters"]), "macs": 1e12}
    optimiser = torch.optim.Adam(alpha.values(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        penalty = model.penalty(softmaxed(alpha, model))
        if float(penalty) > 0:
            penalty.backward()
            optimiser.step()
    assert float(penalty) == 0
    assert float(model.expected(softmaxed(alpha, model))["parameters"]) <= model.limits["parameters"]


def softmaxed(alpha, model):
    return {kind: softmax(matrix, torch.tensor(model.space.allowed(kind))) for kind, matrix in alpha.items()}


def test_the_check_names_what_is_over_and_keeps_the_result(tmp_path):
    with pytest.raises(UserError, match=r"constraints.parameters allows 10; .*genotype.json; raise constraints.weight"):
        search.run(composed("search", *TINY_SEARCH, "constraints.parameters=10"), tmp_path)
    found = json.loads((tmp_path / "genotype.json").read_text())
    assert found["provenance"]["costs"]["parameters"] > 10


def test_a_cell_of_skip_connections_is_a_collapse_and_the_published_one_is_not():
    space = composed("search", "space=nasbench201").space
    names = space.candidates
    scores = {"normal": torch.zeros(6, len(names))}
    scores["normal"][:4, names.index("skip_connect")] = 1
    scores["normal"][4:, names.index("nor_conv_3x3")] = 1
    discretisation = composed("search").method.discretisation
    assert collapsed(discretisation.genotype(scores, space))
    scores["normal"][2, names.index("nor_conv_3x3")] = 2
    scores["normal"][3, names.index("nor_conv_3x3")] = 2
    assert not collapsed(discretisation.genotype(scores, space))
    assert not any(collapsed(published(name)) for name in ("darts_v1", "darts_v2", "pdarts", "pc_darts"))
