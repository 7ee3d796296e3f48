"""What a run folder says of how its result came about: settings, command, versions, hardware, source."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from darts import __version__
from darts.config.command import next_command, tasks_of_command
from darts.config.compose import quoted
from darts.config.identity import DATA, identity, refuse_other_experiment, refuse_other_version
from darts.config.registry import contents_of_plugins
from darts.config.run_folder import save_configuration
from darts.loop.settings import DataSettings
from darts.models.compiled import library
from darts.runtime import distributed
from darts.runtime.errors import UserError
from darts.runtime.files import note_claim, read_json, require_content, write_json
from darts.runtime.schema import FINITE, JSON, Schema
from darts.spaces.genotype import Genotype, in_a_list
from darts.spaces.membership import found_elsewhere, next_settings
from darts.spaces.search_space import SearchSpace
from darts.tasks.content import content_identity
from darts.tasks.file_content import path_digest
from darts.tasks.settings import AnyDataset
from darts.tasks.summary import AnySummary

log = logging.getLogger(__name__)
PACKAGES = ("torch", "torchvision", "numpy", "hydra-core")
# Of an environment: by these sums are rounded in another order.
DECIDE_BITS = ("threads", "cpu_capability", "kernels", "device", "torch")
RUN = {"settings": {str: JSON}}  # what every run.json holds, and below what one of this version may
SOMETIMES = {
    **{"version": str, "kind": str, "ended": bool, "cost": {str: FINITE}, "data": {str: JSON}},
    **{"environment": {str: JSON}, "resumed": [{str: JSON}]},
    "failed": str,
}
AGAIN = "remove the folder to start again"
LEFT_BY_RUNS = (
    *(
        "genotype.json",
        "result.json",
        "history.jsonl",
        "timing.jsonl",
        "split.json",
        "weights.pt",
        "measures.json",
        "checkpoints",
    ),
    *("selection.json", "study.db", "best.json", "points.jsonl", "correlation.json", "report.json", "trials"),
)


def run_record(folder: Path) -> dict[str, Any]:
    """What a folder's run.json holds; `UserError` where it is damaged or missing."""
    file = folder / "run.json"
    record = dict(read_json(file, RUN, AGAIN))
    require_content(record, {name: schema for name, schema in SOMETIMES.items() if name in record}, str(file), AGAIN)
    return record


def cost_of(folder: Path) -> dict[str, float]:
    """What a run that has ended took; `UserError` where its run.json does not say so."""
    record = run_record(folder)
    cost = {"cost": dict.fromkeys(("evaluations", "epochs", "seconds", "macs"), FINITE)}
    require_content(record, cost, str(folder / "run.json"), AGAIN)
    return dict(record["cost"])


def experiment(settings: DataSettings, tested: bool = False) -> dict[str, Any]:
    """What makes two runs the same: settings that decide the result, the content of what is read and of plug-ins, flat.

    `tested`: the run reads the test images too, so that their content counts.
    """
    code = {f"plugins.{name}": digits for name, digits in contents_of_plugins(settings.plugins).items()}
    return {**identity(settings), **content_identity(settings.dataset, tested), **_files_identity(settings), **code}


def _files_identity(settings: Any) -> dict[str, str]:
    """What stands for the files, besides images, that settings name: a table of accuracies, a trained supernet."""
    evaluator = getattr(settings, "evaluator", None)
    inner = getattr(evaluator, "accuracy", evaluator)  # of several objectives
    named = {
        "benchmark.content": getattr(getattr(settings, "benchmark", None), "table", None),
        "evaluator.supernet_content": getattr(inner, "supernet", None),
        "start_from.content": getattr(settings, "start_from", None),
        "constraints.latency_content": getattr(getattr(settings, "constraints", None), "latency_table", None),
    }
    found = {}
    for key, place in named.items():
        if place:
            path = Path(place)
            path = path / "checkpoints" if key == "evaluator.supernet_content" else path
            found[key] = path_digest(path)
    return found


def require_same_data(own: Mapping[str, Any], dataset: AnyDataset) -> None:
    """`UserError` where the data are no longer those with which a run began: before it writes its result.

    `own` is what `experiment` gave then. Files of the same size and time of change are taken for the same.
    """
    tested = own.get("dataset.test_content") is not None
    now = content_identity(dataset, tested)
    changed = [DATA[key] for key, value in now.items() if own.get(key) != value]
    if changed:
        raise UserError(
            f"dataset.root: the {' and '.join(changed)} have changed while this run was under way, so that its result "
            "would be of neither; give back the data it began with, or another hydra.run.dir"
        )


