"""Fronts of two aims: the cells that no other beats in quality and cost at once, and how much of the plane they hold.

Quality is to be high, and cost low. Arrays have one entry a cell.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

Numbers = NDArray[numpy.float64]


def front(quality: Numbers, cost: Numbers) -> NDArray[numpy.int64]:
    """Indices of the cells that no other dominates, from the cheapest to the dearest.

    One cell dominates another if it is at least as good in both and better in one. Of cells that are equal in both, the
    first stands for all.
    """
    order = numpy.lexsort((numpy.arange(len(cost)), -quality, cost))  # by cost, the best of equal cost first
    best = numpy.maximum.accumulate(quality[order])
    better = numpy.r_[True, best[1:] > best[:-1]]
    return order[better]


def hypervolume(quality: Numbers, cost: Numbers, limits: tuple[float, float]) -> float:
    """Part of the unit square that cells dominate, seen from the reference point of quality 0 and the highest cost.

    `quality` from 0 to 1; `limits`: the lowest and the highest cost of all cells of the space, which become 0 and 1.
    Cells beyond the highest cost count for nothing.
    """
    least, most = limits
    kept = front(quality, cost)
    scaled = (cost[kept] - least) / (most - least)
    widths = numpy.diff(numpy.r_[scaled, 1.0].clip(max=1.0))
    return float((quality[kept] * widths).sum())


def best_within(quality: Numbers, cost: Numbers, limit: float) -> int | None:
    """The best cell that costs no more than the limit, the cheapest of equally good ones; None where none does."""
    allowed = numpy.flatnonzero(cost <= limit)
    if not len(allowed):
        return None
    return int(allowed[numpy.lexsort((cost[allowed], -quality[allowed]))[0]])
