"""Runs a comparison's trials through Hydra's launcher, and gathers from files what they gave.

The default launcher runs them here, one after the other; `hydra/launcher=joblib` and others run them elsewhere. Nothing
passes between trials: each is found again by its name, and what is in the folder already is not done again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, configure_log
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from darts.blackbox import loop as blackbox
from darts.compare.plan import Trial, plan_trials, trial_name, trial_settings
from darts.compare.searches import (
    finished_searches,
    plan_searches,
    planned_search,
    refuse_other_spaces,
    refuse_useless,
    search_folder,
    settings_of_search,
    shown,
)
from darts.compare.settings import CompareSettings
from darts.config.compose import typed_settings
from darts.loop.record import cost_of
from darts.models.cost import network_costs
from darts.runtime.device import choose_device
from darts.runtime.errors import UserError
from darts.runtime.files import read_lines
from darts.search import loop as search
from darts.search.settings import SearchSettings
from darts.spaces.nasbench201 import load_table
from darts.tasks.datasets import shape_of
from darts.train import retraining as retrain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What one trial gave."""

    pair: int
    group: str
    cell: str
    genotype: str  # its digest
    seed: int
    test_accuracy: float
    parameters: int
    macs: int
    seconds: float


def check(settings: CompareSettings, folder: Path) -> None:
    """Refuse what the searches and trainings would refuse, before anything runs."""
    refuse_useless(settings)
    refuse_other_spaces(settings)
    if not plan_searches(settings):
        plan_trials(settings, folder)


def run_all(settings: CompareSettings, folder: Path) -> list[str]:
    """Run every trial that the folder lacks, searches first; returns the names of those that failed twice."""
    ended = [planned for planned, _ in finished_searches(settings, folder)]
    searches = [planned for planned in plan_searches(settings) if planned not in ended]
    failed = launch([f"search:{s.seed}:{s.method}" for s in searches], folder)
    if settings.benchmark.table is not None:
        return failed
    trials = plan_trials(settings, folder)
    lacking = [t for t in trials if not (folder / "trials" / trial_name(settings, t) / "result.json").exists()]
    names = dict.fromkeys(f"train:{trial_name(settings, t)}" for t in lacking)
    return failed + launch(list(names), folder)


def launch(names: Sequence[str], folder: Path) -> list[str]:
    """Run trials by name through the launcher that Hydra was told to use; one that fails is tried once more."""
    failed = list(names)
    for attempt in range(2):
        if failed:
            failed = _launched(failed, folder, attempt)
    return failed


def _launched(names: Sequence[str], folder: Path, attempt: int) -> list[str]:
    hydra, own = GlobalHydra.instance().hydra, HydraConfig.get()
    if hydra is None:
        raise RuntimeError("trials are launched from within the command")
    place = (folder / "jobs").resolve()
    given = [
        item for item in own.overrides.hydra if not item.startswith(("hydra.run.dir", "hydra.sweep", "hydra.mode"))
    ]
    given += [f"hydra.sweep.dir={shown(str(place))}", "hydra.sweep.subdir=${hydra.job.num}", "hydra.mode=MULTIRUN"]
    composed = hydra.compose_config(
        config_name=own.job.config_name,
        overrides=[*own.overrides.task, *given],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=_callbacks(composed))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_trial, config=composed)
    task = [item for item in own.overrides.task if not item.startswith("trial=")]
    jobs = [[*task, f"trial={shown(name)}"] for name in names]
    done = sum(1 for _ in place.glob("*")) if place.exists() else 0
    try:
        returned = launcher.launch(jobs, initial_job_idx=done)
    except Exception as error:  # noqa: BLE001  launchers raise what they like when one of their processes dies
        log.warning("the launcher gave up (%s: %s)", type(error).__name__, str(error).splitlines()[0][:200])
        return list(names)  # what ended all the same is not done again
    finally:
        configure_log(own.job_logging, own.verbose)  # type: ignore[arg-type]
    failed = []
    for name, result in zip(names, returned, strict=True):
        if result.status is not JobStatus.COMPLETED:
            raised = result._return_value
            reason = str(raised) if isinstance(raised, UserError) else f"{type(raised).__name__}: {raised}"
            log.warning("trial %s failed%s: %s", name, " again" if attempt else "", reason)
            failed.append(name)
    return failed


