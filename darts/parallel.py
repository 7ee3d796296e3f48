"""One run on several processes, as torchrun starts them: who this one is, and the sums that make them one.

Every batch is dealt out (`share`). A process computes its share of the loss: the sum over its own images, divided by
the images of the whole batch, so that the shares add up to the loss of the whole batch. Then

    the gradient of the loss, in the weights or in alpha, is the sum of the processes' gradients (`summed`),

and what is made of such gradients (an unrolled step, a product with the Hessian, a norm) is the same on every process
and that of the whole batch. Where a batch norm looks at the whole batch, every process's loss depends on the images
of all: the sums over pixels are added up on the way forward, and so are their gradients on the way back
(synchronised.py). Weights, alpha, momentum and decisions are equal on all processes at every step; nothing is sent but
sums. With one process all of this is the identity.
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

from darts.errors import UserError, require
from darts.settings import ParallelSettings

if TYPE_CHECKING:
    from torch import Tensor


class _Joined(NamedTuple):
    number: int = 0
    processes: int = 1
    synchronised: bool = True


_joined = _Joined()


def number() -> int:
    """This process's, from 0."""
    return _joined.number


def processes() -> int:
    """How many work together; 1 outside `joined`."""
    return _joined.processes


def leading() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return _joined.number == 0


def synchronised() -> bool:
    """Whether batch norms look at the whole batch; with one process they do anyway."""
    return _joined.synchronised


def started() -> int:
    """How many processes torchrun has started, whether or not they have joined yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_alone(what: str) -> None:
    """`UserError` where torchrun has started several processes for what works in one."""
    number = started()
    require(number == 1, "torchrun's number of processes", number, f"1 with {what}; see docs/scaling.md for many runs")


def command(main: Callable[[], Any]) -> None:
    """Run a command of Hydra's that several processes may share; under torchrun only the first has folder and console.

    The others get a folder that is thrown away. Ends with exit code 2 where torchrun and the command do not fit.
    """
    if started() == 1:
        main()
        return
    if {"-m", "--multirun"} & set(sys.argv):
        _refuse("-m starts runs one after the other; under torchrun start each by itself, or give each one process")
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if restarts and not any(item.startswith("hydra.run.dir=") for item in sys.argv):
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
        end_at_once(code if isinstance(code, int) else int(code is not None))


def end_at_once(code: int) -> None:
    """End this process without Python's own tidying up, during which threads of gloo may abort it (PyTorch 2.14)."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refuse(why: str) -> None:
    if int(os.environ["RANK"]) == 0:
        print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def joined(settings: ParallelSettings, device: str, graphs: bool) -> Iterator[None]:
    """Within the block the processes that torchrun started are one run; one process alone is that anyway.

    Gradients travel by NCCL where the device is CUDA, by gloo elsewhere; decisions by gloo.
    """
    global _joined
    if started() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    require(not graphs, "graphs", True, "false with several processes, whose messages no graph was tried with")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and device != "cpu" else "gloo"
    with heard():
        dist.init_process_group(backend, timeout=timedelta(minutes=settings.timeout_minutes))
    before = _joined
    _joined = _Joined(dist.get_rank(), dist.get_world_size(), settings.synchronised_batch_norm)
    yield
    barrier()
    _joined = before
    dist.destroy_process_group()  # after an error the process ends, and is not to wait for the others


@contextmanager
def heard() -> Iterator[None]:
    """Turn the failure of a collective operation into a `UserError`: another process is gone, or hangs."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition("] ")[2].split(". ")[0][-160:]  # without place and advice
        raise UserError(
            f"process {number()} of {processes()} no longer hears the others ({reason}); "
            "the last checkpoint is kept, and the same command with the same hydra.run.dir goes on from it"
        ) from None


def share(indices: Tensor) -> Tensor:
    """This process's part of a batch's images: as many as the others', within one."""
    return indices if processes() == 1 else indices.tensor_split(processes())[number()]


def add_up(tensor: Tensor, by: str = "SUM") -> None:
    """Give a tensor its sum (or MAX) over all processes, in place: one message."""
    import torch.distributed as dist

    with heard():
        dist.all_reduce(tensor, getattr(dist.ReduceOp, by))
    traffic.update(messages=1, bytes=tensor.numel() * tensor.element_size())


traffic: Counter[str] = Counter()  # messages that this process took part in, and their bytes, for the record alone


def summed(tensors: Sequence[Any]) -> list[Any]:
    """Each tensor's sum over all processes, by one message; None stays None."""
    if processes() == 1:
        return list(tensors)
    import torch

    there = [tensor for tensor in tensors if tensor is not None]
    if not there:
        return list(tensors)
    with torch.no_grad():
        flat = torch.cat([tensor.reshape(-1) for tensor in there])
        add_up(flat)
    parts = iter(flat.split([tensor.numel() for tensor in there]))
    return [None if tensor is None else next(parts).view(tensor.shape) for tensor in tensors]


def average(tensors: Sequence[Tensor]) -> None:
    """Give each tensor its mean over all processes, in place."""
    if processes() > 1:
        for tensor, total in zip(tensors, summed(tensors), strict=True):
            tensor.copy_(total / processes())


def totals(values: Sequence[float]) -> list[float]:
    """Each number's sum over all processes."""
    return _reduced(values, "SUM")


def largest(values: Sequence[float]) -> list[float]:
    """Each number's largest over all processes."""
    return _reduced(values, "MAX")


def _reduced(values: Sequence[float], by: str) -> list[float]:
    if processes() == 1 or not values:
        return list(values)
    import torch

    held = torch.tensor(list(values), dtype=torch.float64)
    add_up(held, by)
    return held.tolist()


def said(value: Any) -> Any:
    """What the first process says: its value (of JSON) on all of them."""
    return _from(0, value) if processes() > 1 else value


def gathered(value: Any) -> list[Any]:
    """Every process's value (of JSON), on all of them."""
    return [_from(source, value) for source in range(processes())] if processes() > 1 else [value]


def barrier() -> None:
    """Wait until all processes are here."""
    totals([0.0])


def _from(source: int, value: Any) -> Any:
    import torch
    import torch.distributed as dist

    content = list(json.dumps(value).encode()) if source == number() else []
    with heard():
        size = torch.tensor(len(content))
        dist.broadcast(size, source)
        held = torch.tensor(content or [0] * int(size), dtype=torch.uint8)
        dist.broadcast(held, source)
    return json.loads(bytes(held.tolist()))


def require_same(what: str, tensors: Sequence[Tensor]) -> None:
    """Raise `UserError` naming the processes whose tensors differ from the first one's in a single bit."""
    if processes() == 1:
        return
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digests = gathered(digest.hexdigest())
    other = [index for index, found in enumerate(digests) if found != digests[0]]
    if other:
        raise UserError(f"{what} of process {', '.join(map(str, other))} differs from process 0's; the run is stopped")
