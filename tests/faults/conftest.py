"""Counts the faults that the tests inject and what became of them; the sum is printed at the end of the run."""

from __future__ import annotations

from collections import Counter

import pytest


@pytest.fixture
def injected(record_property):
    """Call it with a kind of fault, how many were injected, and how many runs ended as if there had been none."""

    def count(kind: str, faults: int = 1, equal: int = 0) -> None:
        record_property("fault", [kind, faults, equal])

    return count


def counted(reports) -> dict[str, Counter]:
    """By kind, of the tests that passed."""
    found: dict[str, Counter] = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", []):
            if name == "fault" and report.when == "call":
                kind, faults, equal = value
                found.setdefault(kind, Counter()).update(faults=faults, equal=equal)
    return found
