"""What a black-box search leaves behind while it goes: a line of history.jsonl and of timing.jsonl an evaluation.

A stopped search resumes from history.jsonl: strategies ask again, and what stands there is answered from it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from darts.blackbox.exchange import ANY_SCORE
from darts.loop.loggers import Logger, single_values
from darts.loop.tracking import peak_memory_mb
from darts.runtime.errors import UserError
from darts.runtime.files import append_line, read_lines, write_lines
from darts.runtime.schema import FINITE, JSON, Within

Line = dict[str, Any]
NOT_NEGATIVE = Within(0, sys.float_info.max)
LINE = {
    **{"evaluation": int, "key": str, "fraction": Within(0, 1), "score": FINITE, "best": FINITE},
    **{"cost/epochs": NOT_NEGATIVE, "cost/macs": NOT_NEGATIVE},
    "cells": {str: JSON},
}
TIMING = {"evaluation": int, "seconds": NOT_NEGATIVE}


class Journal:
    """The lines of a search's evaluations, those before an interruption included."""

    def __init__(
        self, folder: Path, device: torch.device, logger: Logger, limits: tuple[float, float] = ANY_SCORE
    ) -> None:
        """`limits`: the least and the greatest score that there can be."""
        self.folder, self.device = folder, device
        scored = {name: FINITE if limits == ANY_SCORE else Within(*limits) for name in ("score", "best")}
        before = read_lines(folder / "history.jsonl", LINE | scored)
        seconds = read_lines(folder / "timing.jsonl", TIMING)
        complete = min(len(before), len(seconds))
        self.before = list(zip(before[:complete], seconds[:complete], strict=True))  # what a stopped search left
        self.pending_key: str | None = None  # the key of a new evaluation under way
        self.history: list[Line] = []
        self.timing: list[Line] = []
        for name, lines in (("history.jsonl", before[:complete]), ("timing.jsonl", seconds[:complete])):
            write_lines(folder / name, lines)  # without what a kill between the two appends, or within one, has left
        self.log = logger.open(folder, complete + 1)

    def recall(self, key: str) -> tuple[Line, float] | None:
        """The next line that a stopped search left, and its seconds; it must answer this key. None: it is new."""
        if len(self.history) >= len(self.before):
            self.pending_key = key
            return None
        line, timing = self.before[len(self.history)]
        if line.get("key") != key:
            place = self.folder / "history.jsonl"
            raise UserError(f"{place}: line {len(self.history) + 1} is not of this search; give another hydra.run.dir")
        self.history.append(line)
        self.timing.append(timing)
        return line, float(timing["seconds"])

    def record(self, line: Line, seconds: float) -> None:
        """Write down the evaluation that was new; its timing comes second: a torn pair is seen and made again."""
        number = len(self.history) + 1
        memory = round(peak_memory_mb(self.device), 1)
        timing = {"evaluation": number, "seconds": round(seconds, 3), "memory_mb": memory}
        line = {"evaluation": number, "key": self.pending_key, **line}
        self.history.append(line)
        self.timing.append(timing)
        append_line(self.folder / "history.jsonl", line)
        append_line(self.folder / "timing.jsonl", timing)
        values = {name: value for name, value in line.items() if isinstance(value, float)}
        self.log.scalars(number, {**values, "time/seconds": timing["seconds"]})

    def results(self, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """What the search came to, for the logger, with its settings; those that are lists are left out."""
        self.log.results(single_values(settings), values)

    def close(self) -> None:
        """Write out what the logger has not written yet."""
        self.log.close()
