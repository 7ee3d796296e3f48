"""Long runs do not grow; a run is found again from its folder alone, and by no other settings."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import yaml

from darts.runtime.errors import UserError
from darts.search import loop as search
from tests.conftest import ROOT, TINY_SEARCH, composed, run_command


def held() -> tuple[float, int, int]:
    """Megabytes, open files and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
    )


SOAK = """
import sys
from pathlib import Path
from tests.conftest import TINY_SEARCH, composed
from tests.faults.test_long_runs import held
from darts.search import loop as search
short = ["space.nodes=1", "space.candidates=[skip_connect,max_pool_3x3]", "search.batch_size=4", "dataset.fraction=0.2"]
state = search.start_or_resume(composed("search", *TINY_SEARCH, *short), Path(sys.argv[1]))
steps = len(state.data.train)
search.search_epoch(state)
begun = held()
done = steps
while done < 2000:
    state.epoch, state.step = state.epoch + 1, 0
    search.search_epoch(state)
    done += steps
print(steps, done, *begun, *held())
"""


@pytest.mark.slow(90)
def test_two_thousand_steps_take_no_more_than_two_hundred(tmp_path, injected):
    done = run_command(["-c", SOAK, str(tmp_path)], ROOT)
    assert done.returncode == 0, done.stderr
    steps, total, memory, files, threads, *after = map(float, done.stdout.splitlines()[-1].split())
    assert steps >= 200 and total >= 2000
    assert after[0] - memory < 5 and after[1:] == [files, threads]
    injected("soak of two thousand steps", 0, 1)


def test_a_run_is_repeated_from_its_folder_only(tmp_path, injected):
    given = [*TINY_SEARCH, "seed=3", "method=gdas", "weight_optimiser.learning_rate=0.02"]
    first = run_command([str(ROOT / "train_search.py"), *given, "hydra.run.dir=first"], tmp_path)
    assert first.returncode == 0, first.stderr
    overrides = yaml.safe_load((tmp_path / "first" / ".hydra" / "overrides.yaml").read_text())
    again = run_command([str(ROOT / "train_search.py"), *overrides, "hydra.run.dir=again"], tmp_path)
    assert again.returncode == 0, again.stderr
    for name in ("genotype.json", "history.jsonl", "split.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    settings = [json.loads((tmp_path / run / "run.json").read_text())["settings"] for run in ("first", "again")]
    assert settings[0] == settings[1]
    injected("run repeated from its folder", 0, 1)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=1", "seed"),
        ("method=gdas", "method.name"),
        ("space.nodes=3", "space.nodes"),
        ("search.batch_size=17", "search.batch_size"),
        ("network.channels=4", "network.channels"),
        ("dataset.fraction=0.02", "dataset.fraction"),
        ("weight_optimiser.learning_rate=0.01", "weight_optimiser.learning_rate"),
        ("precision=bf16", "precision"),
    ],
)
def test_a_run_does_not_resume_under_other_settings(override, named, tmp_path, injected):
    state = search.start_or_resume(composed("search", *TINY_SEARCH), tmp_path)
    state.save()
    state.tracker.close()
    with pytest.raises(UserError, match="holds a run of other settings") as refused:
        search.run(composed("search", *TINY_SEARCH, override), tmp_path)
    assert named in str(refused.value)
    injected("resumed under other settings")
