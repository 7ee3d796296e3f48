"""The best-practice checklist for architecture search (Lindauer and Hutter 2020), filled in from the runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from darts.compare.plan import RANDOM
from darts.compare.report import Report

Item = tuple[str, str, str]  # question, yes / no / in part, evidence


def checklist(report: Report, environment: dict[str, Any]) -> list[Item]:
    """Every item with its answer."""
    settings = report.settings
    searches = [search for group in report.groups for search in group.searches]
    searched = [group for group in report.groups if group.name != RANDOM]
    trainings = [outcome.seconds for outcome in report.outcomes]
    several = all(group.cells > 1 for group in searched)
    clean = environment.get("source") is not None and "changed" not in str(environment.get("source"))
    judged = settings.get("benchmark.table") is not None
    return [
        ("Code of the search and of the final training released", "yes" if clean else "in part",
         f"this code, commit {environment.get('source') or 'unknown (not a git checkout)'}"),
        ("Seeds and exact settings reported", "yes", "the tables and settings below, and run.json of every run"),
        ("All methods on the same data, space and training protocol", "yes",
         f"one protocol for all cells: {settings.get('dataset.name')}, space {settings.get('space.name')}"
         + (", judged by a table" if judged else f", {settings.get('train.epochs')} epochs of training")),
        ("Same budget for all searches", _budget(settings), _spent(searches)),
        ("Compared with random sampling", "yes", f"{report.groups[-1].cells} cells drawn uniformly, paired by seed"),
        ("Several runs of each search", "yes" if several else "no",
         ", ".join(f"{group.name}: {group.cells}" for group in searched)),
        ("Several trainings of each cell", "yes" if all(g.spread.over_seeds for g in searched) else "no",
         ", ".join(f"{group.name}: {group.trained} of {group.cells} cells" for group in report.groups)),
        ("Uncertainty and tests reported", "yes", "bootstrap intervals, permutation tests, Holm's correction, A12"),
        ("No hyperparameter or architecture chosen on the test set", "in part", _test_set(settings, judged)),
        ("Wall-clock time and hardware reported", "yes",
         f"{environment.get('device')}, {environment.get('cores')} cores, "
         + (f"{sum(trainings):.0f} s of training" if sum(trainings) else "no training")),
        ("Ablations", "no", "not part of a comparison; give a method with one part exchanged as a further method"),
        ("All runs reported, failed ones included", "yes", f"{len(report.failed)} trials failed"),
        ("Effort of tuning reported", "no", "this program cannot know; say how the settings were chosen"),
    ]  # fmt: skip


def _test_set(settings: dict[str, Any], judged: bool) -> str:
    """What this run knows of the use of test images, and what it cannot know."""
    if judged:
        known = "searches of this comparison read the table's test accuracies for the record only"
    else:
        known = "searches of this comparison see training images only; the test set is read once after each training"
    given = "; how the given cells were found is not known here" if settings.get("searched") else ""
    return f"{known}{given}; how the settings were chosen is not known here"


def _budget(settings: dict[str, Any]) -> str:
    return "yes" if any(settings.get(f"budget.{name}") for name in ("evaluations", "epochs", "minutes")) else "in part"


def _spent(searches: Sequence[dict[str, float]]) -> str:
    if not searches:
        return "cells that were given: what their searches spent is not known here"
    evaluations, epochs = ([search[name] for search in searches] for name in ("evaluations", "epochs"))
    seconds = [search["seconds"] for search in searches]
    return (
        f"evaluations from {min(evaluations):.0f} to {max(evaluations):.0f}, "
        f"epochs from {min(epochs):.3g} to {max(epochs):.3g}, seconds from {min(seconds):.0f} to {max(seconds):.0f} "
        f"(mean {statistics.fmean(seconds):.0f})"
    )
