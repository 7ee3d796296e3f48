"""Relaxations, regularisers, perturbations, schedules and discretisation against numbers of the authors' own code."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch

from darts.methods import (
    channels,
    discretisation,
    edge_extras,
    hypergradient,
    perturbation,
    regularisers,
    relaxation,
    schedule,
    stopping,
    weight_gradient,
)
from darts.models.mixture import Moment
from darts.models.supernet import MixedOperation
from darts.search.loop import stage_learning_rate
from darts.search.state import widened
from tests.conftest import composed, space_of
from tests.golden_inputs import CLOSE, EIGHT, SEVEN, cases, edges_of, golden, series, tensor, wave

ALL = torch.ones(14, 8, dtype=torch.bool)


def at_epoch(epoch: int, epochs: int) -> Moment:
    return Moment((epoch + 0.5) / epochs, epoch, epochs)


def by_epoch(value, epochs: int) -> list[float]:
    return [float(value(at_epoch(epoch, epochs))) for epoch in range(epochs)]


def named(case: object) -> str:
    return "-".join(str(case[key]) for key in ("name", "kind", "k", "criterion", "shape", "noise") if key in case)


# DARTS


@pytest.mark.parametrize("case", cases("darts", "genotypes"), ids=named)
def test_golden_darts_genotype(case):
    if case["kind"] == "wave":
        scores = relaxation.Softmax().scores(wave((14, 8), case["k"], case["scale"]), ALL)
    else:  # many exact ties
        rows = [[((3 * e + 5 * o + 7 * case["k"]) % case["modulus"]) / 2 for o in range(8)] for e in range(14)]
        exponents = [[math.exp(value) for value in row] for row in rows]
        scores = tensor([[value / math.fsum(row) for value in row] for row in exponents])
    cell = discretisation.StrongestEdges().genotype({"normal": scores}, EIGHT).cells["normal"]
    assert edges_of(cell) == case["cell"]


class Analytic:
    """The bilevel problem of darts.json and idarts.json."""

    def __init__(self, learning_rate: float, decay: float, buffer: bool):
        found = golden("darts")
        self.first, self.second = tensor(found["A"]), tensor(found["B"])
        self.index = torch.arange(1, 6).double()
        w, alpha = tensor(found["w"]).requires_grad_(), tensor(found["alpha"]).requires_grad_()
        buffers = [tensor(found["buffer"]) if buffer else None]
        self.problem = hypergradient.Problem(
            lambda w, a: self.train(w[0], a[0]), lambda w, a: self.valid(w[0], a[0]), [w], [alpha], buffers,
            learning_rate, 0.9, decay,
        )  # fmt: skip

    def train(self, w, alpha):
        z = self.first @ alpha.sin() + w
        bowl = (0.5 * z**2 + 0.3 * (w * self.index).cos()).sum()
        return bowl + 0.2 * (w.sum() * alpha.sum()).sin() + 0.1 * (w**4).sum()

    def valid(self, w, alpha):
        z = w - self.second @ alpha.tanh()
        bowl = (1 + z**2).log().sum() + 0.25 * (w**2).sum() * alpha[0].exp()
        return bowl + 0.5 * (alpha[1] * w[0] + alpha[2] * w[4]).cos()


@pytest.mark.parametrize("case", cases("darts", "gradients"), ids=named)
def test_golden_darts_gradient(case):
    rule = hypergradient.FirstOrder() if case["name"] == "first_order" else hypergradient.FiniteDifference(0.01)
    problem = Analytic(case["learning_rate"], case["weight_decay"], case["buffer"]).problem
    (found,), _ = rule(problem)
    torch.testing.assert_close(found, tensor(case["d_alpha"]), rtol=0, atol=1e-8)
    alpha = torch.nn.Parameter(problem.alpha[0].detach().clone())
    alpha.grad = found
    torch.optim.Adam([alpha], 3e-4, (0.5, 0.999), weight_decay=1e-3).step()
    torch.testing.assert_close(alpha.detach(), tensor(case["alpha_after_adam_3e-4"]), **CLOSE)


def test_golden_darts_learning_rate():
    rule = composed("search", "experiment=darts_cifar10").weight_optimiser
    stage = schedule.Stage(0, 0, 50)
    found = [stage_learning_rate(rule, stage, epoch, 0.5) for epoch in range(50)]
    assert found == pytest.approx(golden("darts")["learning_rate_by_epoch_50"], abs=1e-12)


# PC-DARTS


@pytest.mark.parametrize("case", cases("pc_darts", "mixtures"), ids=named)
def test_golden_pc_darts_mixture(case):
    alpha, beta = wave((14, 8), case["k"]), wave((1, 14), 100 + case["k"])[0]
    method = composed("search", "method=pc_darts", "network.channels=4").method
    named_alpha = {"normal": alpha, "reduction": alpha, "edges/normal": beta, "edges/reduction": beta}
    found = method.mixture(named_alpha, {"normal": ALL, "reduction": ALL}, at_epoch(0, 1), EIGHT)["normal"].weights
    edges, candidates = tensor(case["edges"]), alpha.softmax(-1)
    torch.testing.assert_close(found[:, -1], edges, **CLOSE)  # the channels that bypass the mixed operation
    torch.testing.assert_close(candidates[0], tensor(case["candidates_edge0"]), **CLOSE)
    torch.testing.assert_close(candidates[13], tensor(case["candidates_edge13"]), **CLOSE)
    torch.testing.assert_close(found[0, :8], edges[0] * candidates[0], **CLOSE)
    assert float(found[:, :8].square().sum()) == pytest.approx(case["edge_times_candidate_sum_of_squares"], abs=1e-9)


@pytest.mark.parametrize("case", cases("pc_darts", "genotypes"), ids=named)
def test_golden_pc_darts_genotype(case):
    alpha = wave((14, 8), case["k"], case["scale_alpha"])
    beta = wave((14,), 100 + case["k"], case["scale_beta"])
    scores = alpha.softmax(-1) * channels.edge_softmax(beta, EIGHT, torch.ones(14, dtype=torch.bool))[:, None]
    cell = discretisation.StrongestEdges().genotype({"normal": scores}, EIGHT).cells["normal"]
    assert edges_of(cell) == case["cell"]


class Scaled(torch.nn.Module):
    """Multiplies by a constant; at stride 2 it takes every second pixel first."""

    def __init__(self, factor: float, stride: int):
        super().__init__()
        self.factor, self.stride = factor, stride

    def forward(self, x):
        return self.factor * x[:, :, :: self.stride, :: self.stride]


@pytest.mark.parametrize("case", cases("pc_darts", "partial_channels", "cases"))
def test_golden_pc_darts_partial_channels(case):
    factors, weights = wave((8,), 70), wave((8,), 71).softmax(0)
    operations = {column: Scaled(float(factors[column]), case["stride"]) for column in range(8)}
    edge = MixedOperation(operations, 4, case["stride"])
    found = edge(wave((1, case["channels"], 4, 4), 72), torch.cat([weights, torch.ones(1).double()]))
    assert list(found.shape) == case["output_shape"]
    torch.testing.assert_close(found[0, :, 0, 0], tensor(case["output_at_0_0"]), **CLOSE)
    torch.testing.assert_close(found.sum((0, 2, 3)), tensor(case["output_sums"]), **CLOSE)


# DrNAS


@pytest.mark.parametrize("case", cases("drnas", "kl_reg_scale_1e-3"), ids=named)
def test_golden_drnas_anchor(case):
    pair = [wave((14, 7), k, case["scale"]).requires_grad_() for k in (case["k"], 50 + case["k"])]
    value = regularisers.Anchor(1e-3)(pair, at_epoch(0, 1))
    normal, reduction = torch.autograd.grad(value, pair)
    assert float(value.detach()) == pytest.approx(case["value"], abs=1e-9)
    torch.testing.assert_close(normal[0], tensor(case["gradient_normal_row0"]), **CLOSE)
    torch.testing.assert_close(normal[13], tensor(case["gradient_normal_row13"]), **CLOSE)
    assert float(reduction.norm()) == pytest.approx(case["gradient_norm_reduce"], abs=1e-9)


@pytest.mark.parametrize("option", ["l2", "kl"])
def test_golden_drnas_pull_on_alpha(option):
    """Weight decay or the divergence, never both; by default the decay."""
    case = golden("drnas")["regulariser"][option]
    extra = {"l2": [], "kl": ["+method/regularisers@method.regularisers.anchor=anchor",
                              "architecture_optimiser.weight_decay=0"]}[option]  # fmt: skip
    settings = composed("search", "method=drnas", *extra)
    pair = [wave((14, 7), k).requires_grad_() for k in (1, 51)]
    pull = [settings.architecture_optimiser.weight_decay * alpha.detach() for alpha in pair]
    terms = [term(pair, at_epoch(0, 1)) for term in settings.method.regularisers.values()]
    if terms:
        pull = [p + g for p, g in zip(pull, torch.autograd.grad(sum(terms), pair), strict=True)]
    torch.testing.assert_close(pull[0][0], tensor(case["pull_row0"]), **CLOSE)
    assert float(pull[0].norm()) == pytest.approx(case["pull_norm"], abs=1e-9)


@pytest.mark.parametrize("case", cases("drnas", "genotypes"), ids=named)
def test_golden_drnas_genotype(case):
    method = composed("search", "method=drnas").method
    scores = method.relaxation.scores(wave((14, 7), case["k"], case["scale"]), ALL[:, :7])
    cell = method.discretisation.genotype({"normal": scores}, SEVEN).cells["normal"]
    assert edges_of(cell, SEVEN) == case["cell"]


@pytest.mark.parametrize("case", cases("drnas", "pruning_7_to_4"), ids=named)
def test_golden_drnas_pruning(case):
    part, alpha = relaxation.Dirichlet(), wave((14, 7), case["k"], case["scale"])
    scores = {"normal": part.scores(alpha, ALL[:, :7]).tolist()}
    kept = schedule.weakest_gone(seen(25, scores, SEVEN), 4)["normal"]
    assert [[column for column in range(7) if row[column]] for row in kept] == case["kept"]
    after = part.scores(alpha, torch.tensor(kept))
    cell = discretisation.StrongestEdges().genotype({"normal": after}, SEVEN).cells["normal"]
    assert edges_of(cell, SEVEN) == case["cell_after"]


def test_golden_drnas_learning_rate():
    settings = composed("search", "experiment=drnas_cifar10", "method=drnas_progressive")
    stages = settings.method.schedule.stages(50, SEVEN)
    found = []
    for epoch in range(50):
        stage = stages[0] if epoch < 25 else stages[1]
        found.append(stage_learning_rate(settings.weight_optimiser, stage, epoch, 0.0))
    assert found == pytest.approx(golden("drnas")["learning_rate_by_epoch"], abs=1e-9)
    moves = golden("drnas")["alpha_moves_from_epoch_of_each_stage"]
    assert [25 * stage.alpha_frozen_fraction for stage in stages] == [moves, moves]


def test_golden_drnas_widening():
    case = golden("drnas")["widening"]
    columns, rows = (torch.tensor(case[key]) for key in ("copied_input_channel", "copied_output_channel"))
    for name, k in (("weight_after", 3), ("momentum_after", 4)):
        torch.testing.assert_close(widened(widened(wave((2, 2), k), 1, columns), 0, rows), tensor(case[name]), **CLOSE)


# SmoothDARTS


class Smooth:
    """The loss of sdarts.json in the mixture of one cell type."""

    def __init__(self, k: int):
        self.factors, self.start = wave((14, 8), 200 + k), wave((14, 8), k).softmax(-1)
        self.edge = torch.arange(14).double()[:, None]

    def __call__(self, matrices):
        mixture = matrices["normal"]
        return (self.factors * mixture).sum(-1).square().sum() + 0.3 * (3 * mixture + self.edge).sin().sum()


def given_noise(monkeypatch, k: int, epsilon: float) -> None:
    """Uniform numbers whose noise is the file's; the product scales them to (-epsilon, epsilon)."""
    monkeypatch.setattr(torch, "rand_like", lambda like: (wave((14, 8), 300 + k) + 1) / 2)


