"""The page of promises names tests that are there."""

from __future__ import annotations

import ast
import re

from tests.conftest import ROOT


def test_every_promise_names_tests_that_are_there():
    there = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    page = (ROOT / "docs" / "reliability.md").read_text()
    promises = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(promises) >= 17
    for promise in promises:
        named = re.findall(r"`(test_\w+)`", promise)
        assert named and set(named) <= there, set(named) - there
