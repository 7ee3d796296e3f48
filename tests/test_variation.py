"""What can be made of genotypes: neighbours, crossings, codes, and one name for equal architectures."""

from __future__ import annotations

import itertools
import random

import pytest

from darts.spaces.genotype import Cell, Edge, Genotype
from darts.spaces.nasbench201 import from_string
from darts.spaces.variation import (
    all_genotypes,
    canonical,
    crossing,
    depth,
    mutation,
    neighbours,
    one_hot,
    ordered,
    path_code,
)
from tests.conftest import composed, space_of

SPACES = {name: composed("search", f"space={name}").space for name in ("darts", "nasbench201", "s1", "s4")}


@pytest.mark.parametrize("name", SPACES)
def test_neighbours_differ_at_one_place_both_ways(name):
    space = SPACES[name]
    for seed in range(5):
        genotype = ordered(space.sample(random.Random(seed)))
        near = neighbours(genotype, space)
        assert len({other.digest() for other in near}) == len(near)
        for other in random.Random(seed).sample(near, 10):
            assert genotype.digest() in {back.digest() for back in neighbours(other, space)}
            nodes = [
                (a, b)
                for kind in genotype.cells
                for a, b in zip(genotype.cells[kind].nodes, other.cells[kind].nodes, strict=True)
                if a != b
            ]
            ((before, after),) = nodes
            assert len(set(before) - set(after)) == len(set(after) - set(before)) == 1
            for kind, cell in other.cells.items():
                for edge, column in space.places(cell):
                    assert column in space.selectable(kind, edge)


def test_a_cell_of_the_benchmark_has_24_neighbours():
    assert len(neighbours(SPACES["nasbench201"].sample(random.Random(0)), SPACES["nasbench201"])) == 24


def test_a_mutation_is_a_neighbour_and_a_child_has_its_parents_nodes():
    space, draws = SPACES["darts"], random.Random(0)
    first, second = space.sample(draws), space.sample(draws)
    assert mutation(first, space, draws).digest() in {other.digest() for other in neighbours(first, space)}
    parents = {tuple(sorted(node)) for cells in (first, second) for c in cells.cells.values() for node in c.nodes}
    children = [crossing(first, second, draws) for _ in range(20)]
    for child in children:
        assert {tuple(sorted(node)) for cell in child.cells.values() for node in cell.nodes} <= parents
    assert len({child.digest() for child in children}) > 5


@pytest.mark.parametrize(
    ("nodes", "kept", "names"),
    [(1, 2, ["none", "skip_connect", "sep_conv_3x3"]), (2, 1, ["skip_connect", "max_pool_3x3"])],
)
def test_all_genotypes_are_as_many_as_counted(nodes, kept, names):
    space = space_of("small", nodes, kept, names)
    listed = [genotype.digest() for genotype in all_genotypes(space)]
    assert len(set(listed)) == len(listed) == space.count()


def test_renamed_nodes_are_the_same_architecture_and_others_are_not():
    def cell(*nodes, concat=(2, 3, 4, 5)):
        normal = Cell(tuple(tuple(Edge(*edge) for edge in node) for node in nodes), concat)
        return Genotype("darts", {"normal": normal})

    first = cell([("a", 0), ("b", 1)], [("c", 0), ("d", 1)], [("a", 2), ("b", 3)], [("a", 0), ("a", 1)])
    swapped = cell([("d", 1), ("c", 0)], [("a", 0), ("b", 1)], [("b", 2), ("a", 3)], [("a", 0), ("a", 1)])
    moved = cell([("a", 0), ("a", 1)], [("a", 0), ("b", 1)], [("c", 0), ("d", 1)], [("a", 3), ("b", 4)])
    other = cell([("a", 0), ("b", 1)], [("c", 0), ("d", 1)], [("b", 2), ("a", 3)], [("a", 0), ("a", 1)])
    assert canonical(first) == canonical(swapped) == canonical(moved) != canonical(other)


def test_what_reaches_no_output_does_not_count():
    first = from_string("|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|none~1|none~2|")
    second = from_string("|none~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|none~2|")
    third = from_string("|none~0|+|none~0|nor_conv_1x1~1|+|nor_conv_1x1~0|none~1|none~2|")
    assert canonical(first) == canonical(second) != canonical(third)


def test_codes_say_operations_and_ways():
    genotype = from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|")
    assert path_code(genotype) == {
        "normal/0>nor_conv_3x3>avg_pool_3x3": 1.0,
        "normal/0>nor_conv_3x3>skip_connect>nor_conv_1x1": 1.0,
    }
    assert len(one_hot(genotype)) == 6 and "normal/0/0/nor_conv_3x3" in one_hot(genotype)


def test_depth_is_the_longest_way():
    names = ("none", "skip_connect")
    for a, b, c, d, e, f in itertools.product(names, repeat=6):
        genotype = from_string(f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|")
        there = [name != "none" for name in (a, b, c, d, e, f)]
        ways = [
            3 * (there[0] and there[2] and there[5]),
            2 * (there[0] and there[4]),
            2 * (there[1] and there[5]),
            int(there[3]),
        ]
        assert depth(genotype.cells["normal"]) == max(ways)
