"""What lies below a folder of runs: each run's kind, state, cell, result, cost and data, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darts.config.command import CARRIED, next_command
from darts.config.compose import quoted
from darts.config.resume import RESUMABLE
from darts.runtime.errors import UserError, one_line
from darts.runtime.files import files_below, is_locked, read_json, read_regular
from darts.runtime.schema import FINITE, JSON, Schema, SchemaError, Within, require_schema
from darts.spaces.genotype import from_json
from darts.tasks.metric import ACCURACY, METRICS, metric_among

ANY = {"kind": str, "ended": bool}  # what a run.json must hold to be listed
FIELDS = {
    **{"settings": {str: JSON}, "data": {str: JSON}, "failed": str},
    "cost": {str: FINITE},
}  # what else it may hold; a field of another kind is left out
COST = {"seconds": Within(0, 1e12)}
LAST_FILES = {kind: file for file, kinds in RESUMABLE.values() for kind in kinds}  # by kind, what is written last
UNREADABLE = (UserError, OSError, LookupError, TypeError, ValueError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    kind: str
    state: str  # running: a process holds its lock; ended; failed: an error ended it; stopped: neither
    begun: float  # when run.json was written first, seconds since 1970
    settings: dict[str, Any]
    cell: str  # the cell's digest, "" where there is none
    result: dict[str, float]  # what it came to, by name
    cost: dict[str, float]  # seconds, epochs and the like, as far as known
    data: str  # the name of the data set
    reason: str  # of a failure

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON holds them."""
        return {**asdict(self), "folder": str(self.folder)}


def runs_below(root: Path) -> list[Run]:
    """The runs in a folder and below it, oldest first; a folder whose run.json is damaged is left out.

    Runs within a run, such as the searches of a comparison, are listed with it only where `root` is that run.
    """
    found = []
    files = sorted(files_below(root, "run.json"))
    owners = [file.parent for file in files if file.parent != root]
    for file in files:
        within = any(owner in file.parent.parents for owner in owners)
        run = None if within else read_run(file.parent)
        if run is not None:
            found.append(run)
    return sorted(found, key=lambda run: (run.begun, str(run.folder)))


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None where its run.json is none."""
    try:
        record = read_json(folder / "run.json", ANY, "")
        begun = (folder / "run.json").stat().st_mtime
    except (UserError, FileNotFoundError):  # it may have gone by now
        return None
    known = {name: record[name] for name, schema in FIELDS.items() if name in record and _is(record[name], schema)}
    settings, data = known.get("settings", {}), known.get("data", {})
    cell, result = _outcome(folder)
    return Run(
        folder=folder,
        kind=one_line(record["kind"]),
        state=_state(folder, record),
        begun=begun,
        settings=settings,
        cell=cell,
        result={name: value for name, value in result.items() if _is(value, FINITE)},
        cost=_cost(folder, known.get("cost", {})),
        data=one_line(data.get("name") or settings.get("dataset.name") or ""),
        reason=known.get("failed", ""),
    )


def _is(value: Any, schema: Schema) -> bool:
    try:
        require_schema(value, schema)
    except (SchemaError, RecursionError):
        return False
    return True


def _state(folder: Path, record: Mapping[str, Any]) -> str:
    if is_locked(folder):
        return "running"
    last = LAST_FILES.get(record["kind"], "run.json")
    if record["ended"] and (folder / last).exists():
        return "ended"
    return "failed" if record.get("failed") else "stopped"


def _outcome(folder: Path) -> tuple[str, dict[str, float]]:
    """The cell's digest and the numbers that a run came to, of the files that it leaves last."""
    try:
        if (folder / "genotype.json").exists():
            genotype = from_json(_text(folder / "genotype.json"), str(folder), with_plugins=False)
            valid = {f"supernet_valid_{name}": _short("valid", name) for name in METRICS}
            named = {**valid, "score": "score", "table_accuracy": "table"}
            known = genotype.provenance
            return genotype.digest(), {short: float(known[name]) for name, short in named.items() if name in known}
        if (folder / "result.json").exists():
            result = read_json(folder / "result.json", {"genotype": {str: JSON}}, "")
            genotype = from_json(json.dumps(result["genotype"]), str(folder), with_plugins=False)
            metric = metric_among(result, "test_")
            return genotype.digest(), {_short("test", metric.name): float(result[f"test_{metric.name}"])}
        if (folder / "report.json").exists():
            report = read_json(folder / "report.json", {"claims": [{str: JSON}]}, "")
            return "", {"least p": min(claim["p"] for claim in report["claims"])}
    except UNREADABLE:
        pass
    return "", {}


def _short(part: str, metric: str) -> str:
    """What a number is called in the table: accuracies, which are shown in percent, by their part only."""
    return part if metric == ACCURACY.name else f"{part} {metric}"


def _text(file: Path) -> str:
    return read_regular(file).decode("utf-8")


def _cost(folder: Path, told: Mapping[str, float]) -> dict[str, float]:
    """What a run took: as it says itself, else the sum of the seconds of its lines; nothing where these are damaged."""
    if told:
        return dict(told)
    try:
        lines = [json.loads(line) for line in _text(folder / "timing.jsonl").splitlines()]
        cost = {"seconds": sum(line["seconds"] for line in lines)}
    except UNREADABLE:
        return {}
    return cost if lines and _is(cost, COST) else {}


def table(runs: Sequence[Run], root: Path, width: int) -> list[str]:
    """The runs as lines of a table for the console, at most `width` characters where that can be."""
    rows = [["run", "kind", "state", "cell", "result", "cost", "data"]]
    for run in runs:
        place = "." if run.folder == root else str(run.folder.relative_to(root))
        short = run.kind.removesuffix(" by gradients")
        rows.append([one_line(place), short, run.state, run.cell[:8], _numbers(run.result), _time(run.cost), run.data])
    widths = []
    for column in zip(*rows, strict=True):
        widths.append(max(map(len, column)))
    if sum(widths) + 2 * len(widths) > width:  # a run's folder on a line of its own
        inner = [row[1:] for row in rows]
        lines = [_line(inner[0], widths[1:])]
        for row in rows[1:]:
            lines += [row[0], "  " + _line(row[1:], widths[1:])]
        return lines
    return [_line(row, widths) for row in rows]


def _line(row: Iterable[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{text:<{size}}" for text, size in zip(row, widths, strict=True)).rstrip()


def _numbers(result: Mapping[str, float]) -> str:
    parts = []
    for name, value in result.items():
        shown = f"{100 * value:.2f}%" if name in ("valid", "test") else f"{value:.4g}"
        parts.append(f"{name} {shown}")
    return ", ".join(parts)


def _time(cost: Mapping[str, float]) -> str:
    seconds = cost.get("seconds")
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def sweep_lines(folder: Path, width: int) -> list[str]:
    """What is said at the end of a sweep: its runs, and how to choose among its searches."""
    found = runs_below(folder)
    if not found:
        return []
    lines = ["", f"sweep: {folder}", *table(found, folder, width)]
    ended = [run for run in found if run.state == "ended" and run.kind.startswith("search")]
    if len(ended) > 1:
        select = next_command("python -m darts.select", f"searched=[{quoted(str(folder))}]", carried=CARRIED)
        lines.append(f"next:   {select}")
    return lines
