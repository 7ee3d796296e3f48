"""The tables of a comparison as rows of text, and their forms for Markdown and for a paper (LaTeX)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from darts.compare.devices import Device
from darts.compare.plan import RANDOM
from darts.compare.power import SAMPLING, SEARCH
from darts.compare.report import Claim, Group, Report
from darts.compare.scale import Scale
from darts.tasks.metric import PERPLEXITY

Rows = list[list[str]]

NOTES = (
    "First the median over cells (each the mean of its retrainings), in brackets an interval between two of them that "
    "covers the median with at least 95%, whatever the distribution (not for fewer than 6 cells); then the mean. std "
    "over retrainings is that of one cell's networks; std over cells is that of the cells' means and, where a cell was "
    "trained once, contains the former. Relative improvement over random sampling: 100 {improvement} / random of "
    "the means (Yang et al. 2020). p: of several cells by ranks, two-sided, a search one observation; of a single cell "
    "that a random cell ranks this high; each corrected by Holm's method for the claims of its column. A12: "
    "how often a found cell beats a random one. Search cost: means; an epoch is one pass over all training {many}. "
    "Parameters without the auxiliary head; multiply-adds of one {one}; seconds of one training."
)
AT_EQUAL_SIZE = (
    " p at equal size: a permutation test by Freedman and Lane of a shift beside a line over the logarithm of the "
    "size; differences are from that line."
)
BY_TABLE = (
    " Accuracies are a table's: nothing was trained; parameters and multiply-adds are of the network that `network` "
    "and `dataset` describe."
)
ON_DEVICE = (
    "Hypervolume: the part of the unit square that the offered cells dominate, accuracy from 0 to 1, latency scaled "
    "from the least to the greatest of all cells. A search offers the cells on its own front, by what it was told, or "
    "the one that it found; the tables judge them. Regret: what the true front holds more. p: by ranks, two-sided, a "
    "search one observation, corrected by Holm's method. Within a limit a search takes the best by what it was told."
)
COLUMNS = ("cells", "number", "trained", "METRIC: median", "mean", "std over cells", "std over retrainings",
           "relative improvement", "p: random sampling", "A12", "p: random search", "parameters", "multiply-adds",
           "search cost", "seconds")  # fmt: skip


def notes(report: Report) -> str:
    """What the summary's columns mean."""
    sized = AT_EQUAL_SIZE if report.adjusted_for is not None else ""
    text = report.metric == PERPLEXITY.name
    one, many = ("word", "words") if text else ("image", "images")
    improvement = "(random - found)" if text else "(found - random)"
    return (
        NOTES.format(one=one, many=many, improvement=improvement)
        + sized
        + (BY_TABLE if report.settings.get("benchmark.table") is not None else "")
    )


def summary(report: Report) -> Rows:
    """A row for each group."""
    sampling, search = report.claims_against(SAMPLING), report.claims_against(SEARCH)
    scale = report.scale
    rows = [[title.replace("METRIC", scale.title) for title in COLUMNS]]
    for group in report.groups:
        claim = sampling.get(group.name)
        improvement = "-" if claim is None else f"{claim.relative_improvement:+.2f}%"
        rows.append(
            [
                group.name,
                str(group.cells),
                str(group.trained),
                median(group, scale),
                scale.shown(group.mean),
                scale.shown(group.spread.over_cells),
                scale.shown(group.spread.over_seeds),
                improvement,
                p_value(claim),
                superiority(claim),
                p_value(search.get(group.name)),
                f"{group.parameters:,.0f}",
                f"{group.macs / 1e6:.2f} M",
                search_cost(group),
                f"{group.seconds:.0f}",
            ]
        )
    if report.adjusted_for is not None:
        means = [scale.shown(group.adjusted) for group in report.groups]
        _add_column(rows, f"mean at equal {report.adjusted_for}", means)
    return rows


def _add_column(rows: Rows, title: str, values: Sequence[str]) -> None:
    for row, value in zip(rows, [title, *values], strict=True):
        row.insert(5, value)


def p_value(claim: Claim | None) -> str:
    """The corrected p of a claim."""
    return "-" if claim is None else f"{claim.p:.4f}"


def superiority(claim: Claim | None) -> str:
    """A12 of a claim about several cells."""
    return "-" if claim is None or claim.test is None else f"{claim.test.superiority:.2f}"


def median(group: Group, scale: Scale) -> str:
    """The median with its interval."""
    value, interval = scale.shown(group.median), group.interval
    return value if interval is None else f"{value} ({scale.shown(interval.low)} to {scale.shown(interval.high)})"


def two_way(report: Report) -> Rows:
    """Every group of several cells against every other: how often a row's cell beats a column's, and p."""
    names = list(dict.fromkeys(name for pair in report.pairs for name in (pair.first, pair.second)))
    shown = {}
    for pair in report.pairs:
        shown[pair.first, pair.second] = f"{100 * pair.superiority:.0f}%, p = {pair.p:.3f}"
        shown[pair.second, pair.first] = f"{100 * (1 - pair.superiority):.0f}%, p = {pair.p:.3f}"
    rows = [["a cell of", *(f"beats {name}" for name in names)]]
    for name in names:
        rows.append([name, *(shown.get((name, other), "") for other in names)])
    return rows


