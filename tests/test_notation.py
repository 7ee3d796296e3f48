"""Cells as people print them: every form that has one meaning is read so, every other text is refused in a line."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

import pytest

from darts.config.command import refuse_unquoted_cells
from darts.runtime.errors import UserError
from darts.spaces.genotype import Cell, Edge, Genotype, from_json, to_json
from darts.spaces.nasbench201 import from_string, to_string
from darts.spaces.notation import from_notation, to_notation
from darts.spaces.published import NAMES, published
from darts.spaces.search_space import SearchSpace, Skeleton
from darts.spaces.sources import find_genotype, read_text
from tests.conftest import CANDIDATES, run_command

# As the papers' repositories print them.
PRINTED = {
    "darts_v1": (
        "DARTS_V1 = Genotype(normal=[(('sep_conv_3x3', 1), ('sep_conv_3x3', 0)), # step 1\n"
        "(('skip_connect', 0), ('sep_conv_3x3', 1)), # step 2\n (('skip_connect', 0), ('sep_conv_3x3', 1)), # step 3\n"
        "(('sep_conv_3x3', 0), ('skip_connect', 2))  # step 4\n ], normal_concat=[2, 3, 4, 5],\n"
        "reduce=[(('max_pool_3x3', 0), ('max_pool_3x3', 1)), (('skip_connect', 2), ('max_pool_3x3', 0)),\n"
        "(('max_pool_3x3', 0), ('skip_connect', 2)), (('skip_connect', 2), ('avg_pool_3x3', 0))],\n"
        "reduce_concat=[2, 3, 4, 5], connectN=None, connects=None,\n)"
    ),
    "darts_v2": (
        "DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
        "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
        "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
        "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
        "reduce_concat=[2, 3, 4, 5])"
    ),
    "snas": (
        "# from https://arxiv.org/abs/1812.09926\nSNAS = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1),\n"
        "('skip_connect', 0), ('dil_conv_3x3', 1),\n('skip_connect', 1), ('skip_connect', 0), \n"
        "('skip_connect',0),  ('sep_conv_3x3', 1)], normal_concat=range(2, 6),\nreduce=[('max_pool_3x3', 0), "
        "('max_pool_3x3', 1),\n('max_pool_3x3', 1), ('skip_connect', 2),\n('skip_connect', 2), ('max_pool_3x3', 1),\n"
        "('max_pool_3x3', 0), ('dil_conv_5x5', 2)], reduce_concat=range(2, 6))"
    ),
    "pdarts": (
        "PDARTS = Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0),('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3',0), ('dil_conv_5x5', 4)], "
        "normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), "
        "('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], "
        "reduce_concat=range(2, 6))"
    ),
    "pc_darts": (
        "PC_DARTS_cifar = Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), "
        "('dil_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], "
        "normal_concat=range(2, 6), reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), "
        "('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], "
        "reduce_concat=range(2, 6))"
    ),
    "pc_darts_imagenet": (
        "PC_DARTS_image = Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), "
        "('skip_connect', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)], "
        "normal_concat=range(2, 6), reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), "
        "('max_pool_3x3', 1), ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)], "
        "reduce_concat=range(2, 6))"
    ),
    "nasnet": (
        "NASNet = Genotype(\n  normal = [\n    ('sep_conv_5x5', 1),\n    ('sep_conv_3x3', 0),\n"
        "    ('sep_conv_5x5', 0),\n    ('sep_conv_3x3', 0),\n    ('avg_pool_3x3', 1),\n"
        "    ('skip_connect', 0),\n    ('avg_pool_3x3', 0),\n"
        "    ('avg_pool_3x3', 0),\n    ('sep_conv_3x3', 1),\n    ('skip_connect', 1),\n  ],\n"
        "  normal_concat = [2, 3, 4, 5, 6],\n  reduce = [\n    ('sep_conv_5x5', 1),\n    ('sep_conv_7x7', 0),\n"
        "    ('max_pool_3x3', 1),\n    ('sep_conv_7x7', 0),\n    ('avg_pool_3x3', 1),\n    ('sep_conv_5x5', 0),\n"
        "    ('skip_connect', 3),\n    ('avg_pool_3x3', 2),\n    ('sep_conv_3x3', 2),\n    ('max_pool_3x3', 1),\n  ],\n"
        "  reduce_concat = [4, 5, 6],\n)"
    ),
    "amoebanet": (
        "AmoebaNet = Genotype(\n    normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), "
        "('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1), "
        "('skip_connect', 0), ('avg_pool_3x3', 1), ],\n    normal_concat=[4, 5, 6],\n    reduce=[('avg_pool_3x3', 0), "
        "('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_7x7', 2), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), "
        "('max_pool_3x3', 0), ('max_pool_3x3', 1), ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5), ],\n"
        "    reduce_concat=[3, 4, 6]\n)"
    ),
    "darts_v1_recurrent": (
        "DARTS_V1 = Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ('relu', 3), ('relu', 4), "
        "('identity', 1), ('relu', 5), ('relu', 1)], concat=range(1, 9))\n"
    ),
    "darts_v2_recurrent": (
        "DARTS_V2 = Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1), ('tanh', 2), "
        "('sigmoid', 5), ('tanh', 3), ('relu', 5)], concat=range(1, 9))\n"
    ),
    "enas_recurrent": (
        "ENASCell = Genotype(recurrent=[('tanh', 0), ('tanh', 1), ('relu', 1), ('tanh', 3), ('tanh', 3), "
        "('relu', 3), ('relu', 4), ('relu', 7), ('relu', 8), ('relu', 8), ('relu', 8)], concat=[2, 5, 6, 9, 10, 11])"
    ),
}
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"

# One cell of two nodes, in every form that has one meaning: a 0, b 1; c 2, d 0; in the reduction cell e instead of d.
NORMAL = Cell(((Edge("a", 0), Edge("b", 1)), (Edge("c", 2), Edge("d", 0))), (2, 3))
REDUCTION = Cell(((Edge("a", 0), Edge("b", 1)), (Edge("c", 2), Edge("e", 0))), (2, 3))
FORMS = {
    "pairs": "Genotype(normal=[('a', 0), ('b', 1), ('c', 2), ('d', 0)], normal_concat=[2, 3], "
    "reduce=[('a', 0), ('b', 1), ('c', 2), ('e', 0)], reduce_concat=[2, 3])",
    "lists of nodes": "Genotype(normal=[[('a', 0), ('b', 1)], [('c', 2), ('d', 0)]], normal_concat=range(2, 4), "
    "reduce=[[('a', 0), ('b', 1)], [('c', 2), ('e', 0)]], reduce_concat=range(2, 4))",
    "weights": "Genotype(normal=[('a', 0, 0.13), ('b', 1, 1.0), ('c', 2, -1e-3), ('d', 0, 0.2)], normal_concat=[2, 3], "
    "reduce=[(('a', 0, tensor(0.1)), ('b', 1, .2)), (('c', 2, 0.3), ('e', 0, 0.4))], reduce_concat=[2, 3])",
    "input and node": "Genotype(normal=[('a', 0, 2), ('b', 1, 2), ('c', 2, 3), ('d', 0, 3)], normal_concat=[2, 3], "
    "reduce=[('c', 2, 3), ('a', 0, 2), ('e', 0, 3), ('b', 1, 2)], reduce_concat=[2, 3])",
    "node and input": "Genotype(normal=[('a', 2, 0), ('b', 2, 1), ('c', 3, 2), ('d', 3, 0)], normal_concat=[2, 3], "
    "reduce=[('a', 2, 0), ('b', 2, 1), ('c', 3, 2), ('e', 3, 0)], reduce_concat=[2, 3])",
    "numpy": "Genotype(normal=[(np.str_('a'), np.int64(0)), ('b', int64(1)), ('c', 2, np.float32(0.1)), ('d', 0)], "
    "normal_concat=array([2, 3]), reduce=[('a', 0), ('b', 1), ('c', 2), ('e', 0)], reduce_concat=np.array([2, 3]))",
    "sets and lists of ranges": "Genotype(normal=[['a', 0], ['b', 1], ['c', 2], ['d', 0]], normal_concat={2, 3}, "
    "reduce=(('a', 0), ('b', 1), ('c', 2), ('e', 0)), reduce_concat=list(range(2, 4)))",
    "by position": "genotypes.Genotype([('a', 0), ('b', 1), ('c', 2), ('d', 0)], (2, 3), "
    "reduce_concat=(2, 3), reduce=[('a', 0), ('b', 1), ('c', 2), ('e', 0)])",
    "dictionary": "{'normal': [('a', 0), ('b', 1), ('c', 2), ('d', 0)], 'normal_concat': range(2, 4), "
    "'reduce': [('a', 0), ('b', 1), ('c', 2), ('e', 0)], 'reduce_concat': range(2, 4)}",
    "JSON of a tuple": '{"normal": [["a", 0], ["b", 1], ["c", 2], ["d", 0]], "normal_concat": [2, 3], '
    '"reduce": [[["a", 0], ["b", 1]], [["c", 2], ["e", 0]]], "reduce_concat": [2, 3], "connects": ""}',
    "ordered dictionary": "OrderedDict([('normal', [('a', 0), ('b', 1), ('c', 2), ('d', 0)]), "
    "('normal_concat', [2, 3]), ('reduce', [('a', 0), ('b', 1), ('c', 2), ('e', 0)]), ('reduce_concat', [2, 3])])",
}
AROUND = {
    "nothing": "{}",
    "a log line": "2019-01-01 10:00:00,000 genotype = {}",
    "a byte-order mark and a comment": "\ufeff# epoch 49 (the last)\n{}  # end\n",
    "an assignment with a type": "ARCH: Genotype = {}\nother = 3\n",
    "quotes": "--arch \"{}\" --layers 20, valid_acc 88.76",
    "the class before it": "Genotype = namedtuple('Genotype', 'normal')\nclass Genotype(tuple): pass\nX = {}",
    "the same twice": "epoch 1 {0}\nepoch 2 {0}\n",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_published_cell_is_read_from_its_repositorys_print(name):
    genotype = published(name)
    assert from_notation(PRINTED[name], genotype.space) == genotype
    assert published(name.upper()) == genotype


@pytest.mark.parametrize("form", FORMS)
def test_each_form_means_the_same_cell(form):
    for around in AROUND.values():
        if "{0}" in around or '"{}"' not in around or '"' not in FORMS[form]:
            text = around.replace("{0}", FORMS[form]).replace("{}", FORMS[form])
            assert read_text(text, "darts", "x").cells == {"normal": NORMAL, "reduction": REDUCTION}, around
            assert read_text(text.replace(", ", ",\n  "), "darts", "x").cells["normal"] == NORMAL, around


@pytest.mark.parametrize(
    "around", ["{}", "Structure(4 nodes with {})", "[epoch 3] best is {}.", "arch='{}', acc=94.37"]
)
def test_a_benchmarks_string_is_read_wherever_it_stands(around):
    nodes = [
        ["nor_conv_3x3 0"],
        ["nor_conv_3x3 0", "nor_conv_3x3 1"],
        ["skip_connect 0", "nor_conv_3x3 1", "nor_conv_1x1 2"],
    ]
    genotype = from_notation(around.replace("{}", BEST))
    assert str(genotype.cells["normal"]) == "; ".join(map(", ".join, nodes))
    assert genotype.space == "nasbench201" and genotype.cells["normal"].concat == (3,)


def test_a_bare_list_of_nodes_is_a_cell_of_the_benchmark_or_refused():
    nodes = [(("nor_conv_3x3", 0),), (("nor_conv_3x3", 0), ("nor_conv_3x3", 1)),
             (("skip_connect", 0), ("nor_conv_3x3", 1, 0.5), ("nor_conv_1x1", 2))]  # fmt: skip
    assert from_notation(str(nodes)) == from_string(BEST)
    with pytest.raises(UserError, match="a list without names is read as a cell of NAS-Bench-201"):
        from_notation(str([(("sep_conv_3x3", 0), ("sep_conv_3x3", 1))]))


def flat(edges: int, concat: str) -> str:
    """`edges` edges, the first of which have inputs 0, 1, 0, 1, 2, 0, 1, 2, 3, ... as where each node keeps all."""
    sources = [source for node in range(8) for source in range(node + 2)][:edges]
    cell = str([("skip_connect", source) for source in sources])
    return f"Genotype(normal={cell}, normal_concat={concat}, reduce={cell}, reduce_concat={concat})"


def test_a_cell_that_keeps_all_fourteen_edges_has_four_nodes():
    cell = from_notation(flat(14, "range(2, 6)")).cells["normal"]
    assert [[edge.source for edge in edges] for edges in cell.nodes] == [
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
    ]


@pytest.mark.parametrize(
    ("edges", "concat", "sizes"),
    [(2, "[2]", [2]), (1, "[2]", [1]), (4, "[3]", [2, 2]), (5, "[2, 3]", [2, 3]), (2, "[2, 3]", [1, 1]),
     (9, "{4}", [2, 3, 4]), (3, "[4]", [1, 1, 1])],
)  # fmt: skip
def test_the_number_of_nodes_follows_from_the_concat(edges, concat, sizes):
    cell = from_notation(flat(edges, concat)).cells["reduction"]
    assert [len(node) for node in cell.nodes] == sizes


@pytest.mark.parametrize(
    ("edges", "concat"), [(7, "[2, 3, 4, 5]"), (8, "[2, 3]"), (8, "[6]"), (14, "[8, 9]"), (3, "[2]")]
)
def test_edges_that_can_be_dealt_out_in_no_known_way_are_refused(edges, concat):
    with pytest.raises(UserError, match=rf"line 1, column \d+.*{edges} edges for \d+ nodes .* brackets of their own"):
        from_notation(flat(edges, concat))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Genotype(normal=[('a', 0),\n ('b', 1.5)], normal_concat=[2], reduce=[], reduce_concat=[2])",
         "x: line 2, column 8, at .*: must be a whole number, not 1.5"),
        ("Genotype(normal=[('a', 0) ('b', 1)], normal_concat=[2], reduce=[('a', 0)], reduce_concat=[2])",
         "x: line 1, column 18, at .*: must be a list"),
        ("# é\nGenotype(normal=[('é', 0), ('b' 1)], normal_concat=[2], reduce=[], reduce_concat=[2])",
         "x: line 2, column 29, at .*"),
        ("Genotype(normal=[('a', 0), ('b', 1)], normal_concat=[2])", "'reduce' is missing"),
        ("Genotype(normal=[('a', 0)]", r"x: line 1, column 1, at .*brackets that are not closed"),
        ("Genotype(normal=[('a', 0)}", r"x: line 1, column 26, at .*'}' closes another bracket"),
        ("Genotype(normal=[('a, 0)]\n)", r"x: line 1, column 19, at .*a quote that is not closed on its line"),
        (FORMS["pairs"] + ".normal", "something is done with the cell"),
        (FORMS["pairs"].replace("('c', 2)", "('c', 2, 0)"), "some edges name their node"),
        (FORMS["node and input"].replace("('c', 3, 2)", "('c', 2, 3)", 1), "stands at another place than before"),
        (FORMS["lists of nodes"].replace("('c', 2)", "('c', 2, 4)", 1), "node 4 is named among the edges of node 3"),
        (FORMS["pairs"].replace("normal=", "drop=1, normal=", 1), "'drop' is none of normal, normal_concat"),
        (FORMS["pairs"].replace("('d', 0)", "('d', 3)"), "normal cell: node 1: input 3 must be from 0 to 2"),
        (FORMS["dictionary"].replace("'reduce'", "'normal'"), "'normal' stands twice"),
        ("|nor_conv_3x3~0|+|nor_conv_3x3~0|", "line 1, column 1.*is not a cell of NAS-Bench-201"),
    ],
)  # fmt: skip
def test_what_has_no_one_meaning_is_refused_with_its_place(text, message):
    with pytest.raises(UserError, match=message) as refused:
        from_notation(text, origin="x")
    assert "\n" not in str(refused.value)


LOG = "epoch 0 genotype = {}\ntrain_acc 60\nepoch 1 genotype = {}\n"


def test_different_cells_in_one_log_are_refused_and_one_is_chosen_by_line_or_name(tmp_path, darts_space):
    log, module = tmp_path / "log.txt", tmp_path / "genotypes.py"
    log.write_bytes(LOG.format(to_notation(published("snas")), to_notation(published("pdarts"))).encode("utf-16"))
    with pytest.raises(UserError, match=r"2 cells, which differ; the first is on line 1, the last on line 3; .*FILE:3"):
        find_genotype(str(log), darts_space, "", 0)
    assert find_genotype(f"{log}:1", darts_space, "", 0) == published("snas")
    assert find_genotype(f"{log}:3", darts_space, "", 0) == published("pdarts")
    with pytest.raises(UserError, match="no cell is called '2' or begins on that line"):
        find_genotype(f"{log}:2", darts_space, "", 0)
    module.write_text("\n".join(PRINTED.values()) + "\nRNN = Genotype(recurrent=[('relu', 0)], concat=[1])\n")
    assert find_genotype(f"{module}:PC_DARTS_cifar", darts_space, "", 0) == published("pc_darts")


def random_spaces(seed: int) -> Iterator[SearchSpace]:
    draws = random.Random(seed)
    for _ in range(200):
        skeleton = draws.choice([Skeleton.darts, Skeleton.darts, Skeleton.nasbench201])
        kept = draws.choice([None, 1, 2] if skeleton is Skeleton.darts else [None, 1])
        yield SearchSpace(skeleton.value, draws.randint(1, 6), kept, list(CANDIDATES), skeleton, None)


def test_what_was_printed_is_read_as_the_same_genotype_or_never_printed():
    draws = random.Random(0)
    for space in random_spaces(0):
        genotype = space.sample(draws)
        assert from_json(to_json(genotype)) == genotype
        if space.skeleton is Skeleton.darts:
            assert from_notation(to_notation(genotype), space.name) == genotype
            assert ("[[" in to_notation(genotype)) is False  # the papers' flat list suffices
        else:
            with pytest.raises(UserError, match=r"the JSON form \(to_json\).*the benchmark's string"):
                to_notation(genotype)


def test_cells_of_no_regular_shape_round_trip_as_lists_of_nodes():
    draws = random.Random(1)
    for _ in range(200):
        nodes = []
        for node in range(draws.randint(1, 5)):
            sources = [draws.randrange(node + 2) for _ in range(draws.randint(1, 4))]
            nodes.append(tuple(Edge(draws.choice(CANDIDATES), source) for source in sources))
        joined = draws.sample(range(2, len(nodes) + 2), draws.randint(1, len(nodes)))
        cell = Cell(tuple(nodes), tuple(joined))
        genotype = Genotype("darts", {"normal": cell, "reduction": NORMAL})
        assert from_notation(to_notation(genotype)) == genotype


def test_only_cells_of_the_benchmark_have_its_string():
    space = SearchSpace("nasbench201", 3, 1, ["skip_connect", "nor_conv_3x3"], Skeleton.nasbench201, None)
    for genotype in (published("darts_v2"), space.sample(random.Random(0))):
        with pytest.raises(UserError, match=r"holds a cell of NAS-Bench-201.*the JSON form"):
            to_string(genotype)


SEEDS = [*FORMS.values(), *PRINTED.values(), BEST, to_json(published("pdarts")), to_json(from_string(BEST))]
TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)


def mutants(number: int) -> Iterator[str]:
    """Texts with one to three tokens or characters deleted, doubled, exchanged or inserted."""
    draws = random.Random(0)
    split = [[TOKEN.findall(text), list(text)] for text in SEEDS]
    for _ in range(number):
        parts = list(draws.choice(draws.choice(split)))
        for _ in range(draws.randint(1, 3)):
            at, other = draws.randrange(len(parts)), draws.randrange(len(parts))
            change = draws.randrange(4)
            if change == 0 and len(parts) > 1:
                del parts[at]
            elif change == 1:
                parts.insert(at, parts[at])
            elif change == 2:
                parts[at], parts[other] = parts[other], parts[at]
            else:
                parts.insert(at, draws.choice([*"()[]{}'\"|~+,:=#\\\n\0é9", parts[other], "-", "None", "10**9", "NaN"]))
        yield "".join(parts)


def test_ten_thousand_mutants_are_genotypes_or_refused_in_a_line():
    read = 0
    for text in mutants(10_000):
        try:
            genotype = read_text(text, "darts", "x")
        except UserError as error:
            assert str(error).startswith("x: ") and "\n" not in str(error) and len(str(error)) < 1000, text
        else:
            read += 1
            assert from_json(to_json(genotype)) == genotype, text
    assert 1000 < read < 9000


CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0)], normal_concat=range(2, 3), reduce=[('skip_connect', 1)], reduce_concat={2})"
)


def test_describe_reads_a_cell_that_is_quoted_as_the_readme_says(tmp_path):
    small = ["network.cells=3", "network.channels=2", "device=cpu", "json=true", "space.nodes=1"]
    done = run_command(["-m", "darts.describe", *small, f'genotype="{CELL}"'], tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert from_notation(found["notation"]) == from_notation(CELL) and "string" not in found


@pytest.mark.parametrize("value", [CELL, f"'{CELL}'", BEST, FORMS["dictionary"]])
def test_a_cell_that_is_no_text_to_hydra_is_refused_with_the_quotes_that_it_needs(value):
    with pytest.raises(UserError, match=re.escape(r'in bash type "genotype=\"CELL\"" with these backslashes')):
        refuse_unquoted_cells([f"genotype={value}"])
    refuse_unquoted_cells([f'genotype="{value}"', "genotype=darts_v2", "genotype=log.txt:12", "genotype=a,b"])
    refuse_unquoted_cells([f'genotype="{value}",darts_v2', f'searched=["{value}",latest]'])


def test_an_unknown_operation_is_told_before_the_space(darts_space):
    text = CELL.replace("sep_conv_3x3", "sep_conv_3x33")
    with pytest.raises(UserError, match=r"operation 'sep_conv_3x33' is unknown; did you mean 'sep_conv_3x3'\?"):
        find_genotype(text, darts_space, "", 0, operations=CANDIDATES)