def _callbacks(composed: DictConfig) -> Any:
    from hydra._internal.callbacks import Callbacks

    return Callbacks(composed)


def run_trial(config: DictConfig) -> float:
    """What a launched job does: one search or one training, by the name in `trial`."""
    settings = typed_settings(config, CompareSettings)
    folder = Path(HydraConfig.get().sweep.dir).parent
    kind, _, name = str(settings.trial).partition(":")
    if kind == "search":
        seed, _, method = name.partition(":")
        log.info("\nsearch by %s, seed %s", method, seed)
        planned = planned_search(settings, method, int(seed))
        own, place = settings_of_search(settings, method, int(seed)), search_folder(folder, planned)
        search.run(own, place) if isinstance(own, SearchSettings) else blackbox.run(own, place)
        return 0.0
    for trial in plan_trials(settings, folder):
        if trial_name(settings, trial) == name:
            log.info("\npair %d: %s cell (%s), seed %d", trial.pair, trial.group, trial.cell, trial.seed)
            result = retrain.run(trial_settings(settings, trial), trial.genotype, folder / "trials" / name)
            log.info("test accuracy %.2f%%", 100 * result["test_accuracy"])
            return 1 - float(result["test_accuracy"])
    raise UserError(
        f"trial is {settings.trial!r}; there is none of that name; the data or the settings have changed since it was "
        "planned, or the name is wrong"
    )


def outcomes(settings: CompareSettings, folder: Path) -> list[Outcome]:
    """What the trials gave, read from the folder (or from the table); pairs of which one is missing are left out."""
    trials = plan_trials(settings, folder)
    if settings.benchmark.table is not None:
        return _from_table(settings, trials)
    read = _from_files(settings, trials, folder)
    wanted, there = (Counter(item.pair for item in items) for items in (trials, read))
    return [outcome for outcome in read if there[outcome.pair] == wanted[outcome.pair]]


def _from_files(settings: CompareSettings, trials: Sequence[Trial], folder: Path) -> list[Outcome]:
    found = []
    for trial in trials:
        file = folder / "trials" / trial_name(settings, trial) / "result.json"
        if file.exists():
            result = retrain.finished(trial_settings(settings, trial), trial.genotype, file.parent, quiet=True)
            metrics = {name: result[name] for name in ("test_accuracy", "parameters", "macs", "seconds")}
            found.append(Outcome(trial.pair, trial.group, trial.cell, trial.genotype.digest(), trial.seed, **metrics))
    return found


def _from_table(settings: CompareSettings, trials: Sequence[Trial]) -> list[Outcome]:
    table, shape = load_table(settings.benchmark, settings.space), shape_of(settings.dataset)
    if table is None:
        raise RuntimeError("no table")
    known: dict[str, dict[str, float]] = {}
    found = []
    once: dict[tuple[str, str], Trial] = {}  # a table would say the same again
    for trial in trials:
        once.setdefault((trial.group, trial.cell), trial)
    for trial in once.values():
        name = trial.genotype.digest()
        if name not in known:
            device = choose_device(settings.device)
            known[name] = network_costs(trial.genotype, settings.network, shape, device, ("parameters", "macs"))
        accuracy = table.accuracy(trial.genotype, settings.benchmark.column) / 100
        costs = {cost: int(value) for cost, value in known[name].items()}
        found.append(Outcome(trial.pair, trial.group, trial.cell, name, trial.seed, accuracy, **costs, seconds=0.0))
    return found


def search_costs(settings: CompareSettings, folder: Path) -> dict[str, list[dict[str, float]]]:
    """By method what each of its searches has spent: evaluations, epochs, seconds."""
    found: dict[str, list[dict[str, float]]] = {}
    for planned, place in finished_searches(settings, folder):
        found.setdefault(planned.method, []).append(cost_of(place))
    return found


def histories(settings: CompareSettings, folder: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """By method the lines of each of its searches."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for planned, place in finished_searches(settings, folder):
        found.setdefault(planned.method, []).append(read_lines(place / "history.jsonl", {}))
    return found