def forecast(report: Report) -> Rows:
    """What was foretold of every claim before anything ran, beside what came out."""
    effects = list(report.planned[0].power) if report.planned else []
    rows = [["claim", "against", "cells", "least p", *(f"power for {effect}" for effect in effects), "difference",
             "p", "shown"]]  # fmt: skip
    found = {(claim.group, claim.against): claim for claim in report.claims}
    for design in report.planned:
        claim = found.get((design.group, design.against))
        difference = "-" if claim is None else report.scale.change(claim.difference)
        outcome = "-" if claim is None else claim.shown or "nothing"
        powers = [f"{100 * power:.0f}%" for power in design.power.values()]
        cells = f"{design.first} and {design.second}"
        rows.append([design.group, design.against, cells, f"{design.least:.3g}", *powers, difference, p_value(claim),
                     outcome])  # fmt: skip
    return rows


def fronts(device: Device) -> Rows:
    """A row for each method: how much its searches' fronts hold, and what is missing to the true one."""
    rows = [["method", "searches", "cells offered", "hypervolume: mean", "median (interval)", "regret: mean",
             "p: random search", "A12"]]  # fmt: skip
    for own in device.methods:
        offers = [offer for offer in device.offers if offer.method == own.method]
        cells = statistics.fmean(len(offer.cells) for offer in offers)
        middle = f"{statistics.median(offer.hypervolume for offer in offers):.4f}"
        if own.interval is not None:
            middle += f" ({own.interval.low:.4f} to {own.interval.high:.4f})"
        p = "-" if own.p is None else f"{own.p:.4f}"
        beats = "-" if own.test is None else f"{own.test.superiority:.2f}"
        rows.append([own.method, str(own.searches), f"{cells:.1f}", f"{own.hypervolume:.4f}", middle,
                     f"{own.regret:.4f}", p, beats])  # fmt: skip
    whole = f"{device.hypervolume:.4f}"
    return [*rows, ["the true front", "-", str(len(device.true_front)), whole, "-", "0", "-", "-"]]


def picks(device: Device) -> Rows:
    """A row for each method and limit: what its searches would take."""
    rows = [["at most, ms", "method", "searches that offer one", "accuracy: mean", "worst to best", "most would take"]]
    for limit, best in device.within.items():
        for own in device.methods:
            (pick,) = [pick for pick in own.picks if pick.limit == limit]
            shown = ["-"] * 3
            if pick.mean is not None:
                shown = [f"{pick.mean:.2f}%", f"{pick.worst:.2f} to {pick.best:.2f}", str(pick.cell)]
            rows.append([limit, own.method, f"{pick.searches} of {own.searches}", *shown])
        true = ["-"] * 3 if best is None else [f"{best.accuracy:.2f}%", f"in {best.latency:g} ms", best.cell]
        rows.append([limit, "the best of all cells", "-", *true])
    return rows


def search_cost(group: Group) -> str:
    """What a search took on average."""
    if not group.searches:
        return "none" if group.name == RANDOM else "not known"
    mean = {name: statistics.fmean(search[name] for search in group.searches) for name in group.searches[0]}
    evaluations = f"{mean['evaluations']:.0f} evaluations, " if mean["evaluations"] else ""
    return f"{evaluations}{mean['epochs']:.3g} epochs, {mean['seconds']:.0f} s"


def networks(report: Report) -> Rows:
    """Every network that was trained."""
    title = report.scale.title
    rows = [["group", "cell", "its digest", "seed", title, "parameters", "multiply-adds", "seconds"]]
    for group in report.groups:
        for outcome in report.outcomes:
            if outcome.group == group.name:
                rows.append(
                    [
                        outcome.group,
                        outcome.cell,
                        outcome.genotype,
                        str(outcome.seed),
                        report.scale.shown(outcome.value),
                        f"{outcome.parameters:,}",
                        f"{outcome.macs / 1e6:.2f} M",
                        f"{outcome.seconds:.0f}",
                    ]
                )
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in escaped) for column in range(len(rows[0]))]
    listed = [escaped[0], ["-" * width for width in widths], *escaped[1:]]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in listed]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip
IN_PAPER = ("cells", "number", "METRIC: median", "mean", "std over cells", "p: random sampling",
            "p: random search", "parameters", "search cost")  # fmt: skip


def latex(report: Report) -> str:
    """The summary as a table for a paper, which needs the package booktabs."""
    rows = summary(report)
    chosen = [rows[0].index(name.replace("METRIC", report.scale.title)) for name in IN_PAPER]
    lines = [[_latex_text(row[column]) for column in chosen] for row in rows]
    body = [" & ".join(line) + r" \\" for line in lines]
    head = r"\begin{tabular}{l" + "r" * (len(chosen) - 1) + "}"
    parts = ["% needs \\usepackage{booktabs}", head, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule",
             r"\end{tabular}"]  # fmt: skip
    return "\n".join(parts) + "\n"


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
