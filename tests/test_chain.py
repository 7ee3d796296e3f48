"""Chains of layers: their authors' counts, torchvision's block, a table of 6,561 networks, and what runs on them."""

from __future__ import annotations

import csv
import gzip
import json
import random
import statistics

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionBlock

from darts.blackbox import loop as blackbox
from darts.models.building import plain_supernet
from darts.models.chain import ChainSupernet
from darts.models.cost import CostModel, count_macs, count_parameters, network_costs
from darts.models.latency import places, read_operations, rest_of
from darts.models.layers import InvertedResidual, layer
from darts.models.mixture import MixtureWeights, dense_mixture
from darts.models.network import build_chain, drop_path_scales, network_of_size
from darts.models.settings import ConstraintSettings, NetworkSettings
from darts.models.supernet import Mixing
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces import strings
from darts.spaces.chain import CHAIN, Chain, LayerPlan, chain_of
from darts.spaces.genotype import Cell, Edge, Genotype, from_json, to_json
from darts.spaces.membership import check_membership, differences, recorded_space, settings_of_space
from darts.spaces.search_space import InputShape
from darts.spaces.sources import find_genotype
from darts.spaces.table import read_table
from darts.spaces.variation import all_genotypes, depth, neighbours
from darts.train import retraining
from darts.train.saved import read_network
from tests.conftest import GRADIENT_METHODS, ROOT, composed, run_command

DATA = ROOT.parent / "shared" / "data" / "nasbench_macro" / "cifar10.csv.gz"
MACRO = "space=nasbench_macro"
CIFAR = InputShape(3, 32, 10)
TINY = [MACRO, "dataset.fraction=0.01", "device=cpu", "network.channels=4", "network.stem_reductions=2",
        "search.epochs=2", "search.batch_size=16"]  # fmt: skip
REFUSED = {
    "pc_darts": "method/channels lets channels bypass",
    "drnas_progressive": "method/channels lets channels bypass",
    "p_darts": "method/schedule makes the network deeper",
    "lambda_darts": "method/weight_gradient compares normal cells",
    "r_darts_dp": "method/edge_extras drops whole edges",
}  # by method, how the reason begins


@pytest.fixture(scope="module")
def macro():
    return composed("search", MACRO).space


@pytest.fixture(scope="module")
def rows():
    if not DATA.exists():
        pytest.skip(f"the table is not at hand ({DATA})")
    with gzip.open(DATA, "rt") as file:
        return list(csv.DictReader(file))


def supernet_of(space, channels=4, shape=CIFAR, stem=0, mixing=None) -> ChainSupernet:
    supernet = plain_supernet(space, 3, channels, stem, shape, mixing or Mixing())
    assert isinstance(supernet, ChainSupernet)
    return supernet


@pytest.mark.parametrize(
    ("digits", "parameters", "macs"),
    [
        ("00000000", 387_882, 7_713_280),
        ("11111111", 1_588_874, 53_246_464),
        ("22222222", 2_932_586, 105_660_928),
        ("22212202", 1_985_514, 85_164_544),
    ],
)
def test_networks_have_the_counts_that_the_benchmark_gives(digits, parameters, macs, tmp_path):
    told = run_command(["-m", "darts.describe", MACRO, f"genotype={digits}", "json=true"], tmp_path)
    found = json.loads(told.stdout)
    assert (found["parameters"], found["macs"], found["string"]) == (parameters, macs, digits)
    assert (found["channels"], found["cells"]) == (32, 8)


def test_networks_drawn_have_the_counts_of_the_table(rows, macro):
    for row in random.Random(0).sample(rows, 60):
        genotype = strings.from_string(row["arch"], macro.name)
        network = build_chain(genotype, macro.chain, 32, 0, CIFAR, auxiliary=False)
        assert count_parameters(network) == int(row["params"])
        assert count_macs(network, torch.zeros(1, 3, 32, 32)) == int(row["macs"])


