"""Whether a report's claims are right: by counting, by simulation with the report itself, on normal and skewed cells.

The skewed cells are those of NAS-Bench-201 (tests/golden/nasbench201_accuracies.json): half of them between 87.6 and
92.2, and a tail down to 10.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from darts.compare import power, report
from darts.compare.plan import RANDOM, SEARCHED
from darts.compare.statistics import (
    adjusted,
    holm,
    least_rank_p,
    least_size_p,
    median_interval,
    place_among,
    rank_p_values,
    rank_test,
    relative_improvement,
    size_adjusted_test,
    spread,
)
from darts.runtime.errors import UserError
from tests.conftest import ROOT, TINY_TRAIN, composed
from tests.test_compare import each_once, outcomes

SKEWED = np.array(json.loads((ROOT / "tests" / "golden" / "nasbench201_accuracies.json").read_text())["values"]) / 100
LEVEL = 0.05


def normal(draws: np.random.Generator, number: int) -> list[float]:
    return list(0.9 + 0.01 * draws.normal(size=number))


def skewed(draws: np.random.Generator, number: int) -> list[float]:
    return list(draws.choice(SKEWED, number) + 1e-7 * draws.normal(size=number))


def within(rate: float, number: int) -> float:
    """The rate with three standard errors of a simulation."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / number)


def shown(found: dict[str, list[float]], drawn: list[float]) -> list[report.Claim]:
    return report.make_report(outcomes({name: each_once(own) for name, own in found.items()}, drawn), {}).claims


# By counting


def test_a_place_is_the_share_of_values_that_are_as_good():
    found = place_among(3.0, [1.0, 2.0, 4.0])
    assert (found.place, found.among, found.p, found.least_p) == (2, 4, 0.5, 0.25)
    assert place_among(2.0, [1.0, 2.0, 2.0]).p == 0.75  # equal ones count as better
    orders = [place_among(order[0], order[1:]).p for order in itertools.permutations([1.0, 2.0, 3.0, 4.0])]
    assert sorted(set(orders)) == [0.25, 0.5, 0.75, 1.0] and np.mean(np.array(orders) <= 0.25) == 0.25


def test_the_test_of_ranks_is_that_of_counting():
    """Every deal of the values by hand, with scipy's statistic of Brunner and Munzel."""
    draws = np.random.default_rng(3)
    for first, second in ((3, 4), (4, 4), (2, 6)):
        values = draws.normal(size=first + second)
        values[0] += 0.7
        own = values[:first], values[first:]
        statistics = []
        for chosen in itertools.combinations(range(first + second), first):
            rest = [place for place in range(first + second) if place not in chosen]
            with np.errstate(all="ignore"):
                statistics.append(abs(stats.brunnermunzel(values[list(chosen)], values[rest]).statistic))
        with np.errstate(all="ignore"):
            observed = abs(stats.brunnermunzel(*own).statistic)
        expected = np.mean([value >= observed - 1e-9 or np.isnan(value) for value in statistics])
        found = rank_test(*own)
        assert found.p == pytest.approx(expected) and "exact" in found.name
        wins = stats.mannwhitneyu(*own).statistic
        assert found.superiority == pytest.approx(wins / (first * second))


def test_many_values_agree_with_scipys_permutations():
    draws = np.random.default_rng(5)
    first, second = draws.normal(size=8) + 0.8, draws.normal(size=12)
    tested = stats.permutation_test(
        (first, second), lambda a, b: abs(stats.brunnermunzel(a, b).statistic), permutation_type="independent",
        alternative="greater", n_resamples=2999, rng=np.random.default_rng(1),
    )  # fmt: skip
    found = rank_test(list(first), list(second))
    assert "9,999 random deals" in found.name and found.p == pytest.approx(tested.pvalue, abs=0.015)


def test_the_least_p_is_reached_where_the_samples_do_not_overlap():
    for first, second in ((2, 3), (3, 3), (5, 5), (6, 19)):
        found = rank_test([2.0 + n for n in range(first)], [1.0 - n for n in range(second)])
        assert found.p == found.least_p == least_rank_p(first, second) and found.superiority == 1
    assert least_rank_p(3, 3) == 0.1 and least_rank_p(5, 5) == 2 / 252


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


