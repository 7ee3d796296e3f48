"""The best-practice checklist for architecture search (Lindauer and Hutter 2020), filled in from what the runs left.

Its sixteen questions, shortened, in its order. "yes" stands only where something in the folder shows it, and the last
column says what; what a program cannot know is "no" or "in part".
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from darts.compare.plan import RANDOM, SEARCHED
from darts.compare.power import SEARCH
from darts.compare.report import Report

Item = tuple[str, str, str]  # question, yes / no / in part, evidence


def checklist(report: Report, environment: dict[str, Any], over_time: Sequence[str] = ()) -> list[Item]:
    """Every question with its answer; `over_time` names the methods whose performance over time is drawn."""
    return [
        *_code(report, environment),
        *_comparison(report, over_time),
        *_details(report),
        ("Besides: same budget for all searches", *_same_budget(report)),
        ("Besides: all runs reported, failed ones included", "yes", f"{len(report.failed)} trials failed"),
        ("Besides: no choice by test accuracy", *_test_set(report)),
    ]


def _code(report: Report, environment: dict[str, Any]) -> list[Item]:
    source = environment.get("source")
    clean = "yes" if source is not None and "changed" not in str(source) else "in part"
    commit = f"this code, commit {source or 'unknown (not a git checkout)'}"
    plugins = report.settings.get("plugins")
    if plugins:
        clean, commit = "in part", f"{commit}, and plug-ins that are not of it: {', '.join(plugins)}"
    judged = report.settings.get("benchmark.table") is not None
    seeds = "the table's own" if judged else "settings below; each network's seed in the table of networks"
    given = _given(report)
    methods = [group for group in report.groups if group.searches]
    own = "run.json of each search" if methods else ""
    return [
        ("Code of the training of final architectures", clean, commit),
        ("Code of the search space", clean, f"{commit}; space {report.settings.get('space.name')}"),
        ("Settings and seeds of the final training", "yes", seeds),
        ("Code of the search methods", clean if methods else "in part", _joined(commit, given)),
        ("Settings and seeds of the search methods", "in part" if given else "yes" if methods else "no",
         _joined(own, given)),
    ]  # fmt: skip


def _comparison(report: Report, over_time: Sequence[str]) -> list[Item]:
    settings = report.settings
    judged = settings.get("benchmark.table") is not None
    found = [group for group in report.groups if group.name != RANDOM]
    several = all(group.cells > 1 for group in found)
    numbers = ", ".join(f"{group.name}: {group.cells}" for group in found)
    retrained = f"data {settings.get('dataset.name')}, {settings.get('train.epochs')} epochs of training"
    by_table = f"judged by one table, column {settings.get('benchmark.column')}"
    protocol = f"space {settings.get('space.name')}, {by_table if judged else retrained}"
    same = len(report.circumstances) == 1
    shared = {name: ways for name, ways in report.terms.items() if name not in ("budget", "scores")}
    differing = [f"{name}: {'; '.join(ways)}" for name, ways in shared.items() if len(ways) > 1]
    given = _given(report)
    protocols = _joined(protocol, *differing, given)
    where = "; ".join(report.circumstances) or "not recorded"
    variants = Counter(group.name.split()[0] for group in found)
    ablated = [group.name for group in found if variants[group.name.split()[0]] > 1]
    curves = [group.name for group in found if group.name in over_time]
    drawn = "yes" if found and len(curves) == len(found) else "in part" if curves else "no"
    searched = report.claims_against(SEARCH)
    sampled = f"random sampling: {report.groups[-1].cells} cells"
    also = f"; random search beside {len(searched)} methods" if searched else "; no random search of the same budget"
    return [
        ("Same data, space, training code and settings for all methods",
         "no" if differing else "in part" if given else "yes", protocols),
        ("Confounding factors controlled (hardware, versions)", "yes" if same else "in part", where),
        ("Ablation studies", "yes" if ablated else "no",
         ", ".join(ablated) or "none; give a method with one part exchanged as a further method"),
        ("Same evaluation protocol for all methods", "yes", f"each cell judged {_times(report)}, random ones alike"),
        ("Performance over time compared", drawn, f"figures/progress: {', '.join(curves) or 'no method scores cells'}"),
        ("Compared with random search", "yes" if searched else "in part", sampled + also),
        ("Several runs, seeds reported", "no" if not several else "in part" if given else "yes", numbers),
        ("Tabular or surrogate benchmarks used", "yes" if judged else "no",
         str(settings.get("benchmark.table") or "space=nasbench201 benchmark.table=FILE does")),
    ]  # fmt: skip


def _details(report: Report) -> list[Item]:
    searches = [search for group in report.groups for search in group.searches]
    given = _given(report)
    seconds = [search["seconds"] for search in searches]
    trainings = sum(outcome.seconds for outcome in report.outcomes)
    timed = "yes" if searches and not given else "in part"
    of_searches = f"searches {sum(seconds):.0f} s (mean {statistics.fmean(seconds):.0f})" if seconds else ""
    unknown = "the given cells' searches are not known here" if given else ""
    parts = [of_searches, f"trainings {trainings:.0f} s", unknown]
    return [
        ("How settings were tuned, and what that took", "no", "this program cannot know it"),
        ("Time of the whole search, from end to end", timed, _joined(*parts)),
        ("All details of the experiment", "yes", "all settings below; .hydra/ and run.json of every run"),
    ]


def _given(report: Report) -> str:
    """What is not known of given cells, which no search of this comparison found; "" where there are none."""
    given = any(group.name == SEARCHED for group in report.groups)
    return "how the given cells were found is not known here" if given else ""


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _times(report: Report) -> str:
    """How often each cell was judged."""
    times = Counter((outcome.group, outcome.cell) for outcome in report.outcomes)
    least, most = min(times.values()), max(times.values())
    return ("once" if most == 1 else f"{most} times") if least == most else f"{least} to {most} times"


def _same_budget(report: Report) -> tuple[str, str]:
    """Whether all searches had one budget, and what they spent."""
    searches = [search for group in report.groups for search in group.searches]
    if not searches:
        return "no", "no search was run here"
    limits = report.terms.get("budget", [])
    epochs = [search["epochs"] for search in searches]
    evidence = f"{'; '.join(limits)}; epochs spent from {min(epochs):.3g} to {max(epochs):.3g}"
    one = len(limits) == 1 and limits[0] != "none given"
    alike = min(epochs) >= 0.9 * max(epochs)
    return ("no" if not one else "yes" if alike and not _given(report) else "in part"), evidence


def _test_set(report: Report) -> tuple[str, str]:
    """What this run knows of the use of test images, and what it cannot know."""
    column = report.settings.get("benchmark.column")
    if report.settings.get("benchmark.table") is None:
        known = "searches of this comparison see training data only; the test set is read once after each training"
    elif any(f"evaluator.column={column}" in words.split(", ") for words in report.terms.get("scores", [])):
        return "no", f"searches scored cells by the column that judges them, {column}"
    else:
        known = "searches of this comparison read the table's test accuracies for the record only"
    return "in part", _joined(known, _given(report), "how the settings were chosen is not known here")
