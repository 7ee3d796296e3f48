"""Every method in every space by both engines, in both precisions, with activation checkpointing and without."""

from __future__ import annotations

import itertools
import json

import pytest

from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces.membership import check_membership
from tests.conftest import GRADIENT_METHODS, ROOT, TINY, composed

ELSEWHERE = ("recurrent", "mobile", "nasbench_macro", "single_cell", "darts_")  # test_text.py, _chain.py, _suite.py
FILES = sorted((ROOT / "conf" / "space").glob("*.yaml"))
SPACES = [file.stem for file in FILES if not file.stem.startswith(ELSEWHERE)]
WAYS = list(itertools.product(["fused", "reference"], ["fp32", "bf16"], [False, True]))  # engine, precision, checkpoint
TINY_IMAGES = [*TINY, "dataset.fraction=0.002", "search.batch_size=10"]  # 20 images: one step an epoch
OWN = {  # what a method needs, or what makes it shorter
    "pc_darts": ["network.channels=4"],
    "lambda_darts": ["network.cells=4"],
    "p_darts": ["search.epochs=3"],
    "random_weight_sharing": ["search.epochs=2", "method.schedule.samples=3", "method.schedule.finalists=1"],
    "drnas": ["network.channels=4"],
    "drnas_progressive": ["search.epochs=2", "network.channels=12"],
    "darts_pt": ["method.schedule.interval=1"],
    "darts_pt_fixed": ["method.schedule.interval=1"],
}
ABOUT_SKIPS = ("darts_minus", "p_darts")  # refused in a space without skip connections


def pairs() -> list[tuple[str, str, tuple[str, str, bool]]]:
    """Every method in every space, each pair in one way; each method meets every way, and so does each space."""
    found = []
    for row, method in enumerate(GRADIENT_METHODS):
        for column, space in enumerate(SPACES):
            found.append((method, space, WAYS[(row + column) % len(WAYS)]))
        found.append((method, "nasbench201", WAYS[(row + len(SPACES)) % len(WAYS)]))
    return found


def settings(method: str, space: str, engine: str, precision: str, checkpointing: bool):
    return composed(
        "search",
        *TINY_IMAGES,
        "search.epochs=1",
        f"method={method}",
        f"space={space}",
        f"engine={engine}",
        f"precision={precision}",
        f"memory.activation_checkpointing={str(checkpointing).lower()}",
        *OWN.get(method, []),
    )


def test_the_matrix_pairs_every_method_space_and_way():
    for first, second in itertools.combinations(range(3), 2):
        there = {(row[first], row[second]) for row in pairs()}
        axes = (GRADIENT_METHODS, SPACES, WAYS)
        assert there == set(itertools.product(axes[first], axes[second]))


OFTEN = ("nasbench201", "s1")  # spaces whose combinations are searched in every run of .ci/run


def marked(row: tuple[str, str, tuple[str, str, bool]]):
    return pytest.param(*row, marks=[pytest.mark.slow, *([pytest.mark.exhaustive] if row[1] not in OFTEN else [])])


@pytest.mark.parametrize(
    ("method", "space", "way"), map(marked, pairs()), ids=lambda value: str(value).replace(" ", "")
)
def test_every_combination_searches(method, space, way, tmp_path):
    if space == "s4" and method in ABOUT_SKIPS:
        with pytest.raises(UserError, match=r"space\.candidates .* must be with skip_connect"):
            settings(method, space, *way)
        return
    genotype = search.run(settings(method, space, *way), tmp_path)
    check_membership(genotype, composed("search", f"space={space}").space, "the found cell")
    last = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])
    assert last["valid/loss"] > 0


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("engine", ["fused", "reference"])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_activation_checkpointing_changes_no_bit(method, engine, tmp_path):
    """What is computed twice is computed alike: the same batch norms' modes, the same random numbers."""
    for folder, checkpointing in (("kept", False), ("again", True)):
        search.run(settings(method, "nasbench201", engine, "fp32", checkpointing), tmp_path / folder)
    kept, again = ((tmp_path / folder / "history.jsonl").read_bytes() for folder in ("kept", "again"))
    assert again == kept
