"""Places, tests, intervals and spreads, from lists of numbers."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

EXACT_WAYS = 20_000  # of dealing values to two samples; beyond, so many are drawn
DRAWN_WAYS = 9_999


@dataclass(frozen=True)
class Place:
    """Where one value stands among others: exact for values that are exchangeable, whatever their distribution."""

    place: int  # 1: the best
    among: int  # the others and itself
    p: float  # probability that a value drawn like the others takes so good a place or a better one

    @property
    def least_p(self) -> float:
        """The smallest probability that there can be."""
        return 1 / self.among


def place_among(value: float, others: Sequence[float]) -> Place:
    """The place of a value among others; others that are equal count as better."""
    among = len(others) + 1
    place = 1 + sum(other >= value for other in others)
    return Place(place, among, place / among)


@dataclass(frozen=True)
class RankTest:
    """A two-sided test of whether values of one sample beat those of another more or less often than not."""

    name: str
    numbers: tuple[int, int]
    superiority: float  # P(first > second) + P(equal) / 2 (Vargha and Delaney 2000, A12); 0.5: as often as not
    better: bool  # the direction of what is tested: whether the first sample's values are the higher ones
    p: float
    least_p: float  # the smallest p that such numbers can give


def rank_test(first: Sequence[float], second: Sequence[float]) -> RankTest:
    """Studentised permutation test of ranks (Brunner and Munzel 2000; Neubert and Brunner 2007).

    The values are dealt out to both samples in every way, exactly up to 20,000 ways, beyond by 9,999 drawn ones; the
    statistic is the distance of A12 from 1/2 over its standard error. It is exact where both samples are of one
    distribution, and right for many values wherever A12 is 1/2, whatever the spreads and shapes: accuracies of random
    cells are skewed, and a test of their means is not.
    """
    values = np.array([*first, *second], dtype=float)
    p, superiority = _p_values(values[None], len(first), DRAWN_WAYS)
    exact = math.comb(len(values), len(first)) <= EXACT_WAYS
    return RankTest(
        name=f"studentised permutation test of ranks, {'exact' if exact else '9,999 random deals'}",
        numbers=(len(first), len(second)),
        superiority=float(superiority[0]),
        better=bool(superiority[0] > 0.5),
        p=float(p[0]),
        least_p=least_rank_p(len(first), len(second)),
    )


def rank_p_values(first: np.ndarray, second: np.ndarray, drawn_ways: int) -> tuple[np.ndarray, np.ndarray]:
    """p and A12 of `rank_test` for many samples at once, a row each; `drawn_ways` random deals where not exact."""
    return _p_values(np.concatenate([first, second], axis=1), first.shape[1], drawn_ways)


def least_rank_p(first: int, second: int) -> float:
    """The smallest p that `rank_test` can give: one sample wholly above the other, or wholly below."""
    exact = min(1.0, 2 / math.comb(first + second, first))
    return exact if math.comb(first + second, first) <= EXACT_WAYS else max(exact, 1 / (1 + DRAWN_WAYS))


def least_size_p(first: int, second: int) -> float:
    """The smallest p that `size_adjusted_test` can give: there are so many ways to deal the errors out."""
    return max(1 / math.factorial(first + second), 1 / (1 + DRAWN_WAYS))


def _p_values(rows: np.ndarray, number: int, drawn_ways: int) -> tuple[np.ndarray, np.ndarray]:
    """Of values (samples, values) of which the first `number` are the first sample's."""
    length = rows.shape[1]
    exact = math.comb(length, number) <= EXACT_WAYS
    own = _membership(np.arange(number)[None], length)
    dealt = _dealt(length, number, drawn_ways, exact)
    p, superiority = [], []
    for values in rows:
        beats = (values[:, None] > values[None, :]) + 0.5 * (values[:, None] == values[None, :])
        np.fill_diagonal(beats, 0.0)
        observed, better = _studentised(beats, own)
        others, _ = _studentised(beats, dealt)
        extreme = int((abs(others) >= abs(observed[0]) - 1e-9).sum())
        p.append(extreme / len(others) if exact else (1 + extreme) / (1 + len(others)))
        superiority.append(better[0])
    return np.array(p), np.array(superiority)


@functools.lru_cache(maxsize=8)
def _dealt(values: int, number: int, drawn_ways: int, exact: bool) -> np.ndarray:
    """Which values the first sample gets, a row a way, as `_membership` has it; the same ones for every test alike."""
    if exact:
        return _membership(np.array(list(itertools.combinations(range(values), number))), values)
    order = np.random.default_rng(0).random((drawn_ways, values)).argsort(axis=1)
    return _membership(order[:, :number], values)


def _membership(chosen: np.ndarray, values: int) -> np.ndarray:
    """The same as a matrix (ways, values) of 0 and 1."""
    inside = np.zeros((len(chosen), values))
    np.put_along_axis(inside, chosen, 1.0, axis=1)
    return inside


