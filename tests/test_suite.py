"""The nine spaces of the DARTS benchmark suite: sizes, single cells, and skip connections on every edge."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from darts.blackbox import loop as blackbox
from darts.models.building import plain_supernet
from darts.models.cost import CostModel, count_macs, network_costs
from darts.models.fused.supernet import FusedSupernet
from darts.models.mixture import START, MixtureWeights, dense_mixture
from darts.models.network import build_network, network_of_size
from darts.models.settings import ConstraintSettings, NetworkSettings
from darts.models.supernet import Mixing
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces.genotype import Edge, Genotype, from_json, to_json
from darts.spaces.membership import check_membership, settings_of_space
from darts.spaces.search_space import InputShape
from darts.train import retraining
from darts.train.saved import read_network
from tests.conftest import TINY_DATA, composed, run_command

SHAPE = InputShape(3, 16, 5)
SIZES = {"suite_wide": (18, 4, ""), "suite_deep": (7, 18, ""), "suite_single": (26, 1, "single_cell")}
SKIPS = ("", "no_skip", "all_skip")
SINGLE = NetworkSettings(4, 1, 0)


def space(name):
    return composed("search", f"space={name}").space


@pytest.mark.parametrize(("size", "skips"), itertools.product(SIZES, SKIPS))
def test_the_nine_spaces_have_the_sizes_of_the_suite(size, skips):
    channels, cells, base = SIZES[size]
    name = "_".join(part for part in (base or "darts", skips) if part)
    for command in ("search", "final"):
        settings = composed(command, f"experiment={size}", f"space={name}")
        assert (settings.network.channels, settings.network.cells) == (channels, cells)
        found = settings.space
        assert ("skip_connect" in found.candidates) == (skips != "no_skip")
        assert found.edge_skips == (skips == "all_skip") and len(found.candidates) == (7 if skips == "no_skip" else 8)
        nodes = 8 if base else 4
        last = nodes + 2
        assert found.nodes == nodes and found.joined() == tuple(range(last - 4, last)) and found.edges_kept == 2
    assert composed("final", f"experiment={size}", f"space={name}").train.batch_size == 512


@pytest.mark.parametrize("name", ["single_cell", "single_cell_all_skip"])
def test_a_network_of_a_single_cell_is_one_reduction_cell(name):
    own = space(name)
    genotype = own.sample(random.Random(0))
    check_membership(genotype, own, "it")
    assert set(genotype.cells) == {"reduction"} and from_json(to_json(genotype)) == genotype
    network = network_of_size(genotype, SINGLE, SHAPE, False, own.frame)
    images = torch.randn(2, 3, 16, 16)
    seen = []
    network.cells[0].register_forward_hook(lambda module, given, output: seen.append(output.shape))
    assert network(images).shape == (2, 5) and len(network.cells) == 1
    assert seen == [(2, 4 * 8, 8, 8)]  # the last four nodes of twice the channels, half the resolution


@pytest.mark.parametrize("name", ["darts_all_skip", "single_cell_all_skip"])
def test_a_skip_connection_on_every_edge_is_one_more_edge_of_each_input(name):
    """Against a genotype that has these edges itself, which a space need not be able to draw."""
    own = space(name)
    genotype, size = own.sample(random.Random(1)), SINGLE if name.startswith("single") else NetworkSettings(4, 3, 0)
    cells = {}
    for kind, cell in genotype.cells.items():
        nodes = []
        for edges in cell.nodes:
            pairs = [(edge, Edge("skip_connect", edge.source)) for edge in edges]
            nodes.append(tuple(itertools.chain(*pairs)))
        cells[kind] = dataclasses.replace(cell, nodes=tuple(nodes))
    ours = network_of_size(genotype, size, SHAPE, False, own.frame).double()
    theirs = build_network(Genotype("darts", cells), size.cells, 4, 0, SHAPE, auxiliary=False).double()
    held = theirs.state_dict()
    for key, tensor in ours.state_dict().items():
        parts = key.split(".")
        if parts[2:3] == ["operations"]:
            parts[3] = str(2 * int(parts[3]))
        elif parts[2:3] == ["always"]:
            parts[2:5] = ["operations", str(2 * int(parts[3]) + 1)]
        tensor.copy_(held[".".join(parts)])
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    assert torch.allclose(ours.train()(images), theirs.train()(images), atol=1e-12)
    assert count_macs(ours.float(), images.float()) == count_macs(theirs.float(), images.float())


@pytest.mark.parametrize("name", ["darts_all_skip", "single_cell", "single_cell_all_skip"])
def test_both_engines_are_one_function_and_skip_connections_weigh_1(name):
    own = space(name)
    cells = 1 if name.startswith("single") else 3
    torch.manual_seed(0)
    reference = plain_supernet(own, cells, 4, 0, SHAPE, Mixing(edge_extras=own.always))
    fused = FusedSupernet(plain_supernet(own, cells, 4, 0, SHAPE, Mixing(edge_extras=own.always)))
    fused.load_state_dict(fused.from_reference(reference.state_dict()))
    images, generator = torch.randn(4, 3, 16, 16), torch.Generator().manual_seed(2)
    columns = len(own.candidates) + len(own.always)
    mixture = {kind: torch.rand(len(own.edges()), columns, generator=generator) for kind in own.cell_types}
    for supernet in (reference, fused):
        supernet.double()
    double = dense_mixture({kind: matrix.double() for kind, matrix in mixture.items()})
    assert torch.allclose(reference(images.double(), double), fused(images.double(), double), atol=1e-9)

    masks = {kind: torch.tensor(own.allowed(kind)) for kind in own.cell_types}
    candidates = dense_mixture({kind: matrix[:, : len(own.candidates)] for kind, matrix in mixture.items()})
    method = composed("search", f"space={name}").method
    whole = method.completed(candidates, None, masks, START, own)
    for kind, weights in whole.items():
        assert torch.equal(weights.weights[:, : len(own.candidates)], candidates[kind].weights)
        assert torch.equal(weights.weights[:, len(own.candidates) :], torch.ones(len(own.edges()), len(own.always)))


@pytest.mark.parametrize("name", ["darts_all_skip", "single_cell_all_skip"])
def test_costs_add_up_and_passes_are_those_that_torch_counts(name):
    own = space(name)
    size, device = (SINGLE if name.startswith("single") else NetworkSettings(4, 4, 0)), torch.device("cpu")
    costs = CostModel(ConstraintSettings(10**9, 10**12, None, None, None, 1.0, size), own, SHAPE, device)
    for seed in range(3):
        genotype = own.sample(random.Random(seed))
        known = network_costs(genotype, size, SHAPE, device, ["parameters", "macs"], own.frame)
        on_edges = {cost: costs.rest[cost] + costs._on_edges(cost, genotype) for cost in known}
        assert on_edges == pytest.approx(known, rel=1e-6)
    large, images = InputShape(3, 48, 5), torch.zeros(2, 3, 48, 48)  # on small maps no product of far taps is computed
    supernet = plain_supernet(own, size.cells, 4, 0, large, Mixing(edge_extras=own.always)).eval()
    weights = torch.ones(len(own.edges()), len(own.candidates) + 1)
    mixture = {kind: MixtureWeights(weights) for kind in own.cell_types}
    with FlopCounterMode(display=False) as counter:
        supernet(images, mixture)
    assert supernet.macs.of_call(images, mixture) == counter.get_total_flops() // 2


TINY = [*TINY_DATA, "network.channels=4", "network.stem_reductions=2", "logger=none"]


@pytest.mark.parametrize("name", ["darts_no_skip", "darts_all_skip", "single_cell", "single_cell_all_skip"])
def test_what_a_search_finds_is_retrained_saved_and_loaded(name, tmp_path):
    settings = composed("search", f"space={name}", *TINY, "search.epochs=1", "search.batch_size=16")
    genotype = search.run(settings, tmp_path / "search")
    line = json.loads((tmp_path / "search" / "history.jsonl").read_text())
    assert all(len(row) == len(settings.space.candidates) for rows in line["mixture"].values() for row in rows)
    assert settings_of_space(genotype) == [f"space={name}"]
    final = composed("final", f"space={name}", *TINY, "train.epochs=1", "train.batch_size=32", "train.drop_path=0.1")
    retraining.run(final, genotype, tmp_path / "final")
    network, described = read_network(tmp_path / "final" / "weights.pt")
    assert described["network"].get("always", []) == list(settings.space.always)
    again = network_of_size(genotype, final.network, InputShape(1, 32, 10), False, settings.space.frame)
    again.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(again.eval()(images), network(images))


@pytest.mark.parametrize("method", ["evolution", "darts_minus", "gdas", "darts_second_order"])
def test_other_searches_run_on_skip_connections_everywhere(method, tmp_path):
    given = ["space=single_cell_all_skip", *TINY_DATA, f"method={method}", "logger=none", "search.batch_size=16"]
    if method == "evolution":
        given += ["budget.evaluations=3", "evaluator=zero_cost", "evaluator.network.channels=2"]
        given += ["evaluator.batch_size=8", "method.population=2", "method.sample=1"]
        genotype = blackbox.run(composed("search", *given), tmp_path)
    else:
        given += ["network.channels=4", "network.stem_reductions=2", "search.epochs=1"]
        genotype = search.run(composed("search", *given), tmp_path)
    check_membership(genotype, space("single_cell_all_skip"), "it")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["space=single_cell", "network.cells=3"], "network.cells is 3; it must be 1 with space=single_cell"),
        (["space=single_cell", "constraints.network.cells=5"], "constraints.network.cells is 5; it must be 1"),
        (["network.cells=2"], "network.cells is 2; it must be from 3"),
        (["space.joins=5"], r"space.joins is 5; it must be from 1 to space.nodes, or null"),
        (["space=nasbench201", "space.joins=2"], "space.joins is 2; it must be null with space.skeleton=nasbench201"),
        (["space=nasbench_macro", "space.joins=2"], "space.joins is 2; it must be null with space.skeleton=chain"),
        (["space=recurrent", "dataset=bible", "space.joins=2"], "space.joins is 2; it must be null with"),
        (["space=nasbench201", "space.edge_skips=true"], "space.edge_skips is True; it must be false, or"),
        (["space=single_cell", "method=lambda_darts"], "network.cells is 1; it must be at least 4"),
    ],
)
def test_wrong_settings_of_the_suite_are_told_in_a_line(overrides, told):
    with pytest.raises(UserError, match=told):
        composed("search", *overrides)


def test_describe_knows_the_suites_networks(tmp_path):
    done = run_command(["-m", "darts.describe", "space=single_cell_all_skip", "genotype=random", "json=true"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"] == 1
