"""Hyperparameters of the training, besides the architecture: python -m darts.tune genotype=darts_v2 trials=20.

An Optuna study whose parameters are settings of this very command, each with its range; a trial trains on one part of
the training images and is judged on the other. The study lies in the folder (study.db) and resumes where it stopped:
each trial's proposals depend on the trials before it and on the seed only.
"""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from darts.config.command import CARRIED, SIZES, cli_command, next_command
from darts.config.compose import is_among, quoted, typed_settings
from darts.config.identity import digest
from darts.config.registry import command_settings
from darts.runtime.errors import UserError, require
from darts.runtime.files import lock_folder, write_json
from darts.runtime.garbage import import_torch
from darts.runtime.seeding import derive
from darts.runtime.signals import deferred_signals, pending_signal, raise_if_interrupted, stopped_at_once
from darts.spaces.fixed import FixedCell, find_cell, fixed_cells
from darts.tasks.metric import metric_among, metric_of
from darts.train.settings import AnyBriefSettings, less_memory, replaced

if TYPE_CHECKING:
    import optuna

    from darts.spaces.genotype import Genotype
    from darts.train.brief import BriefData

log = logging.getLogger("darts")
KIND = "study of hyperparameters"  # what run.json calls it
DIVERGED, OWNER = "diverged", "settings"  # attributes of a trial, and of a study
YARDSTICK = (
    *("train_fraction", "language.perplexity", "language.evaluation_columns"),
    *(f"dataset.{name}" for name in ("name", "root", "fraction", "vocabulary", "characters", "cache", "workers")),
    *(f"dataset.{name}" for name in ("source", "test_folder", "validation_folder", "test_fraction", "testing_list")),
    *(f"dataset.{name}" for name in ("validation_list", "speakers_held_out", "name_pattern", "members")),
)  # settings of the data and of the measure by which trials are compared
Result = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """What a tuned setting may be: from `low` to `high`, whole where both are, or one of `choices`."""

    name: str
    low: float
    high: float
    log: bool
    choices: list[str]


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


@command_settings("tune")
@dataclass
class TuneSettings(AnyBriefSettings):
    """The settings of `python -m darts.tune`."""

    genotype: str  # latest, random, random:7, a published name, a path, or a cell as printed
    parameters: list[str]  # "SETTING LOW HIGH", "SETTING LOW HIGH log", or "SETTING A|B|C"
    trials: int  # brief trainings of the study

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.trials <= 100_000, "trials", self.trials, "from 1 to 100000")
        names = [text.split()[0] if text.split() else "" for text in self.parameters]
        allowed = "at least one setting with its range, each once"
        require(bool(names) and len(set(names)) == len(names), "parameters", self.parameters, allowed)
        for text in self.parameters:
            self.range_of(text)

    @staticmethod
    def range_of(text: str) -> Range:
        """A parameter's name and what it may be; `UserError` where the text says neither."""
        name, *rest = text.split() or [""]
        allowed = "'SETTING LOW HIGH', with ' log' after it for a logarithmic scale, or 'SETTING A|B|C'"
        choices = rest[0].split("|") if len(rest) == 1 else []
        try:
            values = [_number(value) for value in rest[:2]] if len(rest) in (2, 3) else []
        except ValueError:
            values = []
        log = rest[2:] == ["log"]
        ranged = (
            len(values) == 2 and values[0] < values[1] and rest[2:] in ([], ["log"]) and not (log and values[0] <= 0)
        )
        require(ranged or len(choices) > 1, "parameters", text, allowed)
        return Range(name, values[0] if ranged else 0, values[1] if ranged else 0, log, choices)


def proposed(trial: optuna.trial.Trial, parameters: list[str]) -> dict[str, Any]:
    """The trial's value of every setting."""
    found: dict[str, Any] = {}
    for given in map(TuneSettings.range_of, parameters):
        if given.choices:
            found[given.name] = trial.suggest_categorical(given.name, given.choices)
        elif isinstance(given.low, int) and isinstance(given.high, int):
            found[given.name] = trial.suggest_int(given.name, given.low, given.high, log=given.log)
        else:
            found[given.name] = trial.suggest_float(given.name, given.low, given.high, log=given.log)
    return found


def with_values(settings: DictConfig, values: dict[str, Any]) -> TuneSettings:
    """The command's settings with other values; `UserError` for a setting that there is not or a value it refuses."""
    changed = settings.copy()
    for name, value in values.items():
        if not _is_setting(changed, name) or name.split(".")[0] in ("parameters", "trials", "seed"):
            raise UserError(f"parameters.{name}: there is no such setting to tune")
        try:
            OmegaConf.update(changed, name, value)
        except OmegaConfBaseException as error:
            raise UserError(f"parameters.{name}: {str(error).splitlines()[0]}") from None
    return typed_settings(changed, TuneSettings)


