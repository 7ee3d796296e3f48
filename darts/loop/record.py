"""What a run folder says of how its result came about: settings, command, versions, hardware, source."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from darts import __version__
from darts.config.identity import refuse_other_experiment
from darts.runtime import distributed
from darts.runtime.errors import UserError
from darts.runtime.files import write_json
from darts.spaces.genotype import Genotype
from darts.spaces.membership import next_settings

log = logging.getLogger(__name__)
PACKAGES = ("torch", "torchvision", "numpy", "hydra-core")


def run_record(folder: Path) -> dict[str, Any]:
    """What a folder's run.json holds; `UserError` where it is damaged or missing."""
    file = folder / "run.json"
    try:
        record = dict(json.loads(file.read_text()))
        record["settings"] = dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged or missing; remove the folder to start again") from None
    return record


def write_run_record(
    folder: Path,
    settings: Mapping[str, Any],
    device: torch.device | None = None,
    cost: Mapping[str, Any] | None = None,
) -> None:
    """Write run.json: the version, the settings that decide the result, the environment and, at the end, the cost."""
    record: dict[str, Any] = {"version": __version__, "settings": settings}
    if device is not None:
        record["environment"] = environment(device)
    if cost is not None:
        record["cost"] = cost
    write_json(folder / "run.json", record)


def refuse_other_run(folder: Path, present: dict[str, Any]) -> None:
    """`UserError` where a run in the folder is of another version, or naming the settings in which it differs."""
    if (folder / "run.json").exists():
        record = run_record(folder)
        refuse_other_experiment(record, present, folder)


def announce_cells(genotype: Genotype, folder: Path, about: Sequence[str]) -> None:
    """Say what a search found, where it lies and what to type next."""
    log.info("")
    for kind, cell in genotype.cells.items():
        log.info("%-9s cell: %s", kind, cell)
    if "table_accuracy" in genotype.provenance:
        log.info("true accuracy by the table: %.2f%%", genotype.provenance["table_accuracy"])
    for line in about:
        log.info("%s", line)
    log.info("result: %s, pictures in %s", folder / "genotype.json", folder / "cells")
    log.info("next:   python train_final.py genotype=%s%s", folder, next_settings(genotype))


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and source of this process."""
    return {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
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
        lines = Path("/proc/cpuinfo").read_text().splitlines()
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
