"""The parts of methods against formulas written by hand, finite differences and enumeration, in float64."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
import torch.nn.functional as F

from darts.methods import (
    channels,
    edge_extras,
    hypergradient,
    perturbation,
    regularisers,
    relaxation,
    schedule,
    stopping,
    weight_gradient,
)
from darts.methods.discretisation import FewSkips, Threshold
from darts.models.mixture import START, MixtureWeights, Moment, dense_mixture
from darts.models.supernet import MixedOperation, Mixing, Supernet, shuffled
from darts.search import loop as search
from darts.search import state as search_state
from darts.spaces.search_space import InputShape, plan_cells
from tests.conftest import TINY_SEARCH, composed, space_of

ACTIVE = torch.tensor([[True, True, True], [True, False, True]])
ALPHA = torch.tensor([[0.3, -0.2, 0.5], [1.0, 9.0, -0.5]], dtype=torch.float64)


def test_candidates_that_are_gone_weigh_nothing_and_the_rest_as_if_they_had_never_been():
    weights = relaxation.Softmax().weights(ALPHA, ACTIVE, START).weights
    torch.testing.assert_close(weights[1, [0, 2]], ALPHA[1, [0, 2]].softmax(0))
    assert weights[1, 1] == 0
    none_left = relaxation.Softmax().weights(ALPHA, torch.zeros_like(ACTIVE), START).weights
    assert none_left.abs().max() == 0


@pytest.mark.parametrize(
    ("name", "expected"), [("gumbel", [0.676667, 0.353333, 0.03]), ("gumbel_hard", [10.0, 5.05, 0.1])]
)
def test_temperatures_fall_once_an_epoch_and_end_with_the_last(name, expected):
    part = composed("search", f"method/relaxation={name}").method.relaxation
    for within in (0.0, 0.9):
        found = [part.temperature(Moment((epoch + within) / 3, epoch, 3)) for epoch in range(3)]
        assert found == pytest.approx(expected, abs=1e-6)
    slow = dataclasses.replace(part, decay=relaxation.Decay.EXPONENTIAL)
    assert slow.temperature(Moment(1.0, 2, 3)) == pytest.approx(part.end)


@pytest.mark.parametrize("part", [
    relaxation.Softmax(), relaxation.Sigmoid(), relaxation.Gumbel(1.0, 0.5, relaxation.Decay.LINEAR),
])  # fmt: skip
def test_gradients_of_a_relaxation_are_those_of_finite_differences(part):
    def weights(alpha):
        torch.manual_seed(3)
        return part.weights(alpha, ACTIVE, START).weights

    assert torch.autograd.gradcheck(weights, ALPHA.clone().requires_grad_())


def test_a_softened_gumbel_draw_is_the_formula():
    torch.manual_seed(0)
    found = relaxation.Gumbel(2.0, 2.0, relaxation.Decay.LINEAR).weights(ALPHA, torch.ones_like(ACTIVE), START).weights
    torch.manual_seed(0)
    noise = -torch.empty_like(ALPHA).exponential_().log()
    torch.testing.assert_close(found, ((ALPHA.log_softmax(-1) + noise) / 2).softmax(-1))


def test_hard_draws_come_with_the_softmax_probabilities_and_compute_only_themselves():
    torch.manual_seed(0)
    part = relaxation.GumbelHard(1.0, 1.0, relaxation.Decay.LINEAR, True)
    counts = torch.zeros_like(ALPHA)
    for _ in range(4000):
        drawn = part.weights(ALPHA, ACTIVE, START)
        assert isinstance(drawn, MixtureWeights)
        assert [int(row.argmax()) for row in drawn.weights] == [columns[0] for columns in drawn.computed]
        counts += drawn.weights
    expected = relaxation.softmax(ALPHA, ACTIVE)
    assert (counts / 4000 - expected).abs().max() < 4 * 0.5 / 4000**0.5


def test_a_hard_draw_is_one_hot_and_its_gradient_that_of_the_soft_one():
    part = relaxation.GumbelHard(0.7, 0.7, relaxation.Decay.LINEAR, True)
    alpha = ALPHA.clone().requires_grad_()
    torch.manual_seed(1)
    hard = part.weights(alpha, ACTIVE, START).weights
    gradient = torch.autograd.grad(hard[0, 1], alpha)[0]
    torch.manual_seed(1)
    soft = relaxation.softmax((alpha.log_softmax(-1) + relaxation.gumbel_noise(alpha)) / 0.7, ACTIVE)
    torch.testing.assert_close(gradient, torch.autograd.grad(soft[0, 1], alpha)[0])
    assert sorted(hard[0].detach().round().tolist()) == [0, 0, 1]


def test_two_binary_paths_are_in_memory_and_one_is_open_at_its_rate():
    torch.manual_seed(0)
    part, opened = relaxation.BinaryPaths(), torch.zeros_like(ALPHA)
    for _ in range(4000):
        drawn = part.weights(ALPHA, torch.ones_like(ACTIVE), START)
        assert all(len(columns) == 2 for columns in drawn.computed)
        opened += drawn.weights
    p = ALPHA.softmax(-1)
    expected = torch.zeros_like(p)
    for first in range(3):  # pairs without replacement, then one of the two
        for second in range(3):
            if first != second:
                pair = p[:, first] * p[:, second] / (1 - p[:, first])
                expected[:, first] += pair * p[:, first] / (p[:, first] + p[:, second])
                expected[:, second] += pair * p[:, second] / (p[:, first] + p[:, second])
    assert (opened / 4000 - expected).abs().max() < 4 * 0.5 / 4000**0.5


def test_dirichlet_draws_have_the_mean_and_the_pathwise_gradient_of_their_distribution():
    torch.manual_seed(0)
    alpha = ALPHA.clone().requires_grad_()
    active = torch.ones_like(ACTIVE)
    draws = torch.stack([relaxation.Dirichlet().weights(alpha, active, START).weights for _ in range(8000)])
    concentration = F.elu(alpha) + 1
    mean = concentration / concentration.sum(-1, keepdim=True)
    assert (draws.mean(0) - mean).abs().max() < 0.02
    of_draws = torch.autograd.grad(draws[:, 0, 0].mean(), alpha)[0][0]
    assert (of_draws - torch.autograd.grad(mean[0, 0], alpha)[0][0]).abs().max() < 0.02


def test_partial_channels_mix_a_part_and_shuffle_all(tiny_space):
    operation = MixedOperation({0: torch.nn.Identity()}, 2, 1)
    x = torch.arange(4.0).view(1, 4, 1, 1)
    found = operation(x, torch.tensor([10.0, 0.5]))
    assert found.flatten().tolist() == [0.0, 1.0, 10.0, 1.5]  # (0, 10) mixed, (1, 1.5) around, dealt out by pairs
    assert shuffled(torch.arange(8).view(1, 8, 1, 1), 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    plans = plan_cells(3, 8, tiny_space.multipliers())
    whole, part = (Supernet(plans, tiny_space, InputShape(3, 8, 5), 0, Mixing(k=k)) for k in (1, 4))
    count = [sum(w.numel() for n, w in s.named_parameters() if ".edges." in n) for s in (whole, part)]
    assert count[1] < count[0] / 4


def test_edge_weights_are_a_softmax_at_each_node_and_count_at_discretisation():
    space = space_of("hand-made", 2, 2, ["none", "skip_connect", "sep_conv_3x3"])
    beta = torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0])
    weights = channels.edge_softmax(beta, space, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.cat([beta[:2].softmax(0), beta[2:].softmax(0)]))
    method = composed("search", "method=pc_darts").method
    alpha = {"normal": torch.zeros(5, 3), "reduction": torch.zeros(5, 3), "edges/normal": beta, "edges/reduction": beta}
    masks = {kind: torch.ones(5, 3, dtype=torch.bool) for kind in space.cell_types}
    genotype = method.discretisation.genotype(method.scores(alpha, masks, space), space)
    assert [edge.source for edge in genotype.cells["normal"].nodes[1]] == [0, 1]
    beta[4] = 5.0
    genotype = method.discretisation.genotype(method.scores(alpha, masks, space), space)
    assert [edge.source for edge in genotype.cells["normal"].nodes[1]] == [2, 0]


def test_the_auxiliary_skip_fades_and_skip_dropout_follows_its_schedule():
    fading = edge_extras.AuxiliarySkip(1.0)
    assert [fading.weights(Moment(0.99, epoch, 4))[0] for epoch in range(4)] == [1.0, 0.75, 0.5, 0.25]
    part = edge_extras.SkipDropout([0.0, 0.4, 0.7], 0.2)
    assert part.dropout(2, 0, 10, 0.4) == pytest.approx(0.63)
    assert part.dropout(1, 10, 25, 0.4) == pytest.approx(0.4)
    assert part.dropout(1, 15, 25, 0.4) == pytest.approx(0.4 * math.exp(-1))


def test_path_dropout_grows_from_nothing_to_its_probability_in_every_stage():
    part = edge_extras.PathDropout(0.6)
    assert [part.dropout(0, epoch, 4, 0.0) for epoch in range(4)] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    assert part.dropout(0, 0, 1, 0.0) == 0.0 and part.drops_paths and not part.drops_skips


def test_a_dropped_edge_is_dropped_whole_for_an_image_and_scaled_for_the_others():
    edge = MixedOperation({0: torch.nn.Identity()}, 1, 1, drops=True)
    edge.dropped.probability = 0.25
    images = torch.rand(4000, 2, 3, 3) + 0.1
    torch.manual_seed(0)
    found = edge(images, torch.ones(1))
    kept = found.flatten(1).ne(0).all(1)
    assert found[~kept].abs().sum() == 0 and torch.allclose(found[kept], images[kept] / 0.75)
    assert abs(kept.float().mean() - 0.75) < 3 * math.sqrt(0.25 * 0.75 / 4000)
    assert torch.equal(edge.eval()(images, torch.ones(1)), images)


def test_a_supernet_that_drops_edges_is_the_reference_and_knows_its_probability(tmp_path):
    settings = composed("search", *TINY_SEARCH, "method=r_darts_dp", "method.edge_extras.probability=0.5")
    state = search.start_or_resume(settings, tmp_path)
    assert type(state.supernet) is Supernet
    state.epoch = 2
    search.set_dropout(state)
    dropouts = list(search_state.dropouts(state))
    edges = sum(len(state.settings.space.edges()) for _ in state.supernet.kinds)
    assert len(dropouts) == edges and {dropout.probability for dropout in dropouts} == {0.5}


def test_terms_of_the_architecture_loss_are_their_formulas():
    alpha = [ALPHA, ALPHA + 1]
    both = torch.cat([matrix.flatten() for matrix in alpha])
    zero_one = regularisers.ZeroOne(10.0)(alpha, START)
    torch.testing.assert_close(zero_one, -10 * ((1 / (1 + (-both).exp()) - 0.5) ** 2).mean())
    rows = torch.stack([row.exp().sum().log() for matrix in alpha for row in matrix])
    torch.testing.assert_close(regularisers.LogSumExp(50.0, 100)(alpha, Moment(0.5, 30, 60)), 50 * 0.3 * rows.mean())
    flat = [torch.zeros(2, 3, dtype=torch.float64)]  # elu(0) + 1 = 1: the anchor itself
    assert float(regularisers.Anchor(1.0)(flat, START)) == pytest.approx(0.0)
    assert float(regularisers.Anchor(1.0)(alpha, START)) > 0.1


def test_random_smoothing_stays_near_and_adversarial_smoothing_raises_the_loss():
    mixture = {"normal": ALPHA.softmax(-1)}
    part = perturbation.RandomSmoothing(0.03, 0.3)
    assert [part.epsilon(Moment(0.0, e, 2)) for e in (0, 1)] == pytest.approx([0.03, 0.165])
    moved = part(mixture, None, START)["normal"]
    torch.testing.assert_close(moved.sum(-1), torch.ones(2).double())
    assert 0 < (moved - mixture["normal"]).abs().max() < 0.1
    gradient = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.1, -2.0]]).double()

    def loss(mixtures):
        return (mixtures["normal"] * gradient).sum()

    found = perturbation.AdversarialSmoothing(0.1, 0.1, 7, False)(
        mixture, perturbation.PerturbationProblem(loss), START
    )
    by_hand = mixture["normal"]
    for _ in range(7):
        by_hand = mixture["normal"] + (by_hand + 0.2 / 7 * gradient.sign() - mixture["normal"]).clamp(-0.1, 0.1)
        by_hand = by_hand.clamp(0, 1) / by_hand.clamp(0, 1).sum(-1, keepdim=True)
    torch.testing.assert_close(found["normal"], by_hand)
    assert loss(found) > loss(mixture)
    peak = perturbation.PerturbationProblem(lambda m: -(m["normal"] - mixture["normal"]).square().sum())
    torch.manual_seed(0)
    kept = perturbation.AdversarialSmoothing(0.1, 0.1, 7, True)(mixture, peak, START)
    assert torch.equal(kept["normal"], mixture["normal"])  # any step lowers the loss


def quadratic(seed: int = 0):
    """Losses quadratic in w, with the exact derivative of L_val(w*(alpha), alpha) in closed form."""
    draws = torch.Generator().manual_seed(seed)
    matrix = torch.randn(6, 6, generator=draws, dtype=torch.float64)
    hessian = matrix @ matrix.T / 6 + torch.eye(6, dtype=torch.float64)
    coupling, target = (torch.randn(*s, generator=draws, dtype=torch.float64) for s in ((6, 3), (6,)))
    alpha = torch.randn(3, generator=draws, dtype=torch.float64).requires_grad_()
    w = torch.linalg.solve(hessian, coupling @ alpha.detach())  # the optimum of the training loss
    train = lambda weights, a: weights[0] @ hessian @ weights[0] / 2 - weights[0] @ coupling @ a[0]  # noqa: E731
    valid = lambda weights, a: (weights[0] - target).square().sum() / 2  # noqa: E731
    problem = hypergradient.Problem(train, valid, [w], [alpha], [None], 0.2, 0.0, 0.0)
    exact = coupling.T @ torch.linalg.solve(hessian, w - target)
    return problem, exact, hessian, coupling, target


@pytest.mark.parametrize("terms", [0, 1, 2, 5])
def test_the_neumann_series_is_its_own_closed_form(terms):
    problem, _, hessian, coupling, target = quadratic()
    found, _ = hypergradient.Neumann(terms, 0.01, 5)(problem)
    step = torch.eye(6, dtype=torch.float64) - 0.2 * hessian
    series = sum(torch.linalg.matrix_power(step, k) for k in range(terms + 1))
    expected = 0.2 * coupling.T @ series @ (problem.weights[0] - target)
    torch.testing.assert_close(found[0], expected, rtol=1e-8, atol=1e-10)


def test_a_long_neumann_series_is_the_exact_hypergradient():
    problem, exact, *_ = quadratic()
    torch.testing.assert_close(hypergradient.Neumann(100, 0.01, 5)(problem)[0][0], exact, rtol=1e-4, atol=1e-6)


def test_the_direction_of_alignment_is_the_gradient_of_the_mean_cosine():
    gradients = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = gradients.flatten(1)
    pairs = [F.cosine_similarity(rows[i], rows[j], dim=0) for i in range(4) for j in range(i)]
    expected = torch.autograd.grad(torch.stack(pairs).mean(), gradients)[0]
    torch.testing.assert_close(weight_gradient.alignment_direction(gradients.detach()), expected)


NAMES = ["none", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3"]


def weight_problem(weights, train, valid, mixture):
    return weight_gradient.WeightProblem(
        train, valid, mixture, weights, {"normal": 2}, dict, Moment(0.5, 1, 3), math.inf, NAMES
    )


def test_layer_alignment_adds_the_gradient_of_the_alignment():
    draws = torch.Generator().manual_seed(1)
    weight = torch.randn(4, generator=draws, dtype=torch.float64).requires_grad_()
    mixing = torch.randn(2, 4, 1, 3, generator=draws, dtype=torch.float64)

    def train(mixture):
        cells = mixture["normal"].weights
        cells = cells.expand(2, -1, -1) if cells.dim() == 2 else cells
        return torch.einsum("w,lwec,lec->", weight.sin(), mixing, cells).square()

    mixture = dense_mixture({"normal": torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)})
    problem = weight_problem({"w": weight}, train, train, mixture)
    found, _ = weight_gradient.LayerAlignment(0.25, 1e-4).gradients(problem, {})
    cells = mixture["normal"].weights.expand(2, -1, -1).clone().requires_grad_()
    gradients = torch.autograd.grad(train(dense_mixture({"normal": cells})), cells, create_graph=True)[0].flatten(1)
    penalty = -F.cosine_similarity(gradients[0], gradients[1], dim=0)
    plain = torch.autograd.grad(train(mixture), weight)[0]
    expected = plain + 0.25 * 0.5 * torch.autograd.grad(penalty, weight)[0]
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-7)


def test_operations_whose_gradients_disagree_are_frozen_for_good():
    names = [f"cells.0.edges.{edge}.operations.{column}.1.weight" for edge in range(2) for column in (4, 1)]
    weights = {name: torch.ones(3, requires_grad=True) for name in names}
    train = lambda _: sum(weight.sum() for weight in weights.values())  # noqa: E731
    valid = lambda _: sum(w.sum() * (1 if ".0.edges.0." in n else -2) for n, w in weights.items())  # noqa: E731
    rule, memory = weight_gradient.FrozenOperations(0.4, 3), {}
    for step in range(5):
        assert rule.frozen(memory) == []
        _, memory = rule.gradients(weight_problem(weights, train, valid, {}), memory)
        assert memory["agreements"] == (step if step < 4 else 0)  # the first step has nothing to compare with
    assert rule.frozen(memory) == ["cells.0.edges.1.operations.4."]  # and no skip connection
    assert memory["agreement"] == {} and sorted(memory["previous"]) == [names[0]]
    for _ in range(4):
        _, memory = rule.gradients(weight_problem(weights, train, valid, {}), memory)
    assert rule.frozen(memory) == ["cells.0.edges.1.operations.4."]


def test_a_frozen_operation_stays_and_the_others_move(tmp_path):
    from darts.search import loop as search
    from darts.search import step as search_steps
    from tests.conftest import TINY_SEARCH

    state = search.start_or_resume(composed("search", *TINY_SEARCH, "method=oles"), tmp_path)
    train, valid = next(state.data.train.shuffled(0)), next(state.data.valid.shuffled(0))
    before = {n: w.clone() for n, w in state.supernet.to_reference(state.supernet.state_dict()).items()}
    state.memory["weight_gradient"] = {"frozen": ["cells.0.edges.0.operations.3."]}
    search_steps.weight_step(state, train, valid)
    after = state.supernet.to_reference(state.supernet.state_dict())
    for name in before:
        if name.endswith("weight") and ".operations.3." in name and name.startswith("cells.0."):
            assert torch.equal(before[name], after[name]) == name.startswith("cells.0.edges.0."), name


SPACE = space_of("hand-made", 2, 2, ["none", "skip_connect", "sep_conv_3x3"])
SCORES = [[0.1, 0.2, 0.7], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]


def seen(epoch: int, active=None, scores=SCORES, memory=None, accuracy=None):
    active = {"normal": active or [[True] * 3 for _ in range(5)]}
    by_kind = {"normal": scores}
    judged = (accuracy, lambda genotype, batches: 0.0)
    return schedule.Observation(epoch, SPACE, active, by_kind, by_kind, memory or {}, random.Random(0), *judged)


def test_stages_drop_the_weakest_candidates_at_their_ends():
    part = schedule.Stages(0.4, 1, [2, 1], [0, 6, 12], True)
    stages = part.stages(75, SPACE)
    assert [(s.first, s.last, s.more_cells, s.fresh) for s in stages] == [
        (0, 25, 0, False), (25, 50, 6, True), (50, 75, 12, True),
    ]  # fmt: skip
    assert part.decide(seen(24), 75)[0] == seen(24).active
    active = part.decide(seen(25), 75)[0]["normal"]
    assert active == [[False, True, True], [True, True, False], [False, True, True], [True, False, True],
                    [True, False, True]]  # fmt: skip
    assert all(sum(row) == 1 and not row[0] for row in part.decide(seen(50), 75)[0]["normal"])  # never none alone
    assert part.decide(seen(75), 75)[0] == seen(75).active


def test_sgas_decides_the_most_important_and_most_certain_edge():
    part = schedule.Greedy(10, 5, 0)
    assert part.stages(50, composed("search").space)[0].last == 50  # as published: 10 + 5 * 7 + 5
    assert part.decide(seen(9), 50)[0] == seen(9).active
    active = part.decide(seen(10), 50)[0]["normal"]
    assert active[1] == [False, True, False] and sum(map(sum, active)) == 13
    decided = [[False, True, False], [True] * 3, [False, False, True], [False, True, False], [True] * 3]
    active = part.decide(seen(15, decided), 50)[0]["normal"]
    assert not any(active[4])  # the node has its two edges


def test_projection_keeps_the_operation_whose_removal_hurts_most_then_the_edges():
    def accuracy(active):  # skips matter, and edges of higher number matter more
        return -sum((edge + 1) * ((not row[1]) + 0.1 * (not row[2])) for edge, row in enumerate(active["normal"]))

    part, active = schedule.Projection(1, True, 0.1), None
    stages = part.stages(10, SPACE)
    assert stages[0].alpha_frozen_fraction == stages[1].alpha_frozen_fraction == 1.0
    for epoch in range(10, stages[1].last):
        active = part.decide(seen(epoch, active, accuracy=accuracy), 10)[0]["normal"]
    assert active == [
        [False, True, False],
        [False, True, False],
        [False] * 3,
        [False, True, False],
        [False, True, False],
    ]


def test_the_search_ends_when_the_eigenvalue_has_grown():
    part = stopping.EigenvalueGrowth(10, 2, 5, 4, 1.3)
    history = [{"epoch": e, **({"eigenvalue": 1.0} if e % 2 == 1 else {})} for e in range(1, 31)]
    assert part.chosen_epoch(history) is None and part.chosen_epoch([]) is None
    history += [{"epoch": 31, "eigenvalue": 5.0}]
    assert part.chosen_epoch(history) == 19  # the middle of the window of five that is four measurements earlier
    assert part.chosen_epoch([*history, {"epoch": 32}]) is None  # nothing new was measured


def test_at_most_so_many_skips_and_a_threshold():
    scores = torch.tensor([[0, 0.9, 0.2], [0, 0.8, 0.3], [0, 0.7, 0.1], [0, 0.6, 0.5], [0, 0.4, 0.3]])
    cell = FewSkips(2).genotype({"normal": scores}, SPACE).cells["normal"]
    assert cell.operations().count("skip_connect") == 2
    assert str(cell) == "skip_connect 0, skip_connect 1; sep_conv_3x3 1, sep_conv_3x3 2"
    cell = Threshold(0.65).genotype({"normal": scores}, SPACE).cells["normal"]
    assert str(cell) == "skip_connect 0, skip_connect 1; skip_connect 0"


def test_the_best_of_samples_is_the_genotype_of_highest_accuracy_and_chosen_before_the_last_epoch():
    part = schedule.BestOfSamples(20, 2, 3)
    drawn = []

    def judged(genotype, batches):
        if batches == 2:
            drawn.append(genotype)
            return -abs(len(drawn) - 13)  # the thirteenth is the best on two batches
        return float(genotype == drawn[11])  # and its neighbour on all

    at = dataclasses.replace(seen(9), path_accuracy=judged)
    active = part.decide(at, 10)[0]["normal"]
    assert len(drawn) == 20 and part.stages(10, SPACE)[0].alpha_frozen_fraction == 1.0
    there = {(edge, column) for edge, row in enumerate(active) for column, stays in enumerate(row) if stays}
    assert there == set(SPACE.places(drawn[11].cells["normal"]))
    assert part.decide(seen(8), 10)[0] == seen(8).active and part.decide(seen(10), 10)[0] == seen(10).active
