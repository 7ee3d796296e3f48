"""A comparison over several tasks: cells found on each task and on all of them together, retrained on each.

For every task there is a comparison of its own in on_TASK/ beside the searches, which they share: its methods are the
given ones on every task's data and on all of them, its baselines random cells and random search on its own task.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict

from darts.compare import run
from darts.compare.page import move_to_earlier
from darts.compare.plan import RANDOM
from darts.compare.power import SAMPLING, SEARCH, Design, forecast_lines, refuse_powerless
from darts.compare.report import Claim, Group, Report
from darts.compare.searches import is_random_search
from darts.compare.settings import CompareSettings
from darts.compare.tables import markdown, p_value
from darts.config.compose import dotted_key, quoted, typed_settings
from darts.config.implied import alone, task_names
from darts.config.registry import typed_overrides
from darts.config.run_folder import command_configuration
from darts.loop.record import claim_folder, record_end, refuse_other_run
from darts.runtime.errors import UserError
from darts.runtime.files import lock_folder, write_bytes, write_json

log = logging.getLogger(__name__)
Typed = Mapping[str, tuple[list[str], Path]]  # of several comparisons, by name: what would be typed, and the folder
REPLACED = ("tasks", "methods", "searches_in", "dataset", "trial")  # of what was typed, in each task's comparison
WITHIN = ("hydra.run.dir", "hydra.sweep.dir")
WRITTEN = ("tasks.json", "tasks.md")
WHICH = ("method", "searched on", "retrained on", "cells")  # what tells the summary of one comparison from another's


def sources(settings: CompareSettings) -> dict[str, list[str]]:
    """By the task, or the tasks joined by +, that a cell is searched on: the settings that choose its data."""
    typed = [item for item in typed_overrides() if dotted_key(item).startswith("dataset.")]
    if any(len(item.split()) > 1 for item in typed):
        raise UserError(f"dataset: {typed} has a space, at which settings of a method end; link to the folder without")
    names = task_names(settings.tasks)
    found = {task: data_of(task, name, typed) for task, name in names.items()}
    found["+".join(names)] = [f"tasks=[{','.join(settings.tasks)}]", *typed]
    return found


def data_of(task: str, dataset: str, typed: Sequence[str]) -> list[str]:
    """The settings that choose the data of one task."""
    return [f"dataset={dataset}", *alone(task, typed)]


def method_on(method: str, data: Sequence[str]) -> str:
    """A method's entry with settings of its data."""
    return " ".join([method, *data])


def overrides_on(settings: CompareSettings, task: str, folder: Path) -> list[str]:
    """What would be typed for the comparison on one task."""
    entries = [entry for _, _, entry in rows_of(settings)]
    kept = [item for item in typed_overrides() if dotted_key(item).split(".")[0] not in REPLACED]
    kept = [item for item in kept if dotted_key(item) not in WITHIN]
    listed = ",".join(quoted(entry, always=True) for entry in entries)
    return [*kept, *sources(settings)[task], f"methods=[{listed}]", f"searches_in={quoted(str(folder / 'searches'))}"]


def task_folder(folder: Path, task: str) -> Path:
    """Where the comparison on a task lies."""
    return folder / f"on_{task}"


@contextmanager
def as_typed(overrides: Sequence[str], folder: Path) -> Iterator[CompareSettings]:
    """Within the block the command is a comparison that was typed with these settings, in this folder."""
    hydra, before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    if hydra is None:
        raise RuntimeError("a comparison over several tasks runs within the command")
    own, outer = HydraConfig.get(), command_configuration.get()
    hydras = [item for item in typed_overrides("hydra") if dotted_key(item) not in WITHIN]
    place = f"hydra.run.dir={quoted(str(folder))}"
    composed = hydra.compose_config(
        config_name=own.job.config_name,
        overrides=[*overrides, *hydras, place],
        run_mode=RunMode.RUN,
        with_log_configuration=False,
    )
    with open_dict(composed.hydra):
        composed.hydra.runtime.output_dir = str(folder)
        composed.hydra.job.config_name = own.job.config_name
    HydraConfig.instance().set_config(copy.deepcopy(composed))
    with open_dict(composed):
        del composed["hydra"]
    command_configuration.set(composed)
    try:
        yield typed_settings(composed, CompareSettings)
    finally:
        HydraConfig.instance().cfg = before
        command_configuration.set(outer)


def foretold(settings: CompareSettings, folder: Path) -> dict[str, list[Design]]:
    """By task what its comparison could show; `UserError` where one can show nothing."""
    return foretold_each(typed_on_tasks(settings, folder), settings.plan, "on")


def typed_on_tasks(settings: CompareSettings, folder: Path) -> Typed:
    """By task what would be typed for its comparison, and its folder."""
    names = task_names(settings.tasks)
    return {task: (overrides_on(settings, task, folder), task_folder(folder, task)) for task in names}