def test_adjusting_for_size_is_the_least_squares_of_an_analysis_of_covariance():
    draws = np.random.default_rng(2)
    sizes = {name: list(np.exp(draws.normal(size=number))) for name, number in (("a", 6), ("b", 9), ("c", 1))}
    values = {name: [0.3 * math.log(size) + draws.normal() for size in own] for name, own in sizes.items()}
    names = [name for name, own in sizes.items() for _ in own]
    design = np.array([[name == "a", name == "b", name == "c"] for name in names], dtype=float)
    logs = np.array([math.log(size) for own in sizes.values() for size in own])
    solved = np.linalg.lstsq(np.column_stack([design, logs]), np.concatenate(list(values.values())), rcond=None)[0]
    at = np.mean([math.log(size) for size in sizes["b"]])
    found = adjusted(values, sizes, "b")
    for name, intercept in zip("abc", solved[:3], strict=True):
        assert np.mean(found[name]) == pytest.approx(intercept + solved[3] * at)
    assert np.mean(found["b"]) == pytest.approx(np.mean(values["b"]))


# By simulation: how often something is shown where there is nothing


@pytest.mark.parametrize("population", [normal, skewed])
def test_a_randomly_drawn_cell_is_called_better_at_the_nominal_rate(population):
    draws, number = np.random.default_rng(1), 2000
    found = [shown({SEARCHED: population(draws, 1)}, population(draws, 19))[0].shown for _ in range(number)]
    assert found.count("worse") == 0
    assert abs(found.count("better") / number - 1 / 20) < 3 * math.sqrt(0.05 * 0.95 / number)


@pytest.mark.parametrize("population", [normal, skewed])
def test_no_method_that_draws_at_random_is_called_better_or_worse_too_often(population):
    """Three methods that draw at random and random search itself: any claim at all, against sampling and search."""
    draws, number = np.random.default_rng(1), 300
    sampling = search = 0
    for _ in range(number):
        methods = {name: population(draws, 5) for name in ("darts", "pc_darts", "evolution", "random")}
        claims = shown(methods, population(draws, 9))
        sampling += any(claim.shown for claim in claims if claim.against == RANDOM)
        search += any(claim.shown for claim in claims if claim.against == "random search")
    assert sampling / number <= within(LEVEL, number) and search / number <= within(LEVEL, number)


@pytest.mark.parametrize("population", [normal, skewed])
def test_random_search_is_not_better_than_random_search(population):
    """The best of ten draws, by either name: better than random sampling, and not than itself."""
    draws, number = np.random.default_rng(2), 400
    against_sampling = against_search = 0
    for _ in range(number):
        best = {name: [max(population(draws, 10)) for _ in range(6)] for name in ("darts", "random")}
        claims = {(claim.group, claim.against): claim.shown for claim in shown(best, population(draws, 9))}
        against_sampling += claims["darts", RANDOM] == "better"
        against_search += bool(claims["darts", "random search"])
    assert against_search / number <= within(LEVEL, number)
    assert against_sampling / number > 0.8


@pytest.mark.parametrize("population", [normal, skewed])
@pytest.mark.parametrize("searches, narrower", [(5, 0.2), (6, 0.2), (10, 0.2), (6, 0.5)])
def test_other_spreads_at_the_same_median_show_nothing_too_often(population, searches, narrower):
    """A method whose cells beat random ones as often as not, but are closer together."""
    draws, number = np.random.default_rng(4), 1000
    centre = float(np.median(SKEWED)) if population is skewed else 0.9
    found = centre + 0.01 * narrower * draws.normal(size=(number, searches))
    p, _ = rank_p_values(found, np.array([population(draws, 19) for _ in range(number)]), 999)
    assert np.mean(p <= LEVEL) <= within(LEVEL, number)


