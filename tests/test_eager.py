"""What spares commands torch's compiler computes the same: optimisers step alike, multiply-adds are torch's own."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from darts.loop.eager import eager
from darts.loop.optimisation import weight_optimiser
from darts.models import cost
from darts.models.network import build_network
from darts.models.operations import OPERATIONS, search_operation
from darts.models.supernet import Supernet
from darts.spaces.published import published
from darts.spaces.search_space import InputShape, plan_cells
from tests.conftest import CANDIDATES, ROOT, TINY_SEARCH, TINY_TRAIN, composed, run_command, space_of

RULES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.999), "weight_decay": 1e-3}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "asgd": (torch.optim.ASGD, {"lr": 0.1, "lambd": 0.0, "t0": 0.0, "weight_decay": 1e-3}),
}


def steps(kind, settings, number: int, state=None):
    draws = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=draws)) for shape in ((3, 4), (5,))]
    optimiser = kind(weights, **settings)
    if state is not None:
        optimiser.load_state_dict(state)
    for _ in range(number):
        optimiser.zero_grad()
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draws)
        optimiser.step()
    return [weight.detach() for weight in weights], optimiser.state_dict()


@pytest.mark.parametrize("rule", RULES)
def test_an_eager_optimiser_steps_as_torchs_own_to_the_bit(rule):
    kind, settings = RULES[rule]
    own, expected = steps(eager(kind), settings, 5), steps(kind, settings, 5)
    again = steps(eager(kind), settings, 3, own[1]), steps(kind, settings, 3, expected[1])
    for (found, state), (wanted, known) in ((own, expected), again):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert state["param_groups"] == known["param_groups"] and state["state"].keys() == known["state"].keys()
        for place, tensors in known["state"].items():
            assert all(torch.equal(state["state"][place][name], value) for name, value in tensors.items())
    assert issubclass(eager(kind), kind) and eager(kind) is eager(kind) and own[0][0].requires_grad is False


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_weights_optimiser_steps_on_a_cpu_as_torchs_own_to_the_bit(nesterov):
    """Its tensors are taken together there; of one weight no gradient comes, another's lies otherwise than it does."""
    rule = replace(composed("search").weight_optimiser, nesterov=nesterov)
    settings = {name: getattr(rule, name) for name in ("momentum", "nesterov", "weight_decay")}
    found = []
    for build in (weight_optimiser, lambda own, _: torch.optim.SGD(own, rule.learning_rate, foreach=False, **settings)):
        draws = torch.Generator().manual_seed(0)
        shapes = (4, 3, 3, 3), (8, 8, 1, 1), (7,), (5,)
        weights = [nn.Parameter(torch.randn(shape, generator=draws)) for shape in shapes]
        optimiser = build(weights, rule)
        for _ in range(5):
            for weight in weights[1:]:
                weight.grad = torch.randn(weight.shape, generator=draws)
            lying = torch.randn(weights[0].shape, generator=draws)
            weights[0].grad = lying.contiguous(memory_format=torch.channels_last)
            weights[2].grad = None
            optimiser.step()
        found.append([weight.detach() for weight in weights])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_step_keeps_no_graph():
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimiser = eager(torch.optim.SGD)([weight], lr=0.1)
    optimiser.step()
    assert weight.requires_grad and weight.grad_fn is None and torch.equal(weight.detach(), torch.full((2,), 0.9))


@pytest.mark.parametrize("command", ["search", "final"])
def test_a_command_imports_no_compiler(command, tmp_path):
    overrides = [*TINY_SEARCH, "search.epochs=1"] if command == "search" else [*TINY_TRAIN, "genotype=darts_v2"]
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}.py', *{[*overrides, 'logger=none', f'hydra.run.dir={tmp_path}']!r}]\n"
        f"runpy.run_path('train_{command}.py', run_name='__main__')\n"
        "assert 'torch' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor'))]\n"
    )
    done = run_command(["-c", script], ROOT)
    assert done.returncode == 0, done.stderr


# Multiply-adds: torch's counter sees every operator.


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("stride", [1, 2])
def test_multiply_adds_of_every_operation_are_those_of_torchs_counter(name, stride):
    layout = space_of("darts", 2, 2, list(CANDIDATES)).layout
    operation, images = search_operation(name, 6, stride, layout).eval(), torch.zeros(2, 6, 9, 12)
    assert cost.count_macs(operation, images) == cost._macs_of_operators(operation, images)
    assert all(map(cost._is_known, operation.modules()))


@pytest.mark.parametrize("cell", ["darts_v2", "pc_darts"])
def test_multiply_adds_of_a_network_are_those_of_torchs_counter(cell):
    network = build_network(published(cell), 5, 6, 1, InputShape(3, (16, 20), 7), True).eval()
    images = torch.zeros(1, 3, 16, 20)
    assert all(map(cost._is_known, network.modules()))
    assert cost._macs_of_layers(network, images) == cost._macs_of_operators(network, images) > 10_000


def test_what_a_plug_in_multiplies_is_counted_by_torch(darts_space):
    class Own(nn.Module):
        def forward(self, x):
            return x @ torch.zeros(x.shape[-1], 5)

    assert cost.count_macs(nn.Sequential(nn.Linear(3, 4), Own()), torch.zeros(2, 3)) == 2 * (3 * 4 + 4 * 5)
    supernet = Supernet(plan_cells(3, 4, darts_space.multipliers()), darts_space, InputShape(1, 8, 5), 0)
    assert all(map(cost._is_known, supernet.modules())) and "torch" in sys.modules
