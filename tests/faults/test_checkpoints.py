"""Checkpoints: whole or not at all, damage noticed, strangers' code refused."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import posix
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from darts.checkpoint import MAGIC, Checkpoints, DamagedFileError, read_state, write_bytes, write_state
from darts.errors import UserError
from darts.genotype_sources import find_genotype
from darts.nasbench201 import read_table
from tests.conftest import CANDIDATES, ROOT, space_of

STATE = {"weights": torch.arange(400.0), "epoch": 3, "names": ["a", None], "nested": {"rate": 0.1}}


def test_a_state_comes_back_equal(tmp_path):
    write_state(tmp_path / "x.pt", STATE)
    found = read_state(tmp_path / "x.pt")
    assert torch.equal(found.pop("weights"), STATE["weights"])
    assert found == {key: value for key, value in STATE.items() if key != "weights"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_truncation_at_any_place_is_noticed(tmp_path, injected):
    write_state(tmp_path / "x.pt", STATE)
    whole = (tmp_path / "x.pt").read_bytes()
    for length in [0, 1, len(MAGIC), len(whole) - 1, *random.Random(0).sample(range(len(whole)), 60)]:
        (tmp_path / "x.pt").write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            read_state(tmp_path / "x.pt")
    injected("checkpoint truncated", 64)


def test_every_flipped_bit_is_noticed(tmp_path, injected):
    write_state(tmp_path / "x.pt", STATE)
    whole = (tmp_path / "x.pt").read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 200):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.pt").write_bytes(flipped)
        with pytest.raises(DamagedFileError):
            read_state(tmp_path / "x.pt")
    injected("bit of a checkpoint flipped", 200)


def test_a_damaged_newest_checkpoint_falls_back_to_the_previous_with_a_warning(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    checkpoints.save({"epoch": 1})
    checkpoints.save({"epoch": 2})
    assert checkpoints.load() == {"epoch": 2}
    checkpoints.last.write_bytes(checkpoints.last.read_bytes()[:-5])
    assert checkpoints.load() == {"epoch": 1}
    assert "last.pt" in caplog.text and "going on from previous.pt" in caplog.text


def test_a_kill_between_the_two_renames_leaves_a_whole_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"epoch": 1})
    checkpoints.last.replace(checkpoints.previous)  # where the second rename did not happen any more
    assert checkpoints.load() == {"epoch": 1}


def test_only_damaged_checkpoints_are_an_error_and_never_a_fresh_start(tmp_path, injected):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"epoch": 1})
    checkpoints.save({"epoch": 2})
    for path in (checkpoints.last, checkpoints.previous):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.pt.*previous\.pt"):
        checkpoints.load()
    injected("both checkpoints damaged")


class Call:
    """Something that a pickle would call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


TOUCH = "open('executed', 'w')"
PAYLOADS = {
    "os.system": Call(os.system, "touch executed"),
    "eval": Call(eval, TOUCH),
    "exec": Call(exec, TOUCH),
    "posix": Call(posix.system, "touch executed"),
    "partial": Call(functools.partial, os.system, "touch executed"),
    "nested in numpy": [np.array([Call(os.system, "touch executed")], dtype=object)],
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_files_with_code_in_them_are_refused_and_not_run(payload, tmp_path, monkeypatch, injected):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(PAYLOADS[payload])
    (tmp_path / "x.pt").write_bytes(MAGIC + hashlib.sha256(pickled).hexdigest().encode() + b"\n" + pickled)
    torch.save({"x": PAYLOADS[payload]}, tmp_path / "y.pt")
    for name in ("x.pt", "y.pt"):  # as a checkpoint with a right checksum, and as the library would write it
        with pytest.raises(DamagedFileError):
            read_state(tmp_path / name)
    (tmp_path / "genotype.json").write_bytes(pickled)
    with pytest.raises(UserError):
        find_genotype("genotype.json", space_of("darts", 4, 2, CANDIDATES), "runs", 0)
    (tmp_path / "table.csv").write_bytes(pickled)
    with pytest.raises(UserError):
        read_table(tmp_path / "table.csv")
    assert not (tmp_path / "executed").exists()
    injected("file with code in it", 4)


@pytest.mark.parametrize("device", ["/dev/full", "small disk"])
def test_other_full_disks_are_named_too(device, tmp_path, injected):
    if device == "/dev/full":
        if not Path(device).exists():
            pytest.skip("no /dev/full")
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save({"epoch": 1})
        (tmp_path / "checkpoints" / "fresh.pt.tmp").symlink_to(device)
        with pytest.raises(UserError, match=r"fresh\.pt: could not be written to the disk: No space left on device"):
            checkpoints.save({"epoch": 2})
    else:
        code = """
import sys, torch
from pathlib import Path
from darts.checkpoint import Checkpoints
from darts.errors import UserError
from darts.genotype_sources import find_genotype
from darts.nasbench201 import read_table
from tests.conftest import CANDIDATES, ROOT, space_of
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save({"epoch": 1})
try:
    checkpoints.save({"epoch": 2, "weights": torch.zeros(1_000_000)})
except UserError as error:
    print(error)
print(checkpoints.load(), sorted(path.name for path in checkpoints.last.parent.iterdir()))
"""
        mounted = f'mount -t tmpfs -o size=1m none {tmp_path} && {sys.executable} -c "$1" {tmp_path}'
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", mounted, "sh", code], cwd=ROOT, capture_output=True, text=True
        )
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip("no small disks for this user")
        assert "fresh.pt: could not be written to the disk: No space left on device" in done.stdout, done.stderr
        assert "{'epoch': 1} ['last.pt']" in done.stdout
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save({"epoch": 1})
    assert checkpoints.load() == {"epoch": 1}
    injected("disk full")


def test_a_file_that_cannot_be_removed_is_no_harm(tmp_path, monkeypatch, injected):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: (_ for _ in ()).throw(OSError("kept")))
    for epoch in range(50):
        checkpoints.save({"epoch": epoch})
        assert checkpoints.load() == {"epoch": epoch}
        assert {path.name for path in checkpoints.last.parent.iterdir()} <= {"last.pt", "previous.pt"}
    injected("save where nothing can be removed", 50)


def test_a_full_disk_is_named_and_the_previous_checkpoint_stays(tmp_path, injected):
    resource = pytest.importorskip("resource")
    import signal

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"fresh\.pt: could not be written to the disk"):
            checkpoints.save({"epoch": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints.load() == {"epoch": 1}
    assert [file.name for file in checkpoints.last.parent.iterdir()] == ["last.pt"]
    injected("disk full")


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="its folder could not be written"):
        write_bytes(tmp_path / "file" / "x", b"")
