"""What a run folder says of how its result came about: settings, command, versions, hardware, source."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from darts import parallel
from darts.config import refuse_other_settings
from darts.errors import UserError
from darts.files import write_bytes, writing
from darts.genotype import Genotype

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON value a line, whole or not at all."""
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to such a file."""
    with writing(path), open(path, "a") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of such a file; a last line that a kill tore is dropped, other damage is a `UserError`."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    texts = path.read_text().splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(dict(json.loads(text)))
        except (ValueError, TypeError):
            if number < len(texts):
                raise UserError(f"{path}: line {number} is damaged; remove the folder to start again") from None
    return lines


def stored_settings(folder: Path) -> dict[str, Any]:
    """The settings in a folder's run.json; `UserError` where it is damaged or missing."""
    record = folder / "run.json"
    try:
        return dict(json.loads(record.read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{record} is damaged or missing; remove the folder to start again") from None


def refuse_other_run(folder: Path, present: dict[str, Any]) -> None:
    """`UserError` naming the settings in which a run that is in the folder already differs from the present ones."""
    if (folder / "run.json").exists():
        refuse_other_settings(stored_settings(folder), present, folder)


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
    log.info("next:   python train_final.py genotype=%s", folder)


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
        "processes": parallel.processes(),
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