def data_record(summary: AnySummary, own: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's files say of its data: the summary of the open training data, and the digests in `experiment`."""
    digests = {"digest": own["dataset.content"], "test_digest": own.get("dataset.test_content")}
    return {**summary.to_json(), **digests}


def datasets_of_tasks(dataset: AnyDataset) -> dict[str, Any]:
    """What genotype.json says besides of several tasks: the data set of each; nothing of one."""
    parts = dataset.parts()
    several = bool(parts) and dataset.name not in parts
    return {"datasets": {task: part.name for task, part in parts.items()}} if several else {}


def warn_of_other_data(name: str, genotype: Genotype, settings: DataSettings) -> None:
    """Say so where a cell was found on another data set, or on other images of it, than the present ones."""
    found_on, digest = genotype.provenance.get("dataset"), genotype.provenance.get("data")
    present = content_identity(settings.dataset)["dataset.content"]
    tasks = genotype.provenance.get("datasets")
    if isinstance(tasks, dict) and settings.dataset.name in tasks.values():
        found_on, digest = settings.dataset.name, None
    if found_on not in (None, settings.dataset.name):
        log.warning("%s was found on %s, and dataset is %s", name, found_on, settings.dataset.name)
    elif digest not in (None, present):
        log.warning("%s was found on other data of %s than those that dataset gives now", name, found_on)


def warn_of_other_space(name: str, genotype: Genotype, space: SearchSpace) -> None:
    """Say so where a cell was found in another space than the one that random cells are drawn from."""
    settings = found_elsewhere(genotype, space)
    if settings:
        log.warning("%s was found in another space than that of the random cells; that one is %s", name, settings)


def claim_folder(
    folder: Path, kind: str, settings: Mapping[str, Any], device: torch.device, data: Mapping[str, Any] | None = None
) -> None:
    """Make a folder that of this run, or find that it is: within `lock_folder`, before anything is written.

    Call it once everything that the settings name has been found to be there, so that a mistake claims no folder;
    `refuse_other_run` can be asked before.

    A folder belongs to its first run from here on, whatever becomes of it: run.json says the kind of run, the version,
    the settings that decide the result, the data and the environment. A process that resumes the run is noted, and a
    warning says what makes its bits differ. `UserError` where the folder holds anything of another run.
    """
    record = refuse_other_run(folder, kind, settings)
    note_claim(folder)
    here = environment(device)
    if record is not None:
        _warn_of_other_bits(record, here)
        record.setdefault("resumed", []).append(here)
        record["ended"] = False
        record.pop("failed", None)
        save_configuration(folder)
        write_json(folder / "run.json", record)
        log.info("run folder: %s, begun before", folder)
        return
    record = {"version": __version__, "kind": kind, "ended": False, "settings": dict(settings)}
    if data is not None:
        record["data"] = dict(data)
    save_configuration(folder)
    log.info("run folder: %s", folder)
    write_json(folder / "run.json", {**record, "environment": here})


def record_end(folder: Path, cost: Mapping[str, Any] | None = None) -> None:
    """Say in run.json that the run has ended, and what it took. Studies and comparisons may be taken up once more."""
    taken = {} if cost is None else {"cost": dict(cost)}
    write_json(folder / "run.json", {**run_record(folder), "ended": True, **taken})


def refuse_other_run(folder: Path, kind: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What run.json says of this run; None where the folder holds no run.

    `UserError` where it holds anything of another run: another kind, version or setting, or no run.json.
    """
    if (folder / "run.json").exists():
        record = run_record(folder)
        refuse_other_version(record, folder)
        if record.get("kind") != kind:
            raise UserError(f"{folder} holds a {record.get('kind')}, and this is a {kind}; give another hydra.run.dir")
        refuse_other_experiment(record, settings, folder)
        return record
    stray = [name for name in LEFT_BY_RUNS if (folder / name).exists()]
    if stray:
        raise UserError(f"{folder} holds {stray[0]} of a run without its run.json; give another hydra.run.dir")
    return None


def _warn_of_other_bits(record: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Name what differs between this process and those before it in what decides how sums are rounded."""
    environments = [record.get("environment", {}), *record.get("resumed", [])]
    for name in DECIDE_BITS:
        before = environments[-1].get(name)
        if before is not None and before != here[name]:
            log.warning("%s was %r and is now %r: what follows will not be equal bit for bit to a run that was not"
                        " interrupted", name, before, here[name])  # fmt: skip


def require_record(genotype: Genotype, schema: Schema, folder: Path) -> None:
    """`UserError` where what a finished search wrote of itself into its genotype.json is damaged."""
    content = {"provenance": genotype.provenance}
    require_content(content, {"provenance": schema}, str(folder / "genotype.json"), AGAIN)


def announce_cells(genotype: Genotype, folder: Path, about: Sequence[str]) -> None:
    """Say what a search found, where it lies and what to type next."""
    log.info("")
    for kind, cell in genotype.cells.items():
        log.info("%s: %s", in_a_list(kind), cell)
    if "table_accuracy" in genotype.provenance:
        log.info("true accuracy by the table: %.2f%%", genotype.provenance["table_accuracy"])
    for line in about:
        log.info("%s", line)
    log.info("result: %s, pictures in %s", folder / "genotype.json", folder / "cells")
    own = [f"genotype={quoted(str(folder))}", *next_settings(genotype)]
    for task in tasks_of_command():
        log.info("next:   %s", next_command("python train_final.py", *own, without=["space"], task=task))


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and source of this process."""
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": library.description() if device.type == "cpu" else None,
        "torch": torch.__version__,
        "processes": distributed.world_size(),
        "source": _source(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _source() -> str | None:
    """The commit of this code, with "changed" where files differ from it; None outside a git checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" changed" if changed else "")


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()
