"""Golden numbers of the recurrent half of DARTS: what the authors' code computes on inputs given by formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from darts.models.mixture import MixtureWeights
from darts.models.recurrent import AlgebraicSupernet, RecurrentNetwork, RecurrentSupernet, ScannedSupernet
from darts.search import step as search_steps
from darts.search.state import new_state
from darts.spaces.published import published
from darts.spaces.search_space import RECURRENT
from darts.tasks.language import LanguageModelling, TextInput
from darts.tasks.pieces import Lengths, Pieces, TextSearchData, TextShape, TextSplit, places
from darts.tasks.task import Batch
from darts.tasks.text import Corpus, Vocabulary
from darts.train.language import begins_averaging
from tests.conftest import composed
from tests.golden_inputs import golden

GOLDEN = golden("recurrent")
V, UNITS, T, B = 11, 6, 5, 3
EXACT = {"rel": 1e-9, "abs": 1e-9}
WORDS = torch.arange(T * B)
TRAIN = ((7 * WORDS) % V).view(T, B), ((5 * WORDS + 3) % V).view(T, B)
VALID = ((3 * WORDS + 2) % V).view(T, B), ((2 * WORDS + 1) % V).view(T, B)
ALPHA = (0.5 * torch.cos(torch.arange(180, dtype=torch.float64))).view(36, 5)
SPACE = composed("search", "space=recurrent", "dataset=bible").space


def in_order(model):
    """The weights of a model in the order of the authors' code."""
    return [model.embedding, model.cell.first, *model.cell.nodes, model.decoder_bias]


def filled(model):
    """The model in float64 with the formulas' weights."""
    model.double()
    for k, parameter in enumerate(in_order(model)):
        i = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.data = (0.3 * torch.sin(0.7 * i + k + 1)).view(parameter.shape)
    return model


def loss_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def norm_of(tensors):
    return math.sqrt(sum(float(tensor.detach().square().sum()) for tensor in tensors))


