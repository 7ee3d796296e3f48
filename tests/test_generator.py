"""Genotypes grown under rules: no rule is ever broken, uniform draws are uniform, and impossible rules say why."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from darts.blackbox.generator import Generator, Limit
from darts.blackbox.settings import Rules
from darts.models.cost import CostModel, network_costs
from darts.models.settings import ConstraintSettings, NetworkSettings
from darts.runtime.errors import UserError
from darts.spaces.search_space import InputShape
from darts.spaces.variation import all_genotypes, depth
from tests.conftest import composed, space_of

FREE = Rules(None, [], [], None, None, True)
DARTS = composed("search").space
SMALL = space_of("small", 2, 1, ["skip_connect", "max_pool_3x3", "sep_conv_3x3"])


def rules(**given) -> Rules:
    return Rules(**{**FREE.__dict__, **given})


@settings(max_examples=60)
@given(
    skips=st.none() | st.integers(0, 4),
    forbidden=st.lists(st.sampled_from(["max_pool_3x3", "dil_conv_5x5", "avg_pool_3x3"]), unique=True),
    required=st.lists(st.sampled_from(["sep_conv_3x3", "sep_conv_5x5"]), unique=True),
    least=st.none() | st.integers(0, 3),
    most=st.none() | st.integers(3, 5),
    uniform=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_no_rule_is_ever_broken(skips, forbidden, required, least, most, uniform, seed):
    grown = Generator(DARTS, Rules(skips, required, forbidden, least, most, uniform))
    genotype = grown.draw(random.Random(seed))
    assert grown.valid(genotype)
    for cell in genotype.cells.values():
        operations = cell.operations()
        assert skips is None or operations.count("skip_connect") <= skips
        assert not set(operations) & set(forbidden) and set(required) <= set(operations)
        assert (least or 0) <= depth(cell) <= (most or 99)
        assert [len(node) for node in cell.nodes] == [2] * 4


def test_costs_are_kept_and_are_those_of_the_network():
    shape, size = InputShape(3, 16, 10), NetworkSettings(4, 3, 0)
    free = ConstraintSettings(1e9, 1e12, None, None, None, 1.0, size)
    model = CostModel(free, DARTS, shape, torch.device("cpu"))
    limits = [
        Limit(name, most, model.rest[name], {kind: table.tolist() for kind, table in model.tables[name].items()})
        for name, most in (("parameters", 11_000.0), ("macs", 1.6e6))
    ]
    draws = random.Random(0)
    for uniform in (True, False):
        grown = Generator(DARTS, rules(uniform=uniform), limits)
        for _ in range(5):
            costs = network_costs(grown.draw(draws), size, shape, torch.device("cpu"), ("parameters", "macs"))
            assert costs["parameters"] <= 11_000 and costs["macs"] <= 1.6e6
    unlimited = Generator(DARTS, FREE)
    dear = [genotype for genotype in (unlimited.draw(draws) for _ in range(20)) if not grown.valid(genotype)]
    for genotype in dear:
        costs = network_costs(genotype, size, shape, torch.device("cpu"), ("parameters", "macs"))
        assert costs["parameters"] > 11_000 or costs["macs"] > 1.6e6
    assert dear


@pytest.mark.parametrize("given", [rules(), rules(most_skips=0), rules(required=["sep_conv_3x3"], least_depth=2)])
def test_uniform_draws_are_uniform_over_the_valid_cells(given):
    space = space_of("small", 2, 1, ["skip_connect", "max_pool_3x3"]) if given.most_skips == 0 else SMALL
    grown = Generator(space, given)
    valid = {genotype.digest() for genotype in all_genotypes(space) if grown.valid(genotype)}
    draws = random.Random(0)
    number = 20 * len(valid)
    seen = Counter(grown.draw(draws).digest() for _ in range(number))
    assert set(seen) <= valid and (given.most_skips is None or len(valid) < space.count())
    assert stats.chisquare([seen[digest] for digest in valid]).pvalue > 1e-3


def test_a_rare_cell_is_found_and_not_always_the_same():
    space = space_of("rare", 3, 2, ["skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "avg_pool_3x3"])
    grown = Generator(space, rules(required=["skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3"],
                                   most_skips=1, least_depth=3, uniform=False))  # fmt: skip
    assert len({grown.draw(random.Random(seed)).digest() for seed in range(10)}) > 5


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (rules(most_skips=0, required=["skip_connect"]), "rules.most_skips"),
        (rules(forbidden=["skip_connect", "max_pool_3x3", "sep_conv_3x3"]), "rules.forbidden"),
        (rules(least_depth=7), "rules.least_depth"),
        (rules(required=["conv"]), "'conv' is unknown"),
    ],
)
def test_impossible_rules_say_why(given, named):
    with pytest.raises(UserError, match=named):
        Generator(SMALL, given).draw(random.Random(0))


def test_a_limit_under_the_smallest_cell_says_what_that_needs():
    tables = {kind: [[1.0, 2.0, 3.0]] * 5 for kind in SMALL.cell_types}
    with pytest.raises(UserError, match="parameters is 10; the smallest cell that the rules allow needs 13"):
        Generator(SMALL, rules(forbidden=["skip_connect"]), [Limit("parameters", 10.0, 5.0, tables)])
