"""Architecture gradients against closed forms and exact differentiation, and the known bugs of other codebases."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from darts.methods.hypergradient import FiniteDifference, FirstOrder, Problem, unrolled_weights
from darts.models.batch_norm import frozen_statistics
from darts.models.mixture import dense_mixture
from darts.runtime.reduction import gradients


def supernet_problem(supernet, batch, smooth: bool = True) -> Problem:
    """A bilevel step of a small supernet in float64, with momentum, weight decay and a large learning rate."""
    images, labels = batch
    names = [name for name, _ in supernet.named_parameters()]
    generator = torch.Generator().manual_seed(2)
    alpha = [torch.randn(5, 4, generator=generator).double().requires_grad_() for _ in range(2)]
    buffers = [0.1 * torch.randn(w.shape, generator=generator).double() for w in supernet.parameters()]

    def loss_on(part: slice):
        def loss(weights, alpha):
            mixture = dense_mixture({"normal": alpha[0].softmax(-1), "reduction": alpha[1].softmax(-1)})
            logits = functional_call(supernet, dict(zip(names, weights, strict=True)), (images[part], mixture))
            return F.cross_entropy(logits, labels[part])

        return loss

    train, valid = slice(0, 4), slice(4, 8)
    return Problem(loss_on(train), loss_on(valid), list(supernet.parameters()), alpha, buffers, 0.5, 0.9, 0.01)


def exact_hypergradient(problem: Problem) -> list[Tensor]:
    """Automatic differentiation through the unrolled step."""
    unrolled, _ = unrolled_weights(problem, differentiable=True)
    return gradients(problem.valid_loss(unrolled, problem.alpha), problem.alpha)


def direct_part(problem: Problem) -> list[Tensor]:
    """The gradient of L_val(w', alpha) with w' held fast: what is left when the second order is switched off."""
    unrolled = [w.detach() for w in unrolled_weights(problem)[0]]
    return gradients(problem.valid_loss(unrolled, problem.alpha), problem.alpha)


def relative_error(found: list[Tensor], exact: list[Tensor]) -> float:
    flat = [torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (found, exact)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def difference(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    return [a - b for a, b in zip(first, second, strict=True)]


@pytest.fixture
def problem(tiny_supernet, batch):
    with frozen_statistics(tiny_supernet):
        yield supernet_problem(tiny_supernet, batch)


def test_first_order_is_the_exact_gradient_at_the_present_weights(problem):
    found, loss = FirstOrder()(problem)
    expected = gradients(problem.valid_loss(problem.weights, problem.alpha), problem.alpha)
    assert relative_error(found, expected) < 1e-10
    torch.testing.assert_close(loss, problem.valid_loss(problem.weights, problem.alpha).detach())


def test_second_order_is_exact_differentiation_through_the_unrolled_step(problem):
    # A finite difference of a network with ReLUs is exact only while no unit switches: so the perturbation is small.
    found, _ = FiniteDifference(scale=1e-6)(problem)
    exact = exact_hypergradient(problem)
    assert relative_error(found, exact) < 1e-5
    direct = direct_part(problem)
    assert relative_error(difference(found, direct), difference(exact, direct)) < 1e-4  # the implicit part alone
    assert relative_error(direct, exact) > 0.05  # and that part matters here


def test_the_finite_difference_approaches_the_exact_product_as_it_shrinks(problem):
    direct, exact = direct_part(problem), exact_hypergradient(problem)
    errors = []
    for scale in (1e-2, 1e-4, 1e-6):
        found, _ = FiniteDifference(scale)(problem)
        errors.append(relative_error(difference(found, direct), difference(exact, direct)))
    assert errors[0] > errors[1] > errors[2]


def quadratic_problem(learning_rate: float, momentum: float, decay: float) -> tuple[Problem, Tensor]:
    """L_train = (w - A a)' H (w - A a) / 2, L_val = |w - c|^2 / 2 + a.b; with its hypergradient in closed form."""
    generator = torch.Generator().manual_seed(3)
    size, alphas = 6, 4
    a_matrix, root = (torch.randn(size, columns, generator=generator).double() for columns in (alphas, size))
    hessian = root @ root.T
    w, buffer, c = (torch.randn(size, generator=generator).double() for _ in range(3))
    alpha, b = (torch.randn(alphas, generator=generator).double() for _ in range(2))
    w.requires_grad_()
    alpha.requires_grad_()

    def train(weights, alpha):
        gap = weights[0] - a_matrix @ alpha[0]
        return gap @ hessian @ gap / 2

    def valid(weights, alpha):
        return (weights[0] - c).square().sum() / 2 + alpha[0] @ b

    slope = hessian @ (w - a_matrix @ alpha) + decay * w + momentum * buffer
    unrolled = (w - learning_rate * slope).detach()
    closed = b + learning_rate * a_matrix.T @ hessian @ (unrolled - c)  # dw'/da = lr H A
    return Problem(train, valid, [w], [alpha], [buffer], learning_rate, momentum, decay), closed


@pytest.mark.parametrize("learning_rate, momentum, decay", [(0.1, 0.0, 0.0), (0.1, 0.9, 0.0), (0.05, 0.9, 0.1)])
def test_second_order_of_a_quadratic_problem_is_its_closed_form(learning_rate, momentum, decay):
    problem, closed = quadratic_problem(learning_rate, momentum, decay)
    found, _ = FiniteDifference(scale=0.01)(problem)
    torch.testing.assert_close(found[0], closed, rtol=1e-9, atol=1e-9)


def test_momentum_and_weight_decay_both_enter_the_unrolled_step():
    problem, closed = quadratic_problem(0.05, 0.9, 0.1)
    for change in ({"momentum": 0.0}, {"weight_decay": 0.0}, {"momentum_buffers": [None]}):
        found, _ = FiniteDifference(scale=0.01)(dataclasses.replace(problem, **change))
        assert (found[0] - closed).abs().max() > 1e-4


def test_the_missing_bracket_would_be_noticed(problem):
    """(p - n) / 2 * eps instead of (p - n) / (2 * eps): the second order is as good as switched off."""
    exact, direct = exact_hypergradient(problem), direct_part(problem)
    found, _ = FiniteDifference(scale=1e-6)(problem)
    epsilon = 1e-6 / float(torch.cat([g.flatten() for g in valid_gradient(problem)]).norm())
    buggy = [d + (f - d) * epsilon**2 for d, f in zip(direct, found, strict=True)]
    assert relative_error(difference(buggy, direct), difference(exact, direct)) > 0.99
    assert relative_error(difference(found, direct), difference(exact, direct)) < 1e-4


def valid_gradient(problem: Problem) -> list[Tensor]:
    unrolled = [w.detach().requires_grad_() for w in unrolled_weights(problem)[0]]
    return gradients(problem.valid_loss(unrolled, problem.alpha), unrolled)


def recorded(problem: Problem) -> tuple[Problem, list[tuple[list[Tensor], list[Tensor]]]]:
    """The same problem, and a list of where its training loss is evaluated."""
    calls: list[tuple[list[Tensor], list[Tensor]]] = []

    def train(weights, alpha):
        calls.append(([w.detach().clone() for w in weights], [a.detach().clone() for a in alpha]))
        return problem.train_loss(weights, alpha)

    return dataclasses.replace(problem, train_loss=train), calls


def test_alpha_is_not_perturbed_with_the_weights(problem):
    watched, calls = recorded(problem)
    FiniteDifference(scale=0.01)(watched)
    assert len(calls) == 3  # the unrolled step, plus, minus
    for _, alpha in calls:
        for used, original in zip(alpha, problem.alpha, strict=True):
            assert torch.equal(used, original)


def test_the_perturbation_is_around_the_original_weights_with_the_published_length(problem):
    watched, calls = recorded(problem)
    FiniteDifference(scale=0.01)(watched)
    direction = valid_gradient(problem)
    for (moved, _), sign in zip(calls[1:], (1, -1), strict=True):
        shift = torch.cat([(m - w).detach().flatten() for m, w in zip(moved, problem.weights, strict=True)])
        expected = torch.cat([g.flatten() for g in direction])
        torch.testing.assert_close(shift.norm(), torch.tensor(0.01, dtype=torch.float64), rtol=1e-8, atol=0)
        torch.testing.assert_close(shift, sign * 0.01 * expected / expected.norm(), rtol=1e-6, atol=1e-10)


def test_a_vanished_direction_gives_no_nan():
    w, alpha = torch.zeros(3, requires_grad=True), torch.ones(2, requires_grad=True)
    problem = Problem(
        lambda w, a: (w[0] ** 2).sum() + a[0].sum(), lambda w, a: a[0].sum() + 0 * w[0].sum(), [w], [alpha], [None],
        0.1, 0.9, 0.0,
    )  # fmt: skip
    found, _ = FiniteDifference(scale=0.01)(problem)
    torch.testing.assert_close(found[0], torch.ones(2))
