"""One whole step of every method on a space of two edges, in float64, against the formulas of its paper written out.

The supernet is taken as the function f(w, mixture); everything around it is computed here by hand: the mixture from
alpha, the gradient of alpha, Adam's first step, the mixture that the weights train under, SGD's clipped first step.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from darts.models.batch_norm import frozen_statistics
from darts.models.mixture import MixtureWeights, Moment, dense_mixture
from darts.search import loop as search
from darts.search import step as search_steps
from tests.conftest import GRADIENT_METHODS, TINY, composed

EPOCH, EPOCHS = 9, 15
MOMENT = Moment(0.63, EPOCH, EPOCHS)
RATE, ALPHA_RATE, DECAY, ALPHA_DECAY, CLIP = 0.05, 0.01, 3e-4, 1e-3, 5.0
TOY = [*TINY, "space.nodes=1", "space.candidates=[none,skip_connect,sep_conv_3x3]", "network.channels=12",
       "network.cells=4", "engine=reference", "search.batch_size=16", "search.epochs=15"]  # fmt: skip


def softmax(alpha):
    return alpha.exp() / alpha.exp().sum(-1, keepdim=True)


def noise(alpha):
    return -torch.empty_like(alpha).exponential_().log()


def gumbel(alpha, temperature):
    return softmax((softmax(alpha).log() + noise(alpha)) / temperature)


def gdas(alpha):
    soft = gumbel(alpha, 10 + (0.1 - 10) * EPOCH / (EPOCHS - 1))
    best = soft.argmax(-1)
    hard = F.one_hot(best, 3).to(soft)
    return MixtureWeights(hard + soft - soft.detach(), [[int(column)] for column in best], rest_added=True)


def gdas_v1(alpha):
    """The same draw; only the drawn weight has a gradient."""
    return gdas(alpha)._replace(rest_added=False)


def proxyless_weights(alpha):
    best = (softmax(alpha).log() + noise(alpha)).argmax(-1)
    return MixtureWeights(F.one_hot(best, 3).to(alpha), [[int(column)] for column in best])


def proxyless(alpha):
    first = (softmax(alpha).log() + noise(alpha)).topk(2, -1).indices
    pair = torch.zeros_like(alpha).scatter(-1, first, 1.0)
    soft = alpha.exp() * pair / (alpha.exp() * pair).sum(-1, keepdim=True)
    opened = F.one_hot((soft.detach().log() + noise(alpha)).argmax(-1), 3)
    return MixtureWeights(opened + (soft - soft.detach()) * pair, [sorted(row) for row in first.tolist()])


def dirichlet(alpha):
    gammas = torch._standard_gamma(F.elu(alpha) + 1)
    return gammas / gammas.sum(-1, keepdim=True)


def uniform_paths(alpha):
    """Both edges stay, as a node keeps two; on each any candidate."""
    torch.randperm(2)
    best = noise(alpha).argmax(-1)
    return MixtureWeights(F.one_hot(best, 3).to(alpha), [[int(column)] for column in best])


SOFTMAX = [
    *(
        "darts",
        "darts_second_order",
        "pc_darts",
        "sdarts_rs",
        "sdarts_adv",
        "r_darts",
        "r_darts_dp",
        "darts_es",
        "p_darts",
        "darts_minus",
    ),
    *("beta_darts", "sgas", "oles", "darts_pt", "darts_pt_fixed", "idarts", "lambda_darts"),
]  # their papers' own relaxation
RELAXED = {
    **dict.fromkeys(SOFTMAX, softmax),
    "gdas": gdas,
    "gdas_v1": gdas_v1,
    "proxyless": proxyless,
    "snas": lambda alpha: gumbel(alpha, 1.0 + (0.03 - 1.0) * (EPOCH + 1) / EPOCHS),
    "drnas": dirichlet,
    "drnas_progressive": dirichlet,
    "fair_darts": lambda alpha: 1 / (1 + (-alpha).exp()),
    "random_weight_sharing": uniform_paths,
}


def mixture_of(method, alpha, relaxed=None, changed=None):
    """By cell type the weights of the columns that the supernet is called with; `changed` are the candidates' own."""
    found = {}
    for kind in ("normal", "reduction"):
        weights = (relaxed or RELAXED[method])(alpha[kind]) if changed is None else changed[kind]
        if method == "darts_minus":
            weights = torch.cat([weights, torch.full((2, 1), 1 - EPOCH / EPOCHS, dtype=weights.dtype)], 1)
        if method in ("pc_darts", "drnas_progressive"):
            weights = torch.cat([weights, torch.ones(2, 1, dtype=weights.dtype)], 1)
        if method == "pc_darts":
            weights = weights * softmax(alpha[f"edges/{kind}"])[:, None]
        found[kind] = weights if isinstance(weights, MixtureWeights) else MixtureWeights(weights)
    return found