@pytest.mark.parametrize(
    "case", cases("sdarts", "adversarial"), ids=lambda c: f"{c['k']}-{c['epsilon']}-{c['random_start']}"
)
def test_golden_sdarts_adversarial(case, monkeypatch):
    given_noise(monkeypatch, case["k"], case["epsilon"])
    loss = Smooth(case["k"])
    part = perturbation.AdversarialSmoothing(case["epsilon"], case["epsilon"], 7, case["random_start"])
    moved = part({"normal": loss.start}, perturbation.PerturbationProblem(loss), at_epoch(0, 1))["normal"]
    assert float(loss({"normal": loss.start})) == pytest.approx(case["loss_before"], abs=1e-9)
    assert float(loss({"normal": moved})) == pytest.approx(case["loss_after"], abs=1e-9)
    torch.testing.assert_close(moved[0], tensor(case["row0"]), **CLOSE)
    torch.testing.assert_close(moved[13], tensor(case["row13"]), **CLOSE)
    torch.testing.assert_close(moved.square().sum(1), tensor(case["edge_weight_sums_of_squares"]), **CLOSE)
    torch.testing.assert_close(moved.sum(0), tensor(case["column_sums"]), **CLOSE)


@pytest.mark.parametrize("case", cases("sdarts", "random"), ids=lambda c: f"{c['k']}-{c['epsilon']}")
def test_golden_sdarts_random(case, monkeypatch):
    given_noise(monkeypatch, case["k"], case["epsilon"])
    loss = Smooth(case["k"])
    part = perturbation.RandomSmoothing(case["epsilon"], case["epsilon"])
    moved = part({"normal": loss.start}, perturbation.PerturbationProblem(loss), at_epoch(0, 1))["normal"]
    torch.testing.assert_close(moved[0], tensor(case["row0"]), **CLOSE)
    torch.testing.assert_close(moved[13], tensor(case["row13"]), **CLOSE)
    torch.testing.assert_close(moved.square().sum(1), tensor(case["edge_weight_sums_of_squares"]), **CLOSE)


