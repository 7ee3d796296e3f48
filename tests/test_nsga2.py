"""NSGA-II: ranks by brute force, crowding by hand, survivors, and fronts that hold more than random search's."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import statistics

import numpy as np
import pytest
from scipy import stats

from darts.blackbox import loop as blackbox
from darts.blackbox.exchange import Answer, Cost, Ledger, Scorer, exchange
from darts.blackbox.nsga2 import Nsga2, survivors
from darts.blackbox.strategy import Pool, Score
from darts.loop.settings import Budget
from darts.runtime.errors import UserError
from darts.runtime.seeding import python_generator
from darts.spaces import nasbench201
from darts.spaces.fronts import crowding, hypervolume, ranks
from darts.spaces.table import read_table
from tests.conftest import composed
from tests.test_latency import DATA, by_table, cells, judged  # noqa: F401  fixtures


@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_those_of_brute_force(seed):
    """Peeled by the definition: a row of the first front is dominated by none of those that are left."""
    aims = np.random.default_rng(seed).integers(0, 6, (30, 2 + seed % 2)).astype(float)
    expected, left, number = [-1] * len(aims), set(range(len(aims))), 0
    while left:
        best = {i for i in left if not any(all(aims[j] >= aims[i]) and any(aims[j] > aims[i]) for j in left)}
        for i in best:
            expected[i] = number
        left, number = left - best, number + 1
    assert ranks(aims).tolist() == expected


def test_crowding_is_the_sum_of_scaled_distances_between_neighbours():
    aims = np.array([[0.0, 10.0], [1.0, 7.0], [3.0, 6.0], [4.0, 0.0]])
    far = float("inf")
    assert crowding(aims).tolist() == pytest.approx([far, 3 / 4 + 4 / 10, 3 / 4 + 7 / 10, far])
    assert crowding(aims[::-1]).tolist() == pytest.approx([far, 3 / 4 + 7 / 10, 3 / 4 + 4 / 10, far])
    assert crowding(np.array([[1.0, 2.0]])).tolist() == [far]
    assert crowding(np.ones((3, 2))).tolist()[1] == 0  # an aim without a range tells nothing


def cell(number: int):
    return nasbench201.from_string(list(nasbench201.all_strings())[number])


def test_the_best_fronts_and_of_the_last_the_least_crowded_live_on():
    points = {10: (1.0, 5.0), 20: (3.0, 3.0), 30: (3.1, 2.9), 40: (5.0, 1.0), 50: (0.5, 0.5), 60: (2.9, 3.05)}
    scored = [(Score(0.0, aims), cell(number)) for number, aims in points.items()]
    alive = survivors([*scored, scored[0]], 4)
    kept = [member.scored[0].aims for member in alive]
    assert len(kept) == 4 and {(1.0, 5.0), (5.0, 1.0)} <= set(kept)
    assert kept[2:] == [(2.9, 3.05), (3.1, 2.9)] or set(kept[2:]) == {(2.9, 3.05), (3.1, 2.9)}
    assert [member.rank for member in survivors(scored, 6)] == [0] * 5 + [1]


def test_a_better_front_beats_a_worse_and_on_one_front_the_lonelier():
    scored = [(Score(0.0, aims), cell(n)) for n, aims in enumerate([(1, 5), (2, 4.9), (5, 1), (0, 0)])]
    by_aims = {member.scored[0].aims: member for member in survivors(scored, 4)}
    assert by_aims[2, 4.9].beats(by_aims[0, 0]) and not by_aims[0, 0].beats(by_aims[2, 4.9])
    assert by_aims[1, 5].beats(by_aims[2, 4.9]) and not by_aims[1, 5].beats(by_aims[5, 1])


def test_several_aims_are_asked_for():
    with pytest.raises(UserError, match=r"evaluator is 'brief_training'; it must be multi_objective "):
        composed("search", "method=nsga2", "evaluator=brief_training")
    assert type(composed("search", "method=nsga2").evaluator).__name__ == "MultiObjective"  # where none is named
    with pytest.raises(UserError, match=r"method\.population is 3; it must be at least 4"):
        composed("search", "method=nsga2", "method.population=3")


OWN = ["method=nsga2", "evaluator@evaluator.accuracy=table", "evaluator.accuracy.column=valid", "method.population=8"]


def test_a_stopped_search_resumes_and_ends_the_same(judged, cells, tmp_path):  # noqa: F811
    settings = composed("search", *by_table(judged, cells), *OWN)
    whole, again = tmp_path / "whole", tmp_path / "again"
    blackbox.run(settings, whole)
    lines = (whole / "history.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 60
    shutil.copytree(whole, again)
    (again / "genotype.json").unlink()
    (again / "history.jsonl").write_text("".join(lines[:33]))
    blackbox.run(settings, again)
    for file in ("history.jsonl", "genotype.json", "pareto.json"):
        assert (again / file).read_bytes() == (whole / file).read_bytes()
    front = json.loads((whole / "pareto.json").read_text())
    assert all(first["accuracy"] <= second["accuracy"] for first, second in itertools.pairwise(front))


def held(method, table, latencies, seed: int) -> float:
    """The hypervolume of what 200 evaluations find, by what they are told: accuracy and latency on a pixel2."""
    settings = composed("search", "space=nasbench201")
    pool = Pool(settings.space, settings.space.sample, lambda genotype: True)

    def evaluate(key, request):
        score = table.accuracy(request.genotype, "cifar10_valid_12") / 100
        return Answer(score, {"accuracy": score, "ms": latencies.value(request.genotype, "pixel2")}, Cost())

    scorer = Scorer(lambda genotype, fraction: (0.0, {}), exact=True, costs=("ms",))
    asking = method.ask(pool, python_generator(seed, "strategy"))
    given = exchange(asking, scorer, evaluate, Ledger(Budget(200, None, None, None)))
    pairs = [(answer.score, answer.metrics["ms"]) for _, answer in given]
    quality, cost = map(np.array, zip(*pairs, strict=True))
    values = latencies.values("pixel2")
    return hypervolume(quality, cost, (float(values.min()), float(values.max())))


def test_its_fronts_hold_more_than_those_of_random_search():
    """Ten seeds each, 200 evaluations; Mann-Whitney at 1 in 100."""
    if not DATA.exists():
        pytest.skip(f"the tables are not at hand ({DATA})")
    table = read_table(DATA / "cifar10.csv.gz")
    latencies = read_table(DATA / "latency_ms.csv.gz", setting="latencies")
    own = composed("search", "method=nsga2").method
    drawn = composed("search", "method=random").method
    found = [held(own, table, latencies, seed) for seed in range(10)]
    random_ones = [held(drawn, table, latencies, seed + 100) for seed in range(10)]
    assert stats.mannwhitneyu(found, random_ones, alternative="greater").pvalue < 0.01
    quality, cost = table.values("cifar10_valid_12") / 100, latencies.values("pixel2")
    whole = hypervolume(quality, cost, (float(cost.min()), float(cost.max())))
    assert whole - 0.02 < statistics.mean(found) <= whole


def test_children_come_of_parents():
    """Without mutation every child has each node from one of two genotypes of the generation before."""
    space = composed("search", "space=nasbench201").space
    pool = Pool(space, space.sample, lambda genotype: True)
    asking = Nsga2("nsga2", 6, 0.0).ask(pool, random.Random(0))
    asked, request = [], next(asking)
    for number in range(6 + 6):
        asked.append(request.genotype)
        request = asking.send(Score(0.0, (float(number), -float(number))))
    parents = [genotype.cells["normal"].nodes for genotype in asked[:6]]
    for child in asked[6:]:
        for place, node in enumerate(child.cells["normal"].nodes):
            assert any(parent[place] == node for parent in parents)