def penalty(method, alpha):
    both = torch.cat([alpha["normal"], alpha["reduction"]])
    if method == "beta_darts":
        return 50.0 * EPOCH / 100 * both.exp().sum(-1).log().mean()
    if method == "fair_darts":
        return -10.0 * ((1 / (1 + (-both).exp()) - 0.5) ** 2).mean()
    return 0.0


class Toy:
    """A search before its first step, its two losses, and their gradients."""

    def __init__(self, method, folder):
        settings = composed("search", *TOY, f"method={method}", f"weight_optimiser.learning_rate={RATE}")
        self.method, self.state = method, search.start_or_resume(settings, folder)
        self.state.supernet.double()
        for name, matrix in self.state.alpha.items():
            draws = torch.Generator().manual_seed(len(name))
            matrix.data = 0.5 * torch.randn(matrix.shape, generator=draws, dtype=torch.float64)
        pair = (self.state.data.train, self.state.data.valid)
        batches = [next(iter(half.shuffled(0))) for half in pair]
        self.train, self.valid = (batch._replace(inputs=batch.inputs.double()) for batch in batches)
        self.names = [name for name, _ in self.state.supernet.named_parameters()]
        self.weights = [weight.detach().clone() for weight in self.state.supernet.parameters()]
        self.alpha = {name: matrix.detach().clone().requires_grad_() for name, matrix in self.state.alpha.items()}
        rows = list(self.alpha.values())
        self.rows = rows

    def loss_under(self, batch, weights, mixture):
        named = dict(zip(self.names, weights, strict=True))
        with frozen_statistics(self.state.supernet):
            logits = functional_call(self.state.supernet, named, (batch.inputs, mixture))
        return F.cross_entropy(logits, batch.targets)

    def loss(self, batch, weights, penalised=False):
        with self.state.noise("mixture of alpha"):
            mixture = mixture_of(self.method, self.alpha)
        return self.loss_under(batch, weights, mixture) + (penalty(self.method, self.alpha) if penalised else 0.0)

    def gradients(self, loss, tensors):
        return torch.autograd.grad(loss, tensors, materialize_grads=True)

    def leaves(self, weights):
        return [weight.detach().requires_grad_() for weight in weights]

    def train_gradients(self, weights, tensors=None):
        """Of the training loss, in alpha or in the weights."""
        leaves = self.leaves(weights)
        return self.gradients(self.loss(self.train, leaves), tensors or leaves)

    def moved(self, direction, step):
        return [w + step * d for w, d in zip(self.weights, direction, strict=True)]

    def central(self, direction, tensors=None):
        """The mixed derivative along a direction of the weights, by the paper's difference of 0.01 / norm."""
        step = 0.01 / torch.cat([d.flatten() for d in direction]).norm()
        ends = [self.train_gradients(self.moved(direction, signed), tensors) for signed in (step, -step)]
        return [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]


def hypergradient(toy):
    if toy.method in (
        "darts_second_order",
        "r_darts",
        "r_darts_dp",
        "darts_es",
    ):  # equations 7 and 8 of Liu et al. 2019
        gradients = toy.train_gradients(toy.weights)
        unrolled = [w - RATE * (s + DECAY * w) for w, s in zip(toy.weights, gradients, strict=True)]
        leaves = toy.leaves(unrolled)
        both = toy.gradients(toy.loss(toy.valid, leaves, True), [*toy.rows, *leaves])
        implicit = toy.central(both[len(toy.rows) :], toy.rows)
        return [d - RATE * i for d, i in zip(both, implicit, strict=False)]
    if toy.method == "idarts":  # equation 9 of Zhang et al. 2021: v + (I - lr H) v + (I - lr H)^2 v
        leaves = toy.leaves(toy.weights)
        both = toy.gradients(toy.loss(toy.valid, leaves, True), [*toy.rows, *leaves])
        terms = [list(both[len(toy.rows) :])]
        for _ in range(2):
            product = toy.central(terms[-1])
            terms.append([v - RATE * h for v, h in zip(terms[-1], product, strict=True)])
        total = [sum(parts) for parts in zip(*terms, strict=True)]
        return [d - RATE * i for d, i in zip(both, toy.central(total, toy.rows), strict=False)]
    return toy.gradients(toy.loss(toy.valid, toy.weights, True), toy.rows)