def _is_setting(settings: DictConfig, name: str) -> bool:
    """Whether there is a setting of a dotted name; it may be null."""
    section, _, last = name.rpartition(".")
    holder = OmegaConf.select(settings, section) if section else settings
    return OmegaConf.is_dict(holder) and last in holder


def score(settings: TuneSettings, genotype: Genotype, folder: Path, opened: dict[str, BriefData]) -> float:
    """The score of a brief training; data that a trial has opened serve the next ones."""
    from darts.train.brief import validation_score

    return validation_score(settings, genotype, data_of(settings, opened), folder, quiet=True)


def data_of(settings: TuneSettings, opened: dict[str, BriefData]) -> BriefData:
    """The data of a trial, in batches of its size; `UserError` for a batch of more than there is."""
    from darts.runtime.device import ready_device
    from darts.train.brief import in_batches_of, open_brief_data

    device = ready_device(settings.device, settings.precision, settings.graphs, settings.deterministic)
    key = repr((settings.dataset, settings.train_fraction))
    if key not in opened:
        opened.clear()  # one data set at a time
        loop = dataclasses.replace(settings.train, batch_size=2)
        opened[key] = open_brief_data(dataclasses.replace(settings, train=loop), device)
    return in_batches_of(settings, opened[key])


def check_ranges(settings: DictConfig, opened: dict[str, BriefData]) -> None:
    """`UserError` for a parameter that is no setting, or whose least, greatest or any named value is refused."""
    typed = typed_settings(settings, TuneSettings)
    names = {TuneSettings.range_of(text).name for text in typed.parameters}
    for text in typed.parameters:
        given = TuneSettings.range_of(text)
        if is_among(given.name, YARDSTICK):
            raise UserError(
                f"parameters names {given.name}, which changes what trials are judged by, not how they train"
            )
        typed.refuse_ignored(given.name)
        reason = replaced(typed).get(given.name)
        if reason is not None and not any(name.startswith("train.recipe.") for name in names):
            raise UserError(f"parameters names {given.name}, but {reason}")
        for value in given.choices or (given.low, given.high):
            data_of(with_values(settings, {given.name: value}), opened)


def cells_of_study(settings: TuneSettings, folder: Path) -> dict[str, FixedCell]:
    """By reference the cells that trials may train, as they were when the study began."""
    ranges = [settings.range_of(text) for text in settings.parameters]
    choices = [choice for given in ranges if given.name == "genotype" for choice in given.choices]

    def find(reference: str) -> FixedCell:
        return find_cell(reference, settings.space, settings.runs, settings.seed)

    return fixed_cells(folder / "cells.json", choices or [settings.genotype], find)


def run(settings: DictConfig, folder: Path) -> Result:
    """Ask for trials until there are as many as wanted; the same folder again resumes."""
    typed = typed_settings(settings, TuneSettings)
    import_torch()
    from darts.loop.record import (
        claim_folder,
        experiment,
        record_end,
        refuse_other_run,
        require_same_data,
        warn_of_other_data,
    )
    from darts.runtime.device import memory_advice, ready_device

    device = ready_device(typed.device, typed.precision, typed.graphs, typed.deterministic)
    with lock_folder(folder), deferred_signals(), memory_advice(less_memory(typed, "train.batch_size")):
        with stopped_at_once():
            present = {key: value for key, value in experiment(typed).items() if key != "trials"}
            refuse_other_run(folder, KIND, present)
            cells = cells_of_study(typed, folder)
            opened: dict[str, BriefData] = {}
            check_ranges(settings, opened)
            claim_folder(folder, KIND, present, device)
            for name, cell in cells.items():
                warn_of_other_data(name, cell.genotype, typed)
        study = open_study(folder, digest(present))
        with usable_study(folder / "study.db"):
            require_own_trials(study, typed, folder / "study.db")
            while (done := len(ended_trials(study))) < typed.trials:
                run_trial(study, settings, cells, folder / "trials" / f"{done}", opened)
                raise_if_interrupted(pending_signal())
            require_same_data(present, typed.dataset)
            best = finish(study, typed, cells, folder)
        record_end(folder)
        return best


@contextmanager
def usable_study(file: Path, *damage: type[Exception]) -> Iterator[None]:
    """Turn what a database raises that cannot be read or written, and what else is a sign of damage, into a line."""
    from sqlalchemy.exc import SQLAlchemyError

    signs: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error, *damage)
    try:
        yield
    except signs as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        raise UserError(f"{file} cannot be used ({reason}); where it is damaged, remove the folder") from None