def test_the_released_mobile_network_has_the_counts_of_its_release():
    """ProxylessNAS (mobile): 4.08 M parameters, 320 M multiply-adds; its first stage is 32 channels wide.

    Exact counts and the layers by the networks of pytorchcv 0.0.74 (proxylessnas_mobile), counted by torch.
    """
    space = composed("search", "space=mobile").space
    chain = Chain(32, 16, [[4, 32, 2], *space.chain.stages[1:]], 1280, relu6=True)
    genotype = find_genotype("206640225222322255445", space, "runs", 0)
    network = build_chain(genotype, chain, 32, 1, InputShape(3, 224, 1000), auxiliary=False)
    assert count_parameters(network) == 4_080_512
    assert count_macs(network, torch.zeros(1, 3, 224, 224)) == 320_427_584


@pytest.mark.parametrize(("stride", "channels", "expansion"), [(1, 8, 6), (2, 8, 6), (1, 12, 3), (1, 6, 1)])
def test_a_block_computes_what_torchvisions_does(stride, channels, expansion):
    theirs = TorchvisionBlock(8, channels, stride, expansion).double()
    ours = InvertedResidual(LayerPlan(8, channels, stride), 3, expansion, relu6=True, affine=True).double()
    held = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), held, strict=True)))
    x = torch.randn(3, 8, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        assert torch.allclose(ours.train(training)(x), theirs.train(training)(x), atol=1e-12)


@pytest.mark.parametrize("name", ["skip_connect", "inverted_5x5_e6", "inverted_7x7_e3", "inverted_3x3_e3_relu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_layers_give_the_shape_that_is_due_on_odd_maps_too(name, stride):
    out = layer(name).build(4, 6, stride, True)(torch.randn(2, 4, 7, 5))
    assert out.shape == (2, 6, -(-7 // stride), -(-5 // stride))


def test_all_digits_are_all_genotypes_of_the_space(macro):
    texts = list(strings.all_strings(macro.name))
    assert len(set(texts)) == macro.count() == 6561 == sum(1 for _ in all_genotypes(macro))
    for text in texts[::97]:
        genotype = strings.from_string(text, macro.name)
        assert strings.to_string(genotype) == text == strings.as_string(genotype)
        assert from_json(to_json(genotype)) == genotype
        check_membership(genotype, macro, "it")
        assert depth(genotype.cells[CHAIN]) == 8
        near = {strings.to_string(other) for other in neighbours(genotype, macro)}
        assert len(near) == 16 and all(sum(a != b for a, b in zip(text, other, strict=True)) == 1 for other in near)
    drawn = {strings.to_string(macro.sample(random.Random(seed))) for seed in range(50)}
    assert len(drawn) > 45


def test_the_table_shows_its_facts(rows, macro):
    table, column = read_table(DATA), "mean of test_1, test_2, test_3"
    values = table.values(column)
    best = strings.from_string("22212202", macro.name)
    assert len(table.index) == 6561 and set(table.index) == set(strings.all_strings(macro.name))
    assert table.accuracy(best, column) == pytest.approx(93.127, abs=5e-4) and table.rank(best, column) == 1
    assert float(values.mean()) == pytest.approx(90.2466, abs=5e-5)
    assert statistics.median(values.tolist()) == pytest.approx(90.990, abs=5e-4)
    worst = min(rows, key=lambda row: sum(float(row[f"test_{n}"]) for n in (1, 2, 3)))
    assert worst["arch"] == "00000000" and float(values.min()) == pytest.approx(45.363, abs=5e-4)


@pytest.mark.parametrize("text", ["2221220", "222122022", "22212203", "22212a02"])
def test_other_digits_are_refused(text, macro):
    with pytest.raises(UserError, match=r"8 digits from 0 to 2|is unknown"):
        find_genotype(text, macro, "runs", 0)


def test_a_path_through_the_supernet_is_the_networks_own_function(macro):
    supernet, genotype = supernet_of(macro), macro.sample(random.Random(1))
    network = build_chain(genotype, macro.chain, 4, 0, CIFAR, auxiliary=False)
    held = supernet.state_dict()
    columns = [macro.candidates.index(name) for name in genotype.operations()]
    for name, tensor in network.state_dict().items():
        source = name
        if name.startswith("cells."):
            _, number, _, rest = name.split(".", 3)
            source = f"cells.{number}.operations.{columns[int(number)]}.{rest}"
        tensor.copy_(held[source])
    weights = torch.zeros(8, 3)
    weights[range(8), columns] = 1
    images = torch.randn(3, 3, 16, 16)
    found = network.train()(images)
    whole = supernet.train()(images, dense_mixture({CHAIN: weights}))
    only = supernet(images, {CHAIN: MixtureWeights(weights, [[column] for column in columns])})
    assert torch.allclose(found, whole, atol=1e-5) and torch.allclose(found, only, atol=1e-5)


def test_a_mixture_is_the_weighted_sum_of_every_layers_candidates(macro):
    supernet = supernet_of(macro).double()
    weights = torch.rand(8, 3, dtype=torch.float64).softmax(1)
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    state = supernet.stem(images)
    for row, mixed in zip(weights, supernet.cells, strict=True):
        state = sum(weight * mixed.operations[str(column)](state) for column, weight in enumerate(row))
    expected = supernet.classifier(supernet.tail(state).mean((2, 3)))
    assert torch.allclose(supernet(images, dense_mixture({CHAIN: weights})), expected, atol=1e-12)


def test_activation_checkpointing_changes_no_gradient(macro):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        supernet, weights = supernet_of(macro), torch.full((8, 3), 1 / 3, requires_grad=True)
        supernet.activation_checkpointing = checkpointing
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        loss = supernet(images, dense_mixture({CHAIN: weights})).square().sum()
        gradients.append(torch.autograd.grad(loss, [weights, *supernet.parameters()]))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_multiply_adds_of_a_pass_are_those_that_torch_counts(macro):
    for mixing in (Mixing(), Mixing(edge_extras=("skip_connect",))):
        supernet = supernet_of(macro, mixing=mixing).eval()
        weights = torch.full((8, 3 + len(mixing.edge_extras)), 1 / 3)
        images = torch.zeros(2, 3, 32, 32)
        for computed in (None, [[0], [1], [2], [0, 1], [1, 2], [2], [0], [1]]):
            mixture = {CHAIN: MixtureWeights(weights, computed)}
            with FlopCounterMode(display=False) as counter:
                supernet(images, mixture)
            assert supernet.macs.of_call(images, mixture) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["nasbench_macro", "mobile"])
def test_costs_add_up_over_layers(name):
    space = composed("search", f"space={name}").space
    size, device = NetworkSettings(8, 3, 0), torch.device("cpu")
    limits = ConstraintSettings(10**9, 10**12, None, None, None, 1.0, size)
    costs = CostModel(limits, space, CIFAR, device)
    for seed in range(4):
        genotype = space.sample(random.Random(seed))
        scores = torch.zeros(space.nodes, len(space.candidates))
        for row, column in space.places(genotype.cells[CHAIN]):
            scores[row, column] = 1
        found = {cost: float(value) for cost, value in costs.expected({CHAIN: scores}).items()}
        assert found == pytest.approx(network_costs(genotype, size, CIFAR, device, found, space.frame), rel=1e-6)


def test_widths_follow_the_first_convolution_in_proportion():
    space = composed("search", "space=mobile").space
    plans = space.chain.plan(8)
    assert plans[0] == LayerPlan(4, 6, 2) and plans[-1] == LayerPlan(48, 80, 1)
    assert [plan.stride for plan in plans].count(2) == space.chain.halvings == 4
    skips = [index for index in range(21) if 6 in space.selectable(CHAIN, index)]
    assert skips == [at for at, plan in enumerate(plans) if plan.stride == 1 and plan.input_channels == plan.channels]


def test_drop_path_drops_what_a_layer_adds_and_never_the_chain(macro):
    network = build_chain(strings.from_string("11111111", macro.name), macro.chain, 4, 0, CIFAR, False).eval()
    assert network.paths() == 5  # the first layer of a stage changes the shape
    images = torch.randn(6, 3, 16, 16)
    nothing = drop_path_scales(5, 6, 0.0, torch.Generator())
    assert torch.equal(network.training_logits(images, nothing)[0], network(images))
    all_dropped, _ = network.training_logits(images, torch.zeros(5, 6))
    kept = build_chain(strings.from_string("10100100", macro.name), macro.chain, 4, 0, CIFAR, False).eval()
    state = {name: value for name, value in network.state_dict().items() if name in kept.state_dict()}
    kept.load_state_dict(state)
    assert torch.allclose(all_dropped, kept(images), atol=1e-6)  # layers that add nothing pass their input on


def test_a_genotype_that_is_no_chain_says_how_it_differs(macro):
    cell = Cell(tuple((Edge("skip_connect", 0),) for _ in range(8)), (8,), inputs=1)
    told = list(differences(Genotype(macro.name, {CHAIN: cell}), macro))
    assert told[0] == "chain, node 1: reads state 0, in a chain it reads 1" and len(told) == 7
    short = chain_of(["skip_connect"] * 3, macro.name)
    with pytest.raises(UserError, match="nodes: 3, the space has 8; no setting of this space allows it"):
        check_membership(short, macro, "it")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("space.nodes=7", "space.nodes is 7; it must be 8, as space.chain"),
        ("space.chain=null", "space.chain is null"),
        ("space.chain.stages=[[2,64,3]]", "space.chain.stages"),
        ("space.chain.stages=[]", "space.chain.stages"),
        ("space.chain.head=0", "space.chain.head is 0"),
        ("network.stem_reductions=imagenet", "network.stem_reductions is 'imagenet'"),
        ("network.stem_reductions=3", "dataset"),
        ("space.candidates=[skip_connect,sep_conv_3x3]", "layer 'sep_conv_3x3' is unknown"),
    ],
)
def test_wrong_chains_are_told_in_a_line(override, told, tmp_path):
    with pytest.raises(UserError, match=told.replace("[", r"\[")):
        search.run(composed("search", *TINY, override), tmp_path)


def test_a_number_of_cells_is_refused(tmp_path):
    for setting in ("network.cells=8", "constraints.network.cells=8"):
        told = run_command(["train_search.py", MACRO, setting], ROOT)
        assert told.returncode == 2 and f"error: {setting.partition('=')[0]} is given, but space=nasb" in told.stderr


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_every_method_that_mixes_per_layer_runs_and_others_say_why(method, tmp_path):
    if method in REFUSED:
        begin = f"method={method} is for cells, and space=nasbench_macro is a chain: {REFUSED[method]}"
        with pytest.raises(UserError, match=begin):
            composed("search", *TINY, f"method={method}", "search.epochs=25")
        return
    given = [*TINY]
    given += ["method.schedule.samples=20"] if method == "random_weight_sharing" else []
    given += ["method.schedule.interval=1"] if method in ("darts_pt", "darts_pt_fixed", "sgas") else []
    settings = composed("search", *given, f"method={method}", "logger=none")
    genotype = search.run(settings, tmp_path)
    check_membership(genotype, settings.space, "it")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines and all(torch.tensor(line["mixture"][CHAIN]).isfinite().all() for line in lines)


def test_a_search_that_was_stopped_resumes_to_the_same_bits(tmp_path, monkeypatch):
    settings = composed("search", *TINY, "logger=none", "checkpoint.minutes=1e-9")
    search.run(settings, tmp_path / "whole")
    step, steps = search.search_step, []

    def stopped_in_the_second_epoch(*given):
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(1)
        return step(*given)

    monkeypatch.setattr(search, "search_step", stopped_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        search.run(settings, tmp_path / "stopped")
    monkeypatch.setattr(search, "search_step", step)
    search.run(settings, tmp_path / "stopped")
    files = [tmp_path / name / "history.jsonl" for name in ("whole", "stopped")]
    whole, resumed = ([json.loads(line)["mixture"] for line in file.read_text().splitlines()] for file in files)
    assert len(whole) == 2 and whole == resumed


def test_a_found_chain_is_retrained_saved_and_loaded(tmp_path):
    settings = composed("final", MACRO, "dataset.fraction=0.01", "device=cpu", "network.channels=4", "train.epochs=1",
                        "train.batch_size=32", "train.drop_path=0.2", "genotype=12012012", "logger=none")  # fmt: skip
    retraining.run(settings, strings.from_string("12012012", "nasbench_macro"), tmp_path)
    network, described = read_network(tmp_path / "weights.pt")
    assert described["network"]["chain"]["stages"] == [[2, 64, 2], [3, 128, 2], [3, 256, 2]]
    size, shape = NetworkSettings(4, 5, 1), InputShape(1, 32, 10)
    again = network_of_size(strings.from_string("12012012", "nasbench_macro"), size, shape, False, settings.space.frame)
    again.load_state_dict(network.state_dict())
    assert sum(plan.channels for plan in settings.space.chain.plan(4)) == 2 * 8 + 3 * 16 + 3 * 32
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(again.eval()(images), network(images))


def test_strategies_search_by_the_table_and_are_judged_by_it(rows, tmp_path):
    given = [MACRO, f"benchmark.table={DATA}", "evaluator=table", "budget.evaluations=150", "device=cpu",
             "search.batch_size=16", "dataset.fraction=0.01", "logger=none"]  # fmt: skip
    settings = composed("search", *given, "method=evolution")
    assert settings.evaluator.column == "test_1"
    assert settings.benchmark.column == "mean of test_1, test_2, test_3"
    genotype = blackbox.run(settings, tmp_path)
    table = read_table(DATA)
    assert table.rank(genotype, settings.benchmark.column) <= 65  # the best per cent: evolution is no random search
    drawn = [float(row["test_1"]) for row in rows]
    assert table.accuracy(genotype, "test_1") > statistics.quantiles(drawn, n=100)[-1]


def test_a_changed_chain_is_told_in_the_settings_that_choose_it(tmp_path):
    stages = "space.chain.stages=[[2,64,2],[6,128,2]]"
    settings = composed("search", *TINY, stages, "search.epochs=1", "logger=none")
    genotype = search.run(settings, tmp_path)
    assert recorded_space(genotype)["chain"]["stages"] == [[2, 64, 2], [6, 128, 2]]
    given = settings_of_space(genotype)
    assert given[0] == "space=nasbench_macro" and "stages:[[2,64,2],[6,128,2]]" in given[1]


def test_a_fine_tuning_takes_the_chain_from_the_file(tmp_path):
    stages = "space.chain.stages=[[2,64,2],[3,128,2],[3,200,1]]"
    tiny = ["dataset.fraction=0.01", "device=cpu", "train.epochs=1", "train.batch_size=32", "logger=none"]
    final = composed("final", MACRO, stages, *tiny, "network.channels=4")
    genotype = find_genotype("12012012", final.space, "runs", 0)
    retraining.run(final, genotype, tmp_path / "first")
    command = ["train_final.py", f"start_from={tmp_path / 'first'}", *tiny, "train.epochs=2", "head_epochs=1"]
    done = run_command([*command, f"hydra.run.dir={tmp_path / 'second'}"], ROOT)
    assert done.returncode == 0, done.stderr
    sizes = [json.loads((tmp_path / name / "result.json").read_text())["parameters"] for name in ("first", "second")]
    assert sizes[0] == sizes[1]
    _, described = read_network(tmp_path / "second" / "weights.pt")
    assert described["network"]["chain"]["stages"] == [[2, 64, 2], [3, 128, 2], [3, 200, 1]]


@pytest.mark.parametrize("command", [["-m", "darts.describe"], ["train_final.py"]])
def test_a_cell_is_no_chain(command, tmp_path):
    done = run_command([*command, MACRO, "genotype=darts_v2", f"hydra.run.dir={tmp_path}"], ROOT)
    assert done.returncode == 2
    assert "error: genotype darts_v2 is of cells, but space=nasbench_macro is a chain of layers; give 8" in done.stderr


def test_a_chain_of_other_widths_is_not_of_the_space(tmp_path, macro):
    settings = composed("search", *TINY, "space.chain.stages=[[2,64,2],[6,128,2]]", "search.epochs=1", "logger=none")
    search.run(settings, tmp_path / "run")
    with pytest.raises(UserError, match=r"its chain is .*\[6,128,2\].*; add \"space.chain=\{"):
        find_genotype(str(tmp_path / "run"), macro, "runs", 0)
    assert find_genotype(str(tmp_path / "run"), settings.space, "runs", 0).space == macro.name
    typed = find_genotype("12012012", settings.space, "runs", 0)  # the next command must know the widths
    assert any("[6,128,2]" in item for item in settings_of_space(typed))


def test_a_table_is_of_its_own_networks_only(rows, tmp_path):
    changed = [f"benchmark.table={DATA}", "space.chain.stages=[[2,64,2],[6,128,2]]", "logger=none"]
    with pytest.raises(UserError, match=r"space\.chain is 'changed'; it must be as it is with space=nasbench_macro"):
        search.run(composed("search", *TINY, *changed), tmp_path)


def test_a_layer_without_shortcut_cannot_be_left_out():
    space = composed("search", "space=mobile").space
    with pytest.raises(UserError, match="node 0, input 0: operation 'skip_connect' is no candidate of this edge"):
        find_genotype("6" * 21, space, "runs", 0)
    assert find_genotype("0666" * 5 + "0", space, "runs", 0).skips(CHAIN) == 15


@pytest.mark.parametrize("space", ["nasbench_macro", "mobile"])
def test_commands_agree_on_the_stem_of_a_chain(space):
    wanted = composed("search", f"space={space}").network.stem_reductions
    search_settings = composed("search", f"space={space}", "method=evolution")
    sizes = [search_settings.evaluator.network, search_settings.constraints.network]
    sizes += [composed("final", f"space={space}").network, composed("correlate", f"space={space}").evaluator.network]
    assert {size.stem_reductions for size in sizes} == {wanted}
    nsga2 = composed("search", f"space={space}", "method=nsga2", "evaluator@evaluator.accuracy=table",
                     "benchmark.table=x")  # fmt: skip
    assert nsga2.evaluator.accuracy.column == ("test_1" if space == "nasbench_macro" else "cifar10_valid_12")


def test_measured_layers_are_those_that_a_search_asks_for(tmp_path):
    few = ["network.channels=4", "repetitions=1", "warm_up=0", f"hydra.run.dir={tmp_path / 'measured'}"]
    done = run_command(["-m", "darts.measure", MACRO, *few], ROOT)
    assert done.returncode == 0, done.stderr
    known = read_operations(tmp_path / "measured" / "operations.csv")
    settings = composed("search", MACRO, "constraints.network.channels=4")
    size, shape = settings.constraints.network, InputShape(1, 32, 10)
    wanted = {rest_of(settings.space, size, shape)}
    for place in places(settings.space, size, shape):
        wanted |= {place.measured(settings.space.candidates[column]) for column in range(3)}
    assert set(known) == wanted
    assert {(row.input_channels, row.channels) for row in wanted} >= {(4, 8), (8, 8), (8, 16), (16, 32), (32, 32)}