def larger(draws: np.random.Generator, population, cells: int, shift: float = 0.0) -> list[report.Outcome]:
    """Found cells twice as large as random ones; accuracy grows with size, and found cells are better by a shift."""
    made = []
    for group, number, size in (("darts", cells, 2.0), (RANDOM, 19, 1.0)):
        for n, noise in enumerate(population(draws, number)):
            own = size * math.exp(0.3 * draws.normal())
            accuracy = noise + 0.1 * math.log(own) + (shift if group != RANDOM else 0)
            made.append(report.Outcome(n, group, f"{group} {n}", "d", n, accuracy, int(1e6 * own), 1, 1.0))
    return made


@pytest.mark.parametrize("population", [normal, skewed])
def test_accuracies_at_equal_size_show_nothing_too_often(population):
    """Where size is all that makes found cells better, raw accuracies show it, and those at equal size do not."""
    draws, number = np.random.default_rng(7), 250
    raw = equal = 0
    for _ in range(number):
        made = larger(draws, population, 6)
        equal += bool(report.make_report(made, {"adjust_for": "parameters"}).claims[0].shown)
        raw += bool(report.make_report(made, {}).claims[0].shown)
    assert equal / number <= within(LEVEL, number)
    assert raw / number > (0.2 if population is skewed else 0.6)


