"""Files are written whole or not at all, and a disk that refuses them is told in a line."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darts.errors import UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write a file within the block (a full disk, a folder gone) into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: could not be written to the disk: {error.strerror or error}") from None


def write_bytes(path: Path, content: bytes, shared: bool = False) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to the disk, then renamed.

    shared: several processes, of several machines too, may write it at once.
    """
    ending = f".{platform.node()}-{os.getpid()}.tmp" if shared else ".tmp"
    temporary = path.with_name(path.name + ending)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _flush_folder(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _flush_folder(folder: Path) -> None:
    """Make a renaming last through a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