def foretold_each(typed: Typed, plan: bool, word: str) -> dict[str, list[Design]]:
    """By name what each comparison could show; `UserError` where one can show nothing, unless it is only planned."""
    found = {}
    for name, (overrides, place) in typed.items():
        with as_typed(overrides, place) as own:
            found[name] = run.foretold(own)
            log.info("%s %s:", word, name)
            for line in forecast_lines(own, found[name]):
                log.info("%s", line)
            if not plan:
                refuse_powerless(own, found[name])
    return found


def run_each(typed: Typed, folder: Path, planned: Mapping[str, list[Design]]) -> dict[str, Report]:
    """Run every comparison, all of them checked before, in folders of their own within one; returns their reports."""
    refuse_other_run(folder, run.KIND, {})
    claim_folder(folder, run.KIND, {}, torch.device("cpu"))
    for overrides, place in typed.values():
        with as_typed(overrides, place) as own:
            run.check(own, place)
    reports = {}
    for name, (overrides, place) in typed.items():
        with as_typed(overrides, place) as own, lock_folder(place):
            reports[name], _ = run.run(own, place, planned[name])
    return reports


def end_of(folder: Path, reports: Mapping[str, Report]) -> float:
    """Write down that all comparisons have ended, where no trial failed; returns their least corrected p."""
    if not any(report.failed for report in reports.values()):
        record_end(folder)
    return min(claim.p for report in reports.values() for claim in report.claims)


def run_all(settings: CompareSettings, folder: Path, planned: Mapping[str, list[Design]]) -> tuple[float, str]:
    """Run the comparison of every task; returns the least corrected p, and the summary as Markdown."""
    reports = run_each(typed_on_tasks(settings, folder), folder, planned)
    text = summary(settings, reports)
    rows = content(settings, reports)
    keep_earlier_summary(folder, rows)
    write_json(folder / "tasks.json", rows)
    write_bytes(folder / "tasks.md", text.encode())
    return end_of(folder, reports), text


def keep_earlier_summary(folder: Path, rows: list[dict[str, object]]) -> None:
    """Move the summary of another comparison in this folder, with other methods, tasks or numbers of cells, aside."""
    file = folder / WRITTEN[0]
    if not file.exists():
        return
    try:
        earlier = [[row[key] for key in WHICH] for row in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError):
        earlier = []
    if earlier != [[row[key] for key in WHICH] for row in rows]:
        log.info("the summary of another comparison in this folder is kept in %s", move_to_earlier(folder, WRITTEN))


def content(settings: CompareSettings, reports: dict[str, Report]) -> list[dict[str, object]]:
    """A line for each method, task that it searched on, and task that its cells were retrained on."""
    found: list[dict[str, object]] = []
    for method, source, entry in rows_of(settings):
        for task, report in reports.items():
            own = group_of(report, entry)
            if own is not None:
                claims = claims_of(report, entry)
                ps = {f"p: {kind}": None if claim is None else claim.p for kind, claim in claims.items()}
                line = {"method": method, "searched on": source, "retrained on": task, "cells": own.cells}
                found.append({**line, f"mean {report.metric}": own.mean, **ps})
    return found


def rows_of(settings: CompareSettings) -> list[tuple[str, str, str]]:
    """The rows of the summary: method, the tasks it searched on, and the name of its group in the reports."""
    methods = [m for m in settings.methods if not is_random_search(m)]
    data = sources(settings)
    return [(method, source, method_on(method, own)) for method in methods for source, own in data.items()]


def summary(settings: CompareSettings, reports: dict[str, Report]) -> str:
    """What a cell found on each task, and on all, reaches on each task, as Markdown."""
    head = ["method", "searched on"]
    for task, report in reports.items():
        head += [f"{report.metric} on {task}: mean", "std over cells", "p: random cells", "p: random search"]
    rows = [head]
    drawn = [("random search", "the same task", "random"), ("random cells", "-", RANDOM)]
    for method, source, entry in [*rows_of(settings), *drawn]:
        row = [method, source]
        for report in reports.values():
            row += _cells_of(report, entry)
        rows.append(row)
    places = "\n".join(f"- on {task}: on_{task}/report.html" for task in reports)
    return f"# What cells found on some tasks reach on each\n\n{markdown(rows)}\n\n{places}\n"


def _cells_of(report: Report, entry: str) -> list[str]:
    group = group_of(report, entry)
    if group is None:
        return ["-"] * 4
    scale = report.scale
    ps = map(p_value, claims_of(report, entry).values())
    return [scale.shown(group.mean), scale.shown(group.spread.over_cells), *ps]


def group_of(report: Report, entry: str) -> Group | None:
    """The group of an entry of `methods`; None where none of its searches ended well."""
    return next((group for group in report.groups if group.name == entry), None)


def claims_of(report: Report, entry: str) -> dict[str, Claim | None]:
    """What is claimed of a group, by what it is against."""
    return {kind: report.claims_against(kind).get(entry) for kind in (SAMPLING, SEARCH)}
