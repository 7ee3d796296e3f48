"""A trigram model with interpolated Kneser-Ney smoothing (Kneser and Ney 1995), which networks must beat."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

Counts = Counter[tuple[int, ...]]


class KneserNey:
    """Probabilities of a word after two others, from the words of a training text.

    Each order takes a discount from every count and gives what it takes to the order below, down to equal
    probabilities of all words; the lower orders count in how many contexts a word was seen.
    """

    def __init__(self, text: Sequence[int], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        counts: Counts = Counter(zip(text, text[1:], text[2:], strict=False))
        self.orders = []
        for _ in range(3):
            self.orders.append((counts, discount(counts), totals(counts)))
            counts = Counter(gram[1:] for gram in counts)

    def probability(self, gram: tuple[int, ...], order: int = 0) -> float:
        """Of the last word of `gram` after the others."""
        if order == len(self.orders):
            return 1 / self.vocabulary
        counts, taken, sums = self.orders[order]
        below = self.probability(gram[1:], order + 1)
        total, kinds = sums.get(gram[:-1], (0, 0))
        return below if not total else (max(counts[gram] - taken, 0) + taken * kinds * below) / total

    def perplexity(self, text: Sequence[int]) -> float:
        grams = list(zip(text, text[1:], text[2:], strict=False))
        return math.exp(-math.fsum(math.log(self.probability(gram)) for gram in grams) / len(grams))


def discount(counts: Counts) -> float:
    """n1 / (n1 + 2 n2), where n1 and n2 are how many grams were counted once and twice."""
    once, twice = (sum(count == times for count in counts.values()) for times in (1, 2))
    return once / (once + 2 * twice)


def totals(counts: Counts) -> dict[tuple[int, ...], tuple[int, int]]:
    """By context: the sum of its grams' counts, and how many grams it has."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0, 0])
    for gram, count in counts.items():
        found[gram[:-1]][0] += count
        found[gram[:-1]][1] += 1
    return {context: (total, kinds) for context, (total, kinds) in found.items()}