def training_mixture(toy):
    """What the weights train under: the relaxation's draw of this step, perturbed where the method does."""
    alpha = {name: matrix.detach() for name, matrix in toy.state.alpha.items()}
    relaxed = proxyless_weights if toy.method == "proxyless" else None
    with torch.no_grad(), toy.state.noise("mixture"):
        mixture = mixture_of(toy.method, alpha, relaxed)
    epsilon = 0.03 + 0.27 * EPOCH / EPOCHS
    if toy.method not in ("sdarts_rs", "sdarts_adv"):
        return mixture
    candidates = {kind: softmax(alpha[kind]) for kind in mixture}
    with toy.state.noise("perturbation"):
        moved = {kind: clipped(m + epsilon * (2 * torch.rand_like(m) - 1)) for kind, m in candidates.items()}
    if toy.method == "sdarts_adv":
        moved = adversarial(toy, candidates, moved, epsilon)
    return mixture_of(toy.method, alpha, changed=moved)


def clipped(matrix):
    """To 0 and 1, each row divided by its sum."""
    return matrix.clamp(0, 1) / matrix.clamp(0, 1).sum(-1, keepdim=True)


def adversarial(toy, candidates, moved, epsilon):
    """From noise seven signed steps of 2 epsilon / 7 up the training loss in evaluation mode, each projected.

    They are undone where the loss fell.
    """
    toy.state.supernet.eval()
    named = dict(zip(toy.names, toy.weights, strict=True))

    def loss(other):
        given = toy.train.inputs, dense_mixture(other)
        return F.cross_entropy(functional_call(toy.state.supernet, named, given), toy.train.targets)

    for _ in range(7):
        leaves = {kind: m.detach().requires_grad_() for kind, m in moved.items()}
        signs = [gradient.sign() for gradient in torch.autograd.grad(loss(leaves), list(leaves.values()))]
        stepped = {kind: moved[kind] + 2 * epsilon / 7 * sign for kind, sign in zip(leaves, signs, strict=True)}
        near = {k: m.clamp(candidates[k] - epsilon, candidates[k] + epsilon) for k, m in stepped.items()}
        moved = {kind: clipped(matrix) for kind, matrix in near.items()}
    fell = bool(loss(moved) < loss(candidates))
    toy.state.supernet.train()
    return candidates if fell else moved


def weight_gradients(toy, mixture):
    leaves = toy.leaves(toy.weights)
    if toy.method != "lambda_darts":
        return torch.autograd.grad(toy.loss_under(toy.train, leaves, mixture), leaves, materialize_grads=True)
    cells = mixture["normal"].weights.expand(2, -1, -1).clone().requires_grad_()  # four cells, two of them normal
    loss = toy.loss_under(toy.train, leaves, {**mixture, "normal": MixtureWeights(cells)})
    *plain, by_cell = torch.autograd.grad(loss, [*leaves, cells], materialize_grads=True)
    rows = by_cell.detach().flatten(1).requires_grad_()
    (direction,) = torch.autograd.grad(F.cosine_similarity(rows[0], rows[1], dim=0), rows)
    direction, step = direction.view_as(cells), 1e-4 / direction.norm()
    ends = []
    for signed in (step, -step):
        shifted = {**mixture, "normal": MixtureWeights(cells.detach() + signed * direction)}
        ends.append(torch.autograd.grad(toy.loss_under(toy.train, leaves, shifted), leaves, materialize_grads=True))
    factor = 0.25 * EPOCH / (EPOCHS - 1) / (2 * step)
    return [p - factor * (a - b) for p, a, b in zip(plain, *ends, strict=True)]


