"""Settings of where and how a run computes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from darts.runtime.errors import require


@dataclass
class ParallelSettings:
    """How several processes are one run, where torchrun starts them."""

    synchronised_batch_norm: bool  # true: batch norms see the whole batch, as with one process; false: a part each
    timeout_minutes: float  # how long a process waits for one that does not answer

    def __post_init__(self) -> None:
        minutes = self.timeout_minutes
        require(0 < minutes <= 1e5, "parallel.timeout_minutes", minutes, "above 0 and at most 100000")


class Precision(Enum):
    """Of convolutions and products; sums, batch norms and the architecture parameters are float32 in all.

    fp32: float32 without exception. tf32: a GPU rounds what is multiplied to 10 bits of mantissa, and adds in float32.
    bf16: maps are kept in bfloat16.
    """

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


@dataclass
class CheckpointSettings:
    """When a run is saved besides the end of every epoch."""

    minutes: float  # at most this long between two saves within an epoch

    def __post_init__(self) -> None:
        require(self.minutes > 0, "checkpoint.minutes", self.minutes, "above 0 (inf: at the ends of epochs only)")