@pytest.mark.parametrize("name", ["clip", "clip_of_row_without_positive"])
def test_golden_sdarts_clip(name):
    case = golden("sdarts")[name]
    there = {"normal": torch.full((1, 8), 0.125).double()}
    found = perturbation.normalised({"normal": tensor([case["row"]])}, there)["normal"]
    torch.testing.assert_close(found[0], tensor(case["after"]), **CLOSE)


def test_golden_sdarts_epsilon():
    part = composed("search", "method=sdarts_rs").method.perturbation
    assert by_epoch(part.epsilon, 50) == pytest.approx(golden("sdarts")["epsilon_by_epoch_50"], abs=1e-12)


# R-DARTS


def curvature(case, epoch: int) -> float:
    shape = case["shape"]
    base = {"linear": 0.1 + 0.01 * epoch, "exp3": 0.1 * 1.03**epoch, "exp5": 0.1 * 1.05**epoch, "flat": 0.2,
            "sine": 0.15 + 0.1 * math.sin(epoch / 5)}  # fmt: skip
    value = base[shape] if shape in base else (0.5 if epoch >= int(shape.removeprefix("jump")) else 0.1)
    return value * math.exp(case["noise"] * series(epoch, 400 + case["k"]))


@pytest.mark.parametrize("case", cases("r_darts", "cases"), ids=named)
def test_golden_darts_es_stops(case):
    rule = composed("search", "method=darts_es").method.stopping
    assert isinstance(rule, stopping.EigenvalueGrowth)
    history, stop = [], None
    assert [curvature(case, epoch) for epoch in range(3)] == pytest.approx(case["series_first3"], abs=1e-12)
    for epoch in range(50):
        due = epoch % rule.eigenvalue_every == 0
        history.append({"epoch": epoch + 1, **({"eigenvalue": curvature(case, epoch)} if due else {})})
        chosen = rule.chosen_epoch(history)
        if chosen is not None:
            stop = [epoch, chosen - 1]
            break
    assert stop == case["stop"]


