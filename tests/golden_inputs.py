"""Inputs by formula of the numbers in tests/golden, which the authors' own code gave (each file names it).

Entries are counted from 0, row by row; edges are in the order of DARTS, candidates in that of its space.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.conftest import CANDIDATES, ROOT, space_of

EIGHT = space_of("darts", 4, 2, list(CANDIDATES))
SEVEN = space_of("darts", 4, 2, list(CANDIDATES[1:]))  # without none
CLOSE = {"rtol": 0.0, "atol": 1e-9}


@cache
def golden(name: str) -> Any:
    """The numbers of a file."""
    return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text())


def wave(shape: tuple[int, ...], k: int, scale: float = 1.0) -> Tensor:
    """Entry i is scale * sin(12.9898 j + 78.233 k + 0.37 j j + 0.11 k j), j = i mod 1009 + 1, in float64."""
    values = []
    for index in range(math.prod(shape)):
        j = index % 1009 + 1
        values.append(scale * math.sin(12.9898 * j + 78.233 * k + 0.37 * j * j + 0.11 * k * j))
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def series(index: int, k: int) -> float:
    """The same without the scale and without the modulus."""
    j = index + 1
    return math.sin(12.9898 * j + 78.233 * k + 0.37 * j * j + 0.11 * k * j)


def tensor(values: Any) -> Tensor:
    """Numbers of a file in float64."""
    return torch.tensor(values, dtype=torch.float64)


def edges_of(cell: Any, space: Any = EIGHT) -> list[list[int]]:
    """A cell of this project as [candidate, input], the strongest of each node first."""
    return [[space.candidates.index(edge.operation), edge.source] for edges in cell.nodes for edge in edges]


def cases(name: str, *keys: str) -> list[Any]:
    """A list within a file, for parametrisation."""
    found = golden(name)
    for key in keys:
        found = found[key]
    return list(found)