def rescaled(toy, moved):
    """Both drawn candidates of an edge shifted alike, so that together they have the probability of before."""
    found = []
    with toy.state.noise("mixture of alpha"):
        for before, after in zip(toy.rows, moved, strict=True):
            pair = torch.zeros_like(after).scatter(-1, (softmax(before).log() + noise(before)).topk(2, -1).indices, 1.0)
            noise(before)
            kept = (before.exp() * pair).sum(-1, keepdim=True) / (after.exp() * pair).sum(-1, keepdim=True)
            found.append((after + kept.log() * pair).detach())
    return found


ELSEWHERE = ("snas", "darts_front")  # one loss, below; an alpha for every preference, tests/test_darts_front.py


@pytest.mark.parametrize("method", [name for name in GRADIENT_METHODS if name not in ELSEWHERE])
def test_a_step_is_that_of_the_papers_formulas(method, tmp_path):
    toy = Toy(method, tmp_path)
    frozen = method in ("darts_pt_fixed", "random_weight_sharing")
    stage = toy.state.stage
    assert (stage.alpha_frozen_fraction == 1.0) == frozen
    if not frozen:
        gradients = hypergradient(toy)
        decayed = [s + ALPHA_DECAY * a.detach() for s, a in zip(gradients, toy.rows, strict=True)]
        adam = [a.detach() - ALPHA_RATE * g / (g.abs() + 1e-8) for a, g in zip(toy.rows, decayed, strict=True)]
        adam = rescaled(toy, adam) if method == "proxyless" else adam
        search_steps.architecture_step(toy.state, toy.train, toy.valid, MOMENT)
        for found, expected, g in zip(toy.state.alpha.values(), adam, decayed, strict=True):
            torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-6)
            assert (g.abs() > 1e-7).any()  # signs that mean something
        for (name, found), expected in zip(toy.state.alpha.items(), decayed, strict=True):
            held = toy.state.architecture_optimiser.state[found]["exp_avg"] / (1 - 0.5)
            torch.testing.assert_close(held, expected, rtol=1e-6, atol=1e-9, msg=name)

    gradients = weight_gradients(toy, training_mixture(toy))
    factor = min(1.0, CLIP / float(torch.cat([s.flatten() for s in gradients]).norm() + 1e-6))
    used = [bool(s.abs().sum() > 0) for s in gradients]
    search_steps.weight_step(toy.state, toy.train, toy.valid, MOMENT)
    rate = toy.state.weight_optimiser.param_groups[0]["lr"]
    assert rate == RATE and any(used)
    triples = zip(toy.names, toy.state.supernet.parameters(), toy.weights, gradients, used, strict=True)
    for name, found, w, s, there in triples:
        expected = w - RATE * (factor * s + DECAY * w)
        if not there and torch.equal(found, w):
            continue  # an operation that was not computed has no gradient, and does not decay either
        torch.testing.assert_close(found.detach(), expected, rtol=1e-8, atol=1e-10, msg=name)


def test_a_step_of_snas_moves_weights_and_alpha_by_one_loss(tmp_path):
    toy = Toy("snas", tmp_path)
    leaves = toy.leaves(toy.weights)
    with toy.state.noise("mixture"):
        mixture = mixture_of("snas", toy.alpha)
    *of_weights, normal, reduction = toy.gradients(toy.loss_under(toy.train, leaves, mixture), [*leaves, *toy.rows])
    shrunk = min(1.0, 10.0 / float(torch.cat([normal, reduction]).norm() + 1e-6))
    search_steps.joint_step(toy.state, toy.train, MOMENT)
    for found, before, gradient in zip(toy.state.alpha.values(), toy.rows, (normal, reduction), strict=True):
        held = toy.state.architecture_optimiser.state[found]["exp_avg"] / (1 - 0.5)
        torch.testing.assert_close(held, shrunk * gradient + ALPHA_DECAY * before.detach(), rtol=1e-8, atol=1e-10)
    factor = min(1.0, CLIP / float(torch.cat([g.flatten() for g in of_weights]).norm() + 1e-6))
    for found, w, gradient in zip(toy.state.supernet.parameters(), toy.weights, of_weights, strict=True):
        torch.testing.assert_close(found.detach(), w - RATE * (factor * gradient + DECAY * w), rtol=1e-8, atol=1e-10)


def test_every_method_has_a_relaxation_of_its_own_to_be_tested_by():
    covered = sorted([*RELAXED, "darts_front"])  # whose formula tests/test_darts_front.py writes out
    assert covered == sorted(GRADIENT_METHODS), "write the formula of the new method's paper into RELAXED"