@pytest.mark.parametrize("case", GOLDEN["networks"], ids=lambda case: case["name"])
def test_golden_language_model_of_a_published_cell(case):
    genotype = published(f"{case['name']}_recurrent")
    assert [[edge.operation, edge.source] for (edge,) in genotype.cells[RECURRENT].nodes] == case["recurrent"]
    assert list(genotype.cells[RECURRENT].concat) == case["concat"]
    network = filled(RecurrentNetwork(genotype, V, UNITS)).eval()
    assert [list(parameter.shape) for parameter in in_order(network)] == case["parameter_shapes"]
    words, targets = TRAIN
    output = network(TextInput(words))
    loss = loss_of(output.logits, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(case["loss"], **EXACT)
    assert norm_of([parameter.grad for parameter in network.parameters()]) == pytest.approx(
        case["gradient_norm"], **EXACT
    )
    assert output.hidden[0].tolist() == pytest.approx(case["hidden_0"], **EXACT)
    assert output.logits[0, 0].log_softmax(-1).tolist() == pytest.approx(case["log_probability_0_0"], **EXACT)
    second = network(TextInput(words, output.hidden.detach()))
    assert float(loss_of(second.logits, targets).detach()) == pytest.approx(case["loss_second_piece"], **EXACT)


@pytest.mark.parametrize("kind", [RecurrentSupernet, AlgebraicSupernet, ScannedSupernet])
@pytest.mark.parametrize("case", GOLDEN["supernet"], ids=["evaluation", "training"])
def test_golden_recurrent_supernet(kind, case):
    supernet = filled(kind(SPACE, V, UNITS)).train(case["training_mode"])
    alpha = ALPHA.clone().requires_grad_()
    words, targets = TRAIN
    output = supernet(TextInput(words), {RECURRENT: MixtureWeights(alpha.softmax(-1))})
    loss = loss_of(output.logits, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(case["loss"], **EXACT)
    assert alpha.grad.flatten().tolist() == pytest.approx(case["d_alpha"], **EXACT)
    assert norm_of([weight.grad for weight in supernet.parameters()]) == pytest.approx(case["d_weights_norm"], **EXACT)
    assert supernet.norm.running_mean.tolist() == pytest.approx(case["bn_running_mean"], **EXACT)
    assert supernet.norm.running_var.tolist() == pytest.approx(case["bn_running_var"], **EXACT)
    assert int(supernet.norm.num_batches_tracked) == case["bn_updates"]


def test_golden_genotype_of_a_recurrent_alpha():
    method = composed("search", "space=recurrent", "dataset=bible").method
    scores = {RECURRENT: ALPHA.softmax(-1)}
    found = method.discretisation.genotype(scores, SPACE).cells[RECURRENT]
    assert [[edge.operation, edge.source] for (edge,) in found.nodes] == GOLDEN["genotype_of_that_alpha"]


def begun(folder, order, engine, embedding):
    """A search before its first step, with the formulas' weights and alpha."""
    rules = GOLDEN["search_steps"]
    overrides = [
        *("space=recurrent", "dataset=bible", f"method={order}", f"language.units={UNITS}", f"engine={engine}"),
        *(f"language.dropout_{name}=0" for name in ("embedding", "inputs", "cell_input", "hidden", "output")),
        *(f"language.temporal={rules['tar']}", f"language.unrolled_embedding={embedding}"),
        *(f"weight_optimiser.learning_rate={rules['learning_rate']}", f"weight_optimiser.clip={rules['clip']}"),
        f"weight_optimiser.final_learning_rate={rules['learning_rate']}",
        f"weight_optimiser.weight_decay={rules['weight_decay']}",
        *("weight_optimiser.momentum=0", f"architecture_optimiser.learning_rate={rules['alpha_learning_rate']}"),
        f"architecture_optimiser.beta1={rules['alpha_betas'][0]}",
        f"architecture_optimiser.weight_decay={rules['alpha_weight_decay']}",
    ]
    corpus = Corpus(Vocabulary(tuple("abcdefghijk")), {}, {})
    text = Pieces(torch.zeros(9, B, dtype=torch.int64), Lengths(T, 0.0, 0.0, 0), 0, torch.device("cpu"))
    task = LanguageModelling(temporal=rules["tar"])
    data = TextSearchData(TextShape(V), text, text, text, TextSplit("a", "b"), task, corpus)
    state = new_state(composed("search", *overrides), data, torch.device("cpu"), folder)
    filled(state.supernet)
    state.alpha[RECURRENT].data = ALPHA.clone()
    return state


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("case", GOLDEN["search_steps"]["steps"], ids=["first", "second_printed", "second"])
def test_golden_step_of_a_recurrent_search(case, engine, tmp_path):
    order = "darts_second_order" if case["second_order"] else "darts"
    embedding = "MOVED" if case["embedding_of_unrolled_corrected"] else "HELD"
    state = begun(tmp_path, order, engine, embedding)
    train, valid = (Batch(TextInput(words), targets) for words, targets in (TRAIN, VALID))
    search_steps.architecture_step(state, train, valid)
    assert state.alpha[RECURRENT].grad.flatten().tolist() == pytest.approx(case["d_alpha"], **EXACT)
    assert state.alpha[RECURRENT][0].tolist() == pytest.approx(case["alpha_after_adam_row0"], **EXACT)
    measured = search_steps.weight_step(state, train, valid)["train/loss"]
    assert float(measured.total / measured.count) == pytest.approx(case["train_loss"], **EXACT)
    weights = in_order(state.supernet)
    assert norm_of(weights) == pytest.approx(case["weights_norm_after"], **EXACT)
    assert [norm_of([weight]) for weight in weights] == pytest.approx(case["each_parameter_norm_after"], **EXACT)


def drawn():
    """The draws of the golden pieces: a uniform and a normal number each."""
    j = 0
    while True:
        yield ((7 * j + 3) % 20 + 0.5) / 20, 2.2 * math.sin(3 * j + 1)
        j += 1


def test_golden_pieces_of_a_search():
    case = GOLDEN["pieces_search"]
    draws = ((1 - uniform, normal) for uniform, normal in drawn())  # theirs halve from 0.95 on, ours below 0.05
    found = places(case["rows"], Lengths(case["bptt"], 0.05, 0.0, 0), draws)
    assert [[place.start, place.asked, place.length] for place in found] == [
        [piece["start"], piece["asked"], piece["length"]] for piece in case["pieces"]
    ]
    rates = [20.0 * place.asked / case["bptt"] for place in found]
    assert rates == pytest.approx([piece["learning_rate"] for piece in case["pieces"]])


def test_golden_validation_pieces_of_a_search(monkeypatch):
    case = GOLDEN["pieces_search"]
    lengths, device = Lengths(case["bptt"], 0.05, 0.0, 0), torch.device("cpu")
    train = Pieces(torch.zeros(case["rows"], 2, dtype=torch.int64), lengths, 0, device)
    valid = Pieces(torch.zeros(case["validation_rows"], 2, dtype=torch.int64), lengths, 0, device, follows=train)
    own = places(case["rows"], lengths, ((1 - uniform, normal) for uniform, normal in drawn()))
    monkeypatch.setattr(train, "places", lambda epoch, number=0: own)
    found = [[place.start, place.length] for place in valid.places(0)]
    assert found == [[piece["valid_start"], piece["valid_length"]] for piece in case["pieces"]]


def test_golden_pieces_of_a_retraining():
    case = GOLDEN["pieces_final"]
    draws = ((1 - uniform, normal) for uniform, normal in drawn())
    found = places(case["rows"], Lengths(case["bptt"], 0.05, 5.0, case["max_delta"]), draws)
    assert [[place.start, place.asked, place.length] for place in found] == [
        [piece["start"], piece["asked"], piece["length"]] for piece in case["pieces"]
    ]
    rates = [20.0 * place.asked / case["bptt"] for place in found]
    assert rates == pytest.approx([piece["learning_rate"] for piece in case["pieces"]])


SERIES = [
    lambda e: 6 * math.exp(-e / 6) + 4,
    lambda e: 4.5 + 0.5 * math.sin(e),
    lambda e: 6 - 0.2 * e if e < 12 else 3.8 + 0.05 * (e - 12),
    lambda e: 5 - 0.1 * e + (0.6 if e % 7 == 6 else 0),
    lambda e: 5.0,
]


@pytest.mark.parametrize("case", GOLDEN["asgd_trigger"]["cases"], ids=lambda case: f"series {case['k']}")
def test_golden_epoch_at_which_averaging_begins(case):
    patience, epochs = GOLDEN["asgd_trigger"]["nonmono"], GOLDEN["asgd_trigger"]["epochs"]
    series = [SERIES[case["k"]](epoch) for epoch in range(epochs)]
    assert series[:3] == pytest.approx(case["series_first3"])
    begins = [epoch for epoch in range(epochs) if begins_averaging(series[:epoch], series[epoch], patience)]
    first = begins[0] + 1 if begins else None
    assert first == case["switches_after_epoch"]


PARAMETERS = [
    ("darts_v1", 850, 10_000, 22_960_000),
    ("darts_v2", 850, 10_000, 22_960_000),
    ("enas", 850, 10_000, 27_295_000),
    ("darts_v2", 700, 33_278, 33_127_878),
    ("enas", 700, 33_278, 36_067_878),
]


@pytest.mark.parametrize(("name", "units", "words", "count"), PARAMETERS)
def test_golden_parameters_of_a_published_language_model(name, units, words, count):
    with torch.device("meta"):
        network = RecurrentNetwork(published(f"{name}_recurrent"), words, units)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_golden_parameters_of_the_recurrent_supernet():
    with torch.device("meta"):
        supernet = RecurrentSupernet(SPACE, 10_000, 300)
    assert sum(parameter.numel() for parameter in supernet.parameters()) == 4_810_000
    assert len(SPACE.edges()) == 36 and len(SPACE.candidates) == 5
