"""Zero-cost scores, black-box strategies and Lambda-DARTS against numbers of the authors' own code."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from torch import nn

from darts.blackbox import strategies
from darts.blackbox.exchange import Answer, Cost, Ledger, Scorer, exchange
from darts.blackbox.proxies import PROXIES
from darts.blackbox.settings import Proxy
from darts.blackbox.strategy import Pool, Request
from darts.loop.settings import Budget
from darts.methods import weight_gradient
from darts.models.mixture import Moment, dense_mixture
from darts.spaces.genotype import Genotype
from darts.spaces.nasbench201 import from_string, to_string
from darts.spaces.variation import neighbours, path_code
from darts.tasks.task import Batch
from tests.conftest import composed
from tests.golden_inputs import CLOSE, cases, golden, tensor, wave

# Zero-cost scores


class Small(nn.Module):
    """The network of zero_cost.json, with a branch that leads nowhere or without it."""

    def __init__(self, dead_branch: bool):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.linear, self.relu1, self.relu2 = nn.Linear(6, 3), nn.ReLU(), nn.ReLU()
        tensors = [self.conv1.weight, self.conv2.weight, self.linear.weight, self.linear.bias]
        self.dead = None
        if dead_branch:
            self.conv3, self.dead = nn.Conv2d(4, 4, 1, bias=False), nn.ReLU()
            tensors.append(self.conv3.weight)
        self.double()
        for number, weight in enumerate(tensors):
            weight.data = wave(tuple(weight.shape), 1500 + number, 0.5)

    def forward(self, x):
        x = self.relu1(self.norm1(self.conv1(x)))
        if self.dead is not None:
            self.dead(self.conv3(x))
        x = self.relu2(self.norm2(self.conv2(x)))
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("case", cases("zero_cost", "nets"), ids=lambda case: f"dead={case['dead_branch']}")
@pytest.mark.parametrize("name", ["SYNFLOW", "SNIP", "GRAD_NORM", "JACOB_COV", "NASWOT"])
def test_golden_zero_cost_score(name, case):
    batch = Batch(wave((8, 3, 8, 8), 1600), torch.arange(8) % 3)
    network = Small(case["dead_branch"]).train()
    expected = case["log_SYNFLOW" if name == "SYNFLOW" else name]
    assert PROXIES[Proxy[name]](network, batch) == pytest.approx(expected, abs=1e-9)


# Codes, neighbours and local search on NAS-Bench-201

OPERATIONS = golden("blackbox_nasbench201")["operations_order"]  # the authors', which is not this project's


@pytest.fixture(scope="module")
def space():
    return composed("search", "space=nasbench201").space


def operations(genotype: Genotype) -> list[int]:
    """A cell's operations by edge, as the authors number them."""
    return [OPERATIONS.index(edge.operation) for edges in genotype.cells["normal"].nodes for edge in edges]


def number(genotype: Genotype) -> int:
    """The cell's operations as a number of which the first is the lowest digit."""
    return sum(operation * 5**place for place, operation in enumerate(operations(genotype)))


def loss(genotype: Genotype) -> float:
    """What local search of the file goes down."""
    n = number(genotype)
    return 50 + 30 * math.sin(0.001 * n) + 15 * math.sin(0.37 * n) + 5 * math.sin(2.1 * n)


@pytest.mark.parametrize("case", cases("blackbox_nasbench201", "cells"), ids=lambda case: str(case["number"]))
def test_golden_paths(case):
    """Paths with none are left out here; the authors' encoding gives them bits as well."""
    genotype = from_string(case["cell"])
    assert number(genotype) == case["number"] and operations(genotype) == case["adjacency"]
    expected = {f"normal/0>{path.replace('-', '>')}" for path in case["paths"] if "none" not in path.split("-")}
    assert path_code(genotype) == dict.fromkeys(expected, 1.0)


