"""Whole steps on fake CUDA tensors, on a machine without a GPU: what a GPU would be asked to do, counted.

A fake tensor has a shape, strides and a device, and no memory. PyTorch's forward pass runs on it without a GPU; its
backward pass asks the CUDA runtime for a device and a stream, and gets answers from a small library that is compiled
here and loaded before the real one, in a process of its own. No kernel runs, so nothing here says how fast a GPU is or
whether its numbers are right; that a step needs no copy from the host and how many operators it has is known exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.optim import optimizer as torch_optimizer
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from darts.benchmark.cases import random_search_data, random_train_data
from darts.models.cost import CostModel
from darts.models.fused.folding import folded_once
from darts.models.layout import CHOICES, use
from darts.runtime.device import Graphed, autocast, set_precision
from darts.runtime.settings import Precision
from darts.search import loop as search
from darts.search.costs import cost_model
from darts.search.settings import SearchSettings
from darts.search.state import SearchState, new_state
from darts.spaces.published import published
from darts.spaces.search_space import InputShape
from darts.tasks.batches import RawBatch, Split
from darts.train import retraining as retrain
from tests.conftest import ENVIRONMENT, ROOT, composed

RUNTIME = """
#include <stdlib.h>
#include <string.h>
typedef unsigned long size;
static int nothing(void) { return 0; }
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaGetDeviceProperties(void *properties, int device) {  /* offsets of CUDA 12 and 13 */
    char *p = memset(properties, 0, 1008);
    strcpy(p, "none");
    *(size *)(p + 288) = (size)80 << 30;                   /* memory */
    *(int *)(p + 308) = 32; *(int *)(p + 320) = 1024;      /* threads of a warp and of a block */
    *(int *)(p + 360) = 9;                                 /* compute capability 9.0 */
    *(int *)(p + 384) = *(int *)(p + 388) = 132;           /* multiprocessors */
    return 0;
}
int cudaGetDeviceProperties_v2(void *properties, int device) { return cudaGetDeviceProperties(properties, device); }
int cudaDeviceGetAttribute(int *value, int name, int device) {
    *value = name == 75 ? 9 : name == 16 ? 132 : 0;
    return 0;
}
int cudaDeviceGetStreamPriorityRange(int *least, int *most) { *least = 0; *most = -5; return 0; }
int cudaDeviceCanAccessPeer(int *can, int one, int other) { *can = 0; return 0; }
int cudaDeviceGetDefaultMemPool(void **pool, int device) { *pool = (void *)48; return 0; }
int cudaMemPoolSetAttribute(void *pool, int name, void *value) { return 0; }
int cudaDeviceSynchronize(void) { return 0; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, size flags, int *status) {
    *function = (void *)nothing;
    if (status) *status = 0;
    return 0;
}
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { *stream = (void *)16; return 0; }
int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamQuery(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
int cudaThreadExchangeStreamCaptureMode(int *mode) { return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = (void *)32; return 0; }
int cudaEventDestroy(void *event) { return 0; }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventQuery(void *event) { return 0; }
int cudaEventSynchronize(void *event) { return 0; }
int cudaMemGetInfo(size *held, size *all) { *held = *all = (size)80 << 30; return 0; }
int cudaMalloc(void **memory, size bytes) { *memory = malloc(bytes); return 0; }  /* for torch.tensor(...) only */
int cudaFree(void *memory) { free(memory); return 0; }
int cudaHostAlloc(void **memory, size bytes, unsigned flags) { *memory = malloc(bytes); return 0; }
int cudaHostRegister(void *memory, size bytes, unsigned flags) { return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaPointerGetAttributes(void *attributes, const void *memory) { memset(attributes, 0, 32); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size bytes, int kind, void *s) { memcpy(to, from, bytes); return 0; }
int cudaMemsetAsync(void *to, int value, size bytes, void *stream) { memset(to, value, bytes); return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuInit(unsigned flags) { return 0; }
"""
CUDA = torch.device("cuda")
REFERENCE = "engine=reference"
WITHOUT_WORK = {  # operators that ask nothing of the device
    *("alias", "detach", "device", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty"),
    *("new_empty_strided", "_record_function_enter_new", "_record_function_exit"),
}

Action = Callable[[], Any]


@dataclasses.dataclass
class Count:
    """What one step asks of the device."""

    operators: int  # that are neither views nor mere allocations
    gigabytes: float  # of the tensors that they are given and return: read and written
    copies: dict[str, int]  # between host and device, and operators that meet tensors of both, by name
    host: dict[str, int]  # operators on host tensors alone, by name
    strides: list[str]  # of gradients that do not lie in memory as their weight does
    ended: str | None = None  # why the step could not go on: the host asked for a result, or an operator refused
    rounded: int = 0  # products that should be exact and are not


class Counting(TorchDispatchMode):
    """Counts operators while they run."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.host: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.split("::")[1]
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if name == "avg_pool2d_backward" and max(args[4]) > 0 and not args[0].is_contiguous():
            self.host["avg_pool2d_backward of channels last, which is wrong with a padding"] += 1
        if len(devices) > 1 or name == "lift_fresh":  # the latter: a tensor of numbers that the host has
            self.copies[name] += 1
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if is_view or name in WITHOUT_WORK:
            return result
        if "cuda" not in devices:
            self.host[name] += 1
            return result
        self.operators[name] += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def count(action: Action, optimisers: list[torch.optim.Optimizer]) -> Count:
    """Run the action and count. The optimisers' momentum is there, as after the first step."""
    strides: list[str] = []
    for optimiser in optimisers:
        optimiser.register_step_pre_hook(lambda own, *_: strides.extend(differing(own)))
        if isinstance(optimiser, torch.optim.SGD) and not optimiser.state:
            for weight in optimiser.param_groups[0]["params"]:
                optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    counting, ended = Counting(), None
    try:
        with counting:
            action()
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        ended = f"the host reads {error.func}"
    except RuntimeError as error:
        ended = str(error)
    operators = sum(counting.operators.values())
    return Count(operators, counting.bytes / 1e9, dict(counting.copies), dict(counting.host), strides, ended)


def differing(optimiser: torch.optim.Optimizer) -> Iterator[str]:
    """The shapes of weights whose gradient lies otherwise in memory; a side of 1 has no stride to speak of."""
    for weight in (weight for group in optimiser.param_groups for weight in group["params"]):
        if weight.grad is not None and _strides(weight) != _strides(weight.grad):
            yield f"{tuple(weight.shape)}: {weight.stride()}, its gradient {weight.grad.stride()}"


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, side in zip(tensor.stride(), tensor.shape, strict=True) if side > 1]


def _moved(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Stands in for `nn.Module._apply`, which exchanges fake tensors in a way that they refuse."""
    with torch.no_grad():
        for inner in module.modules():
            for name, weight in inner._parameters.items():
                if weight is not None:
                    inner._parameters[name] = nn.Parameter(function(weight.detach()), weight.requires_grad)
            for name, buffer in inner._buffers.items():
                if buffer is not None:
                    inner._buffers[name] = function(buffer)
    return module


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Within the block tensors are fake, on any device; steps run as they are, not as graphs."""
    nn.Module._apply = _moved  # type: ignore[method-assign,assignment]
    Graphed.__call__ = lambda self, *tensors: self.step(*tensors)  # type: ignore[method-assign]
    Split.digest = lambda self: "0" * 12  # type: ignore[method-assign]  # its indices are fake
    for module in (_foreach_utils, torch_optimizer):  # several tensors in one operator, as those of a GPU
        if FakeTensor not in module._foreach_supported_types:
            module._foreach_supported_types.append(FakeTensor)
    with FakeTensorMode():
        yield


def search_case(command: str, overrides: list[str], steps: int = 1) -> Count:
    """Whole steps of a search."""
    state = search_state(command, overrides)
    for part in (state.data.train, state.data.valid):
        part.preparation.augmented(next(part.shuffled_raw(0)))  # the first batch makes constants
    batches = search.batches_of_steps(state, 0, 0, 10**9)
    raws = [tensor for raw in next(batches) for tensor in raw]
    step, now = search.step_action(state, True), torch.zeros(2, device=CUDA)

    def action() -> None:
        for _ in range(steps):
            step(now, *raws)

    return count(action, [state.weight_optimiser, state.architecture_optimiser])


def layout_case(command: str, overrides: list[str], choice: str) -> Count:
    """A whole step of a search whose process convolves in the way of this name."""
    use(choice)
    with own_kernels() as kernels:
        found = search_case(command, overrides)
    use("channels last")
    expected = set() if "Triton" in choice else {"own" in choice}
    found.host = {} if kernels == expected else {f"another kernel than that of {choice}": 1}
    return found


@contextmanager
def own_kernels() -> Iterator[set[bool]]:
    """Watch whether cuDNN is switched off for depthwise convolutions, forward and backward."""
    kernels: set[bool] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            depthwise = function is torch.ops.aten.convolution.default and args[8] == args[0].shape[1] > 1
            if depthwise and args[0].is_cuda:  # multiply-adds are counted on the host
                kernels.add(not torch.backends.cudnn.enabled)
            return function(*args, **(kwargs or {}))

    with Watch():
        yield kernels


def search_state(command: str, overrides: list[str]) -> SearchState:
    """A search on random images before its first step, its tensors on fake CUDA."""
    settings = composed(command, *overrides)
    settings.graphs = True
    state = new_state(settings, random_search_data(settings, CUDA), CUDA, Path(tempfile.mkdtemp()))
    state.costs = fake_costs(settings, state.data.shape)
    return state


def fake_costs(settings: SearchSettings, shape: InputShape) -> CostModel | None:
    """The limits of cost, where there are any; they are measured on the host."""
    with unset_fake_temporarily():
        costs = cost_model(settings, shape, torch.device("cpu"), Path(tempfile.mkdtemp()))
    if costs is not None:
        tensors = [*costs.tables.values(), costs.selectable, vars(costs)]
        costs.device = CUDA
        for table in tensors:
            table |= {name: _on_fake(value) for name, value in table.items() if isinstance(value, Tensor)}
    return costs


def _on_fake(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)


def retraining_case(command: str, overrides: list[str]) -> Count:
    """A whole step of a retraining, in an epoch that drops paths."""
    settings = composed(command, *overrides)
    settings.graphs = True
    data = random_train_data(settings, CUDA)
    state = retrain.new_state(settings, published("darts_v2"), data, Path(tempfile.mkdtemp()))
    state.epoch = 1
    raw = next(state.data.train.shuffled_raw(0))
    data.preparation.augmented(raw)  # the first batch makes constants
    scales = retrain.drop_path(state, len(raw.labels))
    return count(lambda: state.train_step(*raw, *scales), [state.optimiser])


class RoundedProducts(Counting):
    """Counts batched products of float32 matrices that a GPU would round to TF32; nothing else is counted."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.bmm.default and args[0].dtype == torch.float32:
            name = "rounded" if torch.backends.cuda.matmul.allow_tf32 else "exact"
            self.operators[name] += 1
        return function(*args, **(kwargs or {}))


def tf32_case(command: str, overrides: list[str]) -> Count:
    """The batched products of a forward pass under tf32, which are those of moments and variances."""
    state = search_state(command, overrides)
    set_precision(Precision.tf32)
    batch = state.data.train.preparation.augmented(next(state.data.train.shuffled_raw(0)))
    with RoundedProducts() as products:
        state.supernet(batch.inputs, state.deterministic_mixture())
    assert torch.backends.cuda.matmul.allow_tf32
    return Count(products.operators["exact"], 1.0, {}, {}, [], None, products.operators["rounded"])


def evaluation_case(command: str, overrides: list[str]) -> Count:
    """The supernet's answer to a batch that is not the first, in evaluation mode."""
    state = search_state(command, overrides)
    images = next(state.data.valid.in_order()).inputs
    mixture = state.deterministic_mixture()
    state.supernet.eval()

    @torch.no_grad()
    def answer() -> Tensor:
        with autocast(CUDA, state.settings.precision):
            return state.supernet(images, mixture)

    with folded_once(state.supernet):
        answer()
        return count(answer, [])


def resumed_search_case(command: str, overrides: list[str]) -> Count:
    """A step of a search that was begun on the CPU, without graphs, by the reference engine."""
    with unset_fake_temporarily():
        settings, host = composed(command, *overrides, REFERENCE), torch.device("cpu")
        begun = new_state(settings, random_search_data(settings, host), host, Path(tempfile.mkdtemp()))
        raws = next(search.batches_of_steps(begun, 0, 0, 1))
        search.step_action(begun, True)(torch.zeros(2), *[tensor for raw in raws for tensor in raw])
        saved = begun.state_dict()
    state = search_state(command, overrides)
    state.load_state_dict(_faked(saved))
    batches = search.batches_of_steps(state, 0, 0, 10**9)
    raws = [tensor for raw in next(batches) for tensor in raw]
    state.data.train.preparation.augmented(RawBatch(*raws[:3]))
    state.data.valid.preparation.augmented(RawBatch(*raws[3:]))
    step, now = search.step_action(state, True), torch.zeros(2, device=CUDA)
    return count(lambda: step(now, *raws), [state.weight_optimiser, state.architecture_optimiser])


def resumed_retraining_case(command: str, overrides: list[str]) -> Count:
    """A step of a retraining that was begun on the CPU, without graphs."""
    with unset_fake_temporarily():
        settings, host = composed(command, *overrides), torch.device("cpu")
        data = random_train_data(settings, host)
        begun = retrain.new_state(settings, published("darts_v2"), data, Path(tempfile.mkdtemp()))
        begun.train_step(*next(begun.data.train.shuffled_raw(0)))
        saved = begun.state_dict()
    settings.graphs = True
    data = random_train_data(settings, CUDA)
    state = retrain.new_state(settings, published("darts_v2"), data, Path(tempfile.mkdtemp()))
    state.load_state_dict(_faked(saved))
    raw = next(state.data.train.shuffled_raw(0))
    data.preparation.augmented(raw)
    return count(lambda: state.train_step(*raw), [state.optimiser])


def _faked(saved: Any) -> Any:
    """A state's tensors as fake ones on the host; numbers stay known."""

    def fake(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0:
            with unset_fake_temporarily():
                number = tensor.item()
            return torch.tensor(number, dtype=tensor.dtype)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)

    return tree_map_only(Tensor, fake, saved)


LAYOUTS = {f"search, {name}": functools.partial(layout_case, choice=name) for name in CHOICES}
KINDS = {
    **LAYOUTS,
    "resumed search": resumed_search_case,
    "resumed retraining": resumed_retraining_case,
    "search": search_case,
    "two search steps": functools.partial(search_case, steps=2),
    "tf32": tf32_case,
    "retraining": retraining_case,
    "evaluation": evaluation_case,
}
Case = tuple[str, str, tuple[str, ...]]  # kind, command whose settings it has, overrides


def why_not() -> str | None:
    """Why this machine cannot run fake CUDA, None where it can."""
    if sys.platform != "linux":
        return "a library is loaded before another in the way of Linux"
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    if torch.cuda.is_available():
        return "there is a GPU"
    return None if shutil.which("cc") else "there is no C compiler"


@functools.cache
def runtime() -> str:
    """The file of the library that stands in for the CUDA runtime and its driver."""
    folder = Path(tempfile.mkdtemp(prefix="darts-fake-cuda-"))
    (folder / "runtime.c").write_text(RUNTIME)
    names = ["-o", str(folder / "runtime.so"), "-Wl,-soname,libcuda.so.1", str(folder / "runtime.c")]
    subprocess.run(["cc", "-w", "-shared", "-fPIC", *names], check=True)
    return str(folder / "runtime.so")


def counts(cases: list[Case]) -> list[Count]:
    """Count the cases in a process of its own."""
    environment = {**ENVIRONMENT, "LD_PRELOAD": runtime()}
    command = [sys.executable, "-m", "tests.fake_cuda"]
    found = subprocess.run(command, cwd=ROOT, env=environment, input=json.dumps(cases), capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(found.stderr[-4000:])
    return [Count(**json.loads(line)) for line in found.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    """Read cases as JSON, print a count a line."""
    for kind, command, overrides in json.load(sys.stdin):
        with fake_cuda():
            print(json.dumps(dataclasses.asdict(KINDS[kind](command, ["device=cpu", *overrides]))), flush=True)


if __name__ == "__main__":
    main()
