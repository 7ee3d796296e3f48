"""When garbage is collected: not while PyTorch is imported nor as a command ends; in a training as ever."""

from __future__ import annotations

import pytest

from tests.conftest import run_command


def test_pytorch_is_imported_without_a_collection_and_never_read_again(tmp_path):
    code = """
import gc, sys
from darts.runtime.garbage import import_torch
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase))
import_torch()
assert "torch" in sys.modules and not collections and gc.isenabled()
assert gc.get_freeze_count() > 100_000, gc.get_freeze_count()
class Loop: pass
one = Loop()
one.itself, ended = one, []
import weakref
weakref.finalize(one, ended.append, 1)
del one
gc.collect()
assert ended, "what is made after the import is collected as ever"
before = gc.get_freeze_count()
import_torch()
assert gc.get_freeze_count() == before, "what the first job of a sweep left is collected as ever"
"""
    done = run_command(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_collector_that_was_off_stays_off(tmp_path):
    code = (
        "import gc; from darts.runtime.garbage import import_torch as call; gc.disable(); call(); print(gc.isenabled())"
    )
    assert run_command(["-c", code], tmp_path).stdout.split() == ["False"]


def test_a_process_ends_without_a_collection(tmp_path):
    """The objects that are left are frozen by the time that other functions of `atexit` have run."""
    code = """
import atexit, gc
from darts.runtime.garbage import end_without_collection
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
end_without_collection()
print(gc.get_freeze_count())
"""
    done = run_command(["-c", code], tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "True"]), done.stderr


NEED_NONE = ["darts.runs", "darts.front", "darts.select", "darts.tune", "darts.correlate", "darts.train.__main__"]


@pytest.mark.parametrize(
    "module", [*NEED_NONE, "darts.search.__main__", "darts.loop.listing", "darts.compare.__main__"]
)
def test_a_command_is_imported_without_pytorch(module, tmp_path):
    """So that its --help, a wrong setting and a list of runs are answered at once."""
    done = run_command(["-c", f"import {module}, sys; print('torch' in sys.modules)"], tmp_path)
    assert done.stdout.split() == ["False"], done.stderr


def test_runs_are_listed_without_pytorch(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"kind": "search by gradients", "ended": false}')
    code = "import sys; from darts.runs import main; main(); print('torch' in sys.modules)"
    done = run_command(["-c", code, f"runs={tmp_path}"], tmp_path)
    assert "search" in done.stdout and done.stdout.split()[-1] == "False", done.stderr
