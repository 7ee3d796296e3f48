"""What scores a genotype: brief training, inherited weights, a table, no training at all, several aims at once."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from darts.blackbox import loop as blackbox
from darts.blackbox import proxies
from darts.blackbox.evaluators import EvaluationContext
from darts.blackbox.exchange import Scorer
from darts.blackbox.inherited import path_accuracy, path_of
from darts.blackbox.pareto import dominates, front
from darts.blackbox.strategy import Request
from darts.models.cost import network_costs
from darts.models.mixture import dense_mixture
from darts.models.network import build_network
from darts.models.supernet import Supernet
from darts.runtime.errors import UserError
from darts.runtime.seeding import python_generator
from darts.search import loop as search
from darts.spaces import nasbench201
from darts.spaces.search_space import InputShape, plan_cells
from darts.spaces.variation import neighbours, ordered
from darts.tasks.batches import search_data
from darts.tasks.task import Batch
from tests.conftest import TINY, composed, space_of

TINY_SEARCH = [*TINY, "evaluator.network.channels=2", "search.batch_size=16", "space.nodes=2",
               "space.candidates=[none,skip_connect,sep_conv_3x3]"]  # fmt: skip


def scorer_of(folder, *overrides) -> tuple[Scorer, object]:
    settings = composed("search", *TINY_SEARCH, "method=random", *overrides)
    device = torch.device("cpu")
    data = search_data(settings.dataset, settings.search.train_fraction, 16, settings.seed, device)
    return settings.evaluator.scorer(EvaluationContext(settings, data, device, None, folder)), settings


def copied(supernet: Supernet, genotype, space, cells, channels, shape) -> nn.Module:
    """The genotype's own network with the weights of its path through a supernet."""
    network = build_network(genotype, cells, channels, 0, shape)
    network.auxiliary = None
    held = supernet.state_dict()
    for name, tensor in network.state_dict().items():
        source = name
        if name.startswith("cells."):
            _, number, rest = name.split(".", 2)
            source = f"cells.{number}.{rest}"
            plan = supernet.kinds[int(number)]
            if rest.startswith("operations."):
                _, edge, tail = rest.split(".", 2)
                row, column = list(space.places(genotype.cells[plan]))[int(edge)]
                source = f"cells.{number}.edges.{row}.operations.{column}.{tail}"
        if source in held:
            tensor.copy_(held[source])
        else:  # affine batch norms, which a supernet has none of
            assert name.endswith((".weight", ".bias"))
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    return network


@pytest.mark.parametrize("proxy", proxies.PROXIES)
def test_every_score_of_a_cell_that_reaches_no_output_is_a_number(proxy):
    """2.2% of NAS-Bench-201's cells have no path from input to output."""
    genotype = nasbench201.from_string("|none~0|+|skip_connect~0|none~1|+|none~0|none~1|none~2|")
    shape = InputShape(3, 8, 4)
    torch.manual_seed(0)
    network = build_network(genotype, 5, 4, 0, shape, False).train()
    batch = Batch(torch.randn(4, 3, 8, 8), torch.randint(0, 4, (4,)))
    assert math.isfinite(proxies.PROXIES[proxy](network, batch))


@pytest.mark.parametrize("batch_statistics", [True, False])
def test_inherited_accuracy_is_that_of_the_network_with_copied_weights(batch_statistics):
    space = space_of("darts", 2, 2, ["none", "skip_connect", "sep_conv_3x3", "dil_conv_5x5"])
    shape = InputShape(3, 8, 4)
    torch.manual_seed(0)
    supernet = Supernet(plan_cells(3, 4, space.multipliers()), space, shape, 0).double()
    uniform = {kind: torch.full((5, 4), 0.25, dtype=torch.float64) for kind in space.cell_types}
    images = torch.randn(64, 3, 8, 8, dtype=torch.float64)
    supernet(images, dense_mixture(uniform))  # running statistics that are not the initial ones
    labels = torch.randint(0, 4, (64,))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    for number in range(4):
        genotype = ordered(space.sample(python_generator(0, "sample", number)))
        network = copied(supernet, genotype, space, 3, 4, shape).double().train(batch_statistics)
        mixture = path_of(genotype, space)
        mixture = {kind: path._replace(weights=path.weights.double()) for kind, path in mixture.items()}
        with torch.no_grad():
            expected = network(images)
            torch.testing.assert_close(supernet.train(batch_statistics)(images, mixture), expected)
        supernet.load_state_dict(before)
        accuracy = path_accuracy(supernet, genotype, space, [Batch(images, labels)], batch_statistics)
        assert accuracy == float((expected.argmax(1) == labels).float().mean())
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_weights_are_inherited_from_a_finished_search_of_the_same_images(tmp_path):
    size = ["network.channels=4", "search.epochs=1"]
    search.run(
        composed("search", *TINY_SEARCH[:-3], *TINY_SEARCH[-2:], "search.batch_size=16", *size), tmp_path / "run"
    )
    given = ["evaluator=inherited", f"evaluator.supernet={tmp_path / 'run'}", "evaluator.network.channels=4"]
    plain = [item for item in TINY_SEARCH if not item.startswith("evaluator.network")]
    settings = composed("search", *plain, "method=random", "budget.evaluations=4", *given)
    found = blackbox.run(settings, tmp_path / "found")
    assert 0 <= found.provenance["score"] <= 1 and found.provenance["epochs"] == 0
    for wrong, named in (
        (["evaluator.network.channels=2"], "not the whole supernet"),
        (["seed=1"], "its seed is 0, here it is 1"),
        (["evaluator.supernet=nowhere"], "must be the folder of a search"),
    ):
        settings = composed("search", *plain, "method=random", "budget.evaluations=4", *given, *wrong)
        with pytest.raises(UserError, match=named):
            blackbox.run(settings, tmp_path / "other")


