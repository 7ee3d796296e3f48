"""Genotypes: round trips, the published cells, and a parser that refuses everything else and executes nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts.runtime.errors import UserError
from darts.runtime.seeding import python_generator
from darts.spaces.fixed import FixedCell, find_cell
from darts.spaces.genotype import Cell, Edge, Genotype, from_json, to_json
from darts.spaces.notation import from_notation, to_notation
from darts.spaces.published import NAMES, published
from darts.spaces.sources import find_genotype, random_genotype, read_genotype
from tests.conftest import CANDIDATES

NOTATION = "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 3), "
NOTATION += "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=[2])"


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    nodes = draw(st.integers(1, 5))
    names = st.sampled_from(CANDIDATES[1:])
    edges = [tuple(Edge(draw(names), draw(st.integers(0, node + 1))) for _ in range(2)) for node in range(nodes)]
    concat = draw(st.lists(st.integers(2, nodes + 1), min_size=1, unique=True))
    return Cell(tuple(edges), tuple(concat))


@given(cells(), cells())
def test_both_forms_give_back_the_same_genotype(normal: Cell, reduction: Cell):
    genotype = Genotype("darts", {"normal": normal, "reduction": reduction}, {"seed": 3})
    assert from_json(to_json(genotype)) == genotype
    assert from_json(to_json(genotype)).provenance == {"seed": 3}
    assert from_notation(to_notation(genotype)) == genotype


@pytest.mark.parametrize("name", NAMES)
def test_published_cells_round_trip(name: str):
    genotype = published(name)
    assert from_json(to_json(genotype)) == genotype
    assert from_notation(to_notation(genotype), genotype.space) == genotype


def test_published_cells_are_the_printed_ones():
    second_order = published("darts_v2").cells
    assert str(second_order["normal"]).endswith("sep_conv_3x3 1, skip_connect 0; skip_connect 0, dil_conv_3x3 2")
    assert published("amoebanet").cells["reduction"].concat == (3, 4, 6)
    assert published("nasnet").cells["normal"].nodes[3] == (Edge("avg_pool_3x3", 0), Edge("avg_pool_3x3", 0))


def test_printed_notation_with_range_is_read():
    genotype = from_notation(NOTATION)
    assert genotype.cells["normal"] == Cell(((Edge("sep_conv_3x3", 0), Edge("skip_connect", 1)),), (2,))


@given(st.text(max_size=300))
def test_no_text_breaks_the_parsers(text: str):
    for parse in (from_json, from_notation):
        with pytest.raises(UserError):
            parse(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
PATHS = [
    ("format",), ("version",), ("space",), ("cells",), ("provenance",), ("cells", "normal"),
    ("cells", "normal", "nodes"), ("cells", "normal", "concat"),
    ("cells", "normal", "nodes", 0), ("cells", "normal", "nodes", 0, 0),
    ("cells", "normal", "nodes", 0, 0, 0), ("cells", "normal", "nodes", 0, 0, 1),
]  # fmt: skip


@settings(max_examples=400)
@given(st.sampled_from(PATHS), json_values)
def test_a_changed_file_is_read_or_refused_in_one_line(path: tuple, value: object):
    plain = json.loads(to_json(published("darts_v2")))
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        genotype = from_json(json.dumps(plain), origin="cell.json")
    except UserError as error:
        assert str(error).startswith("cell.json: ")
        assert "\n" not in str(error)
    else:
        assert json.loads(to_json(genotype)) == plain


@pytest.mark.parametrize(
    "change, message",
    [
        (('"version": 1', '"version": 2'), "format and version"),
        (('"version": 1', '"version": 1, "version": 1'), "stands twice"),
        (('"version": 1', '"version": 1, "extra": 0'), "key 'extra' is unknown"),
        (('"sep_conv_3x3", 0]', '"sep_conv_3x3", 9]'), "input 9 must be from 0 to 1"),
        (('"sep_conv_3x3", 0]', '"sep_conv_3x3", NaN]'), "NaN is not allowed"),
        (("[2, 3, 4, 5]", "[2, 2]"), "each once"),
        (("[2, 3, 4, 5]", "[2, 7]"), "nodes go from 2 to 5"),
    ],
)
def test_errors_say_what_is_wrong(change: tuple[str, str], message: str):
    with pytest.raises(UserError, match=message):
        from_json(to_json(published("darts_v2")).replace(*change))


def test_a_random_genotype_depends_only_on_seed_and_number(darts_space):
    drawn = [random_genotype(darts_space, seed, number) for seed in range(3) for number in range(3)]
    assert len({genotype.digest() for genotype in drawn}) == 9
    assert random_genotype(darts_space, 1, 2) == drawn[5]
    assert find_genotype("random", darts_space, "runs", 2) == drawn[6]
    assert find_genotype("random:2", darts_space, "runs", 0) == drawn[6]
    assert find_cell("random", darts_space, "runs", 2) == FixedCell("random:2", drawn[6])


def test_samples_are_uniform(tiny_space):
    from collections import Counter

    from scipy.stats import chisquare

    generator = python_generator(0, "test")
    drawn = Counter(str(tiny_space.sample(generator).cells["normal"].nodes[1]) for _ in range(9000))
    assert len(drawn) == 27  # 3 sets of two inputs times 3 operations on each
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_count_is_the_number_of_different_samples(tiny_space):
    assert tiny_space.count() == (9 * 27) ** 2


def test_a_genotype_is_found_as_notation_file_folder_and_latest(darts_space, tmp_path):
    first, second = (tmp_path / "search" / name for name in ("a", "b"))
    for folder, name in ((first, "darts_v1"), (second, "darts_v2")):
        folder.mkdir(parents=True)
        (folder / "genotype.json").write_text(to_json(published(name)))
    (tmp_path / "printed.txt").write_text(to_notation(published("snas")))
    assert find_genotype(str(first), darts_space, "", 0) == published("darts_v1")
    assert find_genotype("latest", darts_space, str(tmp_path), 0) == published("darts_v2")
    assert find_genotype(str(tmp_path / "printed.txt"), darts_space, "", 0) == published("snas")
    assert find_genotype(to_notation(published("pdarts")), darts_space, "", 0) == published("pdarts")


def test_a_genotype_of_another_space_is_refused(darts_space, tmp_path):
    (tmp_path / "cell.json").write_text(to_json(published("nasnet")))
    with pytest.raises(UserError, match="space 'nasnet', but space is 'darts'; add space=nasnet"):
        find_genotype(str(tmp_path / "cell.json"), darts_space, "", 0)
    assert read_genotype(tmp_path / "cell.json", darts_space) == published("nasnet")


def test_an_unknown_name_gets_the_nearest_right_one(darts_space):
    with pytest.raises(UserError, match="did you mean 'darts_v2'"):
        find_genotype("dart_v2", darts_space, "", 0)
