"""Cells as the strings of their benchmarks, by which tables are keyed: NAS-Bench-201's and NAS-Bench-Macro's.

NAS-Bench-Macro (Su et al. 2021, "Prioritized architecture sampling with Monte-Carlo tree search", arXiv 2103.11922):
6,561 chains of eight layers, each a digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from darts.runtime.errors import UserError
from darts.spaces import nasbench201
from darts.spaces.chain import CHAIN, from_digits, is_chain, to_digits
from darts.spaces.genotype import Genotype

MACRO = "nasbench_macro"
MACRO_CANDIDATES = ("skip_connect", "inverted_3x3_e3_relu", "inverted_5x5_e6_relu")  # digits 0, 1, 2
MACRO_LAYERS = 8
SPACES = (nasbench201.SPACE, MACRO)  # those whose genotypes have a string


def has_string(genotype: Genotype) -> bool:
    """Whether a genotype is one of a benchmark's."""
    if not is_chain(genotype):
        return nasbench201.has_string(genotype)
    names = genotype.cells[CHAIN].operations()
    return genotype.space == MACRO and len(names) == MACRO_LAYERS and set(names) <= set(MACRO_CANDIDATES)


def to_string(genotype: Genotype) -> str:
    """The benchmark's own form; raises `UserError` for a genotype that is of none."""
    if genotype.space == MACRO and has_string(genotype):
        return to_digits(genotype, MACRO_CANDIDATES)
    return nasbench201.to_string(genotype)


def as_string(genotype: Genotype) -> str:
    """The same of a genotype of no benchmark too, of which it is a text that no table has."""
    if not is_chain(genotype):
        return nasbench201.joined(genotype)
    names = genotype.cells[CHAIN].operations()
    return "".join(str(MACRO_CANDIDATES.index(name)) if name in MACRO_CANDIDATES else f"|{name}|" for name in names)


def from_string(text: str, space: str) -> Genotype:
    """Read a benchmark's form; raises `UserError` for anything else, and for a space without a benchmark."""
    if space == MACRO:
        return from_digits(text.strip(), MACRO_CANDIDATES, MACRO_LAYERS, MACRO)
    if space == nasbench201.SPACE:
        return nasbench201.from_string(text)
    raise UserError(f"space {space!r} has no benchmark; {' and '.join(SPACES)} have")


def all_strings(space: str) -> Iterator[str]:
    """Every genotype of a benchmark."""
    if space == MACRO:
        return ("".join(digits) for digits in itertools.product("012", repeat=MACRO_LAYERS))
    return nasbench201.all_strings()
