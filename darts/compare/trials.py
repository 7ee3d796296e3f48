"""Runs a comparison's trials through Hydra's launcher, and gathers from files what they gave.

The default launcher runs them here, one after the other; `hydra/launcher=joblib` and others run them elsewhere. Nothing
passes between trials: each is found again by its name, and what is in the folder already is not done again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, configure_log
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from darts.blackbox import loop as blackbox
from darts.compare.plan import Trial, given_cells, plan_trials, trial_name, trial_settings
from darts.compare.searches import (
    finished_searches,
    plan_searches,
    planned_search,
    refuse_other_spaces,
    refuse_useless,
    search_folder,
    searched_methods,
    settings_of_search,
    shown,
)
from darts.compare.settings import CompareSettings
from darts.config.compose import typed_settings
from darts.config.identity import identity
from darts.config.registry import typed_overrides
from darts.loop.record import cost_of, run_record
from darts.models.cost import network_costs
from darts.models.latency import latencies_of
from darts.runtime.device import choose_device
from darts.runtime.errors import UserError, about
from darts.runtime.files import read_lines, require_content
from darts.runtime.schema import FINITE
from darts.search import loop as search_loop
from darts.search.costs import latencies_by_device
from darts.search.settings import SearchSettings
from darts.spaces.membership import recorded_space
from darts.spaces.search_space import CELL_TYPES
from darts.spaces.table import load_table
from darts.tasks.batches import train_data
from darts.tasks.datasets import shape_of
from darts.tasks.metric import metric_among
from darts.tasks.pieces import text_test_pieces
from darts.tasks.searched import searched_data
from darts.tasks.settings import TextDataset, require_labelled
from darts.tasks.text import open_corpus
from darts.train import retraining as retrain
from darts.train.result import finished

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What one trial gave."""

    number: int  # of the cell in its group
    group: str
    cell: str
    genotype: str  # its digest
    seed: int
    value: float  # of the metric, on the test data
    parameters: int
    macs: int
    seconds: float
    metric: str = "accuracy"


def check_searches(settings: CompareSettings) -> None:
    """Refuse what the searches would refuse, before anything runs."""
    refuse_useless(settings)
    refuse_other_spaces(settings)
    for method in searched_methods(settings):
        found = settings_of_search(settings, method, settings.seeds[0])
        if isinstance(found, SearchSettings) and found.constraints.latency_table is not None:
            shape = shape_of(require_labelled(found.dataset))
            with about(f"methods: {method!r}"):
                latencies_by_device(found, latencies_of(found.constraints, found.space, shape))
        population, evaluations = getattr(found.method, "population", None), settings.budget.evaluations
        if population and evaluations and evaluations <= population:
            log.warning("%s draws at random within budget.evaluations=%d: its population is %d", method, evaluations,
                        population)  # fmt: skip


def check_data(settings: CompareSettings) -> None:
    """`UserError` naming the method whose batches do not fit the data, before any search begins."""
    checked = set()
    for method in searched_methods(settings):
        found = settings_of_search(settings, method, settings.seeds[0])
        sizes = found.search.train_fraction, found.search.batch_size
        known = str((found.dataset, *sizes))
        if known in checked or isinstance(found.dataset, TextDataset):
            continue
        checked.add(known)
        with about(f"methods: {method!r}"):
            searched_data(found.dataset, None, *sizes, found.seed, torch.device("cpu"))


def check_trainings(settings: CompareSettings, folder: Path) -> None:
    """The same of the trainings: of a text's test part, of batches, and of the cells where they are known already."""
    if isinstance(settings.dataset, TextDataset):
        vocabulary = open_corpus(settings.dataset, ()).vocabulary
        text_test_pieces(settings.dataset, settings.language, vocabulary, torch.device("cpu"))
    elif settings.benchmark.table is None:
        train, cpu = settings.train, torch.device("cpu")
        dataset = require_labelled(settings.dataset)
        train_data(dataset, train.cutout, train.batch_size, settings.seed, cpu, train.validation)
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
        item for item in typed_overrides("hydra") if not item.startswith(("hydra.run.dir", "hydra.sweep", "hydra.mode"))
    ]
    given += [f"hydra.sweep.dir={shown(str(place))}", "hydra.sweep.subdir=${hydra.job.num}", "hydra.mode=MULTIRUN"]
    composed = hydra.compose_config(
        config_name=own.job.config_name,
        overrides=[*typed_overrides(), *given],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=_callbacks(composed))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_trial, config=composed)
    task = [item for item in typed_overrides() if not item.startswith("trial=")]
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
        own, place = settings_of_search(settings, method, int(seed)), search_folder(settings, folder, planned)
        search_loop.run(own, place) if isinstance(own, SearchSettings) else blackbox.run(own, place)
        return 0.0
    for trial in plan_trials(settings, folder):
        if trial_name(settings, trial) == name:
            log.info("\n%s: %s, seed %d", trial.group, trial.cell, trial.seed)
            result = retrain.run(trial_settings(settings, trial), trial.genotype, folder / "trials" / name)
            metric = metric_among(result, "test_")
            value = float(result[f"test_{metric.name}"])
            log.info("test %s %s", metric.name, metric.shown(value))
            return metric.loss(value)
    raise UserError(
        f"trial is {settings.trial!r}; there is none of that name; the data or the settings have changed since it was "
        "planned, or the name is wrong"
    )


