"""Runs a comparison's trials through Hydra's launcher, and gathers from files what they gave.

The default launcher runs them here, one after the other; `hydra/launcher=joblib` and others run them elsewhere. Nothing
passes between trials: each is found again by its name, and what is in the folder already is not done again.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, configure_log
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from darts import config as configuration
from darts import retrain, search
from darts.blackbox import search as blackbox
from darts.commands import BlackBoxSettings, CompareSettings, SearchSettings
from darts.compare.plan import (
    Search,
    Trial,
    plan_searches,
    plan_trials,
    search_folder,
    trial_name,
    trial_settings,
)
from darts.constraints import network_costs
from darts.datasets import shape_of
from darts.errors import UserError
from darts.execution import choose_device
from darts.genotype import Genotype
from darts.nasbench201 import truth

log = logging.getLogger(__name__)
PASSED = ("dataset", "space", "device", "deterministic", "precision", "graphs", "runs", "benchmark", "experiment")


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


def check(settings: CompareSettings) -> None:
    """Refuse what the searches would refuse, before anything runs."""
    for planned in plan_searches(settings):
        search_settings(settings, planned)
    if not settings.methods:
        plan_trials(settings, Path())


def run_all(settings: CompareSettings, folder: Path) -> list[str]:
    """Run every trial that the folder lacks, searches first; returns the names of those that failed twice."""
    searches = [s for s in plan_searches(settings) if not (search_folder(folder, s) / "genotype.json").exists()]
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
    given += [f"hydra.sweep.dir={_shown(str(place))}", "hydra.sweep.subdir=${hydra.job.num}", "hydra.mode=MULTIRUN"]
    composed = hydra.compose_config(
        config_name=own.job.config_name,
        overrides=[*own.overrides.task, *given],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=_callbacks(composed))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_trial, config=composed)
    task = [item for item in own.overrides.task if not item.startswith("trial=")]
    jobs = [[*task, f"trial={_shown(name)}"] for name in names]
    done = sum(1 for _ in place.glob("*")) if place.exists() else 0
    returned = launcher.launch(jobs, initial_job_idx=done)
    configure_log(own.job_logging, own.verbose)  # type: ignore[arg-type]
    failed = []
    for name, result in zip(names, returned, strict=True):
        if result.status is not JobStatus.COMPLETED:
            error = result._return_value
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            log.warning("trial %s failed%s: %s", name, " again" if attempt else "", reason)
            failed.append(name)
    return failed


def _callbacks(composed: DictConfig) -> Any:
    from hydra._internal.callbacks import Callbacks

    return Callbacks(composed)


def run_trial(config: DictConfig) -> float:
    """What a launched job does: one search or one training, by the name in `trial`."""
    configuration.register()
    settings = configuration.typed(config, CompareSettings)
    folder = Path(HydraConfig.get().sweep.dir).parent
    kind, _, name = str(settings.trial).partition(":")
    if kind == "search":
        seed, _, method = name.partition(":")
        planned = Search(method, int(seed))
        log.info("\nsearch by %s, seed %d", planned.method, planned.seed)
        run_search(settings, planned, search_folder(folder, planned))
        return 0.0
    for trial in plan_trials(settings, folder):
        if trial_name(settings, trial) == name:
            log.info("\npair %d: %s cell (%s), seed %d", trial.pair, trial.group, trial.cell, trial.seed)
            result = retrain.run(trial_settings(settings, trial), trial.genotype, folder / "trials" / name)
            log.info("test accuracy %.2f%%", 100 * result["test_accuracy"])
            return 1 - float(result["test_accuracy"])
    raise UserError(f"trial is {settings.trial!r}; there is none of that name")


def run_search(settings: CompareSettings, planned: Search, folder: Path) -> Genotype:
    """Run a search of the comparison."""
    typed = search_settings(settings, planned)
    return search.run(typed, folder) if isinstance(typed, SearchSettings) else blackbox.run(typed, folder)


def search_settings(settings: CompareSettings, planned: Search) -> SearchSettings | BlackBoxSettings:
    """A search's own settings, with what it shares with the comparison; `UserError` where they make none."""
    overrides = list(HydraConfig.get().overrides.task)
    shared = [item for item in overrides if item.lstrip("+~").replace("/", ".").split("=")[0].split(".")[0] in PASSED]
    method, *own = planned.method.split()
    budget = [f"budget.{name}={'null' if value is None else value}" for name, value in vars(settings.budget).items()]
    limited = any(value is not None for value in vars(settings.budget).values())
    given = [*shared, f"method={method}", f"seed={planned.seed}", *(budget if limited else [])]
    given += [] if settings.scored_by is None else [f"evaluator={settings.scored_by}"]
    try:
        composed = compose("search", [*given, *_flat(settings.searches, ""), *own])
    except HydraException as error:
        raise UserError(f"methods: {planned.method!r}: {' '.join(str(error).split())[:300]}") from None
    return configuration.search_settings(composed)


def _flat(values: Mapping[str, Any], prefix: str) -> list[str]:
    """Nested values as Hydra's overrides."""
    found = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}={_shown(value)}"]
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


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
            figures = {name: result[name] for name in ("test_accuracy", "parameters", "macs", "seconds")}
            found.append(Outcome(trial.pair, trial.group, trial.cell, trial.genotype.digest(), trial.seed, **figures))
    return found


def _from_table(settings: CompareSettings, trials: Sequence[Trial]) -> list[Outcome]:
    table, shape = truth(settings.benchmark, settings.space), shape_of(settings.dataset)
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
    for planned in plan_searches(settings):
        record = search_folder(folder, planned) / "run.json"
        if record.exists():
            cost = json.loads(record.read_text()).get("cost")
            found.setdefault(planned.method, []).extend([cost] if cost else [])
    return found
