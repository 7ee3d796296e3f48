"""One run on several processes, as torchrun starts them: ranks, collectives, and how a command runs under torchrun.

Every batch is divided (`shard`). A process computes its part of the loss: the sum over its own images, divided by the
images of the whole batch, so that the parts add up to the loss of the whole batch. Then

    the gradient of the loss, in the weights or in alpha, is the sum of the processes' gradients (`all_reduce`),

and what is made of such gradients (an unrolled step, a product with the Hessian, a norm) is the same on every process
and that of the whole batch. Where a batch norm looks at the whole batch, every process's loss depends on the images
of all: the sums over pixels are added up on the way forward, and so are their gradients on the way back
(models/batch_norm.py). Weights, alpha, momentum and decisions are equal on all processes at every step. With one
process all of this is the identity.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from darts.runtime.errors import UserError, require
from darts.runtime.settings import ParallelSettings

if TYPE_CHECKING:
    from torch import Tensor


class _Group(NamedTuple):
    rank: int = 0
    world_size: int = 1
    synchronised_batch_norm: bool = True


_group = _Group()


def rank() -> int:
    """Rank of this process, starting at 0."""
    return _group.rank


def world_size() -> int:
    """Number of processes that are one run; 1 outside `process_group`."""
    return _group.world_size


def is_main_process() -> bool:
    """Whether this process has rank 0: only it writes files and prints."""
    return _group.rank == 0


def synchronised_batch_norm() -> bool:
    """Whether batch norms look at the whole batch; with one process they do anyway."""
    return _group.synchronised_batch_norm


def launched_world_size() -> int:
    """Number of processes that torchrun has started, before `process_group` as well.

    `UserError` where WORLD_SIZE says that there are several and the rest of what torchrun sets is missing or wrong.
    """
    size = _environment_number("WORLD_SIZE", 1)
    if size > 1:
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE is {size} in the environment, but {', '.join(missing)} is not set; "
                "start several processes with torchrun, or unset WORLD_SIZE for one"
            )
        rank = _environment_number("RANK", 0)
        require(rank < size, "RANK in the environment", rank, f"below WORLD_SIZE ({size})")
    return size


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    require(text.isdecimal() and (text != "0" or name != "WORLD_SIZE"), f"{name} in the environment", text, "a number")
    return int(text)


def require_single_process(what: str) -> None:
    """`UserError` where torchrun has started several processes for what works in one."""
    size = launched_world_size()
    require(size == 1, "torchrun's number of processes", size, f"1 with {what}; see docs/running.md for many runs")


def run_entry_point(main: Callable[[], Any]) -> None:
    """Run a command that several processes may share; under torchrun only rank 0 has the folder and the console.

    The others get a folder that is thrown away. Ends with exit code 2 where torchrun and the command do not fit.
    """
    try:
        size = launched_world_size()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if size == 1:
        main()
        return
    if {"-m", "--multirun"} & set(sys.argv):
        _refuse("-m starts runs one after the other; under torchrun start each by itself, or give each one process")
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if restarts and not any(item.startswith(("hydra.run.dir=", "resume=")) for item in sys.argv):
        _refuse("torchrun --max-restarts needs hydra.run.dir=FOLDER, where the restarted run finds its checkpoint")
    folder = tempfile.mkdtemp(prefix="darts-")
    if int(os.environ["RANK"]) > 0:
        sys.argv += [f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra/job_logging=silent"]
    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        shutil.rmtree(folder, ignore_errors=True)
        number = code if isinstance(code, int) else int(code is not None)
        end_at_once(number)


def end_at_once(code: int) -> None:
    """Exit without the interpreter's shutdown, during which threads of gloo may abort the process (PyTorch 2.14)."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refuse(why: str) -> None:
    if int(os.environ["RANK"]) == 0:
        print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def process_group(settings: ParallelSettings, device: str, graphs: bool) -> Iterator[None]:
    """Make the processes that torchrun started one run within the block; with one process this does nothing.

    Tensors on CUDA travel by NCCL, everything on the CPU by gloo.
    """
    global _group
    if launched_world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    require(
        not graphs, "graphs", True, "false with several processes: graphs with messages between processes are untested"
    )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and device != "cpu" else "gloo"
    with named_failures():
        dist.init_process_group(backend, timeout=timedelta(minutes=settings.timeout_minutes))
    before = _group
    _group = _Group(dist.get_rank(), dist.get_world_size(), settings.synchronised_batch_norm)
    yield
    barrier()
    _group = before
    dist.destroy_process_group()  # after an error the process ends, and is not to wait for the others


