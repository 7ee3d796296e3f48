"""The comparison: trials by one protocol, statistics against known answers, and sentences that the data allow."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hydra import initialize_config_dir

from darts.compare import page, plan, power, report, searches, tables
from darts.compare.checklist import checklist
from darts.compare.plan import RANDOM, SEARCHED
from darts.compare.searches import Search, flat, searched_methods
from darts.compare.sentences import sentences
from darts.compare.trials import Outcome
from darts.config.compose import CONF
from darts.runtime.errors import UserError
from darts.spaces.genotype import Genotype, to_json
from darts.spaces.membership import next_settings, record_of_space
from darts.spaces.published import published
from darts.spaces.sources import random_genotype
from tests.conftest import ROOT, TINY_TRAIN, composed, run_command

DATA = ROOT.parent / "shared" / "data" / "nasbench201" / "cifar10.csv.gz"
WHERE = {
    "source": "abc",
    "device": "cpu",
    "cores": 2,
    "date": "20 November 2026",
    "command": "python -m darts.compare x",
}


def settings(*overrides: str):
    return composed("compare", *TINY_TRAIN, "train.epochs=1", "random.samples=2", *overrides)


def outcomes(found: dict[str, list[list[float]]], drawn: list[float]) -> list[Outcome]:
    """Networks: by group the accuracies of each cell's trainings; random cells are trained once."""
    groups = {**found, RANDOM: [[value] for value in drawn]}
    made = []
    for group, cells in groups.items():
        for number, values in enumerate(cells):
            name = f"random {number}" if group == RANDOM else f"{group}, seed {number}"
            for repetition, accuracy in enumerate(values):
                size = 1000 + number
                seed = 100 * number + repetition
                made.append(Outcome(number, group, name, "digest", seed, accuracy, size, 2_000_000, 3.0))
    return made


def each_once(values: list[float]) -> list[list[float]]:
    return [[value] for value in values]


def said(found: list[float], drawn: list[float], group: str = SEARCHED) -> str:
    return sentences(report.make_report(outcomes({group: each_once(found)}, drawn), {}))[0]


DRAWN = [0.80, 0.81, 0.82, 0.805, 0.79, 0.815, 0.801, 0.811]


