"""python -m darts.benchmark gpu=PHASE: what a GPU computes and how fast, a phase a call.

    correctness  ceilings of the machine; one step of everything against the CPU in float64; replays; resuming
    depthwise    the ways to convolve depthwise, over 12 shapes
    steps        times, kernels and memory of the steps
    search       a search and the retraining of its cell

Each row is written when it is there. The same hydra.run.dir again goes on: rows that are there are not measured again.
A row that fails says why, and the others follow. No row begins once gpu_minutes are over. On the CPU the same phases
run, but for what only a GPU has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from darts.benchmark.checks import correctness_rows
from darts.benchmark.settings import BenchmarkSettings, GpuPhase
from darts.benchmark.times import depthwise_rows, step_rows
from darts.benchmark.whole import search_rows
from darts.loop.record import environment
from darts.runtime.device import ready_device
from darts.runtime.errors import UserError, one_line
from darts.runtime.files import read_json, write_json
from darts.runtime.schema import JSON

Found = dict[str, Any]  # plain values
Rows = Mapping[str, Callable[[], Found]]
PHASES: dict[GpuPhase, Callable[[BenchmarkSettings, torch.device, Path], Rows]] = {
    GpuPhase.correctness: correctness_rows,
    GpuPhase.depthwise: depthwise_rows,
    GpuPhase.steps: step_rows,
    GpuPhase.search: search_rows,
}
FAILED = "failed"  # in place of a row's values: why there are none
SCHEMA = {"environment": {"device": str}, "rows": {str: JSON}}
NEXT = "give another hydra.run.dir"


def measure_phase(settings: BenchmarkSettings, phase: GpuPhase, folder: Path) -> Found:
    """Measure what is missing of a phase, print a table, and return what the file holds: device and rows by name."""
    device = ready_device(settings.device, settings.precision, False, settings.deterministic)
    file = folder / f"gpu-{phase.value}.json"
    own = environment(device)
    record: Found = read_json(file, SCHEMA, NEXT) if file.exists() else {}
    if record and record["environment"]["device"] != own["device"]:
        raise UserError(f"{file} was measured on {record['environment']['device']}, not {own['device']}; {NEXT}")
    record = {"environment": own, "rows": record.get("rows", {})}
    until = time.monotonic() + 60 * settings.gpu_minutes
    left = 0
    for name, measure in PHASES[phase](settings, device, folder).items():
        if FAILED not in record["rows"].get(name, {FAILED: ""}):
            continue
        if time.monotonic() > until:
            left += 1
            continue
        record["rows"][name] = _measured(measure)
        write_json(file, record)
        if not settings.json:
            print(f"{name}: {_told(record['rows'][name])}", flush=True)
    if not settings.json:
        print("\n" + table(record["rows"]))
        print(f"\n{left} rows are left for the next call with hydra.run.dir={folder}" if left else f"\nresult: {file}")
    return record


def _measured(measure: Callable[[], Found]) -> Found:
    """A row, with the seconds that it took; or why it failed."""
    start = time.monotonic()
    try:
        found = measure()
    except UserError as error:
        found = {FAILED: str(error)}
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:  # of PyTorch and CUDA
        found = {FAILED: f"{type(error).__name__}: {one_line(str(error).strip().splitlines()[0])[:200]}"}
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()
    return {**found, "seconds": round(time.monotonic() - start, 1)}


def _told(row: Found) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in row.items() if not isinstance(value, list | dict))


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Mapping[str, Found]) -> str:
    """Rows of the same columns one below the other, each group under its own head."""
    lines: list[str] = []
    head: list[str] = []
    width = max((len(name) for name in rows), default=0)
    for name, row in rows.items():
        columns = [key for key, value in row.items() if not isinstance(value, list | dict)]
        if columns != head:
            head = columns
            lines.append(" " * width + "".join(f"  {key:>14}" for key in columns))
        lines.append(f"{name:{width}}" + "".join(f"  {_number(row[key]):>{max(14, len(key))}}" for key in columns))
        for key, value in row.items():
            if isinstance(value, list):
                lines += [f"    {key}", *(f"    {one}" for one in value)]
    return "\n".join(lines)
