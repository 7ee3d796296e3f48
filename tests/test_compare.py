"""The comparison: paired trials by one protocol, statistics against known answers, and a sentence the data allow."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from darts.compare import protocol, report
from darts.compare.protocol import RANDOM, SEARCHED, Outcome
from darts.compare.statistics import paired_permutation_test, relative_improvement, spread
from darts.errors import UserError
from tests.conftest import TINY_TRAIN, composed


def settings(*overrides: str):
    return composed("compare", *TINY_TRAIN, "train.epochs=1", "random.samples=2", *overrides)


def outcomes(searched: list[float], drawn: list[float], searches: int = 1) -> list[Outcome]:
    pairs = zip(searched, drawn, strict=True)
    return [
        Outcome(pair, group, cell, "digest", pair, accuracy, 1000, 2_000_000, 3.0)
        for pair, values in enumerate(pairs)
        for group, cell, accuracy in (
            (SEARCHED, f"search {pair % searches}", values[0]), (RANDOM, f"random {pair}", values[1]))
    ]  # fmt: skip


def test_identical_distributions_give_a_uniform_p():
    numbers = np.random.default_rng(0)
    found = np.array([paired_permutation_test(*numbers.normal(size=(2, 8))).p for _ in range(400)])
    for level in (0.05, 0.2, 0.5):
        error = 3 * math.sqrt(level * (1 - level) / 400)
        assert abs((found <= level).mean() - math.floor(level * 128) / 128) < error


def test_the_exact_test_is_that_of_counting_sign_patterns():
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.6])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    expected = (abs(differences @ signs) >= abs(differences.sum()) - 1e-12).mean()
    found = paired_permutation_test(differences, np.zeros(5))
    assert found.p == pytest.approx(expected) and found.name == "exact paired permutation test"


def test_the_least_p_is_reached_when_all_pairs_agree():
    found = paired_permutation_test([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [0.0] * 6)
    assert found.p == found.least_p == 2 / 2**6 < 0.05
    assert paired_permutation_test([1.0] * 5, [0.0] * 5).least_p > 0.05


def test_a_planted_difference_is_found_with_many_pairs_too():
    numbers = np.random.default_rng(0)
    drawn = numbers.normal(size=30)
    found = paired_permutation_test(drawn + 1 + 0.1 * numbers.normal(size=30), drawn)
    assert found.p < 0.01 and found.mean_difference == pytest.approx(1, abs=0.1)
    assert found.interval[0] < 1 < found.interval[1] and found.interval[1] - found.interval[0] < 0.2


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
        ([0.9] * 4, [0.8] * 4, "So few pairs cannot: their least p is 0.125"),
    ],
)
def test_the_sentence_says_what_the_data_say(searched, drawn, words):
    assert words in report.sentence(report.make_report(outcomes(searched, drawn), {}))


def test_a_claim_about_the_method_needs_several_searches():
    single = report.make_report(outcomes([0.9] * 8, [0.8] * 8), {})
    assert "speaks of this one cell" in report.sentence(single) and single.search_test is None
    several = report.make_report(outcomes([0.9] * 8, [0.8] * 8, searches=4), {})
    assert several.search_test.pairs == 4 and several.search_test.least_p == 0.125
    assert "4 searches cannot go under p = 0.125" in report.sentence(several)
    enough = report.make_report(outcomes([0.9] * 8, [0.8] * 8, searches=8), {})
    assert "cannot go under" not in report.sentence(enough) and enough.search_test.p == 2 / 2**8


def test_default_numbers_can_reach_the_level():
    samples = composed("compare").random.samples
    assert 2 / 2**samples < 0.05 and samples >= 8


def test_pairs_share_a_seed_and_random_cells_are_all_different():
    trials = protocol.plan_trials(settings("random.samples=8", "searched=[darts_v1,darts_v2]", "seed=3"))
    assert [trial.seed for trial in trials] == [seed for seed in range(3, 11) for _ in range(2)]
    searched, drawn = ([trial for trial in trials if trial.group == group] for group in (SEARCHED, RANDOM))
    assert [trial.cell for trial in searched] == ["darts_v1", "darts_v2"] * 4
    assert len({trial.genotype.digest() for trial in drawn}) == 8
    longer = protocol.plan_trials(settings("random.samples=9", "searched=[darts_v1,darts_v2]", "seed=3"))
    assert longer[:16] == trials  # asking for more keeps what there is


def test_a_searched_cell_of_another_space_than_the_random_ones_is_refused():
    with pytest.raises(UserError, match="searched nasnet: the genotype is of space 'nasnet', but space is 'darts'"):
        protocol.plan_trials(settings("searched=[nasnet]"))
    assert len(protocol.plan_trials(settings("searched=[nasnet]", "space=nasnet"))) == 4


def test_all_trials_share_one_protocol(tmp_path):
    plan = settings("searched=[darts_v2]")
    protocol.run_trials(plan, tmp_path)
    results = [json.loads(file.read_text()) for file in tmp_path.rglob("result.json")]
    assert len(results) == 4 and len({result["protocol"] for result in results}) == 1
    assert sorted(result["seed"] for result in results) == [0, 0, 1, 1]


def test_work_already_in_the_folder_is_not_done_again_and_missing_work_is(tmp_path, caplog):
    first = protocol.run_trials(settings("searched=[darts_v2]"), tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    next(iter(times)).unlink()
    assert [o.test_accuracy for o in protocol.run_trials(settings("searched=[darts_v2]"), tmp_path)] == [
        o.test_accuracy for o in first
    ]
    kept = [file for file, time in times.items() if file.stat().st_mtime_ns == time]
    assert len(kept) == 3
    protocol.run_trials(settings("searched=[darts_v2]", "train.batch_size=16"), tmp_path)
    assert len(list(tmp_path.rglob("result.json"))) == 8  # another protocol shares nothing


def test_the_report_is_written_for_people_and_programs(tmp_path):
    found = report.make_report(outcomes([0.91, 0.92, 0.93], [0.9, 0.89, 0.92]), {"train.epochs": 1})
    text = report.write_report(found, tmp_path)
    assert "| searched | 1      | 3       | 92.00" in text and "2.00 M" in text
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["settings"] == {"train.epochs": 1} and plain["test"]["pairs"] == 3
    assert plain["relative_improvement"] == pytest.approx(100 * (0.92 - 2.71 / 3) / (2.71 / 3))