# SNAS and GDAS


def test_golden_snas_temperature():
    part = composed("search", "method=snas").method.relaxation
    assert by_epoch(part.temperature, 150) == pytest.approx(golden("snas")["temperature_by_epoch_150"], abs=1e-12)


@pytest.mark.parametrize("case", cases("snas", "mixtures"), ids=named)
def test_golden_snas_mixture(case, monkeypatch):
    uniform = (wave((14, 8), 500 + case["k"]) + 1.02) / 2.04
    monkeypatch.setattr(relaxation, "gumbel_noise", lambda like: -(-uniform.log()).log())
    part = relaxation.Gumbel(case["temperature"], case["temperature"], relaxation.Decay.LINEAR)
    found = part.weights(wave((14, 8), case["k"]), ALL, at_epoch(0, 1)).weights
    torch.testing.assert_close(found[0], tensor(case["row0"]), **CLOSE)
    torch.testing.assert_close(found[13], tensor(case["row13"]), **CLOSE)
    assert float(found.square().sum()) == pytest.approx(case["sum_of_squares"], abs=1e-9)


@pytest.mark.parametrize("case", cases("snas", "genotypes_all_edges_none_allowed"), ids=named)
def test_golden_snas_genotype(case):
    settings = composed("search", "experiment=snas_cifar10", "method=snas")
    space = settings.space
    scores = settings.method.relaxation.scores(wave((14, 8), case["k"], case["scale"]), ALL)
    cell = settings.method.discretisation.genotype({"normal": scores}, space).cells["normal"]
    assert [[space.candidates.index(edge.operation) for edge in edges] for edges in cell.nodes] == case["cell"]
    assert all([edge.source for edge in edges] == list(range(len(edges))) for edges in cell.nodes)


@pytest.mark.parametrize("rule", ["gdas", "gdas_v1"])
@pytest.mark.parametrize("case", cases("gdas", "cases"), ids=lambda c: f"{c['nodes']}-{c['k']}")
def test_golden_gdas_gradient(case, rule, monkeypatch):
    edges = 1 if case["nodes"] == 2 else 6
    factors, k = wave((edges, 5), 600 + case["k"]), case["k"]
    monkeypatch.setattr(relaxation, "gumbel_noise", lambda like: wave((edges, 5), 800 + k, 1.5))
    part = dataclasses.replace(
        composed("search", f"method={rule}").method.relaxation, start=case["tau"], end=case["tau"]
    )
    alpha = wave((edges, 5), 700 + k, 0.8).requires_grad_()
    mixture = part.weights(alpha, torch.ones(edges, 5, dtype=torch.bool), at_epoch(0, 1))
    assert [columns[0] for columns in mixture.computed] == case["drawn"]
    states, edge = [torch.ones(1, 1, 1, 1).double()], 0
    for node in range(1, case["nodes"]):
        total = torch.zeros(1).double()
        for source in range(node):
            operations = {column: Scaled(float(factors[edge, column]), 1) for column in range(5)}
            mixed = MixedOperation(operations, 1, 1)
            total = total + mixed(states[source], mixture.weights[edge], mixture.columns_of(edge), mixture.rest_added)
            edge += 1
        states.append(total)
    output = states[-1].sum()
    loss = output if case["nodes"] == 2 else (output - 0.5) ** 2
    expected = case["forward_gdas" if rule == "gdas" else "forward_gdas_v1"]
    assert float(output.detach()) == pytest.approx(expected["output"], abs=1e-9)
    (found,) = torch.autograd.grad(loss, alpha)
    torch.testing.assert_close(found, tensor(expected["d_alpha"]), **CLOSE)