def outcomes(settings: CompareSettings, folder: Path) -> list[Outcome]:
    """What the trials gave, read from the folder (or from the table); those that failed are left out."""
    trials = plan_trials(settings, folder)
    if settings.benchmark.table is not None:
        return _from_table(settings, trials)
    return _from_files(settings, trials, folder)


def _from_files(settings: CompareSettings, trials: Sequence[Trial], folder: Path) -> list[Outcome]:
    found = []
    for trial in trials:
        file = folder / "trials" / trial_name(settings, trial) / "result.json"
        if file.exists():
            result = finished(trial_settings(settings, trial), trial.genotype, file.parent, quiet=True)
            metric = metric_among(result, "test_").name
            measured = {name: result[name] for name in ("parameters", "macs", "seconds")}
            place = trial.number, trial.group, trial.cell, trial.genotype.digest(), trial.seed
            found.append(Outcome(*place, value=result[f"test_{metric}"], metric=metric, **measured))
    return found


def _from_table(settings: CompareSettings, trials: Sequence[Trial]) -> list[Outcome]:
    table, shape = load_table(settings.benchmark, settings.space), shape_of(require_labelled(settings.dataset))
    if table is None:
        raise RuntimeError("no table")
    known: dict[str, dict[str, float]] = {}
    found = []
    for trial in trials:
        name = trial.genotype.digest()
        if name not in known:
            device = choose_device(settings.device)
            names, frame = ("parameters", "macs"), settings.space.frame
            known[name] = network_costs(trial.genotype, settings.network, shape, device, names, frame)
        accuracy = table.accuracy(trial.genotype, settings.benchmark.column) / 100
        parameters, macs = (int(known[name][cost]) for cost in ("parameters", "macs"))
        found.append(Outcome(trial.number, trial.group, trial.cell, name, trial.seed, accuracy, parameters, macs, 0.0))
    return found


def search_costs(settings: CompareSettings, folder: Path) -> dict[str, list[dict[str, float]]]:
    """By method what each of its searches has spent: its seed, evaluations, epochs, seconds, macs."""
    found: dict[str, list[dict[str, float]]] = {}
    for planned, place in finished_searches(settings, folder):
        found.setdefault(planned.method, []).append({"seed": planned.seed, **cost_of(place)})
    return found


TERMS = {
    "data": ("dataset.name", "dataset.content", "dataset.fraction"),
    "splits": ("search.train_fraction",),
    "space": (
        *("space.name", "space.nodes", "space.edges_kept", "space.candidates"),
        *(f"space.edge_candidates.{kind}" for kind in CELL_TYPES),
    ),
    "scores": ("evaluator.part", "evaluator.column"),
    "budget": tuple(f"budget.{name}" for name in ("evaluations", "epochs", "minutes", "macs")),
}


def search_terms(settings: CompareSettings, folder: Path) -> dict[str, list[str]]:
    """By term, in how many different ways the searches of this comparison were run, each in words."""
    found: dict[str, dict[str, None]] = {name: {} for name in TERMS}
    found["space"][_words(TERMS["space"], identity(settings))] = None  # that of the random cells
    for _, place in finished_searches(settings, folder):
        own = run_record(place).get("settings", {})
        for name, keys in TERMS.items():
            found[name][_words(keys, own)] = None
    for _, genotype in given_cells(settings, folder):
        known = recorded_space(genotype)
        if known is not None:
            own = {"space.name": genotype.space, **{f"space.{name}": value for name, value in known.items()}}
            by_edge = known["edge_candidates"] or {}
            own |= {f"space.edge_candidates.{kind}": lists for kind, lists in by_edge.items()}
            found["space"][_words(TERMS["space"], own)] = None
    return {name: list(different) for name, different in found.items() if different}


def _words(keys: Sequence[str], own: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={own.get(key)}" for key in keys if own.get(key) is not None) or "none given"


def circumstances(settings: CompareSettings, folder: Path) -> list[str]:
    """The different hardware and versions by which searches and trainings of this comparison ran."""
    places = [place for _, place in finished_searches(settings, folder)]
    places += [folder / "trials" / trial_name(settings, trial) for trial in plan_trials(settings, folder)]
    found = []
    for place in places:
        if (place / "run.json").exists():
            record = run_record(place)
            for own in [record.get("environment", {}), *record.get("resumed", [])]:
                threads = f"{own.get('threads')} threads, {own.get('cpu_capability')}"
                versions = f"PyTorch {own.get('torch')}, Python {own.get('python')}"
                found.append(f"{own.get('device')}, {threads}, {versions}")
    return list(dict.fromkeys(found))


def histories(settings: CompareSettings, folder: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """By method the lines of each of its searches."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for planned, place in finished_searches(settings, folder):
        found.setdefault(planned.method, []).append(_history(place / "history.jsonl"))
    return found


def _history(file: Path) -> list[dict[str, Any]]:
    """The lines of a search that has ended; `UserError` where there are none, or one is damaged."""
    lines = read_lines(file, {})
    remedy = "remove its folder to search again"
    if not lines:
        raise UserError(f"{file} is missing or empty, and its search has ended; {remedy}")
    for number, line in enumerate(lines, start=1):
        scored = {"best": FINITE, "cost/epochs": FINITE} if "evaluation" in line else {"epoch": int}
        judged = {"table/accuracy": FINITE} if "table/accuracy" in line else {}
        require_content(line, {**scored, **judged}, f"{file}: line {number}", remedy)
    return lines
