"""Files are written whole or not at all, JSON a line or a file; one process a folder.

A disk that refuses a file is told in a line.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import platform
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from darts.runtime import distributed
from darts.runtime.errors import UserError
from darts.runtime.schema import Schema, SchemaError, require_schema

log = logging.getLogger(__name__)
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a link or a pipe is no file of a run
REPLACING = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK
APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK


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
            with os.fdopen(os.open(temporary, REPLACING, 0o666), "wb") as file:
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


def read_regular(path: Path) -> bytes:
    """The bytes of a file; `OSError` where it is none, such as a pipe, which nobody may ever fill."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        reason = os.strerror(number) if number == errno.EISDIR else "Not a regular file"
        raise OSError(number, reason, str(path))
    return path.read_bytes()


def files_below(root: Path, name: str) -> list[Path]:
    """The files of a name in a folder and below it, links not followed; folders may come and go meanwhile."""
    return [Path(folder) / name for folder, _, names in os.walk(root) if name in names]


def newest(files: Iterable[Path]) -> Path | None:
    """The file that was written last; None where there is none. Files that are gone by now are left out."""
    times = {file: written for file in files if (written := _time_of(file)) is not None}
    return max(times, key=lambda file: (times[file], str(file)), default=None)


def _time_of(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def require_content(value: Any, schema: Schema, file: str, remedy: str) -> None:
    """`UserError`, which names the file and ends with the remedy, where what it holds is not of a schema."""
    try:
        require_schema(value, schema)
    except SchemaError as error:
        raise UserError(f"{file} is damaged: {error}; {remedy}") from None


def read_json(path: Path, schema: Schema, remedy: str) -> Any:
    """What a JSON file holds; `UserError`, which ends with the remedy, where it cannot be read or is not of `schema`.

    The schemas are those of runtime/schema.py.
    """
    try:
        value = json.loads(read_regular(path).decode("utf-8"))
        require_content(value, schema, str(path), remedy)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or missing ({type(error).__name__}); {remedy}") from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON value a line, whole or not at all."""
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to such a file."""
    with writing(path), os.fdopen(os.open(path, APPENDING, 0o666), "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path, schema: Schema) -> list[dict[str, Any]]:
    """The whole lines of such a file, each of a schema of runtime/schema.py; none where there is no file.

    A last line that a kill tore is dropped, other damage is a `UserError`.
    """
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    try:
        texts = read_regular(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove the folder to start again") from None
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if number < len(texts):
                raise UserError(f"{path}: line {number} is damaged; remove the folder to start again") from None
            break
        require_content(line, schema, f"{path}: line {number}", "remove the folder to start again")
        lines.append(line)
    return lines


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder within the block; `UserError` naming the holder where another process has locked it.

    Where several processes are one run the main process locks it for all.
    The system releases the lock when the process ends, however it ends.
    """
    if not distributed.is_main_process():
        yield
        return
    if importlib.util.find_spec("fcntl") is None:  # a system without such locks
        yield
        return
    path = folder / "lock"
    with os.fdopen(_locked_file(path), "r+") as file:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        shown = {"process": os.getpid(), "host": platform.node(), "since": since, "command": " ".join(sys.argv)[:200]}
        with writing(path):
            file.truncate(0)
            os.write(file.fileno(), json.dumps(shown).encode() + b"\n")
        try:
            yield
        except Exception as error:
            _note_failure(folder, error)
            raise
        finally:
            _claimed.discard(folder.resolve())
            with suppress(OSError):  # gone with its folder
                path.unlink()


_claimed: set[Path] = set()  # locked folders that are known to be of the run under way


def note_claim(folder: Path) -> None:
    """Say that a locked folder is the run's own: an error that ends the run is then noted in its run.json."""
    _claimed.add(folder.resolve())


def _note_failure(folder: Path, error: Exception) -> None:
    """Write into run.json what ended a run; where that cannot be, the error itself is all that is told."""
    if folder.resolve() not in _claimed:
        return
    with suppress(Exception):
        record = json.loads((folder / "run.json").read_text())
        record["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        write_json(folder / "run.json", record)


def _locked_file(path: Path) -> int:
    """Open a file and lock it; `UserError` naming the holder where another process has locked it.

    Whoever releases the lock removes the file. A process that had opened it before would lock a file that nobody
    finds any more, beside the next one that is created; so the lock counts only if the path still leads to the file.
    """
    import fcntl

    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise UserError(f"{path} is no file; remove it, or give another hydra.run.dir")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with os.fdopen(handle) as file:
                holder = _holder(file.read())
            raise UserError(f"{path.parent} is in use by {holder}; give another hydra.run.dir") from None
        except OSError as error:  # some network file systems keep no locks
            log.warning("%s cannot be locked (%s): a second process in this folder would not be noticed", path.parent,
                        error.strerror)  # fmt: skip
        if _leads_to(path, handle):
            return handle
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder at this moment."""
    if importlib.util.find_spec("fcntl") is None:
        return False
    import fcntl

    try:
        handle = os.open(folder / "lock", os.O_RDONLY | NO_LINK)
    except OSError:  # there is none, or what is called so is no file
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # this file system keeps no locks
        return False
    finally:
        os.close(handle)
    return False


def _leads_to(path: Path, handle: int) -> bool:
    """Whether a path still names the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['process']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