def test_brief_training_is_repeatable_and_a_fraction_takes_fewer_epochs(tmp_path):
    scorer, settings = scorer_of(tmp_path, "evaluator.train.epochs=4", "evaluator.train.batch_size=16")
    genotype = settings.space.sample(python_generator(0, "sample"))
    first, second = (scorer.score(genotype, 0.25)[0] for _ in range(2))
    assert first == second and scorer.score(genotype, 1.0)[0] != first
    assert [scorer.epochs(share) for share in (1.0, 0.5, 0.01)] == [2.0, 1.0, 0.5]
    assert scorer.key(Request(genotype, 1.0)) != scorer.key(Request(genotype, 0.5))


def test_a_table_is_read_and_missing_is_said(tmp_path):
    with pytest.raises(UserError, match=r"benchmark.table is null; it must be a file with evaluator=table"):
        scorer_of(tmp_path, "evaluator=table")


def test_every_score_without_training_is_finite_and_tells_cells_apart(tmp_path):
    for proxy in ("SYNFLOW", "SNIP", "GRAD_NORM", "NASWOT", "JACOB_COV", "PARAMETERS", "MACS"):
        scorer, settings = scorer_of(tmp_path, "evaluator=zero_cost", f"evaluator.proxy={proxy}")
        start = settings.space.sample(python_generator(1, "sample"))
        cells = [start, *neighbours(start, settings.space)[:5]]
        scores = [scorer.score(genotype, 1.0)[0] for genotype in cells]
        assert all(map(math.isfinite, scores)) and len(set(scores)) >= 2, proxy
        assert scores == [scorer.score(genotype, 1.0)[0] for genotype in cells]


class Toy(nn.Module):
    """Two linear layers with a ReLU between, whose scores can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.relu(self.first(x.flatten(1))))


def test_scores_of_a_toy_are_those_of_their_formulas():
    torch.manual_seed(0)
    toy = Toy()
    images, labels = torch.randn(5, 2, 1, 1), torch.tensor([0, 1, 1, 0, 1])
    batch = Batch(images, labels)
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    first, second = (w.detach() for w in (toy.first.weight, toy.second.weight))
    answer = float((second.abs().double() @ first.abs().double() @ torch.ones(2, dtype=torch.float64)).sum())
    assert proxies.synflow(toy, batch) == pytest.approx(math.log(2 * answer))  # each layer's sum is the answer itself
    loss = nn.functional.cross_entropy(toy(images), labels)
    slopes = torch.autograd.grad(loss, [toy.first.weight, toy.second.weight])
    assert proxies.grad_norm(toy, batch) == pytest.approx(sum(float(s.norm()) for s in slopes))
    assert proxies.snip(toy, batch) == pytest.approx(
        float(sum((w * s).abs().sum() for w, s in zip((first, second), slopes, strict=True)))
    )
    codes = (images.flatten(1) @ first.T > 0).double()
    assert proxies.naswot(toy, batch) == proxies.LOWEST  # two images have the same signs
    apart = [place for place, code in enumerate(codes.tolist()) if code not in codes[:place].tolist()]
    kernel = torch.tensor([[float((a == b).sum()) for b in codes[apart]] for a in codes[apart]], dtype=torch.float64)
    expected = float(torch.linalg.slogdet(kernel)[1])
    assert math.isfinite(expected) and len(apart) > 1
    assert proxies.naswot(toy, Batch(images[apart], labels[apart])) == pytest.approx(expected, abs=1e-4)
    masks = codes.float()
    jacobian = torch.stack([(second.sum(0) * mask) @ first for mask in masks]).double()
    values = torch.linalg.eigvalsh(torch.corrcoef(jacobian).nan_to_num()).clamp_min(0) + 1e-5
    assert proxies.jacob_cov(toy, batch) == pytest.approx(-float((values.log() + 1 / values).sum()), rel=1e-3)
    assert proxies.parameters(toy, batch) == 12 and proxies.macs(toy, batch) == 12
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


@pytest.mark.pictures
def test_several_aims_weigh_accuracy_with_cost_and_keep_the_front(tmp_path):
    given = ["evaluator=multi_objective", "evaluator.targets.parameters=1000", "evaluator.exponent=-0.5",
             "evaluator.accuracy.network.channels=2", "evaluator.accuracy.train.epochs=1",
             "evaluator.accuracy.train.batch_size=16"]  # fmt: skip
    settings = composed("search", *TINY_SEARCH, "method=random", "budget.evaluations=6", *given)
    blackbox.run(settings, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["score"] == pytest.approx(line["accuracy"] * (line["parameters"] / 1000) ** -0.5)
    kept = json.loads((tmp_path / "pareto.json").read_text())
    costs = ["parameters", "macs", "latency_ms"]
    assert kept == front(lines, costs) and (tmp_path / "cells" / "pareto.svg").exists()
    names = {line["key"] for line in kept}
    for line in lines:
        assert (line["key"] in names) != any(dominates(other, line, costs) for other in lines)
    genotype = settings.space.sample(python_generator(0, "strategy"))
    shape = InputShape(1, 32, 10)
    found = network_costs(genotype, settings.evaluator.network, shape, torch.device("cpu"))
    assert set(found) == set(costs) and found["latency_ms"] > 0


def test_the_front_of_known_points():
    def point(accuracy, parameters):
        return {"accuracy": accuracy, "parameters": parameters}

    points = [point(0.9, 10), point(0.8, 5), point(0.85, 12), point(0.7, 5), point(0.9, 10)]
    assert front(points, ["parameters"]) == [point(0.8, 5), point(0.9, 10), point(0.9, 10)]
