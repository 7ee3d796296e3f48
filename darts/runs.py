"""The runs below a folder, and what they came to: python -m darts.runs [runs=FOLDER] [clean=[RUN,...]]."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.registry import command_settings
from darts.runtime.errors import UserError, one_line, require

if TYPE_CHECKING:
    from darts.loop.listing import Run

KINDS = ("search", "retraining", "comparison", "study", "selection", "correlation")
STATES = ("running", "ended", "failed", "stopped")


@command_settings("runs")
@dataclass
class RunsSettings:
    """The settings of `python -m darts.runs`."""

    runs: str  # the folder of all runs
    kind: str | None  # search, retraining, comparison, study, selection or correlation only; null: all
    state: str | None  # running, ended, failed or stopped only; null: all
    json: bool  # print one JSON list and nothing else
    clean: list[str]  # runs to remove: folders, or failed or stopped for all in that state
    ask: bool  # before anything is removed

    def __post_init__(self) -> None:
        require(self.kind in (None, *KINDS), "kind", self.kind, f"null or one of {', '.join(KINDS)}")
        require(self.state in (None, *STATES), "state", self.state, f"null or one of {', '.join(STATES)}")


@cli_command("runs")
def main(settings: DictConfig) -> int:
    """List the runs, or remove those that `clean` names; returns how many there are."""
    typed = typed_settings(settings, RunsSettings)
    from darts.loop.listing import runs_below, table

    root = Path(typed.runs).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"runs is {typed.runs!r}; there is no such folder")
    found = [run for run in runs_below(root) if _wanted(run, typed)]
    if typed.clean:
        return clean(chosen(found, typed.clean, root), root, typed.ask)
    if typed.json:
        print(json.dumps([run.to_json() for run in found], indent=1))
        return len(found)
    width = shutil.get_terminal_size((120, 24)).columns
    print("\n".join(table(found, root, width)) if found else f"no runs in {root}")
    for run in found:
        if run.reason:
            print(f"{run.folder.relative_to(root)} failed: {one_line(run.reason)}")
    return len(found)


def _wanted(run: Run, settings: RunsSettings) -> bool:
    kind = settings.kind is None or settings.kind in run.kind
    return kind and settings.state in (None, run.state)


def chosen(runs: Sequence[Run], names: Sequence[str], root: Path) -> list[Run]:
    """The runs that `clean` names; `UserError` for a folder that is none, or whose run is under way."""
    from darts.runtime.files import is_locked

    by_folder = {run.folder: run for run in runs}
    found: dict[Path, Run] = {}
    for name in names:
        if name in ("failed", "stopped"):
            found |= {run.folder: run for run in runs if run.state == name}
            continue
        places = [(root / name).resolve(), Path(name).expanduser().resolve()]
        own = [place for place in places if place in by_folder]
        if not own:
            raise UserError(f"clean: {name!r} is no run in {root}; a folder as the list shows it, failed or stopped")
        found[own[0]] = by_folder[own[0]]
    for run in found.values():
        held = next((file.parent for file in sorted(run.folder.rglob("lock")) if is_locked(file.parent)), None)
        if held is not None:
            raise UserError(f"clean: the run in {held} is under way; stop it first")
    return list(found.values())


def clean(runs: Sequence[Run], root: Path, ask: bool) -> int:
    """Remove runs after asking; returns how many were removed."""
    if not runs:
        print("nothing to remove")
        return 0
    from darts.loop.listing import table
    from darts.runtime.files import lock_folder, writing

    print("\n".join(table(runs, root, shutil.get_terminal_size((120, 24)).columns)))
    if ask:
        if not sys.stdin.isatty():
            raise UserError("clean asks before it removes, and there is no terminal; give ask=false")
        try:
            answer = input(f"remove these {len(runs)} runs? [y/N] ")
        except EOFError:  # Ctrl-D
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 0
    for run in runs:
        with lock_folder(run.folder), writing(run.folder):  # nobody begins to resume it meanwhile
            shutil.rmtree(run.folder)
    print(f"removed: {len(runs)}")
    return len(runs)


if __name__ == "__main__":
    main()
