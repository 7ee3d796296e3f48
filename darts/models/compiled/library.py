"""source.c, compiled by this machine's C compiler for this very processor, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("source.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")
SECONDS = 120  # that a compiler may take
LANES = (16, 8, 4)  # floats of a vector


class _State:
    """Of this process."""

    used = True  # False: PyTorch's operators, although there may be a compiler


@functools.cache
def compiler() -> str | None:
    """The C compiler: what the environment variable CC names, else gcc or cc; None where there is none.

    CC=none switches this off.
    """
    own = os.environ.get("CC")
    names = (own,) if own else ("gcc", "cc")
    return next((found for name in names if (found := shutil.which(name))), None)


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
    return next((lanes for lanes in LANES if lanes <= most and channels % lanes == 0), None)


@functools.cache
def load(lanes: int) -> ctypes.CDLL:
    """The kernels for vectors of so many floats. Raises `OSError` where they do not compile."""
    file = _folder() / f"source-{_identity(lanes)}.so"
    if not file.exists():
        _compile(file, lanes)
    return ctypes.CDLL(str(file))


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str]:
    """The widest kernels and the compiler's first line, or None and `PyTorch`."""
    own = compiler()
    if own is None or platform.system() != "Linux":
        return None, "PyTorch"
    try:
        return load(widest()), _version(own).splitlines()[0]
    except (OSError, subprocess.SubprocessError) as error:
        log.info("the fused supernet is computed by PyTorch's operators: %s", str(error).splitlines()[0])
        return None, "PyTorch"


@functools.cache
def _version(own: str) -> str:
    """What a compiler says of itself."""
    return subprocess.run([own, "--version"], capture_output=True, text=True, check=True, timeout=SECONDS).stdout


@functools.cache
def _processor() -> str:
    """What tells this processor from others that the same home folder may serve."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
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
    version = _version(str(compiler())).encode()
    whole = SOURCE.read_bytes(), version, _processor().encode(), str((FLAGS, lanes)).encode()
    return hashlib.sha256(b"\0".join(whole)).hexdigest()[:16]


def _folder() -> Path:
    """Where compiled kernels are kept: the user's cache, else a folder of this process."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darts-nas"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _temporary()
    return own if os.access(own, os.W_OK) else _temporary()


@functools.cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="darts-nas-"))


def _compile(file: Path, lanes: int) -> None:
    wide = ["-mprefer-vector-width=512"] if lanes == 16 and platform.machine() == "x86_64" else []
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        whole = Path(folder) / file.name
        command = [str(compiler()), *FLAGS, *wide, f"-DVL={lanes}", str(SOURCE), "-o", str(whole), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode:
            raise OSError(
                f"{compiler()} does not compile {SOURCE.name}: {(done.stderr.strip() or 'no reason').splitlines()[0]}"
            )
        whole.replace(file)
