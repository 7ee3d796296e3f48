"""Black-box strategies: their outcome on the benchmark's table, no cell twice, budgets, resuming, what they leave."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections import Counter

import pytest
from scipy import stats

from darts.blackbox import loop as blackbox
from darts.blackbox.exchange import Answer, Cost, Ledger, Scorer, exchange
from darts.blackbox.strategy import Pool, Request
from darts.loop.settings import Budget
from darts.runtime.errors import UserError
from darts.runtime.seeding import python_generator
from darts.search.settings import BlackBoxSettings, SearchSettings
from darts.spaces import nasbench201
from darts.spaces.table import read_table
from tests.conftest import ROOT, TINY, TINY_DATA, composed, run_command, some, space_of

DATA = ROOT.parent / "shared" / "data" / "nasbench201" / "cifar10.csv.gz"
STRATEGIES = ["random", "local_search", "hill_climbing", "evolution", "genetic", "breadth_first", "depth_first",
              "successive_halving", "hyperband", "predictor"]  # fmt: skip
# 100 evaluations by cifar10_valid_12, judged by cifar10_test_200, counted over 50 seeds: mean and standard deviation
COUNTED = {"random": (93.72, 0.33), "evolution": (94.13, 0.26), "local_search": (94.04, 0.40)}


@pytest.fixture(scope="module")
def table():
    if not DATA.exists():
        pytest.skip(f"the table is not at hand ({DATA})")
    return read_table(DATA)


def evaluated(method, table, seed, evaluations, partial_effort=False):
    """Everything that a strategy has evaluated: (request, score)."""
    settings = method if not isinstance(method, str) else composed("search", "space=nasbench201", f"method={method}")
    pool = Pool(settings.space, settings.space.sample, lambda genotype: True)
    scorer = Scorer(
        lambda genotype, share: (table.accuracy(genotype, "cifar10_valid_12"), {}),
        exact=True,
        partial_effort=partial_effort,
    )

    def evaluate(key: str, request: Request) -> Answer:
        return Answer(scorer.score(request.genotype, request.fraction)[0], {}, Cost(request.fraction, 0.0))

    asking = settings.method.ask(pool, python_generator(seed, "strategy"))
    given = exchange(asking, scorer, evaluate, Ledger(Budget(evaluations, None, None, None)))
    return [(request, answer.score) for request, answer in given]


def found(method, table, seed, evaluations=100):
    """The true accuracy of the best evaluated cell."""
    best = max(evaluated(method, table, seed, evaluations), key=lambda pair: pair[1])[0]
    return table.accuracy(best.genotype, "cifar10_test_200")


@pytest.fixture(scope="module")
def outcomes(table):
    composition = {name: composed("search", "space=nasbench201", f"method={name}") for name in COUNTED}
    return {name: [found(composition[name], table, seed) for seed in range(200)] for name in COUNTED}


@pytest.mark.parametrize("name", COUNTED)
def test_the_counted_accuracies_are_reached(outcomes, name):
    mean, deviation = COUNTED[name]
    own = statistics.stdev(outcomes[name]) / 200**0.5
    assert abs(statistics.fmean(outcomes[name]) - mean) < 2 * (deviation**2 / 50 + own**2) ** 0.5


@pytest.mark.parametrize("name", ["evolution", "local_search"])
def test_evolution_and_local_search_beat_random_search(outcomes, name):
    tested = stats.mannwhitneyu(outcomes[name], outcomes["random"], alternative="greater")
    assert tested.pvalue < 1e-6 and statistics.fmean(outcomes[name]) > statistics.fmean(outcomes["random"])


@pytest.mark.parametrize(("name", "least"), [("hill_climbing", 93.9), ("genetic", 94.0), ("predictor", 93.9)])
def test_the_others_that_learn_beat_random_search_too(table, name, least):
    composition = composed("search", "space=nasbench201", f"method={name}")
    assert statistics.fmean(found(composition, table, seed) for seed in range(8)) > least


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_cell_is_evaluated_twice(table, name):
    keys = Counter(nasbench201.to_string(request.genotype) for request, _ in evaluated(name, table, 0, 150))
    assert len(keys) == 150 and set(keys.values()) == {1}


@pytest.mark.parametrize("name", some(["breadth_first", "depth_first"], "breadth_first"))
def test_enumeration_finds_the_best_cell_of_all(table, name):
    all_of_them = evaluated(name, table, 0, None)
    assert len(all_of_them) == 15625
    best = max(all_of_them, key=lambda pair: pair[1])[0]
    assert round(table.accuracy(best.genotype, "cifar10_test_200"), 3) == 94.373


def test_successive_halving_gives_the_better_third_three_times_the_effort(table):
    composition = composed("search", "space=nasbench201", "method=successive_halving")
    rungs = evaluated(composition, table, 0, 13, partial_effort=True)
    assert [round(request.fraction, 3) for request, _ in rungs] == [0.111] * 9 + [0.333] * 3 + [1.0]
    scores = {nasbench201.to_string(request.genotype): score for request, score in rungs[:9]}
    third = {nasbench201.to_string(request.genotype) for request, _ in rungs[9:12]}
    assert min(scores[cell] for cell in third) >= max(scores[cell] for cell in scores if cell not in third)


def test_hyperband_takes_its_brackets_in_turn(table):
    composition = composed("search", "space=nasbench201", "method=hyperband")
    k = [round(request.fraction, 3) for request, _ in evaluated(composition, table, 0, 22, partial_effort=True)]
    assert k == [0.111] * 9 + [0.333] * 3 + [1.0] + [0.333] * 5 + [1.0] * 1 + [1.0] * 3


def test_a_strategy_depends_only_on_its_seed(table):
    def cells(seed):
        return [request.genotype for request, _ in evaluated("evolution", table, seed, 60)]

    assert cells(0) == cells(0) != cells(1)


def test_a_ledger_is_kept_within_one_evaluation():
    for budget, cost, expected in (
        (Budget(5, None, None, None), Cost(1.0, 1.0), 5),
        (Budget(None, 5.0, None, None), Cost(1.5, 1.0), 3),
        (Budget(None, 6.0, None, None), Cost(1.5, 1.0), 4),
        (Budget(None, None, 1.0, None), Cost(0.0, 25.0), 3),
        (Budget(None, None, None, 5e9), Cost(0.0, 1.0, 2e9), 2),
    ):
        ledger = Ledger(budget)
        while ledger.open(cost.epochs, cost.macs):
            ledger.charge(cost)
        assert ledger.evaluations == expected and ledger.reached
        assert budget.epochs is None or ledger.epochs <= budget.epochs
        assert budget.minutes is None or ledger.seconds - cost.seconds <= 60 * budget.minutes


TINY_SEARCH = [*TINY_DATA, "evaluator.network.channels=2", "evaluator.train.batch_size=16", "search.batch_size=16",
               "budget.evaluations=5", "space.nodes=2"]  # fmt: skip
SMALL = {
    "evolution": ["method.population=2", "method.sample=1"],
    "genetic": ["method.population=2", "method.tournament=1", "method.elite=1"],
    "predictor": ["method.start=2", "method.trees=3", "method.batch=2", "method.candidates=4"],
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_stopped_search_resumes_and_ends_the_same(name, tmp_path):
    settings = composed("search", *TINY_SEARCH, f"method={name}", *SMALL.get(name, []))
    whole, again = tmp_path / "whole", tmp_path / "again"
    blackbox.run(settings, whole)
    lines = (whole / "history.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 5
    shutil.copytree(whole, again)
    (again / "genotype.json").unlink()
    (again / "history.jsonl").write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote a line
    blackbox.run(settings, again)
    for file in ("history.jsonl", "genotype.json", "split.json"):
        assert (again / file).read_bytes() == (whole / file).read_bytes()
    assert not list((whole / "evaluations").iterdir())


def test_other_settings_and_damaged_lines_are_refused(tmp_path):
    settings = composed("search", *TINY_SEARCH, "method=random")
    blackbox.run(settings, tmp_path)
    with pytest.raises(UserError, match=r"budget.evaluations was 5 and is now 6"):
        blackbox.run(composed("search", *TINY_SEARCH, "method=random", "budget.evaluations=6"), tmp_path)
    (tmp_path / "genotype.json").unlink()
    lines = (tmp_path / "history.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "history.jsonl").write_text("".join([lines[1], *lines[1:]]))
    with pytest.raises(UserError, match="line 1 is not of this search"):
        blackbox.run(settings, tmp_path)
    (tmp_path / "history.jsonl").write_text("".join(["{broken\n", *lines[1:]]))
    with pytest.raises(UserError, match="line 1 is damaged"):
        blackbox.run(settings, tmp_path)


def test_rules_and_limits_hold_for_every_evaluated_cell(tmp_path):
    limited = ["rules.most_skips=0", "rules.required=[sep_conv_3x3]", "constraints.network.channels=2",
               "constraints.network.cells=3", "constraints.parameters=4000"]  # fmt: skip
    settings = composed("search", *TINY_SEARCH, "method=evolution", "method.population=2", "method.sample=1", *limited)
    blackbox.run(settings, tmp_path)
    for line in map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines()):
        for nodes in line["cells"].values():
            names = [name for node in nodes for name, _ in node]
            assert "skip_connect" not in names and "sep_conv_3x3" in names


def test_a_search_by_gradients_keeps_its_budget(tmp_path):
    with pytest.raises(UserError, match=r"budget.epochs is 2.*at least 3.*search.epochs \(3\)"):
        composed("search", "budget.epochs=2")
    from darts.search import loop as search

    settings = composed("search", *TINY, "search.epochs=5", "search.batch_size=16", "space.nodes=1",
                        "budget.minutes=1e-6")  # fmt: skip
    search.run(settings, tmp_path)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1
    cost = json.loads((tmp_path / "run.json").read_text())["cost"]
    assert cost["epochs"] == 1.0 and cost["seconds"] > 0


def test_a_black_box_search_without_any_budget_is_refused():
    with pytest.raises(UserError, match="budget is 'unlimited'"):
        composed("search", "method=random", "budget.evaluations=null")


@pytest.mark.pictures
def test_the_command_runs_and_its_result_can_be_retrained(tmp_path):
    done = run_command([str(ROOT / "train_search.py"), *TINY_SEARCH, "method=random", "hydra.run.dir=found"], tmp_path)
    assert done.returncode == 0 and f"next:   python {ROOT}/train_final.py genotype=" in done.stdout, done.stderr
    left = {file.name for file in (tmp_path / "found").iterdir()}
    assert {"genotype.json", "history.jsonl", "timing.jsonl", "run.json", "split.json", "cells"} <= left
    assert (tmp_path / "found" / "cells" / "progress.png").exists()
    genotype = json.loads((tmp_path / "found" / "genotype.json").read_text())
    assert genotype["provenance"]["evaluations"] == 5
    again = run_command([str(ROOT / "train_search.py"), *TINY_SEARCH, "method=random", "hydra.run.dir=found"], tmp_path)
    assert "nothing is changed" in again.stdout


def test_the_settings_are_those_of_the_methods_kind():
    assert isinstance(composed("search"), SearchSettings)
    assert isinstance(composed("search", "method=random"), BlackBoxSettings)


def test_equal_efforts_are_one_training_and_charged_once(tmp_path):
    """Fractions 1/9 and 1/3 of three epochs are both one epoch: the second rung asks for trainings that are known."""
    rungs = ["method=hyperband", "method.rungs=3", "method.eta=3", "evaluator.train.epochs=3", "budget.evaluations=12"]
    blackbox.run(composed("search", *[*TINY_SEARCH, *rungs]), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["cost/epochs"] for line in lines] == [0.5] * 9 + [1.5] + [0.5] * 2
    trained = Counter((json.dumps(line["cells"]), line["cost/epochs"]) for line in lines)
    assert set(trained.values()) == {1}
    longest = lines[9]
    assert [line["best"] for line in lines[9:]] == [longest["score"]] * 3


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_space_that_is_searched_ends_the_search(name):
    space = space_of("small", 1, 2, ["skip_connect", "max_pool_3x3"])
    method = composed("search", f"method={name}").method
    scorer = Scorer(lambda genotype, share: (0.0, {}), exact=True)
    asking = method.ask(Pool(space, space.sample, lambda genotype: True), python_generator(0, "strategy"))
    given = exchange(
        asking, scorer, lambda key, request: Answer(0.0, {}, Cost()), Ledger(Budget(None, 1e9, None, None))
    )
    assert len(list(given)) == space.count() == 16


def test_a_score_that_is_no_number_is_refused_and_a_training_that_diverges_scores_nothing(tmp_path):
    method = composed("search", "method=random").method
    space = composed("search").space
    asking = method.ask(Pool(space, space.sample, lambda genotype: True), python_generator(0, "strategy"))
    scorer = Scorer(lambda genotype, share: (math.nan, {}))
    with pytest.raises(UserError, match="is nan, which is not finite"):
        next(
            exchange(
                asking, scorer, lambda key, request: Answer(math.nan, {}, Cost()), Ledger(Budget(3, None, None, None))
            )
        )
    wild = ["evaluator.weight_optimiser.learning_rate=1e30", "evaluator.weight_optimiser.clip=inf"]
    with pytest.raises(UserError, match="all 2 trainings diverged, so that no cell is better"):
        blackbox.run(composed("search", *TINY_SEARCH, "method=random", "budget.evaluations=2", *wild), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(line["score"], line["diverged"]) for line in lines] == [(0.0, 1.0)] * 2
