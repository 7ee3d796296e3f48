"""Checkpoints: whole or not at all, damage noticed, strangers' code refused."""

from __future__ import annotations

import os
import pickle
import random

import pytest
import torch

from darts.checkpoint import MAGIC, Checkpoints, DamagedFileError, read_state, write_bytes, write_state
from darts.errors import UserError

STATE = {"weights": torch.arange(400.0), "epoch": 3, "names": ["a", None], "nested": {"rate": 0.1}}


def test_a_state_comes_back_equal(tmp_path):
    write_state(tmp_path / "x.pt", STATE)
    found = read_state(tmp_path / "x.pt")
    assert torch.equal(found.pop("weights"), STATE["weights"])
    assert found == {key: value for key, value in STATE.items() if key != "weights"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_truncation_at_any_place_is_noticed(tmp_path):
    write_state(tmp_path / "x.pt", STATE)
    whole = (tmp_path / "x.pt").read_bytes()
    for length in [0, 1, len(MAGIC), len(whole) - 1, *random.Random(0).sample(range(len(whole)), 60)]:
        (tmp_path / "x.pt").write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            read_state(tmp_path / "x.pt")


def test_every_flipped_bit_is_noticed(tmp_path):
    write_state(tmp_path / "x.pt", STATE)
    whole = (tmp_path / "x.pt").read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 200):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.pt").write_bytes(flipped)
        with pytest.raises(DamagedFileError):
            read_state(tmp_path / "x.pt")


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


def test_only_damaged_checkpoints_are_an_error_and_never_a_fresh_start(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"epoch": 1})
    checkpoints.save({"epoch": 2})
    for path in (checkpoints.last, checkpoints.previous):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.pt.*previous\.pt"):
        checkpoints.load()


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps(Payload())
    (tmp_path / "x.pt").write_bytes(MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    with pytest.raises(DamagedFileError, match="refused"):
        read_state(tmp_path / "x.pt")
    torch.save({"x": Payload()}, tmp_path / "y.pt")
    with pytest.raises(DamagedFileError):
        read_state(tmp_path / "y.pt")
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_is_named_and_the_previous_checkpoint_stays(tmp_path):
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


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="its folder could not be written"):
        write_bytes(tmp_path / "file" / "x", b"")