@pytest.mark.parametrize(
    "found, drawn, words",
    [
        ([0.9], [*DRAWN, *[v - 0.05 for v in DRAWN], 0.7, 0.71, 0.72],
         "The searched cell is better than random sampling: it is in place 1 of 20, among itself and 19 random cells; "
         "a random cell ranks this high with probability 0.050."),
        ([0.812], DRAWN, "do not show that the searched cell is better than random sampling: it is in place 3 of 9"),
        ([0.9], DRAWN, "With so few random cells no place would show it: the least p is 0.111."),
        ([0.9, 0.91, 0.92], DRAWN, "The 3 searched cells are better than random sampling: a found cell beats a random "
         "cell 100% of the time"),
        ([0.7, 0.71, 0.72], DRAWN, "The 3 searched cells are worse than random sampling"),
        ([0.8, 0.82, 0.803], DRAWN, "These data do not show that the 3 searched cells are better or worse"),
        ([0.9, 0.91], [0.8, 0.8, 0.81], "So few observations cannot: the least p is 0.200."),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_data_say(found, drawn, words):
    assert words in said(found, drawn)


def test_a_claim_about_the_method_needs_several_searches():
    assert "speaks of this one cell" in said([0.9], DRAWN) and "more often would show nothing more" in said(
        [0.9], DRAWN
    )
    assert "speaks of this one cell" not in said([0.9, 0.91, 0.92], DRAWN)


def test_training_one_cell_more_often_is_no_evidence():
    """However often a middling cell is trained, its place is that of one cell."""
    often = {SEARCHED: [[0.812] * 50]}
    found = report.make_report(outcomes(often, DRAWN), {}).claims[0]
    assert found.test is None and (found.place.place, found.place.among, found.p) == (3, 9, 3 / 9)


def test_methods_are_compared_with_random_sampling_and_with_random_search():
    methods = {
        "darts": each_once([0.90, 0.91, 0.92, 0.905, 0.915]),
        "evolution": each_once([0.82, 0.81, 0.8, 0.83, 0.812]),
        "random": each_once([0.86, 0.87, 0.85, 0.861, 0.855]),
    }
    found = report.make_report(outcomes(methods, DRAWN), {})
    sampling, search = found.claims_against("random sampling"), found.claims_against("random search")
    assert list(sampling) == ["darts", "evolution", "random"] and list(search) == ["darts", "evolution"]
    assert [claim.comparisons for claim in found.claims] == [3, 3, 3, 2, 2]
    assert search["darts"].p == pytest.approx(2 * 2 / math.comb(10, 5)) and search["darts"].shown == "better"
    assert search["evolution"].shown == "worse" and sampling["evolution"].shown == ""
    assert sampling["random"].shown == "better" and sampling["random"].p == pytest.approx(3 * 2 / math.comb(13, 5))
    words = sentences(found)
    assert "darts (5 searches) is better than random search" in words[3] and "corrected for 2 comparisons" in words[3]
    assert "of random search at the same budget" in words[3] and "random cells" in words[0]


def test_every_group_is_compared_with_every_other():
    methods = {"darts": each_once([0.9, 0.91, 0.92, 0.905]), "random": each_once([0.86, 0.87, 0.85, 0.861])}
    found = report.make_report(outcomes(methods, DRAWN), {})
    assert [(pair.first, pair.second, pair.superiority) for pair in found.pairs] == [
        ("darts", "random", 1.0), ("darts", RANDOM, 1.0), ("random", RANDOM, 1.0)]  # fmt: skip
    assert found.pairs[0].p == pytest.approx(2 / math.comb(8, 4)) and found.pairs[1].p == pytest.approx(3 * 2 / 495)
    rows = tables.two_way(found)
    assert rows[0] == ["a cell of", "beats darts", "beats random", f"beats {RANDOM}"]
    assert rows[2][1] == "0%, p = 0.029" and rows[1][1] == ""


def test_accuracies_at_equal_size():
    """Groups on one line of accuracy over the logarithm of the size are equal at equal size; a shift remains."""

    def made(group: str, sizes: list[int], shift: float) -> list[Outcome]:
        return [
            Outcome(n, group, f"{group} {n}", "d", n, shift + 0.1 * math.log(size), size, size, 1.0)
            for n, size in enumerate(sizes)
        ]

    large, small = [2000, 3000, 4000], [500, 600, 700, 800]
    both = [*made("darts", large, 0.0), *made(RANDOM, small, 0.0)]
    raw, equal = (report.make_report(both, {"adjust_for": cost}) for cost in (None, "parameters"))
    assert raw.claims[0].difference > 0.1 and equal.claims[0].difference == pytest.approx(0)
    assert "compared at equal parameters" in sentences(equal)[0]
    assert tables.summary(equal)[0][5] == "mean at equal parameters"
    shifted = report.make_report([*made("darts", large, 0.02), *made(RANDOM, small, 0.0)], {"adjust_for": "macs"})
    assert shifted.claims[0].difference == pytest.approx(0.02)
    assert shifted.groups[0].adjusted == pytest.approx(shifted.groups[1].mean + 0.02)


def test_random_search_goes_along_unless_told_not_to():
    assert searched_methods(settings("methods=[darts,evolution]")) == ["darts", "evolution", "random"]
    assert searched_methods(settings("methods=[darts]", "random.search=false")) == ["darts"]
    given = "methods=[darts,'random evaluator=zero_cost']"
    assert searched_methods(settings(given)) == [
        "darts",
        "random evaluator=zero_cost",
        "random",
    ]  # the baseline is plain
    assert searched_methods(settings("methods=[random,darts]")) == ["random", "darts"]
    assert searched_methods(settings()) == []


def test_every_network_has_a_seed_of_its_own_and_asking_for_more_changes_none():
    both = "searched=[darts_v1,darts_v2]"
    planned = plan.plan_trials(settings("random.samples=8", both, "retrainings=2"), Path())
    assert len({trial.seed for trial in planned}) == len(planned) == 2 * (2 + 8)
    drawn = [trial for trial in planned if trial.group == RANDOM]
    assert len({trial.genotype.digest() for trial in drawn}) == 8
    longer = plan.plan_trials(settings("random.samples=9", both, "retrainings=3"), Path())
    assert {(t.group, t.cell, t.seed) for t in planned} < {(t.group, t.cell, t.seed) for t in longer}
    other = plan.plan_trials(settings("random.samples=8", both, "retrainings=2", "seed=1"), Path())
    assert not {trial.seed for trial in planned} & {trial.seed for trial in other}


def test_a_searched_cell_of_another_space_than_the_random_ones_is_refused():
    with pytest.raises(UserError, match="searched nasnet: the genotype is of space 'nasnet', but space is 'darts'"):
        plan.plan_trials(settings("searched=[nasnet]"), Path())
    assert len(plan.plan_trials(settings("searched=[nasnet]", "space=nasnet"), Path())) == 3


def test_a_searchs_folder_is_called_by_method_settings_and_seed():
    assert Search("darts search.epochs=1", 3, "abc").name == "darts_abc_seed3"


@pytest.mark.parametrize(
    "methods, expected",
    [
        ("[darts]", 3.0),  # of the quick settings
        ("['darts search.epochs=1',evolution]", 20.0),  # 20 evaluations of two epochs on half of the images
        ("['darts search.epochs=30',evolution]", 30.0),
        ("[random_weight_sharing,evolution]", 20.0),
        ("[random,darts]", 3.0),
    ],
)
def test_random_search_gets_what_the_dearest_method_spends(tmp_path, monkeypatch, methods, expected):
    monkeypatch.setattr(searches, "typed_overrides", list)
    searches._composed.cache_clear()
    given = settings(f"methods={methods}")
    with initialize_config_dir(CONF, version_base="1.3"):
        assert searches.settings_of_search(given, "random", 0).budget.epochs == expected


def test_random_search_has_a_seed_of_its_own(monkeypatch):
    monkeypatch.setattr(searches, "typed_overrides", list)
    given = settings("methods=[evolution]", "budget.evaluations=5")
    with initialize_config_dir(CONF, version_base="1.3"):
        seeds = [searches.settings_of_search(given, method, 3).seed for method in ("evolution", "random")]
    assert seeds[0] == 3 and seeds[1] not in (0, 1, 2, 3, 4)


def test_values_become_overrides_again():
    values = {"search": {"epochs": 2}, "space": {"candidates": ["a", "it's"]}, "graphs": True, "x": None, "y": 0.5}
    given = ["search.epochs=2", r"space.candidates=['a','it\'s']", "graphs=true", "x=null", "y=0.5"]
    assert flat(values) == given


COMPARED = [
    *("-m", "darts.compare", *TINY_TRAIN, "train.epochs=1", "random.samples=3", "allow_underpowered=true"),
    "hydra.run.dir=out",
]
SEARCHES = ["methods=[darts,'evolution method.population=2 method.sample=1']", "seeds=[0,1]", "budget.epochs=1",
            "+searches.search.epochs=1", "+searches.search.batch_size=16", "+searches.network.channels=2",
            "+searches.evaluator.network.channels=2", "+searches.evaluator.train.batch_size=16",
            "+searches.evaluator.train.epochs=1"]  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    done = run_command([*COMPARED, *SEARCHES], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_searches_and_trainings_are_run_and_reported(compared):
    folder, out = compared
    plain = json.loads((folder / "out" / "report.json").read_text())
    names = ["darts", "evolution method.population=2 method.sample=1", "random", RANDOM]
    assert [(group["name"], group["trained"]) for group in plain["groups"]] == list(
        zip(names, [2, 2, 2, 3], strict=True)
    )
    assert all(sentence in out for sentence in plain["sentences"]) and not plain["failed"]
    assert {cost["epochs"] for group in plain["groups"][:3] for cost in group["searches"]} == {1.0}  # equal budgets
    assert {cost["evaluations"] for group in plain["groups"][1:3] for cost in group["searches"]} == {2}
    assert all(cost["macs"] > 1e6 for group in plain["groups"][:3] for cost in group["searches"])
    assert [(claim["group"], claim["against"]) for claim in plain["claims"]] == [
        *((name, RANDOM) for name in names[:3]), *((name, "random search") for name in names[:2])]  # fmt: skip
    assert [design["group"] for design in plain["planned"]] == [claim["group"] for claim in plain["claims"]]
    assert out.index("what this comparison can show") < out.index("search by darts")
    results = [json.loads(file.read_text()) for file in (folder / "out" / "trials").rglob("result.json")]
    assert len({result["protocol"] for result in results}) == 1
    assert len({result["seed"] for result in results}) == len(results) == 9


def test_work_in_the_folder_is_not_done_again_and_missing_work_is(compared):
    folder, _ = compared
    results = sorted((folder / "out").rglob("result.json")) + sorted((folder / "out").rglob("genotype.json"))
    times = {file: file.stat().st_mtime_ns for file in results}
    before = json.loads((folder / "out" / "report.json").read_text())["outcomes"]
    results[0].unlink()
    done = run_command([*COMPARED, *SEARCHES], folder)
    after = json.loads((folder / "out" / "report.json").read_text())["outcomes"]
    assert done.returncode == 0 and [o["value"] for o in after] == [o["value"] for o in before]
    assert [file for file, time in times.items() if file.stat().st_mtime_ns != time] == [results[0]]


def test_searches_of_other_settings_are_not_taken_for_these(compared, tmp_path):
    folder, _ = compared
    shutil.copytree(folder / "out", tmp_path / "out")
    before = {place.name for place in (tmp_path / "out" / "searches").iterdir()}
    done = run_command([*COMPARED, *SEARCHES, "+searches.search.initial_alpha=0.1"], tmp_path)
    after = {place.name for place in (tmp_path / "out" / "searches").iterdir()}
    assert done.returncode == 0 and before < after and len(after) == 2 * len(before)


def test_a_report_of_other_cells_is_kept_aside_and_one_of_the_same_is_renewed(compared, tmp_path):
    folder, _ = compared
    shutil.copytree(folder / "out", tmp_path / "out")
    before = json.loads((tmp_path / "out" / "report.json").read_text())["outcomes"]
    again = run_command([*COMPARED, *SEARCHES], tmp_path)
    assert again.returncode == 0 and not (tmp_path / "out" / "earlier").exists()
    other = run_command([*COMPARED, "searched=[darts_v1]", "random.samples=2"], tmp_path)
    assert other.returncode == 0, other.stderr
    (kept,) = (tmp_path / "out" / "earlier").iterdir()
    assert f"the report of another comparison in this folder is kept in {kept}" in other.stdout
    assert {place.name for place in kept.iterdir()} == {*page.WRITTEN}
    assert json.loads((kept / "report.json").read_text())["outcomes"] == before
    assert "evolution method.population=2" in (kept / "report.md").read_text()
    names = [group["name"] for group in json.loads((tmp_path / "out" / "report.json").read_text())["groups"]]
    assert names == ["searched", RANDOM]


def test_batches_that_do_not_fit_are_refused_before_any_search(tmp_path):
    methods = "methods=['darts search.batch_size=8 search.epochs=1',random]"
    done = run_command([*COMPARED, methods, "seeds=[0,1]", "budget.epochs=1", "dataset.fraction=0.01"], tmp_path)
    assert done.returncode == 2 and "methods: 'random': search.batch_size is 128; it must be at most" in done.stderr
    assert not (tmp_path / "out" / "searches").exists()


def test_a_cell_of_a_narrower_space_is_told_and_the_report_says_no(tmp_path):
    """What the search prints next would have drawn the random cells from its own space."""
    narrow = dataclasses.replace(settings().space, candidates=["none", "skip_connect", "sep_conv_3x3"])
    cell = random_genotype(narrow, 0, 0)
    found = Genotype(cell.space, cell.cells, {"seed": 0, "space": record_of_space(narrow)})
    assert next_settings(found) == ["space.candidates=[none,skip_connect,sep_conv_3x3]"]
    (tmp_path / "cell.json").write_text(to_json(found))
    typed = [*COMPARED, "searched=[cell.json]", "random.samples=2"]
    done = run_command(typed, tmp_path)
    assert done.returncode == 0, done.stderr
    told = 'cell.json was found in another space than that of the random cells; that one is space=darts "space.candi'
    assert told in done.stdout + done.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    (row,) = [line for line in report.splitlines() if "Same data, space, training code" in line]
    assert row.split("|")[2].strip() == "no" and "candidates=['none', 'skip_connect', 'sep_conv_3x3']" in row
    same = run_command([*typed, "space.candidates=[none,skip_connect,sep_conv_3x3]", "hydra.run.dir=own"], tmp_path)
    assert same.returncode == 0 and "another space" not in same.stdout + same.stderr


@pytest.mark.slow
def test_another_launcher_gives_the_same_report(compared, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    folder, _ = compared
    done = run_command([*COMPARED, *SEARCHES, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((f / "out" / "report.json").read_text()) for f in (folder, tmp_path))
    for one, other in zip(first["outcomes"], second["outcomes"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_trial_that_fails_is_tried_again_and_reported_and_stops_no_other(compared):
    folder, _ = compared
    broken = folder / "broken"
    shutil.copytree(folder / "out", broken)
    shutil.rmtree(broken / "trials")
    kept = folder / "out" / "trials"
    names = sorted(place.name for place in kept.iterdir())
    (broken / "trials").mkdir()
    (broken / "trials" / names[0]).write_text("in the way")  # no folder can be made there
    done = run_command([*COMPARED[:-1], "hydra.run.dir=broken", *SEARCHES], folder)
    plain = json.loads((broken / "report.json").read_text())
    assert done.returncode == 0 and plain["failed"] == [f"train:{names[0]}"]
    assert done.stdout.count(f"trial train:{names[0]} failed") == 2
    assert len(plain["outcomes"]) == 8 == len(list((broken / "trials").glob("*/result.json")))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["methods=[drats]", "seeds=[0]"], "methods: 'drats'"),
        (["methods=[darts]", "seeds=[0]", "+searches.search.epochs=0"], "search.epochs is 0"),
        (["methods=[random]", "seeds=[0]", "scored_by=table"], "benchmark.table is null; it must be a file"),
        (["methods=[darts,darts]"], "different searches"),
        (["methods=[darts]", "seeds=[]"], "different numbers from 0"),
        (["searched=[]"], r"searched is \[\]"),
        (["methods=['evolution seed=3']"], "seed is set; the searches' seeds are seeds="),
        (["methods=[darts]", "+searches.seed=3"], "seed is set; the searches' seeds are seeds="),
        (["methods=['evolution budget.evaluations=5']"], "budget.evaluations is set for some searches only"),
        (["methods=[darts]", "budget.evaluations=10"], "darts searches by gradients and makes none"),
        (
            ["methods=[random]", "space=nasbench201", "scored_by=table", "benchmark.table=x", "budget.epochs=3"],
            "budget.evaluations is null; it must be a number with a table, whose answers cost no epochs",
        ),
        (["searched=[nothere]", "plan=true"], "genotype 'nothere' is unknown"),
        (["methods=['darts space.nodes=2']", "seeds=[0]"], r"nodes: 2, the space has 4; add space\.nodes=2"),
    ],
)
def test_wrong_comparisons_are_refused_before_anything_runs(tmp_path, overrides, named):
    done = run_command([*COMPARED, *overrides], tmp_path)
    assert done.returncode == 2 and re.search(named, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.rglob("genotype.json"))


def test_a_table_judges_in_place_of_retraining(tmp_path):
    if not DATA.exists():
        pytest.skip(f"the table is not at hand ({DATA})")
    done = run_command(
        ["-m", "darts.compare", "methods=[random,evolution]", "seeds=[0,1,2]", "space=nasbench201", "scored_by=table",
         f"benchmark.table={DATA}", "budget.evaluations=40", "random.samples=8", "hydra.run.dir=out",
         "allow_underpowered=true"], tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(group["name"], group["trained"]) for group in plain["groups"]] == [
        ("random", 3),
        ("evolution", 3),
        (RANDOM, 8),
    ]
    assert plain["groups"][1]["mean"] > plain["groups"][2]["mean"]
    assert not list((tmp_path / "out").rglob("result.json"))


def fixed() -> tuple[report.Report, dict, dict]:
    draws = random.Random(0)
    space = composed("search").space
    accuracies = {
        name: [[0.9 + shift + draws.gauss(0, 0.005) for _ in range(2)] for _ in range(3)]
        for name, shift in (("darts", 0.01), ("evolution", 0.02), ("random", 0.0))
    }
    drawn = [0.9 + draws.gauss(0, 0.005) for _ in range(8)]
    costs = {
        name: [{"seed": n, "evaluations": 5, "epochs": 3.0, "seconds": 60.0 + n, "macs": 10**9} for n in range(3)]
        for name in accuracies
    }
    plain = {"train.epochs": 3, "dataset.name": "fashion_mini", "space.name": "darts", "budget.epochs": 3.0}
    designs = [power.Design(name, RANDOM, 3, 8, 3, 3 * 2 / 165, {"1 point": 0.25}) for name in accuracies] + [
        power.Design(name, "random search", 3, 3, 2, 0.2, {"1 point": 0.0}) for name in ("darts", "evolution")
    ]
    data = {"name": "fashion_mini", "folder": None, "training": 10_000, "classes": ["a", "b"], "digest": "0123"}
    terms = {"data": ["dataset.name=fashion_mini"], "budget": ["budget.epochs=3.0"]}
    background = report.Background(costs, ["train:x"], data, designs, ["a CPU, 2 threads"], terms)
    found = report.make_report(outcomes(accuracies, drawn), plain, background)
    cells = {name: [(f"{name}, seed {seed}", space.sample(draws)) for seed in range(3)] for name in accuracies}
    cells[RANDOM] = [(f"random {number}", space.sample(draws)) for number in range(8)]
    curve = [{"evaluation": n, "best": 0.5 + 0.05 * n, "cost/epochs": 0.5} for n in range(1, 6)]
    return found, cells, {"evolution": [curve, curve[:4], curve]}


def test_a_report_of_fixed_results_is_stable_and_whole(tmp_path):
    found, cells, histories = fixed()
    for name in ("first", "second"):
        page.write_report(found, tmp_path / name, WHERE, cells, histories)
    files = sorted(file.relative_to(tmp_path / "first") for file in (tmp_path / "first").rglob("*.*"))
    pictures = {
        f"{name}{end}" for name in ("accuracies", "costs", "progress", "sizes") for end in (".png", ".svg", ".pdf")
    }
    assert {file.name for file in files} == {"report.html", "report.md", "report.json", "table.tex"} | pictures
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file
    text = (tmp_path / "first" / "report.html").read_text()
    assert text.count("<svg") == 4 + 2 * (3 * 3 + 8) and "src=" not in text
    assert "Lindauer" in text and "train:x" in text and "train.epochs: 3" in text
    head = text[: text.index("<table>")]
    for wanted in (
        "fashion_mini, 10,000 training images",
        "20 November 2026",
        "python -m darts.compare x",
        *(part for sentence in sentences(found) for part in sentence.partition(":")[::2]),
    ):
        assert html.escape(wanted) in head, wanted
    rows = tables.summary(found)
    assert [row[0] for row in rows] == ["cells", "darts", "evolution", "random", RANDOM]
    assert rows[1][3] == f"{100 * found.groups[0].median:.2f}" and rows[2][-2] == "5 evaluations, 3 epochs, 61 s"
    assert "(" in rows[4][3]  # eight random cells have an interval, three searches none


def test_claims_that_show_nothing_are_one_sentence_and_each_below_it(tmp_path):
    alike = {f"m{n}": each_once([0.8 + 0.001 * n + 0.01 * m for m in range(6)]) for n in range(4)}
    best = {"best": each_once([0.95 + 0.001 * n for n in range(6)])}
    found = report.make_report(outcomes({**alike, **best}, [0.79 + 0.005 * n for n in range(19)]), {})
    assert [claim.shown for claim in found.claims] == ["", "", "", "", "better"]
    page.write_report(found, tmp_path, WHERE, {}, {})
    text = (tmp_path / "report.html").read_text()
    head = text[: text.index("<details>")]
    assert "no difference of m0, m1, m2, m3 from random sampling" in head
    assert head.count('class="verdict') == 2 and "best (6 searches) is better than random sampling" in head
    assert all(html.escape(sentence.partition(":")[2]) in text for sentence in sentences(found))


def test_text_in_pictures_is_text(tmp_path):
    found, cells, histories = fixed()
    page.write_report(found, tmp_path, WHERE, cells, histories)
    drawn = (tmp_path / "figures" / "accuracies.svg").read_text()
    assert ">test accuracy %</text>" in drawn and ">evolution</text>" in drawn
    text = (tmp_path / "report.html").read_text()
    assert ">sep_conv_3x3</text>" in text
    identifiers = re.findall(r' id="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers)) > 100
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(identifiers)


def test_the_table_for_a_paper_compiles_by_its_structure(tmp_path):
    found, cells, histories = fixed()
    page.write_report(found, tmp_path, WHERE, cells, histories)
    lines = (tmp_path / "table.tex").read_text().splitlines()
    columns = re.search(r"\\begin{tabular}{(l?r*)}", lines[1]).group(1)
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 1 + 4 and all(len(re.split(r"(?<!\\)&", row)) == len(columns) for row in rows)
    assert not re.search(r"(?<!\\)[%_#$]", "".join(rows))


def test_what_was_foretold_stands_beside_what_was_found():
    found, _, _ = fixed()
    rows = tables.forecast(found)
    assert rows[0][4] == "power for 1 point" and len(rows) == 6
    assert rows[2][:5] == ["evolution", RANDOM, "3 and 8", f"{3 * 2 / math.comb(11, 3):.3g}", "25%"]
    assert rows[2][-1] == "better" and rows[5][-1] == "nothing"


def test_equal_cells_are_drawn_once_and_not_all_of_many(tmp_path):
    found, cells, histories = fixed()
    draws, space = random.Random(1), composed("search").space
    many = [(f"darts, seed {seed}", space.sample(draws)) for seed in range(62)]
    page.write_report(
        found, tmp_path, WHERE, {"darts": [*many, *many], "evolution": cells["evolution"][:1] * 3}, histories
    )
    text = (tmp_path / "report.html").read_text()
    assert text.count('<div class="cell">') == 60 + 1 and "2 more are in genotype.json" in text


def test_names_in_the_page_are_escaped(tmp_path):
    bad = "<script>x</script>"
    found = report.make_report(outcomes({bad: each_once([0.9, 0.91])}, [0.8, 0.81]), {})
    page.write_report(found, tmp_path, WHERE, {bad: [(bad, published("darts_v1"))]}, {})
    assert "<script>" not in (tmp_path / "report.html").read_text()


def answers(found: report.Report, *context) -> dict[str, tuple[str, str]]:
    return {question: (answer, evidence) for question, answer, evidence in checklist(found, *context)}


def test_the_checklist_is_filled_in_from_the_runs():
    found, _, _ = fixed()
    known = answers(found, WHERE, ["evolution"])
    assert known["Several runs, seeds reported"] == ("yes", "darts: 3, evolution: 3, random: 3")
    assert known["Besides: all runs reported, failed ones included"][1] == "1 trials failed"
    assert known["Confounding factors controlled (hardware, versions)"] == ("yes", "a CPU, 2 threads")
    assert known["Compared with random search"] == (
        "yes", "random sampling: 8 cells; random search beside 2 methods")  # fmt: skip
    assert known["Performance over time compared"] == ("in part", "figures/progress: evolution")
    assert known["Ablation studies"][0] == "no" and known["How settings were tuned, and what that took"][0] == "no"
    assert known["Tabular or surrogate benchmarks used"][0] == "no"
    assert known["Same evaluation protocol for all methods"][1] == "each cell judged 1 to 2 times, random ones alike"
    assert known["Besides: same budget for all searches"] == ("yes", "budget.epochs=3.0; epochs spent from 3 to 3")


def test_no_yes_of_the_checklist_stands_without_its_evidence():
    """Given cells, other hardware, changed files, a single cell: each takes away the answers that rest on it."""
    bare = report.make_report(outcomes({SEARCHED: each_once([0.9])}, DRAWN), {"searched": ["latest"]})
    known = answers(bare, dict(WHERE, source="abc changed"))
    changed = {question for question, (answer, _) in known.items() if answer != "yes"}
    assert changed == {
        *("Code of the training of final architectures", "Code of the search space", "Code of the search methods"),
        *("Settings and seeds of the search methods", "Confounding factors controlled (hardware, versions)"),
        *("Ablation studies", "Performance over time compared", "Compared with random search"),
        *("Several runs, seeds reported", "Tabular or surrogate benchmarks used"),
        *("Same data, space, training code and settings for all methods", "Besides: same budget for all searches"),
        *("How settings were tuned, and what that took", "Time of the whole search, from end to end"),
        "Besides: no choice by test accuracy",
    }
    two = report.Background(circumstances=["one", "other"])
    mixed = report.make_report(outcomes({"darts": each_once([0.9]), "darts k=2": each_once([0.8])}, DRAWN), {}, two)
    known = answers(mixed, WHERE)
    assert known["Confounding factors controlled (hardware, versions)"] == ("in part", "one; other")
    assert known["Ablation studies"] == ("yes", "darts, darts k=2")
    terms = {"data": ["fraction 0.04", "fraction 0.02"], "budget": ["budget.evaluations=1", "budget.evaluations=3"]}
    costs = {"darts": [{"seed": 0, "evaluations": 1, "epochs": 1.0, "seconds": 1.0, "macs": 1}]}
    unequal = report.Background(costs, terms=terms)
    known = answers(report.make_report(outcomes({"darts": each_once([0.9, 0.8])}, DRAWN), {}, unequal), WHERE)
    same = known["Same data, space, training code and settings for all methods"]
    assert same[0] == "no" and "data: fraction 0.04; fraction 0.02" in same[1]
    budgets = known["Besides: same budget for all searches"]
    assert budgets[0] == "no" and "budget.evaluations=1; budget.evaluations=3" in budgets[1]


def chromium() -> str:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no browser is installed (chromium)")
    return browser


def test_the_page_opens_in_a_browser_and_shows_its_plots_and_tables(tmp_path):
    browser = chromium()
    found, cells, histories = fixed()
    page.write_report(found, tmp_path, WHERE, cells, histories)
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,3000"]
    address = (tmp_path / "report.html").as_uri()
    subprocess.run([browser, *flags, f"--screenshot={shot}", address], capture_output=True, check=True, timeout=120)
    from PIL import Image

    pixels = np.asarray(Image.open(shot).convert("RGB"))
    for wanted in (("#1f77b4"), ("#d62728"), ("#7f7f7f")):  # the groups' colours: the plots are there
        colour = [int(wanted[place : place + 2], 16) for place in (1, 3, 5)]
        assert (abs(pixels.astype(int) - colour).max(-1) < 8).sum() > 30, wanted
    shown = subprocess.run([browser, *flags, "--dump-dom", address], capture_output=True, text=True, timeout=120).stdout
    assert shown.count("<table>") == 5 and shown.count("<svg") == 4 + 2 * 17


def test_what_latest_names_is_looked_up_once_for_a_comparison(tmp_path):
    """A search that ends while networks are trained is newer; the trials and a resumption keep the cell."""
    latest = settings("searched=[latest]", f"runs={tmp_path / 'runs'}")
    for name, cell in (("older", "darts_v2"), ("newer", "darts_v1")):
        folder = tmp_path / "runs" / "search" / name
        folder.mkdir(parents=True)
        (folder / "genotype.json").write_text(to_json(published(cell)))
        plan.fix_given_cells(latest, tmp_path / "out")
        trial = settings("searched=[latest]", f"runs={tmp_path / 'runs'}", "trial=train:x")
        assert plan.given_cells(trial, tmp_path / "out") == [
            (str(tmp_path / "runs" / "search" / "older"), published("darts_v2"))
        ]
    other = settings("searched=[latest]", f"runs={tmp_path / 'runs'}", "seed=1")
    plan.fix_given_cells(other, tmp_path / "out")
    assert plan.given_cells(other, tmp_path / "out")[0][1] == published("darts_v1")