def open_study(folder: Path, owner: str | None = None) -> optuna.study.Study:
    """The folder's study; a trial that a killed process left behind has failed, and is asked for again.

    `owner`: the digest of the settings that the study must be of; None: it is only read.
    All trials are read here, so that a damaged file is told now: then whatever reads rows may find anything in them.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = (folder / "study.db").resolve()
    if not file.exists():
        make_study(file, owner or "")
    damage = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError, OverflowError)
    with usable_study(file, *damage, optuna.exceptions.OptunaError):
        study = optuna.load_study(storage=open_storage(file), study_name="tune")
        if owner is not None and study.user_attrs.get(OWNER) != owner:
            raise UserError(
                f"{file} is not of this study, but of other data or settings; remove the folder to start again"
            )
        for trial in study.get_trials(deepcopy=False):
            if trial.state is optuna.trial.TrialState.RUNNING:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def make_study(file: Path, owner: str) -> None:
    """Write the database of a study without trials, and whose it is; killed meanwhile it leaves no half of it."""
    import optuna

    begun = file.with_name("study.begun.db")
    for left in (begun, begun.with_name(f"{begun.name}-journal")):
        left.unlink(missing_ok=True)
    with usable_study(file):
        storage = open_storage(begun)
        study = optuna.create_study(storage=storage, study_name="tune", direction="maximize")
        study.set_user_attr(OWNER, owner)
        storage.remove_session()
        storage.engine.dispose()
    begun.replace(file)


def open_storage(file: Path) -> optuna.storages.RDBStorage:
    """Open a study's database; its name is no part of an address, where it could be taken for something else."""
    import optuna

    return optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(file)})


def require_own_trials(study: optuna.study.Study, settings: TuneSettings, file: Path) -> None:
    """`UserError` where a study holds trials of other parameters, other ranges or impossible scores.

    A trial whose process was killed while it was asked for has a part of its parameters.
    """
    import optuna

    metric = metric_of(settings.dataset)
    ranges = {given.name: given for given in map(settings.range_of, settings.parameters)}
    for trial in study.get_trials(deepcopy=False):
        own = all(_within(value, ranges[name]) for name, value in trial.params.items() if name in ranges)
        whole = trial.params.keys() == ranges.keys() or trial.state is not optuna.trial.TrialState.COMPLETE
        possible = trial.value is None or metric.worst_score <= trial.value <= metric.best_score
        if not (own and whole and trial.params.keys() <= ranges.keys() and possible):
            told = f"trial {trial.number} has {dict(trial.params)} and the score {trial.value}"
            raise UserError(f"{file} is not of this study: {told}; remove the folder to start again")


def _within(value: Any, given: Range) -> bool:
    return value in given.choices if given.choices else given.low <= value <= given.high


def ended_trials(study: optuna.study.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that have a score; one whose training diverged has the worst."""
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def run_trial(
    study: optuna.study.Study,
    settings: DictConfig,
    cells: dict[str, FixedCell],
    folder: Path,
    opened: dict[str, BriefData],
) -> None:
    """Ask the study for one trial's values, train by them, and tell it the score."""
    import optuna

    from darts.train.brief import unless_diverged

    typed = typed_settings(settings, TuneSettings)
    number = int(folder.name)
    study.sampler = optuna.samplers.TPESampler(seed=derive(typed.seed, "tune", number) % 2**32)
    trial = study.ask()
    values = proposed(trial, typed.parameters)
    chosen = with_values(settings, values)
    cell = cells[chosen.genotype].genotype
    metric = metric_of(typed.dataset)
    found, diverged = unless_diverged(lambda: score(chosen, cell, folder, opened), metric)
    if diverged:
        trial.set_user_attr(DIVERGED, True)
    study.tell(trial, found)
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in values.items())
    value, best = (metric.shown(metric.value_of_brief_score(known)) for known in (found, study.best_value))
    log.info("trial %d/%d  validation %s %s, best %s  %s", number + 1, typed.trials, metric.name, value, best, shown)


def finish(study: optuna.study.Study, settings: TuneSettings, cells: dict[str, FixedCell], folder: Path) -> Result:
    """Write best.json, where it exists the study has ended; `UserError` where every training diverged."""
    trials, metric = ended_trials(study), metric_of(settings.dataset)
    if all(trial.user_attrs.get(DIVERGED) for trial in trials):
        raise UserError(f"parameters: all {len(trials)} trainings diverged; give ranges with lower rates")
    cell = cells[str(study.best_params.get("genotype", settings.genotype))]
    best = {
        metric.name: metric.value_of_brief_score(study.best_value),
        "values": study.best_params,
        "trials": len(trials),
        "cell": cell.genotype.digest(),
        "genotype": cell.origin,
    }
    write_json(folder / "best.json", best)
    return best


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cli_command("tune")
def main(settings: DictConfig) -> float:
    """Run the study; returns the best validation error, or perplexity."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    best = run(settings, folder)
    values = {"genotype": best["genotype"], **{k: v for k, v in best["values"].items() if k != "genotype"}}
    given = [f"{name}={quoted(str(value))}" for name, value in values.items()]
    following = next_command("python train_final.py", *given, carried=(*CARRIED, *SIZES), without=list(values))
    metric = metric_among(best, "")
    log.info("\nbest validation %s %s", metric.name, metric.shown(best[metric.name]))
    log.info("result: %s, the study in %s", folder / "best.json", folder / "study.db")
    log.info("next:   %s", following)
    return metric.loss(float(best[metric.name]))


if __name__ == "__main__":
    main()