def test_golden_gdas_temperature():
    part = composed("search", "method=gdas").method.relaxation
    assert by_epoch(part.temperature, 250) == pytest.approx(golden("gdas")["temperature_by_epoch_250"], abs=1e-12)


# P-DARTS, FairDARTS, DARTS-, beta-DARTS


def seen(epoch: int, scores, space, active=None, memory=None, accuracy=None, distributions=None):
    active = active or {kind: space.allowed(kind) for kind in scores}
    judged = (accuracy, lambda genotype, batches: 0.0)
    return schedule.Observation(
        epoch, space, active, scores, distributions or scores, memory or {}, random.Random(0), *judged
    )


@pytest.mark.parametrize("case", cases("p_darts", "cases"), ids=named)
def test_golden_p_darts_stages(case):
    mask, masks = ALL.clone(), []
    for stage, keep in enumerate((5, 3, None)):
        alpha = wave((14, 8), 100 * stage + case["k"])
        alpha[:, 3] += 0.8
        scores = relaxation.Softmax().scores(alpha, mask)
        if keep is not None:
            rows = {"normal": mask.tolist()}
            mask = torch.tensor(
                schedule.weakest_gone(seen(1, {"normal": scores.tolist()}, EIGHT, rows), keep)["normal"]
            )
            masks.append([[column for column in range(8) if row[column]] for row in mask.tolist()])
    assert masks == [case["kept_after_stage_1"], case["kept_after_stage_2"]]
    plain = discretisation.StrongestEdges().genotype({"normal": scores}, EIGHT).cells["normal"]
    few = discretisation.FewSkips(2).genotype({"normal": scores}, EIGHT).cells["normal"]
    for cell, expected in ((plain, case["unrestricted"]), (few, case["at_most_2_skips"])):
        found = edges_of(cell)
        assert [sorted(found[i : i + 2], key=lambda e: e[1]) for i in range(0, 8, 2)] == [
            expected[i : i + 2] for i in range(0, 8, 2)
        ]


@pytest.mark.parametrize(("stage", "rate"), [(1, "0.4"), (2, "0.7")])
def test_golden_p_darts_dropout(stage, rate):
    part = composed("search", "method=p_darts").method.edge_extras
    found = [part.dropout(stage, epoch, 25, 0.4) for epoch in range(25)]
    assert found == pytest.approx(golden("p_darts")["skip_dropout_by_epoch_of_stage"][rate], abs=1e-12)
    assert isinstance(part, edge_extras.SkipDropout) and part.rates == golden("p_darts")["published_rates"]


@pytest.mark.parametrize("case", cases("fair_darts", "zero_one"), ids=named)
def test_golden_fair_darts_zero_one(case):
    pair = [wave((14, 7), k, case["scale"]).requires_grad_() for k in (case["k"], 50 + case["k"])]
    value = regularisers.ZeroOne(case["weight"])(pair, at_epoch(0, 1))
    assert float(value.detach()) == pytest.approx(case["term"], abs=1e-9)
    gradients = torch.autograd.grad(value, pair)
    torch.testing.assert_close(gradients[0][0], tensor(case["gradient_normal_row0"]), **CLOSE)
    assert [float(g.norm()) for g in gradients] == pytest.approx(case["gradient_norms"], abs=1e-9)


@pytest.mark.parametrize("case", cases("fair_darts", "cells"), ids=named)
def test_golden_fair_darts_cell(case):
    rule = composed("search", "method=fair_darts").method
    assert rule.discretisation.least == golden("fair_darts")["threshold"]
    scores = rule.relaxation.scores(wave((14, 7), case["k"], case["scale"]), ALL[:, :7])
    cell = rule.discretisation.genotype({"normal": scores}, SEVEN).cells["normal"]
    found = []
    for node, edges in enumerate(cell.nodes):
        found += [[SEVEN.candidates.index(edge.operation), node + 2, edge.source] for edge in edges]
    kept_alone = [
        edge for edge in found if edge not in case["edges"]
    ]  # a node's last edge stays here: see docs/methods.md
    assert sorted(edge for edge in found if edge not in kept_alone) == sorted(case["edges"])
    for _, node, _ in kept_alone:
        assert not [edge for edge in case["edges"] if edge[1] == node]


