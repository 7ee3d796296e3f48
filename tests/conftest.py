"""What the tests share: a tiny space, supernet and batch, composed settings, and the commands as processes."""

from __future__ import annotations

import atexit
import copy
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from darts.benchmark.settings import BenchmarkSettings
from darts.compare.settings import CompareSettings
from darts.config.compose import CONF, typed_settings
from darts.config.implied import implied_choices
from darts.correlate import AnyCorrelateSettings
from darts.describe import DescribeSettings
from darts.models.supernet import Supernet
from darts.search.settings import AnySearchSettings
from darts.select import SelectSettings
from darts.spaces.search_space import InputShape, SearchSpace, Skeleton, plan_cells
from darts.train.settings import AnyFinalSettings
from darts.tune import TuneSettings
from tests.forkserver import ForkServer, Pictures, leave_out_pictures

ROOT = Path(__file__).parent.parent
CANDIDATES = [
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
    "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
]  # fmt: skip

# The smallest whole runs: 100 images, a network of three cells of two channels.
TINY_DATA = ["dataset.fraction=0.01", "device=cpu"]
TINY = [*TINY_DATA, "network.channels=2", "network.cells=3", "network.stem_reductions=2"]
TINY_SEARCH = [*TINY, "search.epochs=3", "search.batch_size=16", "space.nodes=2",
               "space.candidates=[none,max_pool_3x3,skip_connect,sep_conv_3x3]"]  # fmt: skip
TINY_SCORES = [item for item in TINY_SEARCH if not item.startswith(("network.", "search.epochs"))]  # for black box
TINY_TRAIN = [*TINY, "train.epochs=2", "train.batch_size=32"]

METHOD_FILES = sorted((ROOT / "conf" / "method").glob("*.yaml"))
GRADIENT_METHODS = [file.stem for file in METHOD_FILES if "/schema/strategy/" not in file.read_text()]

SCHEMAS = {
    "search": AnySearchSettings,
    "final": AnyFinalSettings,
    "compare": CompareSettings,
    "describe": DescribeSettings,
    "select": SelectSettings,
    "benchmark": BenchmarkSettings,
    "tune": TuneSettings,
    "correlate": AnyCorrelateSettings,
}

PROGRAMS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # so that `python` is this one
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": PROGRAMS}  # of the commands
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]

torch.set_num_threads(1)
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples on every machine
hypothesis.settings.load_profile("steady")


GROUPS = {folder.name for folder in Path(CONF).iterdir() if folder.is_dir()}


@functools.cache
def chosen(command: str, *choices: str) -> DictConfig:
    """A command's configuration with parts chosen, as Hydra composes it in half a second; not to be changed."""
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose(command, list(choices))


def configuration(command: str, *overrides: str) -> DictConfig:
    """A command's configuration before it is checked, as `compose` makes it; what is composed is composed once.

    Values are set by what Hydra itself sets them with, after composition.
    """
    choices, values = [], []
    for override in [*overrides, *implied_choices(command, overrides)]:
        key = override.partition("=")[0]
        plain = re.fullmatch(r"\w+(\.\w+)*", key) and key not in GROUPS and not key.startswith("hydra.")
        (values if plain else choices).append(override)
    parsed = OverridesParser.create().parse_overrides(values)
    if any(override.is_sweep_override() for override in parsed):
        return chosen(command, *choices, *values)
    config = copy.deepcopy(chosen(command, *choices))
    ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    return config


def composed(command: str, *overrides: str):
    """The typed settings of a command, as its own entry point composes them."""
    settings = typed_settings(configuration(command, *overrides), SCHEMAS[command])
    return settings.narrowed() if hasattr(settings, "narrowed") else settings


def run_command(
    command: list[str], folder: Path, timeout: float = 300, pictures: bool | None = None, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run `python` with the given arguments in a folder, as a user would, in a fork of one that has imported it all.

    With another environment, code or torchrun it is a process from the start. Pictures are drawn where the test is of
    them, or where told.
    """
    if extra.keys() - {"PYTHONPATH"} or command[:1] == ["-c"] or command[:2] == TORCHRUN[:2]:
        return subprocess.run(
            [sys.executable, *command], cwd=folder, env={**ENVIRONMENT, **extra}, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
    drawn = Pictures.drawn if pictures is None else pictures
    return fork_server().run([str(item) for item in command], folder, timeout, drawn, extra.get("PYTHONPATH"))


@functools.cache
def fork_server() -> ForkServer:
    server = ForkServer(ENVIRONMENT)
    atexit.register(server.stop)
    return server


def some(values: Iterable[Any], *chosen: Any) -> list[Any]:
    """Values of a parametrised test; those that are not chosen are for the slow tests, and not in `.ci/run`."""
    rare = [pytest.mark.slow, pytest.mark.exhaustive]
    return [value if value in chosen else pytest.param(value, marks=rare) for value in values]


def space_of(name: str, nodes: int, edges_kept: int, candidates: list[str]) -> SearchSpace:
    """A space in the skeleton of DARTS with the same candidates on every edge."""
    return SearchSpace(name, nodes, edges_kept, candidates, Skeleton.darts, None)


@pytest.fixture(autouse=True)
def only_wanted_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw their pictures in tests that are marked with `pictures`, and in no others."""
    Pictures.drawn = request.node.get_closest_marker("pictures") is not None
    if not Pictures.drawn:
        leave_out_pictures(monkeypatch.setattr)


@pytest.fixture
def darts_space() -> SearchSpace:
    return space_of("darts", 4, 2, list(CANDIDATES))


@pytest.fixture
def tiny_space() -> SearchSpace:
    return space_of("darts", 2, 2, ["none", "skip_connect", "avg_pool_3x3", "sep_conv_3x3"])


@pytest.fixture
def tiny_supernet(tiny_space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    plans = plan_cells(3, 4, tiny_space.multipliers())
    return Supernet(plans, tiny_space, InputShape(3, 8, 5), 0).double()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 5, (8,), generator=generator)


TOGETHER = ("test_parallel", "test_compare", "test_signals", "test_torchrun", "test_launchers", "test_kills",
            "test_fake_cuda")  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files whose tests share costly runs go to one worker whole; all other tests to whoever is free."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # the order is that of collection, below

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if Path(file).stem in TOGETHER else nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left alone with it; slow tests of faults are exhaustive."""
    for item in items:
        if item.path.parent.name == "faults" and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.exhaustive)

    def seconds(item: pytest.Item) -> float:
        slow = item.get_closest_marker("slow")
        return slow.args[0] if slow and slow.args else 0

    items.sort(key=lambda item: (-seconds(item), item.path.stem not in TOGETHER))


def pytest_terminal_summary(terminalreporter) -> None:
    """How many faults were injected, of what kind, and how many runs were resumed to an equal end."""
    from tests.faults.conftest import counted

    found = counted(terminalreporter.stats.get("passed", []))
    if not found:
        return
    terminalreporter.section("faults")
    for kind, counts in sorted(found.items()):
        resumed = f", {counts['equal']} runs resumed equal" if counts["equal"] else ""
        terminalreporter.write_line(f"{counts['faults']:5d} {kind}{resumed}")
    faults, equal = (sum(counts[name] for counts in found.values()) for name in ("faults", "equal"))
    lost = len(terminalreporter.stats.get("failed", []))
    outcome = "nothing lost" if not lost else f"{lost} tests FAILED"
    terminalreporter.write_line(f"{faults:5d} faults injected, {equal} runs resumed equal, {outcome}")