def _studentised(beats: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A12 - 1/2) over its standard error, and A12, a row a way; far from 0 where the samples do not overlap."""
    means, variance = [], np.zeros(len(inside))
    for own in (inside, 1 - inside):
        number = own.sum(1)
        placement = (1 - own) @ beats.T / (1 - own).sum(1)[:, None]  # of each value among the other sample
        mean = (placement * own).sum(1) / number
        squares = ((placement - mean[:, None]) ** 2 * own).sum(1)
        variance += squares / (np.maximum(number - 1, 1) * number)
        means.append(mean)
    return (means[0] - 0.5) / np.maximum(np.sqrt(variance), 1e-6), means[0]


def size_adjusted_test(first: Sequence[float], second: Sequence[float], sizes: Sequence[float]) -> RankTest:
    """Whether the samples differ where their sizes do not (Freedman and Lane 1983); `sizes`: of first, then of second.

    Values are a straight line over the logarithm of the size, a shift of the first sample, and errors of one
    distribution. What the line without the shift leaves is dealt out 9,999 times; the statistic is Student's t of the
    shift. A12 is of the values at one size (`adjusted`).
    """
    values, number = np.array([*first, *second]), len(first)
    line = np.column_stack([np.ones(len(values)), np.log(sizes)])
    shift = np.concatenate([np.ones(number), np.zeros(len(second))])
    design = np.column_stack([shift, line])
    fitted = line @ (np.linalg.pinv(line) @ values)
    order = _orders(len(values))
    dealt = fitted[:, None] + (values - fitted)[order].T
    observed = float(_shift_t(design, values[:, None])[0])
    extreme = int((abs(_shift_t(design, dealt)) >= abs(observed) * (1 - 1e-9)).sum())
    level = adjusted({"1": first, "2": second}, {"1": sizes[:number], "2": sizes[number:]}, "2")
    wins = sum((a > b) + 0.5 * (a == b) for a in level["1"] for b in level["2"])
    return RankTest(
        name="permutation test of Freedman and Lane at equal size, 9,999 random deals",
        numbers=(number, len(second)),
        superiority=wins / (number * len(second)),
        better=observed > 0,
        p=(1 + extreme) / (1 + DRAWN_WAYS),
        least_p=least_size_p(number, len(second)),
    )


@functools.lru_cache(maxsize=8)
def _orders(values: int) -> np.ndarray:
    """The random orders in which errors are dealt out, a row each: the same ones for every test of as many values."""
    return np.random.default_rng(0).random((DRAWN_WAYS, values)).argsort(axis=1)


def _shift_t(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Student's t of the first column's coefficient, for each column of values."""
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ values
    freedom = max(len(values) - design.shape[1], 1)
    error = ((values - design @ coefficients) ** 2).sum(0) / freedom * (inverse[0] ** 2).sum()
    return coefficients[0] / np.maximum(np.sqrt(error), 1e-12)


def holm(values: Sequence[float], comparisons: int = 0) -> list[float]:
    """Corrected p-values of several comparisons, family-wise (Holm 1979).

    `comparisons`: how many there were to be, where some of them could not be made.
    """
    number = max(comparisons, len(values))
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (number - rank) * values[index]))
        corrected[index] = highest
    return corrected


@dataclass(frozen=True)
class MedianInterval:
    """An interval of a median from the ordered values: it covers at its rate whatever the distribution."""

    low: float
    high: float
    coverage: float  # at least this, for any distribution


def median_interval(values: Sequence[float], level: float = 0.95) -> MedianInterval | None:
    """The narrowest interval between two ordered values, as far from both ends, that covers the median at `level`.

    From the binomial distribution of the values below the median (David and Nagaraja 2003, section 7.1). None where
    even the least and the greatest value do not: under 6 values for 95%.
    """
    ordered, number = sorted(values), len(values)
    found = None
    for rank in range(1, number // 2 + 1):
        outside = 2 * sum(math.comb(number, k) for k in range(rank)) / 2**number
        if 1 - outside < level:
            break
        found = MedianInterval(ordered[rank - 1], ordered[number - rank], 1 - outside)
    return found


def adjusted(
    values: Mapping[str, Sequence[float]], sizes: Mapping[str, Sequence[float]], to: str
) -> dict[str, list[float]]:
    """Values as they would be at one size: that of group `to` on average (analysis of covariance).

    `values` and `sizes` are of the same observations, by group. The gradient of the values over the logarithm of the
    size is the least-squares one within groups, the same for all: what a group is better by at equal size stays.
    """
    logs = {name: [math.log(size) for size in own] for name, own in sizes.items()}
    means = {name: statistics.fmean(own) for name, own in logs.items()}
    products = squares = 0.0
    for name, own in values.items():
        mean = statistics.fmean(own)
        for value, log in zip(own, logs[name], strict=True):
            products += (value - mean) * (log - means[name])
            squares += (log - means[name]) ** 2
    gradient = products / squares if squares > 0 else 0.0
    return {
        name: [value - gradient * (log - means[to]) for value, log in zip(own, logs[name], strict=True)]
        for name, own in values.items()
    }


def relative_improvement(found: float, random: float) -> float:
    """100 * (found - random) / random, of mean accuracies (Yang, Esperanca, Carlucci 2020, equation 1).

    Of scores below 0, which are a metric of which less is better, turned round: relative to its size.
    """
    return 100 * (found - random) / abs(random)


@dataclass(frozen=True)
class Spread:
    """Standard deviations of accuracies that come from several cells, each trained once or several times."""

    total: float | None  # of all values; None for a single one
    over_cells: float | None  # of the cells' means; None for a single cell
    over_seeds: float | None  # of retrainings around their cell's mean, pooled; None where no cell was trained twice


def spread(values: Mapping[str, Sequence[float]]) -> Spread:
    """Tell the spread over cells and the spread over retraining seeds apart; `values`: cell -> accuracies."""
    everything = [value for own in values.values() for value in own]
    means = [statistics.fmean(own) for own in values.values()]
    freedom = sum(len(own) - 1 for own in values.values())
    squares = sum((value - statistics.fmean(own)) ** 2 for own in values.values() for value in own)
    return Spread(
        total=statistics.stdev(everything) if len(everything) > 1 else None,
        over_cells=statistics.stdev(means) if len(means) > 1 else None,
        over_seeds=(squares / freedom) ** 0.5 if freedom else None,
    )
