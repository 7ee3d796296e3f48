"""source.c, compiled by this machine's C compiler for this very processor, and kept in the user's cache."""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("source.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")
SECONDS = 120  # that a compiler may take
WITHOUT = "the fused supernet is computed by PyTorch's operators"
DIGEST = hashlib.sha256().digest_size
LANES = (16, 8, 4)  # floats of a vector


class _State:
    """Of this process."""

    used = True  # False: PyTorch's operators, although there may be a compiler


@functools.cache
def compiler() -> tuple[str, ...] | None:
    """The C compiler: what the environment variable CC says, with arguments if any, else gcc or cc; None without one.

    CC=none switches this off.
    """
    own = os.environ.get("CC", "")
    if own == "none":
        return None
    for name in (own, *own.split()[:1]) if own else ("gcc", "cc"):
        found = shutil.which(name)
        if found:
            return found, *(own.split()[1:] if name != own else [])
    if own:
        log.info("%s: there is no C compiler %s (CC)", WITHOUT, own)
    return None


def available() -> bool:
    """Whether the kernels are there; the first question compiles them, which takes some seconds once."""
    return _State.used and _found()[0] is not None


def description() -> str:
    """What computes the fused supernet on a CPU, for records: the compiler's first line, or `PyTorch`."""
    return _found()[1] if available() else "PyTorch"


@contextmanager
def switched_off() -> Iterator[None]:
    """Within the block PyTorch's operators compute everything."""
    before, _State.used = _State.used, False
    try:
        yield
    finally:
        _State.used = before


def lanes_of(channels: int) -> int | None:
    """How many floats a vector has for maps of so many channels; None where there is no kernel for them."""
    return _lanes_of(channels, widest())


@functools.cache
def _lanes_of(channels: int, most: int) -> int | None:
    found = next((lanes for lanes in LANES if lanes <= most and channels % lanes == 0), None)
    return found if found is not None and _loads(found) else None


@functools.cache
def load(lanes: int) -> ctypes.CDLL:
    """The kernels for vectors of so many floats. Raises `OSError` where they do not compile."""
    name = f"source-{_identity(lanes)}.so"
    kept = _cache()
    if kept is not None and _is_whole(kept / name):
        return ctypes.CDLL(str(kept / name))
    file = (kept if kept is not None and os.access(kept, os.W_OK) else _temporary()) / name
    _compile(file, lanes)
    return ctypes.CDLL(str(file))


@functools.cache
def _loads(lanes: int) -> bool:
    """Whether there are such kernels; a line says why not."""
    try:
        load(lanes)
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s: %s", WITHOUT, _first_line(error))
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str]:
    """The widest kernels and the compiler's first line, or None and `PyTorch`."""
    own = compiler()
    if own is None or platform.system() != "Linux":
        return None, "PyTorch"
    try:
        version = _version(own)
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s: %s", WITHOUT, _first_line(error))
        return None, "PyTorch"
    return (load(widest()), version.splitlines()[0]) if _loads(widest()) else (None, "PyTorch")


@functools.cache
def _version(own: tuple[str, ...]) -> str:
    """What a compiler says of itself, or its name."""
    done = subprocess.run([*own, "--version"], capture_output=True, check=True, timeout=SECONDS)
    return done.stdout.decode(errors="replace").strip() or own[0]


@functools.cache
def _processor() -> str:
    """What tells this processor from others that the same home folder may serve."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} of {platform.node()}"
    told = [line for line in lines if line.split(":")[0].strip() in ("flags", "Features", "model name", "CPU part")]
    return f"{platform.machine()} {sorted(set(told))}"


@functools.cache
def widest() -> int:
    """How many floats the longest vectors of this processor have."""
    told = _processor()
    if " avx512f " in told:
        return 16
    return 8 if " avx2 " in told else 4


def _identity(lanes: int) -> str:
    version = _version(cast(Any, compiler())).encode()
    whole = SOURCE.read_bytes(), version, _processor().encode(), str((FLAGS, lanes)).encode()
    return hashlib.sha256(b"\0".join(whole)).hexdigest()[:16]


def _cache() -> Path | None:
    """Where the user's compiled kernels are kept; None where there is no such place."""
    own = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (own if own.is_absolute() else Path.home() / ".cache") / "darts-nas"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter: this user has no home
        return None
    return folder


@functools.cache
def _temporary() -> Path:
    """A folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix="darts-nas-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_whole(file: Path) -> bool:
    """Whether kernels are there that only this user can have written, with the digest of them at their end."""
    try:
        found, content = file.stat(), file.read_bytes()
    except OSError:
        return False
    mine = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return mine and hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _compile(file: Path, lanes: int) -> None:
    """Write kernels and their digest, which a library may end with, at once."""
    own = cast(Any, compiler())
    wide = ["-mprefer-vector-width=512"] if lanes == 16 and platform.machine() == "x86_64" else []
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        command = [*own, *FLAGS, *wide, f"-DVL={lanes}", str(SOURCE), "-o", str(made), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise OSError(f"{shlex.join(own)} has not compiled {SOURCE.name} in {SECONDS} seconds") from None
        if done.returncode or not made.exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            reason = next((line for line in lines if "error" in line), *lines[:1] or ["it gives no reason"])
            raise OSError(f"{shlex.join(own)} does not compile {SOURCE.name}: {reason}")
        with made.open("r+b") as library:
            digest = hashlib.sha256(library.read()).digest()
            library.write(digest)
            library.flush()
            os.fsync(library.fileno())
        made.chmod(0o700)
        made.replace(file)