@contextmanager
def named_failures() -> Iterator[None]:
    """Turn the failure of a collective operation into a `UserError`: another process is gone, or hangs."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition("] ")[2].split(". ")[0][-160:]  # without place and advice
        raise UserError(
            f"process {rank()} of {world_size()} lost contact with the other processes ({reason}); "
            "the last checkpoint is kept; the same command with resume=FOLDER resumes from it"
        ) from None


def shard(indices: Tensor) -> Tensor:
    """This process's part of a batch's indices (batch,): as many as the others', within one."""
    return indices if world_size() == 1 else indices.tensor_split(world_size())[rank()]


def own_rows(whole: Tensor) -> Tensor:
    """This process's rows of those of all processes: the inverse of `unsharded`."""
    import torch

    return whole[shard(torch.arange(len(whole)))]


def unsharded(rows: Tensor, whole: int) -> Tensor:
    """The rows of all processes, `whole` of them together, in the order of which `shard` gives each its own."""
    if world_size() == 1:
        return rows
    import torch

    found = rows.new_zeros(whole, *rows.shape[1:])
    found[shard(torch.arange(whole)).to(rows.device)] = rows
    all_reduce_(found)
    return found


def all_reduce_(tensor: Tensor, by: str = "SUM") -> None:
    """Replace a tensor by its sum (or MAX) over all processes, in place: one message."""
    import torch.distributed as dist

    with named_failures():
        dist.all_reduce(tensor, getattr(dist.ReduceOp, by))
    traffic.update(messages=1, bytes=tensor.numel() * tensor.element_size())


traffic: Counter[str] = Counter()  # messages that this process took part in, and their bytes, for the record only


def all_reduce(tensors: Sequence[Any]) -> list[Any]:
    """Each tensor's sum over all processes, by one message; None stays None."""
    if world_size() == 1:
        return list(tensors)
    import torch

    there = [tensor for tensor in tensors if tensor is not None]
    if not there:
        return list(tensors)
    with torch.no_grad():
        flat = torch.cat([tensor.reshape(-1) for tensor in there])
        all_reduce_(flat)
    parts = iter(flat.split([tensor.numel() for tensor in there]))
    return [None if tensor is None else next(parts).view(tensor.shape) for tensor in tensors]


def all_reduce_mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place."""
    if world_size() > 1:
        for tensor, total in zip(tensors, all_reduce(tensors), strict=True):
            tensor.copy_(total / world_size())


def all_reduce_numbers(values: Sequence[float]) -> list[float]:
    """Each number's sum over all processes."""
    return _reduced(values, "SUM")


def all_reduce_max(values: Sequence[float]) -> list[float]:
    """Each number's largest over all processes."""
    return _reduced(values, "MAX")


def _reduced(values: Sequence[float], by: str) -> list[float]:
    if world_size() == 1 or not values:
        return list(values)
    import torch

    held = torch.tensor(list(values), dtype=torch.float64)
    all_reduce_(held, by)
    return held.tolist()


def broadcast(value: Any) -> Any:
    """The value of rank 0 (anything that JSON can hold), on every process."""
    return _from(0, value) if world_size() > 1 else value


def all_gather(value: Any) -> list[Any]:
    """The values of all processes by rank (anything that JSON can hold), on every process."""
    return [_from(source, value) for source in range(world_size())] if world_size() > 1 else [value]


def barrier() -> None:
    """Wait until all processes are here."""
    all_reduce_numbers([0.0])


def _from(source: int, value: Any) -> Any:
    import torch
    import torch.distributed as dist

    content = list(json.dumps(value).encode()) if source == rank() else []
    with named_failures():
        size = torch.tensor(len(content))
        dist.broadcast(size, source)
        held = torch.tensor(content or [0] * int(size), dtype=torch.uint8)
        dist.broadcast(held, source)
    return json.loads(bytes(held.tolist()))


def require_equal(what: str, tensors: Sequence[Tensor]) -> None:
    """Raise `UserError` naming the processes whose tensors differ from the first one's in a single bit."""
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digests = all_gather(digest.hexdigest())
    other = [index for index, found in enumerate(digests) if found != digests[0]]
    if other:
        raise UserError(f"{what} of process {', '.join(map(str, other))} differs from process 0's; the run is stopped")