def test_golden_darts_minus_coefficient():
    part = composed("search", "method=darts_minus").method.edge_extras
    expected = golden("darts_minus")["coefficient_by_epoch"]["linear"]
    assert by_epoch(lambda moment: part.weights(moment)[0], 50) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", cases("beta_darts", "penalty"), ids=named)
def test_golden_beta_darts_penalty(case):
    alpha = wave((6, 5), case["k"], case["scale"]).requires_grad_()
    value = regularisers.LogSumExp(1.0, 1)([alpha], Moment(1.0, 1, 2))
    assert float(value.detach()) == pytest.approx(case["value"], abs=1e-9)
    torch.testing.assert_close(torch.autograd.grad(value, alpha)[0], tensor(case["gradient"]), **CLOSE)


@pytest.mark.parametrize("epochs", [50, 100])
def test_golden_beta_darts_weight(epochs):
    term = composed("search", "method=beta_darts").method.regularisers["log_sum_exp"]
    alpha = [torch.zeros(6, 5).double()]  # logsumexp is log 5
    expected = golden("beta_darts")["weight_by_epoch"][:epochs]
    assert by_epoch(lambda m: term(alpha, m) / math.log(5), epochs) == pytest.approx(expected, abs=1e-9)


# SGAS


def sgas_alpha(k: int, epoch: int, held: torch.Tensor, still: list[bool]) -> torch.Tensor:
    rows = []
    for e in range(14):
        rows.append([0.04 * epoch * series(8 * e + o, k) + 0.3 * math.sin(0.37 * epoch + 8 * e + o) for o in range(8)])
    moved = tensor(rows)
    return torch.where(torch.tensor(still)[:, None], held, moved)


@pytest.mark.parametrize("case", cases("sgas", "cases"), ids=named)
def test_golden_sgas_decisions(case):
    history = golden("sgas")["settings"]["history"] if case["criterion"] == 2 else 0
    rule = composed("search", "method=sgas", f"method.schedule.history={history}").method.schedule
    active, memory = {"normal": [[True] * 8 for _ in range(14)]}, {}
    alpha, decisions = torch.zeros(14, 8).double(), []
    for epoch in range(45):
        still = [sum(row) <= 1 for row in active["normal"]]
        alpha = sgas_alpha(case["k"], epoch, alpha, still)  # what is decided keeps its alpha
        mask = torch.tensor(active["normal"])
        scores = {"normal": relaxation.softmax(alpha, mask).tolist()}
        whole = {"normal": alpha.softmax(-1).tolist()}
        looked = seen(epoch + 1, scores, EIGHT, active, memory, distributions=whole)
        before, (active, memory) = active, rule.decide(looked, 45)
        changed = [e for e in range(14) if before["normal"][e] != active["normal"][e]]
        if changed:
            decided = [e for e in changed if sum(active["normal"][e]) == 1]
            decisions.append(
                (epoch, decided[0], active["normal"][decided[0]].index(True), sorted(set(changed) - set(decided)))
            )
    expected = [(d["epoch"], d["edge"], d["candidate"], d["pruned"]) for d in case["decisions"]]
    assert decisions == expected


def test_golden_sgas_holds_what_is_decided():
    assert composed("search", "method=sgas").method.schedule.holds_decided


# OLES


def test_golden_oles_freezes():
    found = golden("oles")
    rule = composed("search", "method=oles").method.weight_gradient
    assert (rule.threshold, rule.steps) == (found["threshold"], 20)
    names = {(j, i): f"cells.0.edges.0.operations.{j + 2}.{i}.weight" for j in range(6) for i in range(2)}
    shapes = [(4, 3), (5,)]

    def train(j: int, i: int, step: int) -> torch.Tensor:
        return wave(shapes[i], 2000 + 400 * j + 200 * i + step)

    candidates = ["none", "skip_connect", *(f"operation {j}" for j in range(6))]
    memory, frozen_after, agreed = {}, {}, {j: [] for j in range(6)}
    for step in range(found["steps"]):
        valid = {}
        for (j, i), name in names.items():
            key = 2000 + 400 * j + 200 * i + step
            before = train(j, i, step - 1) if step else torch.zeros(shapes[i]).double()
            valid[name] = found["operations"][j]["share"] * before + wave(shapes[i], key + 100)
        if memory.get("previous"):
            for name, value in weight_gradient.agreements(memory["previous"], valid).items():
                agreed[int(name.split(".")[-2]) - 2].append(value)
        sums, count, frozen = rule.watched(candidates, valid, memory)
        for name in frozen:
            frozen_after.setdefault(int(name.split(".")[-2]) - 2, step)
        previous = {name: train(j, i, step) for (j, i), name in names.items()}
        memory = {"previous": previous, "agreement": sums, "agreements": count, "frozen": frozen}
    for operation in found["operations"]:
        assert agreed[operation["j"]][:21] == pytest.approx(operation["agreement_steps_1_to_21"], abs=1e-9)
        assert frozen_after.get(operation["j"]) == operation["frozen_after_step"]


