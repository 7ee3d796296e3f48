"""Save a run's state atomically with a checksum, keep the previous one, load the newest that is whole.

A state is nested dictionaries and lists of tensors, numbers, strings and None: loading runs no code. The file is a
line of text with the SHA-256 of what follows, then what `torch.save` writes; the checksum is needed because
`torch.load` does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from darts.runtime.errors import UserError
from darts.runtime.files import read_regular, write_bytes, writing

log = logging.getLogger(__name__)

MAGIC = b"darts file 1 sha256 "
State = dict[str, Any]


class DamagedFileError(Exception):
    """A file that is not whole or not ours; its text names the file and what is wrong."""


def write_state(path: Path, state: State) -> None:
    """Write a state with its checksum, whole or not at all."""
    write_bytes(path, _packed(state))


def read_state(path: Path) -> State:
    """Read what `write_state` wrote, tensors on the CPU; `DamagedFileError` where it is not whole or not ours."""
    try:
        content = read_regular(path)
    except OSError as error:
        raise DamagedFileError(f"{path}: {error.strerror}") from None
    header, _, payload = content.partition(b"\n")
    if header != MAGIC + hashlib.sha256(payload).hexdigest().encode():
        raise DamagedFileError(f"{path}: not a file of this program, or damaged (its checksum does not fit)")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, LookupError, TypeError, EOFError) as error:
        raise DamagedFileError(f"{path}: refused ({type(error).__name__})") from None


class Checkpoints:
    """The two newest states of a run: checkpoints/last.pt and checkpoints/previous.pt in its folder."""

    def __init__(self, folder: Path) -> None:
        self.last = folder / "checkpoints" / "last.pt"
        self.previous = folder / "checkpoints" / "previous.pt"

    def save(self, state: State) -> None:
        """Write a state; the one before it is kept, and at every moment at least one of both is whole."""
        fresh = self.last.with_name("fresh.pt")
        write_state(fresh, state)
        with writing(self.last):
            if self.last.exists():
                self.last.replace(self.previous)
            fresh.replace(self.last)

    def load(self) -> State | None:
        """The newest whole state; None where there is none; `UserError` where all there are are damaged."""
        problems = []
        for path in (self.last, self.previous):
            if path.exists():
                try:
                    state = read_state(path)
                except DamagedFileError as error:
                    problems.append(str(error))
                    continue
                if problems:
                    log.warning("%s; resuming from %s", problems[0], path.name)
                return state
        if problems:
            raise UserError("; ".join(problems) + "; remove the folder to start again")
        return None


def _packed(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload
