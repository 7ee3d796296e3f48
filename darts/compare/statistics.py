"""Paired tests, intervals and spreads, from lists of numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXACT_UP_TO = 14  # pairs; 2^14 sign patterns
EXACT_WAYS = 20_000


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of whether paired differences are centred on zero."""

    name: str
    pairs: int
    mean_difference: float
    interval: tuple[float, float] | None  # 95%, of the mean difference; None with fewer than 3 pairs
    p: float
    least_p: float  # the smallest p that so many pairs can give


def paired_permutation_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Flip the signs of the differences in every way; up to 14 pairs exactly, beyond by 10,000 drawn patterns."""
    import numpy as np
    from scipy import stats

    pairs = len(first)
    exact = pairs <= EXACT_UP_TO
    tested = stats.permutation_test(
        (np.asarray(first), np.asarray(second)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else 9999,
        rng=np.random.default_rng(0),
    )
    return PairedTest(
        name="exact paired permutation test" if exact else "paired permutation test, 9,999 random sign patterns",
        pairs=pairs,
        mean_difference=statistics.fmean(first) - statistics.fmean(second),
        interval=_interval([a - b for a, b in zip(first, second, strict=True)]),
        p=float(tested.pvalue),
        least_p=2 / 2**pairs if exact else 1 / 10_000,
    )


def _interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95% interval of the mean."""
    from scipy import stats

    if len(differences) < 3:
        return None
    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    mean = statistics.fmean(differences)
    return mean - half, mean + half


@dataclass(frozen=True)
class UnpairedTest:
    """A two-sided test of whether two samples have one mean, and how often one of the first beats one of the second."""

    name: str
    numbers: tuple[int, int]
    p: float
    least_p: float  # the smallest p that such numbers can give
    superiority: float  # P(first > second) + P(equal) / 2 (Vargha and Delaney 2000, A12); 0.5: none


def permutation_test(first: Sequence[float], second: Sequence[float]) -> UnpairedTest:
    """Deal the values out to both samples in every way; exactly up to 20,000 ways, beyond by 9,999 drawn ones."""
    import numpy as np
    from scipy import stats

    ways = math.comb(len(first) + len(second), len(first))
    exact = ways <= EXACT_WAYS
    tested = stats.permutation_test(
        (np.asarray(first), np.asarray(second)),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=np.inf if exact else 9999,
        rng=np.random.default_rng(0),
    )
    wins = stats.mannwhitneyu(first, second).statistic
    return UnpairedTest(
        name="exact permutation test" if exact else "permutation test, 9,999 random deals",
        numbers=(len(first), len(second)),
        p=float(tested.pvalue),
        least_p=min(1.0, 2 / ways) if exact else 1 / 10_000,
        superiority=float(wins) / (len(first) * len(second)),
    )


def holm(values: Sequence[float]) -> list[float]:
    """Corrected p-values of several comparisons, family-wise (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def bootstrap_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Studentised bootstrap interval of a mean (Efron and Tibshirani 1993, chapter 12.5); None under 4 values.

    Of all simple bootstrap intervals it is the one that covers at its nominal rate for few values.
    """
    import numpy as np

    sample = np.asarray(values, dtype=float)
    number = len(sample)
    if number < 4:
        return None
    mean, error = sample.mean(), sample.std(ddof=1) / number**0.5
    if error == 0:
        return float(mean), float(mean)
    drawn = np.random.default_rng(0).choice(sample, size=(9999, number))
    errors = drawn.std(axis=1, ddof=1) / number**0.5
    usable = errors > 1e-12 * abs(mean)  # a resample of one value only says nothing
    ratios = (drawn.mean(axis=1)[usable] - mean) / errors[usable]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(mean - high * error), float(mean - low * error)


def relative_improvement(found: float, random: float) -> float:
    """100 * (found - random) / random, of mean accuracies (Yang, Esperanca, Carlucci 2020, equation 1)."""
    return 100 * (found - random) / random


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
