"""A genotype is of a space where the space could draw it; a refusal says what differs and which settings to add."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
from pathlib import Path

import pytest

from darts import correlate, select
from darts.compare.plan import plan_trials
from darts.config.run_folder import own_folder
from darts.runtime.errors import UserError
from darts.spaces.genotype import Cell, Edge, Genotype, to_json
from darts.spaces.membership import check_membership, is_of, known_spaces, next_settings, settings_that_fit
from darts.spaces.notation import to_notation
from darts.spaces.published import NAMES, published
from darts.spaces.search_space import SearchSpace
from darts.spaces.sources import find_genotype, random_genotype
from darts.spaces.variation import all_genotypes, ordered
from tests.conftest import CANDIDATES, TINY, TINY_DATA, composed, space_of

SMALL = [
    dataclasses.replace(space_of("darts", nodes, 2, names), edges_kept=kept)
    for nodes, kept in ((1, 1), (1, 2), (1, None), (2, 1), (2, None))
    for names in (["none", "a"], ["a", "b"])
]


def settings_for(space: str, overrides: list[str]) -> SearchSpace:
    """The space of a command with the settings that a message advises, as a shell would split them."""
    chosen = [item for item in shlex.split(" ".join(overrides)) if item]
    return composed("final", f"space={space}", *chosen).space


@pytest.mark.parametrize("space", SMALL, ids=str)
def test_the_members_of_a_small_space_are_those_that_it_enumerates(space):
    members = {str(genotype.cells) for genotype in all_genotypes(space)}
    assert len(members) == space.count()
    for other in SMALL:
        for genotype in itertools.islice(all_genotypes(other), 300):
            fewer = any(len(edges) < space.kept(n) for n, edges in enumerate(genotype.cells["normal"].nodes))
            if not (fewer and space.edges_kept and len(genotype.cells["normal"].nodes) == space.nodes):
                assert is_of(genotype, space) == (str(ordered(genotype).cells) in members), genotype


@pytest.mark.parametrize("name", known_spaces())
def test_every_draw_of_a_space_is_of_it_and_of_no_space_of_another_name(name):
    space = composed("final", f"space={name}").space
    assert known_spaces()[name] == space
    for number in range(20):
        genotype = random_genotype(space, 0, number)
        check_membership(genotype, space, "drawn")
        other = "s3" if name == "darts" else "darts"
        with pytest.raises(UserError, match=rf"of space '{name}', but space is '{other}'; add space={name}$"):
            check_membership(genotype, known_spaces()[other], "drawn")


def changed(cell: Cell, **changes: object) -> Genotype:
    return Genotype("darts", {"normal": dataclasses.replace(cell, **changes), "reduction": cell})


V2 = published("darts_v2").cells["normal"]
ALL = random_genotype(dataclasses.replace(known_spaces()["darts"], edges_kept=None, candidates=["skip_connect"]), 0, 0)


@pytest.mark.parametrize(
    ("genotype", "message", "advice"),
    [
        (Genotype("darts", {kind: Cell(V2.nodes[:3], (2, 3, 4)) for kind in ("normal", "reduction")}),
         "normal cell, nodes: 3, the space has 4", "add space.nodes=3"),
        (Genotype("darts", published("nasnet").cells), "normal cell, nodes: 5, the space has 4", "add space.nodes=5 "),
        (changed(V2, concat=(3, 4, 5)), r"the output joins \[3, 4, 5\], in the space \[2, 3, 4, 5\]", "no setting"),
        (changed(V2, nodes=((Edge("skip_connect", 0), Edge("sep_conv_3x3", 0)), *V2.nodes[1:])),
         "normal cell, node 0: two edges from one input", "no setting"),
        (changed(V2, nodes=((Edge("nor_conv_1x1", 0), Edge("sep_conv_3x3", 1)), *V2.nodes[1:])),
         "node 0, input 0: operation 'nor_conv_1x1' is no candidate", r'add "space.candidates=\[none.*1x1\]"'),
        (changed(V2, nodes=((Edge("none", 0), Edge("sep_conv_3x3", 1)), *V2.nodes[1:])),
         "operation 'none' is never kept where space.edges_kept is a number", "no setting"),
        (Genotype("darts", ALL.cells), "normal cell, node 1: 3 edges, the space keeps 2", "add space.edges_kept=null"),
        (Genotype("darts", {"normal": V2}), "its cells are normal; the space has normal and reduction", "no setting"),
    ],
)  # fmt: skip
def test_a_difference_is_named_with_the_settings_that_allow_it(genotype, message, advice):
    with pytest.raises(UserError, match=rf"x: not a genotype of space 'darts' as it is set: .*{message}.*; {advice}"):
        check_membership(genotype, known_spaces()["darts"], "x")
    needed = settings_that_fit(genotype, known_spaces()["darts"])
    if needed:
        check_membership(genotype, settings_for("darts", needed), "x")


def test_two_edges_where_the_space_keeps_all_are_refused():
    space = dataclasses.replace(known_spaces()["darts"], edges_kept=None)
    with pytest.raises(UserError, match=r"node 1: 2 edges, the space keeps all 3; add space.edges_kept=2"):
        check_membership(published("darts_v2"), space, "x")


def test_a_node_may_keep_fewer_edges_as_a_threshold_leaves_them():
    assert is_of(changed(V2, nodes=(V2.nodes[0][:1], *V2.nodes[1:])), known_spaces()["darts"])


def test_each_edge_of_s1_has_its_own_candidates():
    genotype = random_genotype(known_spaces()["s1"], 0, 0)
    first = genotype.cells["normal"].nodes[0]
    nodes = ((Edge("sep_conv_3x3", first[0].source), *first[1:]), *genotype.cells["normal"].nodes[1:])
    cells = {**genotype.cells, "normal": dataclasses.replace(genotype.cells["normal"], nodes=nodes)}
    with pytest.raises(
        UserError, match=r"no candidate of this edge, which has skip_connect, dil_conv_3x3; add space\.edge"
    ):
        check_membership(Genotype("s1", cells), known_spaces()["s1"], "x")


def test_published_cells_are_of_their_space():
    for name in NAMES:
        genotype = published(name)
        if name == "enas_recurrent":  # more nodes than the recurrent cells of DARTS
            check_membership(genotype, dataclasses.replace(known_spaces()["recurrent"], nodes=11), name)
            continue
        check_membership(genotype, known_spaces()[genotype.space], name)
        others = [s for s in known_spaces() if is_of(genotype, known_spaces()[s]) and not s.startswith("darts_")]
        assert others == [genotype.space]  # the cells of darts_all_skip are those of darts


def test_a_print_that_names_no_space_gets_the_one_that_it_is_of(darts_space):
    with pytest.raises(UserError, match=r"nodes: 5, the space has 4; add space=nasnet$"):
        find_genotype(to_notation(published("amoebanet")), darts_space, "", 0)


def test_a_cell_of_a_changed_space_is_used_by_naming_the_change(tmp_path, darts_space):
    genotype = random_genotype(dataclasses.replace(known_spaces()["s2"], nodes=3), 0, 0)
    (tmp_path / "genotype.json").write_text(to_json(genotype))
    with pytest.raises(UserError, match=r"of space 's2', but space is 'darts'; add space=s2 space\.nodes=3$"):
        find_genotype(str(tmp_path), darts_space, "", 0)
    assert next_settings(genotype) == ["space=s2", "space.nodes=3"]
    assert find_genotype(str(tmp_path), settings_for("s2", ["space.nodes=3"]), "", 0) == genotype


def test_a_comparison_takes_published_cells_of_its_random_cells_space_only():
    compare = ["compare", *TINY, "searched=[nasnet]", "random.samples=2"]
    with pytest.raises(UserError, match=r"searched nasnet: the genotype is of space 'nasnet'.*add space=nasnet"):
        plan_trials(composed(*compare), Path())
    trials = plan_trials(composed(*compare, "space=nasnet"), Path())
    assert {trial.genotype.space for trial in trials} == {"nasnet"} and len(trials) == 3


def test_every_command_that_meets_a_space_refuses_what_is_not_of_it(tmp_path, darts_space):
    genotype = Genotype("darts", published("nasnet").cells)
    (tmp_path / "genotype.json").write_text(to_json(genotype))
    numbers = {"test_loss": 1.0, "parameters": 1, "macs": 1, "seconds": 1.0, "test_accuracy": 0.5}
    result = {"genotype": json.loads(to_json(genotype)), "protocol": "p", "config": {}, **numbers}
    (tmp_path / "result.json").write_text(json.dumps(result))
    compared = composed("compare", *TINY, f"searched=[{tmp_path}]", "random.samples=2")
    for act in (
        lambda: find_genotype(str(tmp_path), darts_space, "", 0),  # train_final, describe, tune
        lambda: plan_trials(compared, Path()),
        lambda: correlate.trained_cells(composed("correlate", *TINY_DATA, f"results=[{tmp_path}]")),
        lambda: select.candidates(composed("select", *TINY, f"searched=[{tmp_path},darts_v2]"), tmp_path / "chosen"),
    ):
        with pytest.raises(UserError, match=r"nodes: 5, the space has 4; add space\.nodes=5"):
            act()


def test_a_choice_may_be_among_cells_that_are_typed(tmp_path):
    texts = [to_notation(published(name)) for name in ("snas", "pdarts")]
    settings = composed("select", *TINY, "searched=[" + ",".join(f'"{text}"' for text in texts) + "]")
    assert list(select.candidates(settings, tmp_path).values()) == [published("snas"), published("pdarts")]


def test_a_threshold_needs_none_where_every_edge_stays():
    space = ["space.edges_kept=null", "space.candidates=[skip_connect,sep_conv_3x3]"]
    with pytest.raises(UserError, match=r"space\.candidates is .*with none, which removes an edge"):
        composed("search", *TINY, "method=fair_darts", *space)


def test_folders_of_runs_that_begin_together_differ(tmp_path):
    names = [own_folder(str(tmp_path / "runs" / "now")) for _ in range(3)]
    assert [Path(name).name for name in names] == ["now", "now_2", "now_3"]
    assert all(Path(name).is_dir() for name in names)


def test_a_published_name_needs_no_space_and_no_capitals(darts_space):
    assert find_genotype("AmoebaNet", darts_space, "", 0, CANDIDATES) == published("amoebanet")


def test_draws_of_the_default_space_need_no_settings():
    assert next_settings(random_genotype(known_spaces()["darts"], 0, 0)) == []