# DARTS-PT


@pytest.mark.parametrize("case", cases("darts_pt", "runs"), ids=lambda c: str(c["s"]))
def test_golden_darts_pt_decisions(case):
    c = {kind: wave((14, 7), 1200 + case["s"] + shift) for kind, shift in (("normal", 0), ("reduction", 50))}
    d = {kind: wave((14, 7), 1300 + case["s"] + shift) for kind, shift in (("normal", 0), ("reduction", 50))}

    def judged(kind: str):
        def accuracy(active) -> float:
            mask = tensor(active[kind])
            wiggle = 5 * math.sin(float((d[kind] * mask).sum()))
            return 50 + float((c[kind] * mask).sum()) + wiggle + 2 * float((3 * (d[kind] * mask).sum(-1)).cos().sum())

        return accuracy

    class First(random.Random):
        def choice(self, values):
            return values[0]

    rule = composed("search", "method=darts_pt").method.schedule
    for kind, name in (("normal", "normal"), ("reduction", "reduce")):
        active, found = {kind: SEVEN.allowed(kind)}, []
        for epoch in range(100):
            looked = seen(50 + epoch, active, SEVEN, active, accuracy=judged(kind))
            before, (active, _) = active, rule.decide(dataclasses.replace(looked, generator=First()), 50)
            found += decision(before[kind], active[kind])
        assert found == case["decisions"][name]


def decision(before, after) -> list[list]:
    """What an epoch decided, as the file writes it."""
    changed = [edge for edge in range(14) if before[edge] != after[edge]]
    if not changed:
        return []
    if any(after[changed[0]]):
        return [["operation", changed[0], after[changed[0]].index(True)]]
    node = next(n for n in range(4) if changed[0] in SEVEN.incoming(n))
    return [["edges", node, [edge for edge in SEVEN.incoming(node) if any(after[edge])]]]


def test_golden_darts_pt_tuning():
    found, settings = golden("darts_pt")["tuning"], composed("search", "method=darts_pt", "search.epochs=50")
    _, tuning = settings.method.schedule.stages(50, SEVEN)
    assert tuning.last - tuning.first == found["epochs_at_interval_5"]
    assert tuning.rate == found["learning_rate_factor"] and tuning.fresh_momentum
    assert (tuning.alpha_frozen_fraction == 0) == found["alpha_trained_while_tuning"]


# iDARTS, Lambda-DARTS, ProxylessNAS


