"""What Hydra refuses while it composes is told as setting, value and what is allowed, by every way in."""

from __future__ import annotations

import pytest

import darts
from darts.runtime.errors import UserError
from tests.conftest import ROOT, composed, run_command

REFUSED = [
    ("search.epochs=abc", "search.epochs is abc; it must be a whole number"),
    ("search.epochs=2.5", "search.epochs is 2.5; it must be a whole number"),
    ("search.epochs=[1]", "search.epochs is [1]; it must be a whole number"),
    ("budget.minutes=x", "budget.minutes is x; it must be a number"),
    ("graphs=maybe", "graphs is maybe; it must be true or false"),
    ("engine=other", "engine is other; it must be one of fused, reference"),
    ("space.candidates=5", "space.candidates is 5; it must be a list, such as [a,b]"),
    ("dataset.root=[1]", "dataset.root is [1]; it must be a text"),
    ("network=5", "network is 5; it must be left to its own settings, network.NAME=VALUE"),
    ("space.edge_candidates=5", "space.edge_candidates is 5; it must be null, or {TYPE: [[NAME, ...], ...]}, a list"),
    ("space.edge_candidates={a: 3}", "space.edge_candidates is {'a': 3}; it must be null, or {TYPE: [[NAME, ...],"),
    ("space.chain={stem: 3}", "space.chain is null with what is chosen here, and takes no value where settings are"),
    ("space.candidates=[[none]]", "space.candidates is [['none']]; it must be a list of names"),
    ("space.candidates=[none,null]", "space.candidates is [none,null]; it must be without null"),
    ("space.candidates={a:1}", "space.candidates is {a:1}; it must be a list, such as [a,b]"),
    ("space.candidates=[a", "space.candidates=[a cannot be read: its brackets and quotes must close"),
    ("network.cells=null", "network.cells is null; it must be something else than null, as -h network.cells says"),
    ("seed=1 2", "seed is 1 2; it must be a whole number"),
    ("~search.epochs", "~search.epochs removes a setting, which is needed"),
    ("~network", "setting 'network' is missing; it cannot be removed"),
    ("++search.epochs=abc", "search.epochs is abc; it must be a whole number"),
    ("search=[3]", "search is [3]; it must be left to its own settings, search.NAME=VALUE"),
    ("method.preference=[a]", "method.preference is [a]; it must be left to its own settings"),
    ("search.epochs.x=3", "setting 'search.epochs.x': search.epochs is a value and has no settings"),
    ("constraints.latency_ms.a=3", "setting 'constraints.latency_ms.a': constraints.latency_ms is"),
    ("dataset.mean.x=3", "setting 'dataset.mean.x': dataset.mean is a list; give it whole, dataset.mean=[...]"),
    ("space.candidates.x=a", "setting 'space.candidates.x': space.candidates is a list; give it whole"),
    ("space.chain.widths.x=3", "setting 'space.chain.widths.x': space.chain is null with what is chosen here"),
    ("space.chain.stem=3", "setting 'space.chain.stem': space.chain is null with what is chosen here, and has no"),
    ("+space.chain.stem=3", "setting 'space.chain.stem': space.chain is null with what is chosen here, and has no"),
]


@pytest.mark.parametrize(("override", "told"), REFUSED)
def test_from_python(override, told, tmp_path):
    with pytest.raises(UserError) as caught:
        darts.run_search(override, folder=tmp_path / "run")
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(("override", "told"), [REFUSED[0], REFUSED[3], REFUSED[10], *REFUSED[-5:]])
def test_on_the_command_line(override, told, tmp_path):
    done = run_command([str(ROOT / "train_search.py"), override, "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {told}")


@pytest.mark.parametrize(("override", "told"), [REFUSED[0], REFUSED[-1]])
def test_in_a_comparisons_methods(override, told, tmp_path):
    done = run_command(["-m", "darts.compare", f"methods=['darts {override}']", "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: methods: 'darts {override}': {told}")


def test_of_two_mistakes_one_is_told(tmp_path):
    for given in (["space.chain.stem=3", "seed=abc"], ["seed=abc", "space.chain.stem=3"]):
        with pytest.raises(UserError) as caught:
            darts.run_search(*given, folder=tmp_path / "run")
        assert str(caught.value) == "seed is abc; it must be a whole number"
        done = run_command([str(ROOT / "train_search.py"), *given, "hydra.run.dir=run"], tmp_path)
        assert done.returncode == 2 and done.stderr == "error: seed is abc; it must be a whole number\n"


def test_lists_of_lists(tmp_path):
    with pytest.raises(UserError) as caught:
        darts.run_search("space=mobile", "space.chain.stages=[1,2]", folder=tmp_path)
    assert str(caught.value) == "space.chain.stages is [1,2]; it must be a list of lists, such as [[a,b],[c,d]]"
    with pytest.raises(UserError) as caught:
        darts.run_search("space=mobile", "space.chain.stages=[[1,[2],3]]", folder=tmp_path)
    assert str(caught.value) == "space.chain.stages is [[1,[2],3]]; it must be of whole numbers"


def test_lists_of_whole_numbers_within_lists(tmp_path):
    for stages in ("[[8,64,2.5]]", "[[8,a,2]]", "[[8,null,2]]"):
        with pytest.raises(UserError) as caught:
            darts.run_search("space=nasbench_macro", f"space.chain.stages={stages}", folder=tmp_path)
        assert str(caught.value) == f"space.chain.stages is {stages}; it must be of whole numbers"


def test_candidates_by_edge_are_given_where_there_were_none():
    lists = [["skip_connect", "inverted_3x3_e3_relu"], *[["skip_connect"]] * 7]
    given = "[" + ",".join(f"[{','.join(names)}]" for names in lists) + "]"
    space = composed("search", "space=nasbench_macro", f"space.edge_candidates={{chain:{given}}}").space
    assert space.edge_candidates == {"chain": lists}
    assert [len(space.selectable("chain", edge)) for edge in range(8)] == [2, *[1] * 7]


def test_below_a_chain_the_same_setting_is_taken():
    assert composed("search", "space=mobile", "space.chain.stem=8").space.chain.stem == 8
