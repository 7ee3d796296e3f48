"""A comparison from its settings to its report, in a folder that keeps what was done."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from darts.compare import devices, page, plan, power, trials
from darts.compare.power import Design
from darts.compare.report import Background, Report, make_report
from darts.compare.settings import CompareSettings
from darts.config.identity import identity
from darts.loop.record import (
    claim_folder,
    data_record,
    environment,
    experiment,
    record_end,
    refuse_other_run,
    warn_of_other_data,
    warn_of_other_space,
)
from darts.runtime.device import choose_device
from darts.spaces.table import load_table
from darts.tasks.summary import summary_of_training

log = logging.getLogger(__name__)
KIND = "comparison"  # what run.json calls it


def foretold(settings: CompareSettings) -> list[Design]:
    """What the comparison could show, once everything that its settings name has been found to be usable."""
    trials.check_searches(settings)
    load_table(settings.benchmark, settings.space)
    devices.judge_of(settings)
    for reference in settings.searched or []:
        plan.find_given(settings, reference)
    return power.forecast(settings)


def check(settings: CompareSettings, folder: Path) -> None:
    """`UserError` for what searches or trainings would refuse once they open the data, before any of them begins."""
    trials.check_data(settings)
    trials.check_trainings(settings, folder)


def run(settings: CompareSettings, folder: Path, planned: Sequence[Design]) -> tuple[Report, str]:
    """Run all trials that the folder lacks, and write the report; returns it, and its Markdown.

    The caller holds the folder's lock. `planned` is what was foretold of the claims.
    """
    device = choose_device(settings.device)
    refuse_other_run(folder, KIND, {})  # comparisons of any settings share a folder, and with it their trials
    check(settings, folder)
    claim_folder(folder, KIND, {}, device)
    plan.fix_given_cells(settings, folder)
    for name, genotype in plan.given_cells(settings, folder):
        warn_of_other_data(name, genotype, settings)
        warn_of_other_space(name, genotype, settings.space)
    failed = trials.run_all(settings, folder)
    outcomes = trials.outcomes(settings, folder)
    found = make_report(outcomes, identity(settings), background(settings, folder, failed, planned))
    cells, histories = plan.all_cells(settings, folder), trials.histories(settings, folder)
    here = {"date": time.strftime("%d %B %Y"), **environment(device)}
    earlier = page.keep_earlier_report(found, folder)
    if earlier is not None:
        log.info("the report of another comparison in this folder is kept in %s", earlier)
    text = page.write_report(found, folder, here, cells, histories)
    if not failed:  # the comparison has ended: the next one begins with the cells that are named then
        plan.given_cells_file(settings, folder).unlink(missing_ok=True)
        record_end(folder)
    return found, text


def background(settings: CompareSettings, folder: Path, failed: Sequence[str], planned: Sequence[Design]) -> Background:
    """What the report tells beside the accuracies, read from the folder."""
    return Background(
        searches=trials.search_costs(settings, folder),
        failed=failed,
        data=data_record(summary_of_training(settings.dataset), experiment(settings, tested=True)),
        planned=planned,
        circumstances=trials.circumstances(settings, folder),
        terms=trials.search_terms(settings, folder),
        device=devices.on_device(settings, folder),
    )
