"""Where and how a step runs: device, layout in memory, precision, CUDA graphs, and advice when memory is out."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from darts.runtime import distributed
from darts.runtime.errors import UserError
from darts.runtime.settings import Precision

log = logging.getLogger(__name__)

Outputs = dict[str, Any]  # what a step measured, by name: tuples of tensors and numbers
Step = Callable[..., Outputs]  # of tensors
Recorder = Callable[[Step], Step]  # makes of a step one that may be recorded


@dataclass
class Convolutions:
    """How this process convolves."""

    memory_format: torch.memory_format  # how maps (batch, C, H, W) lie in memory
    own_depthwise: bool  # on CUDA: depthwise convolutions are PyTorch's own kernel, not cuDNN's
    kernels: bool = False  # on CUDA: the fused supernet computes by Triton kernels (darts/models/kernels/)


convolutions = Convolutions(torch.channels_last, False)  # darts/models/layout.py measures which way is fastest


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
    """The module on the device, its convolutions as maps lie in memory: channels last, unless another way is faster."""
    module.to(device)
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=convolutions.memory_format)
    return module


def check_execution(device: torch.device, precision: Precision, graphs: bool) -> None:
    """`UserError` where the device cannot do what is asked of it."""
    if graphs and device.type != "cuda":
        raise UserError(f"graphs is true, but device is {device.type!r}; CUDA graphs need device=cuda")
    if precision is Precision.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision is 'bf16', which this GPU does not have; it must be fp32")
    if precision is Precision.tf32 and not has_tf32(device):
        raise UserError(f"precision is 'tf32', which device {device.type!r} does not have; it must be fp32 or bf16")


def has_tf32(device: torch.device) -> bool:
    """Whether the device multiplies in TF32: NVIDIA's GPUs from compute capability 8.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them a CPU is several times slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return True  # not known to lack them
    return any(getattr(torch.cpu, name)() for name in BF16_INSTRUCTIONS if hasattr(torch.cpu, name))


BF16_INSTRUCTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def set_precision(precision: Precision) -> None:
    """Let products and convolutions of float32 on a GPU be what the precision says.

    Under bf16 they may be TF32, in which products of bfloat16 numbers are exact.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision is not Precision.fp32
    torch.backends.cudnn.allow_tf32 = precision is not Precision.fp32


def warn_of_emulation(device: torch.device, precision: Precision) -> None:
    """Say so where the device computes in bfloat16 without instructions for it."""
    if precision is Precision.bf16 and not has_bf16(device):
        log.warning("precision is bf16, but this %s has no instructions for it: expect steps several times as slow as "
                    "with precision=fp32", device.type)  # fmt: skip


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Within the block products of float32 on a GPU are exact to float32, whatever the precision is."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


CHECKPOINTING = "memory.activation_checkpointing=true"


def remedies(device: str, *settings: str) -> str:
    """Settings that need less memory, bf16 among them where the device that is asked for is fast with it."""
    faster = ["precision=bf16"] if has_bf16(choose_device(device)) else []
    *others, last = [*faster, *settings]
    return f"{', '.join(others)} or {last}" if others else last


def ready_device(name: str, precision: Precision, graphs: bool, deterministic: bool) -> torch.device:
    """The chosen device, checked against what is asked of it, with the process set up for it; else `UserError`."""
    device = choose_device(name)
    check_execution(device, precision, graphs)
    if device.index is not None:
        torch.cuda.set_device(device)
    set_determinism(deterministic)
    set_precision(precision)
    warn_of_emulation(device, precision)
    torch.backends.cudnn.benchmark = not deterministic  # the shapes of steps do not change
    keep_freed_memory()
    return device


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the host does not wait until a GPU has it."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Within it convolutions and products run in the given precision; sums and batch norms stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16)


def map_type(precision: Precision) -> torch.dtype:
    """The type of the numbers that maps consist of."""
    return torch.bfloat16 if precision is Precision.bf16 else torch.float32


def widened(logits: Tensor) -> Tensor:
    """In float32 at least: what a loss and its sums are computed in."""
    return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def memory_advice(advice: str, saved: bool = True) -> Iterator[None]:
    """Turn a lack of memory within the block into a `UserError` that says which settings lower the need.

    `saved`: what runs within the block keeps checkpoints.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        reason = "the machine has no memory left"
    except MemoryError:  # of NumPy, Pillow or Python itself
        reason = "the machine has no memory left"
    else:
        return
    kept = "; the last checkpoint is kept" if saved else ""
    raise UserError(f"out of memory ({reason}); {advice}{kept}")


def is_recording() -> bool:
    """Whether what is computed now is recorded as a CUDA graph, and not run."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class Graphed:
    """A step of tensors as one CUDA graph: recorded at the `warm_up`-th call, replayed after it.

    The first calls run as they are, since optimisers and libraries allocate their state in them; so do batches of
    another shape than the recorded one, and every call where `enabled` is false or the recording has failed. The step
    must not read a tensor's value on the host, and must change only tensors that stay where they are. Results are
    valid until the next call.
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
        """Record, or say in one line why that failed and never try again."""
        inputs, stream = [tensor.clone() for tensor in tensors], torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.outputs = self.step(*inputs)
        except RuntimeError as error:  # of CUDA or PyTorch; out of memory included, which a graph needs more of
            torch.cuda.set_stream(stream)  # the recording's own is still the present one
            reason = str(error).strip().splitlines()[0]
            log.warning("a step could not be recorded as a CUDA graph (%s); the run goes on without graphs", reason)
            self.calls_to_go = -1
            return
        self.graph, self.inputs = graph, inputs
