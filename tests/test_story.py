"""One search step, traced: the files it passes are those that README's walk names, and tools that call none of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from darts.search import loop
from tests.conftest import ROOT, TINY_SEARCH, composed

PACKAGE = ROOT / "darts"
WALK = [  # README's walk, from the command down
    *("train_search.py", "darts/search/__main__.py", "darts/search/loop.py", "darts/search/step.py"),
    *("darts/search/state.py", "darts/methods/hypergradient.py", "darts/methods/method.py"),
    *("darts/methods/relaxation.py", "darts/models/mixture.py", "darts/models/supernet.py"),
    *("darts/methods/weight_gradient.py", "darts/loop/optimisation.py"),
]


class Calls:
    """Which file of the package called which, during a call."""

    def __init__(self) -> None:
        self.pairs: set[tuple[str, str]] = set()

    def during(self, function: Callable[[], Any]) -> Any:
        sys.setprofile(self.noted)
        try:
            return function()
        finally:
            sys.setprofile(None)

    def noted(self, frame: FrameType, event: str, _: object) -> None:
        called = own_file(frame)
        if event != "call" or called is None:
            return
        outer = frame.f_back
        while outer is not None and own_file(outer) is None:
            outer = outer.f_back
        caller = None if outer is None else own_file(outer)
        if caller not in (None, called):
            self.pairs.add((str(caller), called))


def own_file(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(PACKAGE) else None


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> Calls:
    settings = composed("search", *TINY_SEARCH, "search.epochs=1", "engine=reference", "logger=none")
    found, step = Calls(), loop.search_step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "search_step", lambda *given: found.during(lambda: step(*given)))
        loop.run(settings, tmp_path_factory.mktemp("run"))
    return found


def test_one_search_step_is_told_by_at_most_twelve_files(calls):
    """All that the step of plain DARTS needs; variants of a part stand below the line "# Variants"."""
    assert len(WALK) <= 12
    passed = {called for _, called in calls.pairs}
    assert set(WALK[3:]) <= passed  # the first three lead to the step
    texts = [(ROOT / name).read_text() for name in WALK]
    assert sum(text.split("\n# Variants\n")[0].count("\n") for text in texts) < 1700
    readme = (ROOT / "README.md").read_text()
    for name in WALK:
        assert f"`{name}`" in readme, name


def test_what_else_a_step_passes_are_tools_that_call_no_file_of_the_walk(calls):
    tools = {called for _, called in calls.pairs} - set(WALK)
    back = {(caller, called) for caller, called in calls.pairs if caller in tools and called in WALK}
    assert back == set()
    table = (ROOT / "docs" / "design.md").read_text().partition("## Tools of a step")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(darts/[a-z_/]+\.py)`", table))
    assert told == tools
