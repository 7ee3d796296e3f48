"""Writes a comparison down: report.json, report.md, and report.html, one page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.compare import figures, tables
from darts.compare.checklist import checklist
from darts.compare.figures import History
from darts.compare.report import Report, sentence
from darts.loop.plotting import draw_cell, save_figure
from darts.runtime.files import write_bytes
from darts.spaces.genotype import Genotype

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 8  # cells of a group that are drawn
TITLE = "Searched cells against random sampling"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; display: block; overflow-x: auto }
th, td { padding: 3px 9px; text-align: left; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
th { border-bottom: 2px solid #888; vertical-align: bottom } h2 { margin-top: 1.6em }
p.verdict { background: #f4f6f8; border-left: 4px solid #1f77b4; padding: .6em 1em; margin: .5em 0 }
figure { margin: 1em 0 } figcaption, .note { font-size: 13px; color: #555 } img { max-width: 100% }
.cells { display: flex; flex-wrap: wrap; gap: 1em } .cell { width: 340px }
.cell h3 { font-size: 14px } pre { font-size: 12px; overflow-x: auto }
"""


def write_report(
    report: Report,
    folder: Path,
    environment: Mapping[str, Any],
    cells: Mapping[str, Sequence[tuple[str, Genotype]]],
    histories: Mapping[str, Sequence[History]],
) -> str:
    """Write the three forms and the figures; returns the Markdown."""
    drawn = {
        "accuracies": (figures.draw_accuracies(report), "Every network a point, every cell's mean a bar, every group's "
                       "mean a diamond with its interval."),
        "progress": (figures.draw_progress(report, histories), "What each method held for best after so much cost: "
                     "mean over its searches, from the worst to the best."),
        "sizes": (figures.draw_sizes(report), "Accuracy over size; the line is the Pareto front of all networks."),
    }  # fmt: skip
    known = {name: (figure, caption) for name, (figure, caption) in drawn.items() if figure is not None}
    for name, (figure, _) in known.items():
        save_figure(figure, folder / "figures" / name)
    text = _markdown(report, list(known), environment)
    write_bytes(folder / "report.json", (json.dumps(report.to_json(), indent=1) + "\n").encode())
    write_bytes(folder / "report.md", text.encode())
    write_bytes(folder / "report.html", _page(report, known, environment, cells).encode())
    return text


def _markdown(report: Report, drawn: Sequence[str], environment: Mapping[str, Any]) -> str:
    items = [["item", "answer", "evidence"], *(list(item) for item in checklist(report, dict(environment)))]
    parts = [
        f"# {TITLE}",
        *(sentence(report, verdict) for verdict in report.verdicts),
        *([f"Trials that failed twice and are left out: {', '.join(report.failed)}."] if report.failed else []),
        tables.markdown(tables.summary(report)),
        tables.NOTES,
        *_data_line(report),
        *(f"![{name}](figures/{name}.png)" for name in drawn),
        "## Every network",
        tables.markdown(tables.pairs(report)),
        "## Best practice (Lindauer and Hutter 2020)",
        tables.markdown(items),
    ]
    return "\n\n".join(parts) + "\n"


def _data_line(report: Report) -> list[str]:
    """What the networks were trained and tested on, where that is known."""
    data = report.data
    if not data:
        return []
    place = f" in {data['folder']}" if data.get("folder") else ""
    parts = f"{data['training']:,} training images of {len(data['classes'])} classes, content {data['digest']}"
    tested = f", test images {data['test_digest']}" if data.get("test_digest") else ""
    return [f"Data: {data['name']}{place}, {parts}{tested}."]


def _page(
    report: Report,
    drawn: Mapping[str, tuple[Figure, str]],
    environment: Mapping[str, Any],
    cells: Mapping[str, Sequence[tuple[str, Genotype]]],
) -> str:
    verdicts = "".join(f'<p class="verdict">{_text(sentence(report, verdict))}</p>' for verdict in report.verdicts)
    if report.failed:
        verdicts += f"<p>Trials that failed twice and are left out: {_text(', '.join(report.failed))}.</p>"
    pictures = "".join(
        f"<figure>{_image(figure, name)}<figcaption>{_text(caption)}</figcaption></figure>"
        for name, (figure, caption) in drawn.items()
    )
    items = [["item", "answer", "evidence"], *(list(item) for item in checklist(report, dict(environment)))]
    settings = "\n".join(f"{key}: {json.dumps(value)}" for key, value in sorted(report.settings.items()))
    body = [
        f"<h1>{TITLE}</h1>{verdicts}",
        f'{_table(tables.summary(report))}<p class="note">{_text(tables.NOTES)}</p>',
        *(f"<p>{_text(line)}</p>" for line in _data_line(report)),
        pictures,
        f"<h2>The cells</h2>{_cells(cells)}",
        f"<h2>Every network</h2>{_table(tables.pairs(report))}",
        f"<h2>Best practice (Lindauer and Hutter 2020)</h2>{_table(items)}",
        f"<h2>Settings</h2>{_folded('all settings', settings)}",
        _folded("where it ran", json.dumps(dict(environment), indent=1)),
    ]
    head = f'<meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _cells(cells: Mapping[str, Sequence[tuple[str, Genotype]]]) -> str:
    """The different cells of every group, at most `SHOWN` of one."""
    parts = []
    for group, named in cells.items():
        different = {genotype.digest(): (name, genotype) for name, genotype in reversed(named)}
        for name, genotype in list(reversed(different.values()))[:SHOWN]:
            drawn = {kind: draw_cell(cell, f"{kind} cell") for kind, cell in genotype.cells.items()}
            images = "".join(_image(figure, f"{kind} cell of {name}") for kind, figure in drawn.items())
            parts.append(f'<div class="cell"><h3>{_text(name)}</h3>{images}</div>')
        if len(different) > SHOWN:
            parts.append(f'<p class="note">{_text(group)} found {len(different) - SHOWN} more.</p>')
    return f'<div class="cells">{"".join(parts)}</div>'


def _image(figure: Figure, name: str) -> str:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "darts"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{_text(name)}" src="data:image/svg+xml;base64,{data}">'


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{_text(title)}</summary><pre>{_text(text)}</pre></details>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: str) -> str:
    return html.escape(value)
