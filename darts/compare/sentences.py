"""The sentences that the data allow: what a comparison shows of each group, and over what that extends."""

from __future__ import annotations

import statistics

from darts.compare.plan import SEARCHED
from darts.compare.power import LEVEL, SAMPLING
from darts.compare.report import Claim, Report
from darts.compare.scale import Scale, scale_of
from darts.compare.searches import RANDOM_SEARCH
from darts.compare.statistics import Place, RankTest

ACCURACIES = scale_of("accuracy")


def sentences(report: Report) -> list[str]:
    """What the data show, a sentence or two a claim."""
    size = "" if report.adjusted_for is None else f" Networks are compared at equal {report.adjusted_for}."
    epochs = {group.name: [search["epochs"] for search in group.searches] for group in report.groups}
    told = []
    for claim in report.claims:
        own, other = epochs[claim.group], epochs.get(RANDOM_SEARCH, [])
        differ = bool(own and other) and min(own + other) < 0.9 * max(own + other)
        words = f" (epochs spent: {statistics.fmean(own):.3g} and {statistics.fmean(other):.3g})" if differ else ""
        told.append(sentence(claim, words, report.scale) + size)
    return told


def sentence(claim: Claim, spent: str = "", scale: Scale = ACCURACIES) -> str:
    """Whether a group beats random sampling or random search, and over what that claim extends."""
    if claim.place is not None:
        return _of_one_cell(claim, claim.place)
    if claim.test is not None:
        return _of_a_method(claim, claim.test, spent, scale)
    return f"There is no test of a single cell at equal size: nothing is claimed of {claim.group}."


def _of_one_cell(claim: Claim, place: Place) -> str:
    what = "the searched cell" if claim.group == SEARCHED else f"the cell of {claim.group}"
    where = f"in place {place.place} of {place.among}, among itself and {place.among - 1} random cells"
    chance = f"a random cell ranks this high with probability {place.p:.3f}{_correction(claim)}"
    subject = what[0].upper() + what[1:]
    if claim.shown:
        told = f"{subject} is better than random sampling: it is {where}; {chance}."
    else:
        told = f"These data do not show that {what} is better than random sampling: it is {where}; {chance}."
    if not claim.shown and claim.least > LEVEL:
        told += f" With so few random cells no place would show it: the least p is {claim.least:.3f}."
    return told + (
        " This speaks of this one cell, and training it more often would show nothing more; a claim about the search "
        "method needs several searches (methods=[...] with seeds, or searched=[RUN,RUN,...])."
    )


def _of_a_method(claim: Claim, test: RankTest, spent: str, scale: Scale) -> str:
    given = claim.group == SEARCHED
    what = f"the {claim.cells} searched cells" if given else f"{claim.group} ({claim.cells} searches)"
    verb = "are" if given else "is"
    sampled = claim.against == SAMPLING
    others = "random cells" if sampled else f"searches of random search at the same budget{spent}"
    other = "a random cell" if sampled else "one of random search"
    figures = (
        f"a found cell beats {other} {100 * test.superiority:.0f}% of the time; {scale.gained(claim.difference)} "
        f"on average, relative improvement {claim.relative_improvement:+.2f}% ({test.name}, two-sided, "
        f"{test.numbers[0]} against {test.numbers[1]} {others}, p = {claim.p:.4f}{_correction(claim)})"
    )
    if claim.shown:
        subject = what[0].upper() + what[1:] if given else what
        return f"{subject} {verb} {claim.shown} than {claim.against}: {figures}."
    told = f"These data do not show that {what} {verb} better or worse than {claim.against}: {figures}."
    if claim.least > LEVEL:
        told += f" So few observations cannot: the least p is {claim.least:.3f}."
    return told


def _correction(claim: Claim) -> str:
    return f", corrected for {claim.comparisons} comparisons" if claim.comparisons > 1 else ""
