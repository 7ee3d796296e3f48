"""Writes a comparison down: report.json, report.md, table.tex, and report.html, one page that stands alone."""

from __future__ import annotations

import html
import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.compare import figures, tables
from darts.compare.checklist import checklist
from darts.compare.devices import Device
from darts.compare.figures import History
from darts.compare.report import Claim, Report
from darts.compare.sentences import sentences
from darts.loop.plotting import draw_cell, save_figure, svg_text
from darts.runtime.files import write_bytes
from darts.runtime.text import encoded
from darts.spaces.genotype import Genotype, called

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 60  # cells of a group that are drawn
FEW = 3  # claims that show nothing, which are still told one by one
TITLE = "Found cells against random ones"
CAPTIONS = {
    "accuracies": "Every network a point, each cell's mean a stroke, each group's median a diamond with its interval.",
    "costs": "Each search's cell over what the search spent.",
    "progress": "What each method held for best after so much cost: its searches' mean, worst and best.",
    "device": "The cells that the searches offer, a point each, and the front of all cells of the table.",
    "sizes": "Every network over its size; the line is the Pareto front of all.",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { line-height: 1.2 } h2 { margin-top: 1.6em }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1em }
dt { color: #555 } dd { margin: 0; overflow-wrap: anywhere }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; margin: 1em 0 }
th, td { padding: 3px 9px; text-align: left; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
th { border-bottom: 2px solid #888; vertical-align: bottom }
p.verdict { background: #f4f6f8; border-left: 4px solid #888; padding: .6em 1em; margin: .5em 0 }
p.better { border-color: #2ca02c } p.worse { border-color: #d62728 }
figure { margin: 1em 0 } figcaption, .note { font-size: 13px; color: #555 }
svg { max-width: 100%; height: auto } pre { font-size: 12px; overflow-x: auto } code { overflow-wrap: anywhere }
summary { cursor: pointer } .cells { display: flex; flex-wrap: wrap; gap: 1em } .cell { width: 340px; max-width: 100% }
.cell h3 { font-size: 14px; overflow-wrap: anywhere } .large { cursor: zoom-in; outline: none }
.large:focus { cursor: zoom-out; position: fixed; inset: 0; z-index: 1; background: #fff; padding: 2vmin }
.large:focus svg { width: 96vw; max-height: 94vh }
@media (max-width: 600px) { body { margin: 1em auto } dl { grid-template-columns: 1fr } dt { margin-top: .4em } }
"""


WRITTEN = ("report.json", "report.md", "report.html", "table.tex", "figures")


def keep_earlier_report(report: Report, folder: Path) -> Path | None:
    """Move the report of another comparison in this folder aside; returns where it lies now, None where there is none.

    Another one has other settings or other cells. It lies in earlier/, by the time at which it was written.
    """
    file = folder / "report.json"
    if not file.exists() or _compared(file) == _kinds(report.to_json()):
        return None
    return move_to_earlier(folder, WRITTEN)


def move_to_earlier(folder: Path, names: Sequence[str]) -> Path:
    """Move files of a folder to earlier/ and the time of the first, which must be there; returns that place."""
    written = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime((folder / names[0]).stat().st_mtime))
    numbers = itertools.count(2)
    place = folder / "earlier" / written
    while place.exists():
        place = place.with_name(f"{written}_{next(numbers)}")
    place.mkdir(parents=True)
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(place / name)
    return place


def _compared(file: Path) -> Any:
    """The settings and cells of a report.json; None where it is damaged."""
    try:
        return _kinds(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):
        return None


def _kinds(report: Mapping[str, Any]) -> Any:
    """The settings of a report and, by group, its cells, as JSON holds them."""
    cells = sorted({(outcome["group"], outcome["genotype"]) for outcome in report["outcomes"]})
    return json.loads(json.dumps([report["settings"], cells]))


def write_report(
    report: Report,
    folder: Path,
    environment: Mapping[str, Any],
    cells: Mapping[str, Sequence[tuple[str, Genotype]]],
    histories: Mapping[str, Sequence[History]],
) -> str:
    """Write all forms, and the pictures also as vector files; returns the Markdown."""
    drawn = {
        "accuracies": figures.draw_accuracies(report),
        "costs": figures.draw_costs(report),
        "progress": figures.draw_progress(report, histories),
        "sizes": figures.draw_sizes(report),
    }
    if report.device is not None:
        drawn["device"] = figures.draw_device(report.device, figures.colours(report))
    known = {name: figure for name, figure in drawn.items() if figure is not None}
    for name, figure in known.items():
        save_figure(figure, folder / "figures" / name, (".png", ".svg", ".pdf"))
    items = checklist(report, dict(environment), figures.methods_with_curves(histories))
    answers = [["question", "answer", "evidence"], *(list(item) for item in items)]
    text = _markdown(report, list(known), environment, answers)
    write_bytes(folder / "report.json", encoded(json.dumps(report.to_json() | _words(report), indent=1) + "\n"))
    write_bytes(folder / "report.md", encoded(text))
    write_bytes(folder / "table.tex", encoded(tables.latex(report)))
    write_bytes(folder / "report.html", encoded(_page(report, known, environment, cells, answers)))
    return text


def _words(report: Report) -> dict[str, Any]:
    return {"sentences": sentences(report), "shown": [claim.shown for claim in report.claims]}


def _about(report: Report, environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the networks were trained and tested on, when and by which command, where that is known."""
    lines = []
    data, table = report.data, report.settings.get("benchmark.table")
    if table is not None:
        lines.append(("Accuracies", f"{table}, column {report.settings.get('benchmark.column')}"))
        if report.device is not None:
            latencies = report.settings.get("constraints.latency_table")
            digests = ", ".join(f"SHA-256 {digest[:12]}" for digest in report.device.sources.values())
            lines.append(("Latencies", f"{latencies}, column {report.device.name} ({digests})"))
    elif data:
        place = f" in {data['folder']}" if data.get("folder") else ""
        tested = f", test data {data['test_digest']}" if data.get("test_digest") else ""
        lines.append(("Data", f"{data['name']}{place}, {_size(data)}, content {data['digest']}{tested}"))
    if environment.get("date"):
        lines.append(("Date", str(environment["date"])))
    if environment.get("command"):
        lines.append(("Command", str(environment["command"])))
    return lines


def _size(data: Mapping[str, Any]) -> str:
    """How large the data are: images and classes, or words."""
    if "tokens" in data:
        return f"{data['tokens']['train']:,} training {data['unit']}, vocabulary {data['vocabulary']:,}"
    return f"{data['training']:,} training images of {len(data['classes'])} classes"


def _markdown(
    report: Report, drawn: Sequence[str], environment: Mapping[str, Any], answers: Sequence[Sequence[str]]
) -> str:
    parts = [
        f"# {TITLE}",
        *sentences(report),
        *(f"{name}: {value}." for name, value in _about(report, environment)),
        *_failures(report),
        tables.markdown(tables.summary(report)),
        tables.notes(report),
        *(f"![{name}](figures/{name}.png)" for name in drawn),
        *_device_in_markdown(report),
        *(["## Foretold and found", tables.markdown(tables.forecast(report))] if report.planned else []),
        *(["## Every group against every other", tables.markdown(tables.two_way(report))] if report.pairs else []),
        "## Every network",
        tables.markdown(tables.networks(report)),
        "## Best practice (Lindauer and Hutter 2020)",
        tables.markdown(answers),
    ]
    return "\n\n".join(parts) + "\n"


def _device_in_markdown(report: Report) -> list[str]:
    if report.device is None:
        return []
    told = [f"## On {report.device.name}", tables.markdown(tables.fronts(report.device))]
    if report.device.within:
        told.append(tables.markdown(tables.picks(report.device)))
    return [*told, tables.ON_DEVICE]


def _device_section(device: Device) -> str:
    """The fronts for a device, and what to take within limits."""
    parts = [_section(f"On {device.name}", tables.fronts(device))]
    if device.within:
        parts.append(_table(tables.picks(device)))
    return "".join([*parts, f'<p class="note">{_text(tables.ON_DEVICE)}</p>'])


def _failures(report: Report) -> list[str]:
    if not report.failed:
        return []
    return [f"Trials that failed twice and are left out: {', '.join(report.failed)}."]


def _page(
    report: Report,
    drawn: Mapping[str, Figure],
    environment: Mapping[str, Any],
    cells: Mapping[str, Sequence[tuple[str, Genotype]]],
    answers: Sequence[Sequence[str]],
) -> str:
    verdicts = _verdicts(report)
    about = "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in _about(report, environment))
    pictures = "".join(
        f"<figure>{_large(figure, name)}<figcaption>{CAPTIONS[name]}</figcaption></figure>"
        for name, figure in drawn.items()
    )
    settings = "\n".join(f"{key}: {json.dumps(value)}" for key, value in sorted(report.settings.items()))
    body = [
        f"<h1>{TITLE}</h1>{verdicts}<dl>{about}</dl>",
        *(f"<p>{_text(line)}</p>" for line in _failures(report)),
        f'{_table(tables.summary(report))}<p class="note">{_text(tables.notes(report))}</p>',
        pictures,
        "" if report.device is None else _device_section(report.device),
        _section("Foretold and found", tables.forecast(report) if report.planned else []),
        _section("Every group against every other", tables.two_way(report) if report.pairs else []),
        f"<h2>The cells</h2>{_cells(cells)}",
        f"<h2>Every network</h2>{_folded('all networks', _table(tables.networks(report)))}",
        _section("Best practice (Lindauer and Hutter 2020)", answers),
        f"<h2>Settings</h2>{_folded('all settings', f'<pre>{_text(settings)}</pre>')}",
        _folded("where it ran", f"<pre>{_text(json.dumps(dict(environment), indent=1))}</pre>"),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{TITLE}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _verdicts(report: Report) -> str:
    """What the data show, a sentence a claim; many that show nothing in one sentence, and each below it, folded."""
    told = list(zip(report.claims, sentences(report), strict=True))
    open_claims = [(claim, sentence) for claim, sentence in told if not claim.shown]
    if len(open_claims) <= FEW:
        return "".join(_verdict(claim, sentence) for claim, sentence in told)
    shown = [_verdict(claim, sentence) for claim, sentence in told if claim.shown]
    parts = []
    for against in dict.fromkeys(claim.against for claim, _ in open_claims):
        names = [claim.group for claim, _ in open_claims if claim.against == against]
        parts.append(f"{', '.join(names)} from {against}")
    summary = f"These data show no difference of {'; of '.join(parts)}: every sentence is below, every figure in the "
    nothing = _verdict(open_claims[0][0], f"{summary}tables.")
    each = "".join(_verdict(claim, sentence) for claim, sentence in open_claims)
    return "".join(shown) + nothing + _folded(f"these {len(open_claims)} claims, a sentence each", each)


def _verdict(claim: Claim, sentence: str) -> str:
    """A sentence with what it says before the first colon in bold."""
    claimed, colon, rest = sentence.partition(":")
    return f'<p class="verdict {claim.shown or "nothing"}"><b>{_text(claimed)}</b>{colon}{_text(rest)}</p>'


def _section(title: str, rows: Sequence[Sequence[str]]) -> str:
    return f"<h2>{title}</h2>{_table(rows)}" if rows else ""


def _cells(cells: Mapping[str, Sequence[tuple[str, Genotype]]]) -> str:
    """The different cells of every group, at most `SHOWN` of one; each is enlarged when it is chosen."""
    parts: list[str] = []
    for group, named in cells.items():
        different = {genotype.digest(): (name, genotype) for name, genotype in reversed(named)}
        shown = list(reversed(different.values()))[:SHOWN]
        blocks = "".join(_cell(name, genotype) for name, genotype in shown)
        if len(different) > len(shown):
            blocks += f'<p class="note">{len(different) - len(shown)} more are in genotype.json of their runs.</p>'
        title = f"{group}: {len(different)} cell{'s' if len(different) > 1 else ''}"
        parts.append(_folded(title, f'<div class="cells">{blocks}</div>', opened=len(parts) == 0))
    return "".join(parts)


def _cell(name: str, genotype: Genotype) -> str:
    figures = {kind: draw_cell(cell, called(kind)) for kind, cell in genotype.cells.items()}
    images = "".join(_large(figure, f"{called(kind)} of {name}") for kind, figure in figures.items())
    return f'<div class="cell"><h3>{_text(name)}</h3>{images}</div>'


def _large(figure: Figure, name: str) -> str:
    """A picture that fills the window while it has the focus."""
    identifier = re.sub(r"\W+", "-", name)
    return f'<div class="large" tabindex="0" role="img" aria-label="{_text(name)}">{svg_text(figure, identifier)}</div>'


def _folded(title: str, content: str, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{_text(title)}</summary>{content}</details>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(value: str) -> str:
    return html.escape(value)
