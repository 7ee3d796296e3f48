"""When garbage is collected: not while PyTorch is imported nor as a command ends; in a training as ever."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT, TINY_SEARCH, TINY_TRAIN, run_command


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


TRACED = """
import atexit, gc, sys
from darts.runtime import distributed
atexit.register(lambda: print("at the end", gc.get_freeze_count() > began + 10_000))
real, began = distributed.process_group, 0
def group(*settings):
    global began
    began = gc.get_freeze_count()
    print("before the training", began > 100_000)
    return real(*settings)
distributed.process_group = group
from darts.{room}.__main__ import command
command()
"""


@pytest.mark.parametrize("plugins", [False, True])
@pytest.mark.parametrize("room", ["search", "train"])
def test_a_command_sets_pytorch_apart_before_it_trains_and_all_as_it_ends(room, plugins, tmp_path):
    """`main` of a folder is its command; a plug-in that imports PyTorch changes nothing."""
    given = [*TINY_SEARCH, "search.epochs=1"] if room == "search" else [*TINY_TRAIN, "genotype=darts_v2"]
    if plugins:
        (tmp_path / "own.py").write_text("import torch\n")
        given.append("plugins=[own]")
    code = TRACED.replace("{room}", room)
    done = run_command(["-c", code, *given], tmp_path)
    assert "before the training True" in done.stdout and "at the end True" in done.stdout, done.stdout + done.stderr


COMMANDS = [
    *(f"darts.{name}" for name in ("correlate", "describe", "export", "front", "measure", "predict", "runs", "select")),
    *(
        "darts.tune",
        "darts.benchmark.processes",
        *(f"darts.{name}.__main__" for name in ("benchmark", "compare", "search", "train")),
    ),
]


def test_every_command_imports_pytorch_by_the_function_for_it():
    """All but those that need none: the list of runs and the fronts of a table."""
    found = {}
    for file in (ROOT / "darts").rglob("*.py"):
        text = file.read_text()
        if "@cli_command(" in text:
            found[".".join(file.relative_to(ROOT).with_suffix("").parts)] = "    import_torch()\n" in text
    assert sorted(found) == sorted(COMMANDS)
    assert [name for name in COMMANDS if not found[name]] == ["darts.front", "darts.runs"]


@pytest.mark.parametrize("module", [*COMMANDS, "darts.loop.listing"])
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