@pytest.mark.parametrize("case", cases("idarts", "cases"), ids=lambda c: str(c["learning_rate"]))
def test_golden_idarts_gradient(case):
    rule = composed("search", "method=idarts").method.hypergradient
    assert rule.terms == case["terms"] and rule.inner_steps == golden("idarts")["inner_weight_steps_default"]["1shot1"]
    (found,), _ = rule(Analytic(case["learning_rate"], 0.0, buffer=False).problem)
    torch.testing.assert_close(found, tensor(case["d_alpha"]), rtol=0, atol=1e-5)  # both by central differences
    torch.testing.assert_close(found, tensor(case["d_alpha_exact_mixed_product"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", cases("lambda_darts", "directions"), ids=lambda c: str(c["cells"]))
def test_golden_lambda_darts_direction(case):
    first = int(case["k_of_cell_l"].split("+")[0])
    found = weight_gradient.alignment_direction(
        torch.stack([wave((14, 8), first + cell) for cell in range(case["cells"])])
    )
    torch.testing.assert_close(found.flatten(1).norm(dim=1), tensor(case["norms"]), **CLOSE)
    torch.testing.assert_close(found[0, 0], tensor(case["cell0_row0"]), **CLOSE)
    torch.testing.assert_close(found[-1, 13], tensor(case["last_row13"]), **CLOSE)


def test_golden_lambda_darts_weight():
    expected = golden("lambda_darts")["lambda_by_epoch_50_of_0.125"]
    assert by_epoch(lambda moment: 0.125 * moment.to_last_epoch, 50) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", cases("proxyless", "cases"), ids=named)
def test_golden_proxyless_alpha_step(case, monkeypatch):
    k = case["k"]
    alpha, factors = wave((1, 7), 960 + k, 1.5).requires_grad_(), wave((7,), 950 + k)
    chosen, opened = torch.full((1, 7), -50.0).double(), torch.full((1, 7), -50.0).double()
    chosen[0, case["pair"]] = 50.0  # noise by which the pair and the open one of it are drawn
    opened[0, case["open"]] = 50.0

    def weights():
        noises = iter([chosen, opened])
        monkeypatch.setattr(relaxation, "gumbel_noise", lambda like: next(noises))

    part, active = relaxation.BinaryPaths(), torch.ones(1, 7, dtype=torch.bool)
    weights()
    mixture = part.weights(alpha, active, at_epoch(0, 1))
    found = golden("proxyless")
    x, target = tensor(found["input"]), tensor(found["target"])
    output = sum(mixture.weights[0, column] * factors[column] * x for column in mixture.computed[0])
    loss = ((output - target) ** 2).sum()
    assert float(loss.detach()) == pytest.approx(case["loss"], abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, alpha)
    torch.testing.assert_close(gradient[0], tensor(case["d_alpha"]), **CLOSE)
    weights()
    after = part.rescaled(alpha.detach(), (alpha - 0.1 * gradient).detach(), active)
    expected = tensor(case["alpha_after_step_of_0.1_times_gradient_and_rescaling"])
    torch.testing.assert_close(after[0], expected, **CLOSE)


def test_golden_proxyless_draws():
    """The probabilities of the file are exact: 60,000 draws stay within 4.5 standard errors."""
    found, draws = golden("proxyless")["pairs"], 60_000
    torch.manual_seed(0)
    alpha = wave((1, 7), 970, 1.5).expand(draws, 7)
    active, part = torch.ones(draws, 7, dtype=torch.bool), relaxation.BinaryPaths()
    two = part.weights(alpha, active, at_epoch(0, 1))
    pairs = torch.tensor(two.computed)
    drawn = {"weight": part.training_weights(alpha, active, at_epoch(0, 1)).weights, "alpha": two.weights.round()}
    for step, matrix in drawn.items():
        expected = tensor(found[f"probability_of_open_path_in_{step}_step"])
        error = (expected * (1 - expected) / draws).sqrt()
        assert ((matrix.mean(0) - expected).abs() < 4.5 * error).all(), step
    for pair, probability in found["probability_of_pair"].items():
        first, second = map(int, pair.split(","))
        rate = float(((pairs[:, 0] == first) & (pairs[:, 1] == second)).double().mean())
        assert abs(rate - probability) < 4.5 * math.sqrt(probability * (1 - probability) / draws), pair


# Random search with weight sharing


def test_golden_random_weight_sharing_draws_none_and_every_pair_of_inputs_alike():
    found, draws = golden("sampling")["random_weight_sharing"], 4000
    method = composed("search", "method=random_weight_sharing").method
    torch.manual_seed(0)
    masks = dict.fromkeys(("normal", "reduction"), ALL)
    alpha = {kind: torch.zeros(14, 8).double() for kind in masks}
    candidates, pairs = torch.zeros(8), {}
    for _ in range(draws):
        weights = method.training_candidates(alpha, masks, at_epoch(0, 1), EIGHT)["normal"].weights
        candidates += weights.sum(0)
        sources = [source for source in range(3) if weights[EIGHT.incoming(1)[source]].sum() > 0]
        pairs[str(sources)] = pairs.get(str(sources), 0) + 1
    rates = (candidates / candidates.sum()).tolist()
    for name, rate in found["candidates_drawn"].items():
        assert abs(rates[EIGHT.candidates.index(name)] - rate) < 4.5 * math.sqrt(0.125 * 0.875 / (8 * draws)) + 0.003
    for pair, rate in found["input_pairs_of_node_3"].items():
        assert abs(pairs[pair] / draws - rate) < 4.5 * math.sqrt(2 / 9 / draws) + 0.005


def test_golden_random_weight_sharing_choice():
    found = golden("sampling")["random_weight_sharing"]
    rule = composed("search", "method=random_weight_sharing").method.schedule
    rescored = []

    def accuracy(i: int, batches: int | None) -> float:
        if batches is None:
            rescored.append(i)
            return -(10 + 5 * math.sin(3 * i + 2))
        return -(10 + 5 * math.sin(12.9898 * (i + 1) + 0.37 * (i + 1) ** 2))

    assert rule.best_of(range(found["drawn_per_round"]), accuracy) == found["chosen"]
    assert rescored == found["rescored"]


# The spaces of RobustDARTS


@pytest.mark.parametrize("name", ["s1", "s2", "s3", "s4"])
@pytest.mark.parametrize("kind", ["normal", "reduction"])
def test_golden_robust_darts_space(name, kind):
    space, found = composed("search", f"space={name}").space, golden("spaces")
    for row, expected in zip(space.allowed(kind), found["spaces"][name][kind], strict=True):
        names = {candidate for candidate, there in zip(space.candidates, row, strict=True) if there}
        assert names == {found["operations"][index] for index in expected}


def test_golden_space_is_that_of_the_files():
    assert space_of("darts", 4, 2, EIGHT.candidates).edges() == EIGHT.edges() and len(EIGHT.edges()) == 14
    expected = [0.7127628475884777, 0.7275430511196532, -0.9937232799047533]
    assert wave((14, 8), 0)[0, :3].tolist() == pytest.approx(expected, abs=1e-15)