def test_a_difference_at_equal_size_is_shown():
    draws = np.random.default_rng(7)
    found = [report.make_report(larger(draws, normal, 6, 0.05), {"adjust_for": "parameters"}) for _ in range(40)]
    assert np.mean([one.claims[0].shown == "better" for one in found]) > 0.9
    assert np.mean([one.claims[0].difference for one in found]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("number", [6, 8, 20])
@pytest.mark.parametrize("population", [normal, skewed])
def test_intervals_cover_the_median_at_their_rate(population, number):
    draws = np.random.default_rng(0)
    median = float(np.median(SKEWED)) if population is skewed else 0.9
    found = [median_interval(population(draws, number)) for _ in range(2000)]
    covered = np.mean([own.low <= median <= own.high for own in found])
    assert covered >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert covered == pytest.approx(found[0].coverage, abs=0.02) and found[0].coverage >= 0.95


def test_intervals_are_binomial_and_there_is_none_for_few():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    six = median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    assert (six.low, six.high, six.coverage) == (1.0, 6.0, 1 - 2 / 2**6)
    ten = median_interval([float(n) for n in range(10)])
    assert (ten.low, ten.high) == (1.0, 8.0)
    assert ten.coverage == pytest.approx(1 - 2 * stats.binom.cdf(1, 10, 0.5))


def test_the_direction_at_equal_size_is_that_of_the_test():
    """A shift of the mean the other way than most pairs of cells: the sentence says what was tested."""
    sizes = [2.0 + 0.01 * math.sin(n) for n in range(29)]  # of no use in telling accuracies apart
    found = size_adjusted_test([0.90] * 9 + [0.905], [0.91] * 12 + [0.10] * 7, sizes)
    assert found.superiority < 0.5 and found.better
    assert not size_adjusted_test([0.1, 0.2, 0.15], [0.9, 0.8, 0.85], [1, 2, 3, 1, 2, 3]).better


def test_few_or_constant_values_at_equal_size_have_no_p_below_their_number_of_ways():
    assert least_size_p(2, 2) == 1 / 24 and least_size_p(6, 19) == 1 / 10_000
    constant = size_adjusted_test([0.9, 0.9], [0.8, 0.8], [1.0, 2.0, 3.0, 4.0])
    assert constant.p >= 1 / 24 / 2 and constant.least_p == 1 / 24


def test_claims_of_searches_that_failed_are_corrected_for_all_the_same():
    draws = np.random.default_rng(0)
    groups = {"darts": normal(draws, 5), "evolution": normal(draws, 5)}
    planned = [power.Design(name, RANDOM, 5, 8, 3) for name in ("darts", "evolution", "random")]
    made = outcomes({name: each_once(own) for name, own in groups.items()}, normal(draws, 8))
    whole = report.make_report(made, {}).claims
    failed = report.make_report(made, {}, report.Background(planned=planned)).claims
    assert [claim.comparisons for claim in failed] == [3, 3]
    assert min(c.p for c in failed) == pytest.approx(min(1.0, 1.5 * min(c.p for c in whole)))


# Power


def settings(*overrides: str):
    return composed("compare", *TINY_TRAIN, *overrides)


def test_the_power_that_is_foretold_is_that_of_the_report():
    """Simulated comparisons, through the report, of methods that are better by the stated points."""
    given = settings(
        "methods=[darts]", "seeds=[0,1,2,3,4,5]", "random.samples=10", "power.effects=[1,2]", "power.spread=1.0",
        "power.search_spread=0.7",
    )  # fmt: skip
    planned = {design.against: design for design in power.forecast(given) if design.group == "darts"}
    draws, number = np.random.default_rng(8), 250
    for effect, words in ((1, "1 point"), (2, "2 points")):
        found = {RANDOM: 0, "random search": 0}
        for _ in range(number):
            method = 0.9 + 0.01 * (effect + 0.7 * draws.normal(size=6))
            search = 0.9 + 0.01 * 0.7 * draws.normal(size=6)
            drawn = 0.9 + 0.01 * draws.normal(size=10)
            for claim in shown({"darts": list(method), "random": list(search)}, list(drawn)):
                found[claim.against] += claim.group == "darts" and claim.shown == "better"
        for against, times in found.items():
            foretold = planned[against].power[words]
            comparisons = planned[against].comparisons
            error = 3 * math.sqrt(0.25 / number + 0.25 / power.DRAWN)
            assert abs(times / number - foretold) < error, (effect, against, foretold, comparisons)


def test_a_single_cells_power_is_known_in_closed_form():
    """The best of n + 1 normal draws of which one is shifted: by numerical integration."""
    design = power.Design(SEARCHED, RANDOM, 1, 19, 1, least=0.05)
    for effect in (1.0, 3.0):
        grid = np.linspace(-8, 12, 20_001)
        density = stats.norm.pdf(grid - effect) * stats.norm.cdf(grid) ** 19
        expected = float(np.trapezoid(density, grid))
        assert power.power(design, effect, None) == pytest.approx(expected, abs=0.08)


def test_spreads_come_from_an_earlier_comparison(tmp_path):
    found = report.make_report(outcomes({"darts": each_once([0.9, 0.92]), "snas": each_once([0.8, 0.84])},
                                        [0.7, 0.8, 0.9]), {})  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps(found.to_json()))
    for reference in (tmp_path, tmp_path / "report.json"):
        known = power.known_spreads(settings(f"power.results={reference}").power)
        assert known.drawn == pytest.approx(10) and known.found == pytest.approx(math.sqrt((2 + 8) / 2))
    both = settings(f"power.results={tmp_path}", "power.search_spread=0.3").power
    assert power.known_spreads(both).found == 0.3
    mixed = power.known_spreads(settings(f"power.results={tmp_path}", "power.spread=2").power)
    assert (mixed.drawn, mixed.found) == (2, pytest.approx(math.sqrt(5)))
    assert mixed.source == f"{tmp_path / 'report.json'}, power.spread"
    plain = found.to_json()
    plain["groups"] += [{**plain["groups"][0], "spread": {"over_cells": None}}, plain["groups"][0]]
    (tmp_path / "report.json").write_text(json.dumps(plain))
    assert power.known_spreads(settings(f"power.results={tmp_path}").power).found < math.sqrt(5)
    for damaged in ("{}", "[", json.dumps({"groups": [{"name": RANDOM, "cells": 3, "spread": {"over_cells": "1"}}]})):
        (tmp_path / "report.json").write_text(damaged)
        with pytest.raises(UserError, match=r"power\.results must be an earlier comparison"):
            power.known_spreads(settings(f"power.results={tmp_path}").power)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["random.samples=18"], "1 cell of searched against 18 random cells can show no difference, however large: the "
         "least p, corrected for 1 comparisons, is 0.0526; the cheapest that could: random.samples=19;"),
        (["searched=[darts_v1,darts_v2]", "random.samples=5"], "random.samples=8;"),
        (["methods=[darts]", "seeds=[0,1,2]"], '"seeds=[0,1,2,3,4]" random.samples=8;'),
        (["methods=[darts,pc_darts]", "seeds=[0,1,2,3]"], '"seeds=[0,1,2,3,4]" random.samples='),
    ],
)  # fmt: skip
def test_a_comparison_that_can_show_nothing_is_refused_with_the_cheapest_that_can(overrides, words):
    given = settings(*overrides)
    with pytest.raises(UserError) as refused:
        power.refuse_powerless(given, power.designs(given))
    assert words in str(refused.value) and "allow_underpowered=true" in str(refused.value)
    power.refuse_powerless(settings(*overrides, "allow_underpowered=true"), power.designs(given))
    cheapest = str(refused.value).split("the cheapest that could: ")[1].split(";")[0].replace('"', "").split()
    better = settings(*overrides, *cheapest)
    assert all(design.can_show for design in power.designs(better))
    if better.random.samples > power.FEWEST[1]:
        fewer = settings(*overrides, *cheapest[:-1], f"random.samples={better.random.samples - 1}")
        assert not all(design.can_show for design in power.designs(fewer))


