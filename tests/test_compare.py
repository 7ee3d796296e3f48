"""The comparison: trials by one protocol, statistics against known answers, and sentences that the data allow."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from darts.compare import page, plan, report, tables
from darts.compare.checklist import checklist
from darts.compare.plan import RANDOM, SEARCHED
from darts.compare.searches import Search, flat
from darts.compare.statistics import (
    bootstrap_interval,
    holm,
    paired_permutation_test,
    permutation_test,
    relative_improvement,
    spread,
)
from darts.compare.trials import Outcome
from darts.runtime.errors import UserError
from darts.spaces.genotype import to_json
from darts.spaces.published import published
from tests.conftest import ROOT, TINY_TRAIN, composed, run_command

DATA = ROOT.parent / "shared" / "data" / "nasbench201" / "cifar10.csv.gz"
WHERE = {"source": "abc", "device": "cpu", "cores": 2}


def settings(*overrides: str):
    return composed("compare", *TINY_TRAIN, "train.epochs=1", "random.samples=2", *overrides)


def outcomes(searched: dict[str, list[float]], drawn: list[float], searches: int = 1) -> list[Outcome]:
    def one(pair: int, group: str, cell: str, accuracy: float) -> Outcome:
        return Outcome(pair, group, cell, "digest", pair, accuracy, 1000 + pair, 2_000_000, 3.0)

    found = []
    for pair, accuracy in enumerate(drawn):
        found += [one(pair, group, f"{group}, seed {pair % searches}", v[pair]) for group, v in searched.items()]
        found.append(one(pair, RANDOM, f"random {pair}", accuracy))
    return found


def said(searched: list[float], drawn: list[float], searches: int = 1) -> str:
    found = report.make_report(outcomes({SEARCHED: searched}, drawn, searches), {})
    return report.sentence(found, found.verdicts[0])


def test_identical_distributions_give_a_uniform_p():
    numbers = np.random.default_rng(0)
    found = np.array([paired_permutation_test(*numbers.normal(size=(2, 8))).p for _ in range(400)])
    for level in (0.05, 0.2, 0.5):
        error = 3 * math.sqrt(level * (1 - level) / 400)
        assert abs((found <= level).mean() - math.floor(level * 128) / 128) < error
    found = np.array([permutation_test(numbers.normal(size=4), numbers.normal(size=8)).p for _ in range(400)])
    for level in (0.05, 0.2, 0.5):
        error = 3 * math.sqrt(level * (1 - level) / 400)
        assert abs((found <= level).mean() - math.floor(level * 495) / 495) < error + 0.005


def test_the_exact_tests_are_those_of_counting():
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.6])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    expected = (abs(differences @ signs) >= abs(differences.sum()) - 1e-12).mean()
    found = paired_permutation_test(differences, np.zeros(5))
    assert found.p == pytest.approx(expected) and found.name == "exact paired permutation test"
    dealt = permutation_test([5.0, 6.0], [1.0, 2.0, 3.0])
    assert dealt.p == dealt.least_p == 2 / 10 and dealt.superiority == 1.0
    assert permutation_test([1.0, 3.0], [2.0, 2.0]).superiority == 0.5


def test_the_least_p_is_reached_when_all_pairs_agree():
    found = paired_permutation_test([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [0.0] * 6)
    assert found.p == found.least_p == 2 / 2**6 < 0.05
    assert paired_permutation_test([1.0] * 5, [0.0] * 5).least_p > 0.05


def test_a_planted_difference_is_found_with_many_values_too():
    numbers = np.random.default_rng(0)
    drawn = numbers.normal(size=30)
    found = paired_permutation_test(drawn + 1 + 0.1 * numbers.normal(size=30), drawn)
    assert found.p < 0.01 and found.mean_difference == pytest.approx(1, abs=0.1)
    assert found.interval[0] < 1 < found.interval[1] and found.interval[1] - found.interval[0] < 0.2
    unpaired = permutation_test(numbers.normal(size=20) + 2, drawn)
    assert unpaired.p < 0.01 and unpaired.superiority > 0.8


@pytest.mark.parametrize("number", [8, 20])
def test_intervals_cover_at_their_nominal_rate(number):
    numbers = np.random.default_rng(0)
    covered = [
        low < 1.0 < high for low, high in (bootstrap_interval(1 + numbers.normal(size=number)) for _ in range(400))
    ]
    assert 0.92 <= np.mean(covered) <= 0.98
    assert bootstrap_interval([1.0, 2.0, 3.0]) is None and bootstrap_interval([2.0] * 5) == (2.0, 2.0)


def test_corrected_p_values_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02]


def test_relative_improvement_by_hand():
    assert relative_improvement(0.97, 0.96) == pytest.approx(1.0416667)
    assert relative_improvement(0.95, 0.96) == pytest.approx(-1.0416667)


def test_the_spread_over_cells_and_over_seeds_are_told_apart():
    numbers = np.random.default_rng(0)
    cells = {str(cell): list(5 * numbers.normal() + numbers.normal(size=50)) for cell in range(200)}
    found = spread(cells)
    assert found.over_seeds == pytest.approx(1, rel=0.05)
    assert found.over_cells == pytest.approx(5, rel=0.15)
    once = spread({"a": [1.0], "b": [2.0]})
    assert once.over_seeds is None and once.over_cells == pytest.approx(math.sqrt(0.5))
    single = spread({"a": [1.0, 3.0]})
    assert single.over_cells is None and single.over_seeds == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    "searched, drawn, words",
    [
        ([0.9] * 8, [0.8, 0.81, 0.82, 0.8, 0.79, 0.8, 0.8, 0.81], "The searched cell is better than random sampling"),
        ([0.8, 0.81, 0.82, 0.8, 0.79, 0.8, 0.8, 0.81], [0.9] * 8, "The searched cell is worse than random sampling"),
        ([0.9, 0.8] * 4, [0.8, 0.9] * 4, "These data do not show that the searched cell is better or worse"),
        ([0.9] * 4, [0.8] * 4, "So few observations cannot: the least p is 0.125"),
    ],
)
def test_the_sentence_says_what_the_data_say(searched, drawn, words):
    assert words in said(searched, drawn)


def test_a_claim_about_the_method_needs_several_searches():
    good, poor = [0.9, 0.91, 0.92, 0.9, 0.91, 0.92, 0.9, 0.91], [0.8] * 8
    assert "speaks of this one cell" in said(good, poor)
    assert "The 3 searched cells are better" in said(good, poor, searches=3) and "p = 0.0121" in said(good, poor, 3)
    assert "speaks of this one cell" not in said(good, poor, searches=3)
    assert "cannot" in said([0.9, 0.91], [0.8, 0.8], searches=2)


def test_several_methods_are_corrected_for():
    good, middling = [0.9, 0.91, 0.92, 0.9], [0.82, 0.81, 0.8, 0.83]
    drawn = [0.8, 0.82, 0.79, 0.81]
    found = report.make_report(outcomes({"darts": good, "evolution": middling}, drawn, searches=4), {})
    alone = report.make_report(outcomes({"darts": good}, drawn, searches=4), {})
    assert found.verdicts[0].corrected == 2 * alone.verdicts[0].corrected
    assert "darts (4 searches) is" in report.sentence(found, found.verdicts[0])
    assert "corrected for 2 comparisons" in report.sentence(found, found.verdicts[0])
    assert "do not show that evolution" in report.sentence(found, found.verdicts[1])


def test_default_numbers_can_reach_the_level():
    defaults = composed("compare")
    assert 2 / 2**defaults.random.samples < 0.05 and defaults.random.samples >= 8
    assert 2 / math.comb(defaults.random.samples + len(defaults.seeds), len(defaults.seeds)) < 0.05


def test_pairs_share_a_seed_and_random_cells_are_all_different():
    planned = plan.plan_trials(settings("random.samples=8", "searched=[darts_v1,darts_v2]", "seed=3"), Path())
    assert [trial.seed for trial in planned] == [seed for seed in range(3, 11) for _ in range(2)]
    searched, drawn = ([trial for trial in planned if trial.group == group] for group in (SEARCHED, RANDOM))
    assert [trial.cell for trial in searched] == ["darts_v1", "darts_v2"] * 4
    assert len({trial.genotype.digest() for trial in drawn}) == 8
    longer = plan.plan_trials(settings("random.samples=9", "searched=[darts_v1,darts_v2]", "seed=3"), Path())
    assert longer[:16] == planned  # asking for more keeps what there is


def test_a_searched_cell_of_another_space_than_the_random_ones_is_refused():
    with pytest.raises(UserError, match="searched nasnet: the genotype is of space 'nasnet', but space is 'darts'"):
        plan.plan_trials(settings("searched=[nasnet]"), Path())
    assert len(plan.plan_trials(settings("searched=[nasnet]", "space=nasnet"), Path())) == 4


def test_a_searchs_folder_is_called_by_method_settings_and_seed():
    assert Search("darts search.epochs=1", 3, "abc").name == "darts_abc_seed3"


def test_values_become_overrides_again():
    values = {"search": {"epochs": 2}, "space": {"candidates": ["a", "it's"]}, "graphs": True, "x": None, "y": 0.5}
    given = ["search.epochs=2", r"space.candidates=['a','it\'s']", "graphs=true", "x=null", "y=0.5"]
    assert flat(values) == given


COMPARED = ["-m", "darts.compare", *TINY_TRAIN, "train.epochs=1", "random.samples=3", "hydra.run.dir=out"]
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
    assert len(plain["outcomes"]) == 9 and [group["name"] for group in plain["groups"]][-1] == RANDOM
    assert all(sentence in out for sentence in plain["sentences"]) and not plain["failed"]
    assert {cost["epochs"] for group in plain["groups"][:2] for cost in group["searches"]} == {1.0}  # equal budgets
    assert {cost["evaluations"] for cost in plain["groups"][1]["searches"]} == {2}
    results = [json.loads(file.read_text()) for file in (folder / "out" / "trials").rglob("result.json")]
    assert len({result["protocol"] for result in results}) == 1
    assert sorted(result["seed"] for result in results) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_work_in_the_folder_is_not_done_again_and_missing_work_is(compared):
    folder, _ = compared
    results = sorted((folder / "out").rglob("result.json")) + sorted((folder / "out").rglob("genotype.json"))
    times = {file: file.stat().st_mtime_ns for file in results}
    before = json.loads((folder / "out" / "report.json").read_text())["outcomes"]
    results[0].unlink()
    done = run_command([*COMPARED, *SEARCHES], folder)
    after = json.loads((folder / "out" / "report.json").read_text())["outcomes"]
    assert done.returncode == 0 and [o["test_accuracy"] for o in after] == [o["test_accuracy"] for o in before]
    assert [file for file, time in times.items() if file.stat().st_mtime_ns != time] == [results[0]]


def test_searches_of_other_settings_are_not_taken_for_these(compared, tmp_path):
    folder, _ = compared
    shutil.copytree(folder / "out", tmp_path / "out")
    before = {place.name for place in (tmp_path / "out" / "searches").iterdir()}
    done = run_command([*COMPARED, *SEARCHES, "+searches.search.initial_alpha=0.1"], tmp_path)
    after = {place.name for place in (tmp_path / "out" / "searches").iterdir()}
    assert done.returncode == 0 and before < after and len(after) == 2 * len(before)


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
    assert len(plain["outcomes"]) == 6 and len(list((broken / "trials").glob("*/result.json"))) == 8


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["methods=[drats]", "seeds=[0]"], "methods: 'drats'"),
        (["methods=[darts]", "seeds=[0]", "+searches.search.epochs=0"], "search.epochs is 0"),
        (["methods=[random]", "seeds=[0]", "scored_by=table"], "benchmark.table is None; it must be a file"),
        (["methods=[darts,darts]"], "different searches"),
        (["methods=[darts]", "seeds=[]"], "different numbers from 0"),
        (["searched=[]"], r"searched is \[\]"),
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
         f"benchmark.table={DATA}", "budget.evaluations=40", "random.samples=8", "hydra.run.dir=out"], tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(group["name"], group["trained"]) for group in plain["groups"]] == [
        ("random", 3),
        ("evolution", 3),
        (RANDOM, 8),
    ]
    assert plain["groups"][1]["accuracy"] > plain["groups"][2]["accuracy"]
    assert not list((tmp_path / "out").rglob("result.json"))


def fixed() -> tuple[report.Report, dict, dict]:
    draws = random.Random(0)
    space = composed("search").space
    accuracies = {name: [0.9 + shift + draws.gauss(0, 0.005) for _ in range(8)] for name, shift in
                  (("darts", 0.01), ("evolution", 0.02))}  # fmt: skip
    drawn = [0.9 + draws.gauss(0, 0.005) for _ in range(8)]
    costs = {name: [{"evaluations": 5, "epochs": 3.0, "seconds": 60.0}] * 3 for name in accuracies}
    plain = {"train.epochs": 3, "dataset.name": "fashion_mini", "space.name": "darts"}
    found = report.make_report(outcomes(accuracies, drawn, searches=3), plain, costs, ["train:x"])
    cells = {name: [(f"{name}, seed {seed}", space.sample(draws)) for seed in range(3)] for name in accuracies}
    curve = [{"evaluation": n, "best": 0.5 + 0.05 * n, "cost/epochs": 0.5} for n in range(1, 6)]
    return found, cells, {"evolution": [curve, curve[:4], curve]}


def test_a_report_of_fixed_results_is_stable_and_whole(tmp_path):
    found, cells, histories = fixed()
    for name in ("first", "second"):
        page.write_report(found, tmp_path / name, WHERE, cells, histories)
    files = sorted(file.relative_to(tmp_path / "first") for file in (tmp_path / "first").rglob("*.*"))
    assert {"report.html", "report.md", "report.json"} <= {file.name for file in files} and len(files) == 9
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    text = (tmp_path / "first" / "report.html").read_text()
    assert text.count("data:image/svg+xml;base64,") == 3 + 2 * 6 and "http" not in text.replace("http://www.w3.org", "")
    assert "Lindauer" in text and "train:x" in text and "train.epochs: 3" in text
    rows = tables.summary(found)
    assert [row[0] for row in rows] == ["cells", "darts", "evolution", RANDOM]
    assert (
        rows[1][3].startswith(f"{100 * found.groups[0].accuracy:.2f}")
        and rows[2][-2] == "5 evaluations, 3 epochs, 60 s"
    )


def test_equal_cells_are_drawn_once_and_not_all_of_many(tmp_path):
    found, cells, histories = fixed()
    draws, space = random.Random(1), composed("search").space
    many = [(f"darts, seed {seed}", space.sample(draws)) for seed in range(12)]
    page.write_report(
        found, tmp_path, WHERE, {"darts": [*many, *many], "evolution": cells["evolution"][:1] * 3}, histories
    )
    text = (tmp_path / "report.html").read_text()
    assert text.count('<div class="cell">') == 8 + 1 and "darts found 4 more" in text


def test_names_in_the_page_are_escaped(tmp_path):
    found = report.make_report(outcomes({"<script>x</script>": [0.9, 0.91]}, [0.8, 0.8]), {})
    page.write_report(found, tmp_path, WHERE, {}, {})
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_the_checklist_is_filled_in_from_the_runs():
    found, _, _ = fixed()
    answers = {item: (answer, evidence) for item, answer, evidence in checklist(found, WHERE)}
    assert answers["Several runs of each search"] == ("yes", "darts: 3, evolution: 3")
    assert answers["All runs reported, failed ones included"][1] == "1 trials failed"
    assert answers["Same budget for all searches"][0] == "in part"
    dirty = dict(WHERE, source="abc changed")
    assert checklist(found, dirty)[0][1] == "in part" and checklist(found, WHERE)[0][1] == "yes"


def test_the_page_opens_in_a_browser_and_shows_its_plots_and_tables(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no browser is installed (chromium)")
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
        assert (abs(pixels.astype(int) - colour).max(-1) < 8).sum() > 100, wanted
    shown = subprocess.run([browser, *flags, "--dump-dom", address], capture_output=True, text=True, timeout=120).stdout
    assert shown.count("<table>") == 3 and shown.count("<img") == 15


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
