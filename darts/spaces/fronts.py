"""Fronts: cells that no other beats in several aims at once, and how much of the plane of two aims they hold.

Quality is to be high, and cost low; of several aims each is to be high. Arrays have one entry, or one row, a cell.
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


def ranks(aims: Numbers) -> NDArray[numpy.int64]:
    """Of each row of `aims` (cells, aims), the number of its front: 0 where no other dominates it, then without those.

    Deb et al. 2002, section III A.
    """
    at_least, better = aims[:, None] >= aims[None], aims[:, None] > aims[None]
    dominates = at_least.all(axis=2) & better.any(axis=2)  # (the one, the other)
    found = numpy.full(len(aims), -1)
    number = 0
    while (found < 0).any():
        left = found < 0
        dominated = (dominates & left[:, None]).any(axis=0)
        found[left & ~dominated] = number
        number += 1
    return found


def crowding(aims: Numbers) -> Numbers:
    """Of each row of `aims` (cells of one front, aims), how far apart its neighbours are, summed over the aims.

    The ends of every aim are infinitely far; each aim is scaled by its range (Deb et al. 2002, section III B).
    """
    total = numpy.zeros(len(aims))
    for values in aims.T:
        order = numpy.argsort(values, kind="stable")
        total[order[[0, -1]]] = numpy.inf
        spread = values[order[-1]] - values[order[0]]
        if spread > 0:
            total[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / spread
    return total


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