@pytest.mark.parametrize("methods", range(1, 7))
def test_the_default_numbers_can_show_something(methods):
    names = ["darts", "pc_darts", "gdas", "snas", "drnas", "evolution"][:methods]
    assert all(design.can_show for design in power.designs(settings(f"methods=[{','.join(names)}]")))
    assert all(design.can_show for design in power.designs(settings()))


def test_the_least_p_is_that_of_holms_steps():
    """A single cell beside a method: the method's p can be so small that the cell's is not corrected any more."""
    given = settings("methods=[darts]", "searched=[darts_v1]")
    planned = power.designs(given)
    assert all(design.can_show for design in planned)
    groups = {
        "darts": [0.95 + n / 1000 for n in range(5)],
        "random": [0.94 + n / 1000 for n in range(5)],
        SEARCHED: [0.99],
    }
    claims = shown(groups, [0.9 - n / 1000 for n in range(19)])
    assert all(claim.p >= claim.least - 1e-12 for claim in claims)  # of 9,999 deals chance decides how many are as good
    assert [claim.p for claim in claims[2:]] == pytest.approx([claim.least for claim in claims[2:]])
    assert [claim.least for claim in claims] == pytest.approx([design.least for design in planned])
    assert claims[2].shown == "better" and claims[2].p == pytest.approx(0.05)
    from darts.compare.sentences import sentence

    assert "no place would show it" not in sentence(claims[2])


def test_the_claims_that_are_planned_are_those_of_the_report():
    for overrides, groups in (
        (["methods=[darts,evolution]"], {"darts": 5, "evolution": 5, "random": 5}),
        (["methods=[darts]", "random.search=false"], {"darts": 5}),
        (["methods=[darts,random]", "searched=[darts_v1]"], {"darts": 5, "random": 5, SEARCHED: 1}),
        (["searched=[darts_v1,darts_v2]"], {SEARCHED: 2}),
    ):
        given = settings(*overrides)
        draws = np.random.default_rng(0)
        found = shown({name: normal(draws, cells) for name, cells in groups.items()}, normal(draws, 19))
        planned = [(d.group, d.against, d.first, d.comparisons, d.least) for d in power.designs(given)]
        assert [(c.group, c.against, c.cells, c.comparisons, c.least) for c in found] == planned


@pytest.mark.parametrize(
    "override",
    ["power.effects=[]", "power.effects=[0]", "power.spread=0", "power.search_spread=1", "retrainings=0",
     "adjust_for=latency", "adjust_for=macs", "power.spread=nan"],
)  # fmt: skip
def test_wrong_settings_of_the_forecast_are_refused(override):
    with pytest.raises(UserError, match=override.split("=")[0]):
        settings(override)
