"""Checkpoints: whole or not at all, damage noticed, strangers' code refused."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import posix
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from darts.runtime.checkpoint import MAGIC, Checkpoints, DamagedFileError, read_state, write_state
from darts.runtime.errors import UserError
from darts.spaces.sources import find_genotype
from darts.spaces.table import read_table
from tests.conftest import CANDIDATES, space_of

STATE = {"weights": torch.arange(400.0), "epoch": 3, "names": ["a", None], "nested": {"rate": 0.1}}


def test_a_state_comes_back_equal(tmp_path):
    write_state(tmp_path / "x.pt", STATE)
    found = read_state(tmp_path / "x.pt")
    assert torch.equal(found.pop("weights"), STATE["weights"])
    assert found == {key: value for key, value in STATE.items() if key != "weights"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


@pytest.fixture
def damaged(tmp_path, caplog):
    """Put something in the newest checkpoint's place: it is noticed, and the previous one used, with one warning."""
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    checkpoints.save({"epoch": 1})
    checkpoints.save(STATE)
    whole = checkpoints.last.read_bytes()
    assert checkpoints.load()["epoch"] == 3 and not caplog.records

    def replace(content: bytes) -> None:
        caplog.clear()
        checkpoints.last.write_bytes(content)
        with pytest.raises(DamagedFileError):
            read_state(checkpoints.last)
        assert checkpoints.load() == {"epoch": 1}
        assert len(caplog.records) == 1
        assert "last.pt" in caplog.text and "resuming from previous.pt" in caplog.text

    return whole, replace


def test_truncation_at_any_place_is_noticed(damaged, injected):
    whole, replace = damaged
    for length in [0, 1, len(MAGIC), len(whole) - 1, *random.Random(0).sample(range(len(whole)), 60)]:
        replace(whole[:length])
    injected("checkpoint truncated", 64)


def test_every_flipped_bit_is_noticed(damaged, injected):
    whole, replace = damaged
    for bit in random.Random(0).sample(range(8 * len(whole)), 200):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        replace(bytes(flipped))
    injected("bit of a checkpoint flipped", 200)


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


def test_a_file_that_cannot_be_removed_is_no_harm(tmp_path, monkeypatch, injected):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: (_ for _ in ()).throw(OSError("kept")))
    for epoch in range(50):
        checkpoints.save({"epoch": epoch})
        assert checkpoints.load() == {"epoch": epoch}
        assert {path.name for path in checkpoints.last.parent.iterdir()} <= {"last.pt", "previous.pt"}
    injected("save where nothing can be removed", 50)
