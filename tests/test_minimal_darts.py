"""docs/examples/minimal_darts.py, where a newcomer starts: it takes the engine's steps, and runs as it says."""

from __future__ import annotations

import ast
import importlib.util

import pytest
import torch

from darts.search import loop as search
from darts.search import step as search_steps
from tests.conftest import ROOT, TINY_SEARCH, composed, some

FILE = ROOT / "docs" / "examples" / "minimal_darts.py"
STEPS = 10


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal_darts", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_double(state):
    """The engine's state in float64, so that two ways of computing agree to rounding."""
    state.supernet.double()
    for matrix in state.alpha.values():
        matrix.data = matrix.data.double()
    return state


@pytest.mark.parametrize("engine", some(["reference", "fused"], "reference"))
@pytest.mark.parametrize("order, method", [(1, "darts"), (2, "darts_second_order")])
def test_alpha_is_the_engines_over_ten_steps(minimal, engine, order, method, tmp_path):
    wide = [
        "network.channels=4",
        "network.stem_reductions=1",
        "search.initial_alpha=0.5",
        "weight_optimiser.learning_rate=0.02",
    ]
    settings = composed("search", *TINY_SEARCH, f"method={method}", f"engine={engine}", *wide)
    state = in_double(search.start_or_resume(settings, tmp_path))
    space = settings.space.nodes, settings.space.candidates
    supernet = minimal.Supernet((1, 10), 4, 3, space, stem_stride=2).double()
    reference = state.supernet.to_reference(state.supernet.state_dict())
    for (_, weight), value in zip(supernet.named_parameters(), weights_of(state, reference), strict=True):
        weight.data.copy_(value)
    alpha = [matrix.detach().clone().requires_grad_() for matrix in state.alpha.values()]
    optimisers = (
        torch.optim.SGD(supernet.parameters(), lr=0.02, momentum=0.9, weight_decay=3e-4),
        torch.optim.Adam(alpha, lr=0.01, betas=(0.5, 0.999), weight_decay=1e-3),
    )
    begin = [matrix.detach().clone() for matrix in alpha]
    train, valid = state.data.train.shuffled(0, 0, STEPS), state.data.valid.shuffled(0, 0, STEPS)
    for step, batches in enumerate(zip(train, valid, strict=True)):
        state.step = step
        doubled = [(batch.inputs.double(), batch.targets) for batch in batches]
        engine_batches = [batch._replace(inputs=images) for batch, (images, _) in zip(batches, doubled, strict=True)]
        search_steps.architecture_step(state, *engine_batches)
        search_steps.weight_step(state, engine_batches[0])
        minimal.bilevel_step(supernet, alpha, *doubled, optimisers, order)
        for found, expected in zip(alpha, state.alpha.values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert all((found - start).abs().max() > 1e-3 for found, start in zip(alpha, begin, strict=True))
    reference = state.supernet.to_reference(state.supernet.state_dict())
    for (name, found), expected in zip(supernet.named_parameters(), weights_of(state, reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8, msg=name)


def weights_of(state, reference):
    """The weights in the order of the reference supernet's own parameters."""
    from darts.search.state import reference_supernet

    return [reference[name] for name, _ in reference_supernet(state).named_parameters()]


def test_the_two_orders_differ(minimal):
    torch.manual_seed(1)
    supernet = minimal.Supernet((1, 10), 4, 3, (2, minimal.CANDIDATES)).double()
    alpha = [torch.randn(5, 8).double().requires_grad_() for _ in range(2)]
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-4)
    batches = [(torch.randn(8, 1, 8, 8).double(), torch.randint(0, 10, (8,))) for _ in range(2)]
    first = minimal.first_order(supernet, alpha, *batches, optimiser)
    second = minimal.second_order(supernet, alpha, *batches, optimiser)
    assert all((a - b).abs().max() > 1e-3 * a.abs().max() for a, b in zip(first, second, strict=True))


def test_it_is_one_short_file_that_needs_nothing_of_the_package():
    text = FILE.read_text()
    assert text.count("\n") <= 200
    imported = {
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if name.split(".")[0] in ("darts", "hydra", "omegaconf")]


def test_it_searches_the_bundled_images(minimal, capsys):
    genotype = minimal.main(order=2, epochs=1, c=2, batch_size=16, steps=3)
    for cell in genotype.values():
        assert [len(node) for node in cell] == [2, 2, 2, 2]
        assert all(name != "none" and state < index + 2 for index, node in enumerate(cell) for name, state in node)
    assert "training loss" in capsys.readouterr().out