@pytest.mark.parametrize("case", cases("blackbox_nasbench201", "cells"), ids=lambda case: str(case["number"]))
def test_golden_neighbours(case, space):
    found = [to_string(other) for other in neighbours(from_string(case["cell"]), space)]
    assert len(set(found)) == len(found) == case["neighbours"]
    assert set(found[:4]) == set(case["first_neighbours"])  # at the first edge


class EndError(Exception):
    """A local search has ended and would begin again."""


WHOLE = [case for case in cases("blackbox_nasbench201", "local_search") if case["whole_neighbourhood"]]


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: str(case["numbers_evaluated_first_30"][0]))
def test_golden_local_search(case, space, monkeypatch):
    """The whole neighbourhood is looked at, in the authors' order; their search by first improvement is not here."""
    starts = [from_string(case["start"])]

    def drawn(draws: random.Random) -> Genotype:
        if not starts:
            raise EndError
        return starts.pop()

    def in_order(genotypes: list[Genotype], draws: random.Random) -> list[Genotype]:
        """Edge by edge, as `neighbours` has them, and the operations of each as the authors list them."""
        found = []
        for edge in range(6):
            found += sorted(genotypes[4 * edge : 4 * edge + 4], key=lambda other: operations(other)[edge])
        return found

    evaluated = []

    def evaluate(key: str, request: Request) -> Answer:
        evaluated.append(request.genotype)
        return Answer(-loss(request.genotype), {}, Cost())

    monkeypatch.setattr(strategies, "shuffled", in_order)
    asking = strategies.LocalSearch("local_search").ask(Pool(space, drawn, lambda genotype: True), random.Random(0))
    scorer = Scorer(lambda genotype, share: (-loss(genotype), {}), exact=True)
    with pytest.raises(EndError):
        list(exchange(asking, scorer, evaluate, Ledger(Budget(1000, None, None, None))))
    assert [number(genotype) for genotype in evaluated[:30]] == case["numbers_evaluated_first_30"]
    assert len(evaluated) == case["evaluations"]
    end = min(evaluated, key=loss)  # nothing that it looks at is better than where it ends
    assert to_string(end) == case["ends_at"] and loss(end) == pytest.approx(case["loss"], abs=1e-9)


# Regularised evolution


class Draws:
    """In place of random draws: the file's positions in the population, and mutation m at place m mod 6."""

    def __init__(self, steps: list[dict]):
        self.steps, self.parents = steps, []

    def choices(self, alive, k):
        positions = self.steps[len(self.parents)]["drawn_positions"]
        assert len(positions) == k
        return [alive[position] for position in positions]

    def choice(self, near):
        m, child = len(self.parents) - 1, list(self.parents[-1])
        child[m % 6] = (child[m % 6] + 1 + m % 4) % 5
        return near[[code(other) for other in near].index(child)]


class WatchedPool(Pool):
    """Tells the draws whose mutation they are asked for."""

    def mutation(self, genotype, generator):
        generator.parents.append(code(genotype))
        return super().mutation(genotype, generator)


def code(genotype: Genotype) -> list[int]:
    """A cell's operations by edge, as sampling.json numbers them."""
    names = golden("sampling")["evolution"]["candidates"]
    return [names.index(edge.operation) for edges in genotype.cells["normal"].nodes for edge in edges]


