"""What a run leaves behind, as bytes, so that two runs can be compared bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch

from darts.runtime.checkpoint import Checkpoints

CIRCUMSTANCES = ("timing", "seconds")  # of a checkpoint: what no two runs share


def bits(value, name: str):
    """Every tensor and number below a value, as bytes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from bits(inner, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from bits(inner, f"{name}[{index}]")
    elif isinstance(value, torch.Tensor):
        yield name, value.contiguous().numpy().tobytes()
    else:
        yield name, repr(value).encode()


def saved(folder: Path) -> dict[str, bytes]:
    """What settings and seed determine of a run's last checkpoint."""
    state = Checkpoints(folder).load()
    for circumstance in CIRCUMSTANCES:
        del state[circumstance]
    return dict(bits(state, "state"))


def left(folder: Path) -> dict[str, bytes]:
    """What settings and seed determine of a search: files, and every tensor of its last checkpoint; no pictures."""
    files = ("genotype.json", "history.jsonl", "split.json")
    return {name: (folder / name).read_bytes() for name in files} | saved(folder)


def everything(folder: Path) -> dict[str, bytes]:
    """The same with the pictures."""
    pictures = sorted((folder / "cells").glob("*.svg"))
    assert len(pictures) >= 4
    return {path.name: path.read_bytes() for path in pictures} | left(folder)
