"""Genotypes from strangers are parsed, never run; whatever they hold ends in one line within a second."""

from __future__ import annotations

import json
import time

import pytest

from darts.runtime.errors import UserError
from darts.spaces.genotype import from_json
from darts.spaces.notation import from_notation
from darts.spaces.sources import find_genotype
from tests.conftest import CANDIDATES, space_of

RUN = "__import__('os').system('touch executed')"
CELL = {"nodes": [[["skip_connect", 0]]], "concat": [2]}
WHOLE = {"format": "darts genotype", "version": 1, "space": "x", "provenance": {}, "cells": {"normal": CELL}}
EDGES = "[('skip_connect', 0), ('skip_connect', 1)]"
GOOD = f"Genotype(normal={EDGES}, normal_concat=range(2, 3), reduce=[], reduce_concat=[])"


def changed(**values) -> str:
    return json.dumps({**WHOLE, **values})


def cell(nodes, concat=(2,)) -> str:
    return changed(cells={"normal": {"nodes": nodes, "concat": list(concat)}})


TEXTS = [
    RUN, f"[{RUN}]", f"Genotype(normal={RUN}, normal_concat=[2], reduce=[], reduce_concat=[2])", f"eval({RUN!r})",
    "exec('open(\"executed\", \"w\")')", "DARTS_V2.__class__", "darts_v2.__class__", "().__class__.__bases__[0]",
    "../../etc/passwd", "/etc/passwd", "${oc.env:HOME}", "file:///etc/passwd", "lambda: 0", "{}", "[]", "null", "",
    GOOD.replace("range(2, 3)", "range(2, 10**9)"), GOOD.replace("range(2, 3)", "range(10000)"), GOOD + ".__class__",
    GOOD.replace("0)", "0.5)", 1), GOOD.replace("0)", "True)", 1), GOOD.replace("normal=", "**", 1),
    GOOD.replace("Genotype(", "Genotype(1, "), GOOD.replace("reduce=[]", "reduce=[], reduce=[]"), "Genotype(" * 5_000,
    "[" * 100_000, "[" * 15_000, '{"a":' * 5_000, "9" * 19_000, "x" * 10_000_000,
    changed(version=10**400), changed(version=1.0),
    changed(format=RUN), changed(space=["x"]), cell([[["skip_connect", float("nan")]]]),
    cell([[["skip_connect", 10**30]]]), cell([[["skip_connect", -1]]]), cell([[["skip_connect", 0]]], [99]),
    json.dumps(WHOLE)[:-1] + ', "cells": {}}', changed(extra=1),
]  # fmt: skip


def test_hostile_genotypes_are_refused_in_a_line_and_nothing_runs(tmp_path, monkeypatch, injected):
    monkeypatch.chdir(tmp_path)
    space = space_of("darts", 4, 2, list(CANDIDATES))
    assert len(TEXTS) >= 30
    for text in TEXTS:
        begun = time.monotonic()
        for parse in (from_json, from_notation, lambda given: find_genotype(given, space, "runs", 0)):
            with pytest.raises(UserError) as refused:
                parse(text)
            assert "\n" not in str(refused.value) and len(str(refused.value)) < 2_000
        assert time.monotonic() - begun < 3
    assert not list(tmp_path.iterdir())
    injected("hostile genotype", len(TEXTS))


def test_an_operation_of_any_name_is_a_name_and_of_no_space(tmp_path, monkeypatch, injected):
    monkeypatch.chdir(tmp_path)
    hostile = cell([[[RUN, 0]]])
    (tmp_path / "hostile.json").write_text(hostile)
    assert from_json(hostile).cells["normal"].nodes[0][0].operation == RUN  # a text like any other
    with pytest.raises(UserError):
        find_genotype("hostile.json", space_of("darts", 4, 2, list(CANDIDATES)), "runs", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.json"]
    injected("hostile genotype")
