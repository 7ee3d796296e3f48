"""A generator for each purpose, derived from (seed, purpose, counters).

Nothing here has a state that a checkpoint would have to hold: whoever needs random numbers asks for a fresh
generator and names what for (`generator(seed, "order", epoch)`), so a resumed run draws what the uninterrupted one
would have drawn, and a draw added in one place moves nothing elsewhere.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


RESOLUTION = 2**24  # of a float32 draw from 0 to 1, where it becomes a seed of further draws


def derive(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed that depends on every argument and on nothing else."""
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A fresh PyTorch generator on the CPU; draws made there are the same for every device."""
    import torch

    return torch.Generator().manual_seed(derive(seed, purpose, *counters))


def python_generator(seed: int, purpose: str, *counters: int) -> random.Random:
    """A fresh generator of the standard library, for draws that involve no tensor."""
    return random.Random(derive(seed, purpose, *counters))


@contextmanager
def ambient_on_host(seed: int, purpose: str, *counters: int) -> Iterator[None]:
    """The same for the CPU's global generator only, in processes that must not touch a GPU: readers of pictures."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, purpose, *counters))
        yield


@contextmanager
def ambient(seed: int, purpose: str, *counters: int) -> Iterator[None]:
    """Seed PyTorch's global generators within the block only: layers' initialisation, dropout, sampling draw there."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, purpose, *counters))
        yield
