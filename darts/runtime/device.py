"""Where and how a step runs: device, layout in memory, precision, CUDA graphs, and advice when memory is out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from darts.runtime import distributed
from darts.runtime.errors import UserError
from darts.runtime.settings import Precision

Outputs = dict[str, Any]  # what a step measured, by name: tuples of tensors and numbers
Step = Callable[..., Outputs]  # of tensors


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA, then Apple's MPS, then the CPU), `cpu`, `cuda`, `cuda:1`, `mps`; `UserError` if it is missing."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    if distributed.world_size() > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # a GPU for each process of this machine
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if kind in available))
    if name not in available:
        raise UserError(f"device is {name!r}; this machine has: auto, {', '.join(available)}")
    return torch.device(name)


def set_determinism(wanted: bool) -> None:
    """On a GPU use algorithms that repeat to the bit, and warn where there is none; the CPU always repeats."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted != torch.are_deterministic_algorithms_enabled():  # the call imports a compiler: over a second
        torch.use_deterministic_algorithms(wanted, warn_only=True)


def keep_freed_memory(keep: bool = True) -> None:
    """Let the C library keep what tensors on the CPU free: each step needs it again, and fresh pages are slow.

    With `keep` false it goes back to what it does by itself once it has adapted to large blocks. Known to glibc only;
    elsewhere nothing changes.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    trim_threshold, map_threshold, most_mapped = -1, -3, -4
    trimmed, mapped = (2**31 - 1, 0) if keep else (2**26, 65536)
    library.mallopt(trim_threshold, trimmed)
    library.mallopt(map_threshold, 2**25)
    library.mallopt(most_mapped, mapped)


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on the device, its convolutions channels last in memory."""
    module.to(device)
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def check_execution(device: torch.device, precision: Precision, graphs: bool) -> None:
    """`UserError` where the device cannot do what is asked of it."""
    if graphs and device.type != "cuda":
        raise UserError(f"graphs is true, but device is {device.type!r}; CUDA graphs need device=cuda")
    if precision is Precision.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision is 'bf16', which this GPU does not have; it must be fp32")


def ready_device(name: str, precision: Precision, graphs: bool, deterministic: bool) -> torch.device:
    """The chosen device, checked against what is asked of it, with the process set up for it; else `UserError`."""
    device = choose_device(name)
    check_execution(device, precision, graphs)
    if device.index is not None:
        torch.cuda.set_device(device)
    set_determinism(deterministic)
    keep_freed_memory()
    return device


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Within it convolutions and products run in the given precision; sums and batch norms stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16)


def widened(logits: Tensor) -> Tensor:
    """In float32 at least: what a loss and its sums are computed in."""
    return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn a lack of memory within the block into a `UserError` that says which settings lower the need."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        reason = "the machine has no memory left"
    else:
        return
    raise UserError(f"out of memory ({reason}); {advice}; the last checkpoint is kept")


class Graphed:
    """A step of tensors as one CUDA graph: recorded at the `warm_up`-th call, replayed after it.

    The first calls run as they are, since optimisers and libraries allocate their state in them; so do batches of
    another shape than the recorded one, and every call where `enabled` is false. The step must not read a tensor's
    value on the host, and must change only tensors that stay where they are. Results are valid until the next call.
    """

    def __init__(self, step: Step, enabled: bool, warm_up: int = 3) -> None:
        self.step = step
        self.calls_to_go = warm_up if enabled else -1  # until the recording; -1: never
        self.graph: Any = None
        self.inputs: list[Tensor] = []
        self.outputs: Outputs = {}

    def __call__(self, *tensors: Tensor) -> Outputs:
        """Run, record or replay the step on these tensors."""
        if self.calls_to_go > 0:
            self.calls_to_go -= 1
            return self._aside(tensors)
        if self.calls_to_go == 0 and self.graph is None:
            self._record(tensors)
        if self.graph is None or [t.shape for t in tensors] != [t.shape for t in self.inputs]:
            return self.step(*tensors)
        for held, given in zip(self.inputs, tensors, strict=True):
            held.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs

    def _aside(self, tensors: tuple[Tensor, ...]) -> Outputs:
        """On a stream of its own, as recording requires of the calls before it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.step(*tensors)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _record(self, tensors: tuple[Tensor, ...]) -> None:
        self.inputs = [tensor.clone() for tensor in tensors]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.step(*self.inputs)