def cell_of(numbers: list[int]) -> Genotype:
    names = [golden("sampling")["evolution"]["candidates"][operation] for operation in numbers]
    return from_string("|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*names))


def test_golden_evolution(space):
    found = golden("sampling")["evolution"]
    first = [[(i * (q + 1) + q) % 5 for q in range(6)] for i in range(found["population"])]
    assert first == found["initial"] and found["drawn_with_replacement"]
    starts, draws = iter(map(cell_of, first)), Draws(found["steps"])
    pool = WatchedPool(space, lambda generator: next(starts), lambda genotype: True)
    asking = strategies.Evolution("evolution", found["population"], found["sample"]).ask(pool, draws)
    asked, scored, request = [], [], next(asking)
    while len(asked) < found["population"] + len(found["steps"]):
        asked.append(code(request.genotype))
        scored.append(50 + 40 * math.sin(1 + sum(1.7 * (q + 1) * a for q, a in enumerate(asked[-1]))))
        if len(asked) < found["population"] + len(found["steps"]):
            request = asking.send(scored[-1])
    assert asked[: found["population"]] == first
    steps = zip(draws.parents, asked[found["population"] :], scored[found["population"] :], strict=True)
    for (parent, child, score), expected in zip(steps, found["steps"], strict=True):
        assert parent == expected["parent"] and child == expected["child"]
        assert score == pytest.approx(expected["score"], abs=1e-9)


# Lambda-DARTS


class Layers:
    """The loss of lambda_darts.json: three normal cells, and a reduction cell between them."""

    def __init__(self, k: int):
        self.w = tensor([0.7, -0.4, 0.5, 0.3, -0.6]).requires_grad_()
        self.mixture = dense_mixture({
            "normal": wave((14, 8), k).softmax(-1), "reduction": wave((14, 8), 50 + k).softmax(-1),
        })  # fmt: skip
        self.kinds, self.values = golden("lambda_darts")["cells"], []

    def __call__(self, mixture):
        total, seen = 0.1 * self.w.square().sum(), {"normal": 0, "reduction": 0}
        for cell, kind in enumerate(self.kinds):
            matrix = mixture[kind].of_cell(seen[kind]).weights
            seen[kind] += 1
            factor = (wave((14, 8), 900 + cell) * matrix).sum() * (0.3 * (cell + 1) * self.w.sum()).sin()
            waves = (matrix * (2 * wave((14, 8), 910 + cell) * self.w[cell % 5]).cos()).square().sum()
            total = total + (1 + 0.3 * cell) * (factor + 0.05 * waves).tanh()
        self.values.append(float(total.detach()))
        return total


@pytest.mark.parametrize("case", cases("lambda_darts", "cases"), ids=lambda case: str(case["k"]))
def test_golden_lambda_darts_gradient(case, monkeypatch):
    layers, directions = Layers(case["k"]), []

    def direction(gradients):
        directions.append((gradients, alignment_direction(gradients)))
        return directions[-1][1]

    alignment_direction = weight_gradient.alignment_direction
    monkeypatch.setattr(weight_gradient, "alignment_direction", direction)
    problem = weight_gradient.WeightProblem(
        train_loss=layers,
        valid_loss=layers,
        mixture=layers.mixture,
        weights={"w": layers.w},
        cells={kind: layers.kinds.count(kind) for kind in ("normal", "reduction")},
        to_reference=dict,
        moment=Moment(0.99, 49, 50),  # the last epoch, in which the penalty has its whole weight
        clip=5.0,
        candidates=[],
    )
    rule = composed("search", "method=lambda_darts", "network.cells=4").method.weight_gradient
    assert rule.scale == case["epsilon_0"]
    rule = dataclasses.replace(rule, weight=case["lambda"])
    (found,), _ = rule.gradients(problem, {})
    (plain,), _ = weight_gradient.TrainingLoss().gradients(problem, {})
    assert layers.values[0] == pytest.approx(case["loss"], abs=1e-9)
    torch.testing.assert_close(plain, tensor(case["plain_gradient"]), **CLOSE)
    torch.testing.assert_close(found, tensor(case["gradient_with_penalty"]), **CLOSE)
    ((gradients, along),) = directions
    units = torch.nn.functional.normalize(gradients.flatten(1), dim=1)
    cosine = ((units @ units.T).sum() - len(units)) / (len(units) * (len(units) - 1))
    assert float(cosine) == pytest.approx(case["mean_cosine"], abs=1e-9)
    norms = [norm for norm, kind in zip(case["direction_norms"], layers.kinds, strict=True) if kind == "normal"]
    torch.testing.assert_close(along.flatten(1).norm(dim=1), tensor(norms), **CLOSE)
    torch.testing.assert_close(along[0, 0], tensor(case["direction_cell0_row0"]), **CLOSE)
