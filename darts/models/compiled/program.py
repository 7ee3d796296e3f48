"""Many calls of source.c as one: a function of operators, traced once for tensors of given layouts, then run as often.

A call from Python takes some 20 microseconds with the map it makes, and the arithmetic of a small map less than that.
A program is what a function of operators did with uninitialised stand-ins for its tensors: which functions of source.c
it called, with which sizes, and which arguments were addresses of what. To run it is to make its results and scratch
memory for the maps in between, and to let the C function `run` make all calls with these addresses. Maps that are not
needed at once share the scratch memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from darts.models.compiled import library
from darts.models.compiled.call import Call, tracing

MOST_PROGRAMS = 1024  # that are kept, the latest
ALIGNMENT = 64  # bytes of which a map's offset in the scratch memory is a multiple
CPU = torch.device("cpu")
Function = Callable[..., Sequence[Tensor] | None]
_programs: dict[Hashable, Program | None] = {}
UNKNOWN: Any = object()  # in place of a program that has not been traced


def run(function: Function, plan: Hashable, *tensors: Tensor | None) -> list[Tensor] | None:
    """What `function(plan, *tensors)` returns, by a program that is traced where there is none for these layouts.

    The function calls operators of operators.py, makes empty tensors and views of tensors, and does nothing else. What
    it does may depend on the plan and on layouts, never on values. It returns tensors that it has made, whole ones; or
    None, where it has no use for such layouts. Tensors of another kind than PyTorch's own on the CPU are None's, too.
    """
    layouts = [None if t is None else (t.shape, t.stride(), t.dtype, t.device, type(t)) for t in tensors]
    key = function, plan, torch.get_num_threads(), library.widest(), *layouts
    found = _programs.get(key, UNKNOWN)
    if found is UNKNOWN:
        found = _traced(function, plan, tensors)
        while len(_programs) >= MOST_PROGRAMS:
            _programs.pop(next(iter(_programs)), None)
        _programs[key] = found
    return None if found is None else found(tensors)


def required(function: Function, plan: Hashable, *tensors: Tensor | None) -> list[Tensor]:
    """The same where nothing else can compute it; raises `TypeError` for tensors of another kind."""
    found = run(function, plan, *tensors)
    if found is None:
        given = sorted({f"{type(tensor).__name__} on {tensor.device}" for tensor in tensors if tensor is not None})
        raise TypeError(f"operators in C take Tensor and Parameter on cpu; got {', '.join(given)}")
    return found


def _traced(function: Function, plan: Hashable, tensors: Sequence[Tensor | None]) -> Program | None:
    given = [own for own in tensors if own is not None]
    if not all(own.device == CPU and type(own) in (Tensor, torch.nn.Parameter) for own in given):
        return None
    like = [None if own is None else _like(own.shape, own.stride(), own.dtype) for own in tensors]
    calls: list[Call] = []
    tracing.calls = calls
    try:
        with _NothingElse():
            results = function(plan, *like)
    finally:
        tracing.calls = None
    return None if results is None else Program(calls, like, results)


class Program:
    """Calls that a function made of tensors of some layouts, or of None in their places, and what it returned."""

    def __init__(self, calls: Sequence[Call], given: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        self.layouts = [(result.shape, result.stride(), result.dtype) for result in results]
        if not all(map(_is_whole, results)):
            raise RuntimeError("a program returned part of a tensor")
        places = _Places([*given, *results], calls)
        code = [len(calls)]  # as `run` in source.c reads it; a tensor that is None is an argument of 0
        for call in calls:
            place = ctypes.cast(call.function, ctypes.c_void_p).value or 0
            arguments, addresses = list(call.arguments), []
            for index, tensor in zip(call.places, call.tensors, strict=True):
                number, arguments[index] = places.of(tensor)
                addresses += [index, number]
            code += [place, len(arguments), len(call.places), *arguments, *addresses]
        self.scratch = places.bytes
        self.code = (ctypes.c_int64 * len(code))(*code)
        self.run = library.load(library.widest()).run

    def __call__(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """The results, of tensors of the same layouts."""
        results = [_like(*layout) for layout in self.layouts]
        scratch = torch.empty(self.scratch, dtype=torch.uint8, device=CPU)
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (*tensors, *results, scratch)]
        self.run(self.code, (ctypes.c_int64 * len(addresses))(*addresses))
        return results


class _Places:
    """Where the tensors of a traced function will lie: a base (given, result or scratch memory) and a byte offset.

    No two of the tensors share memory but as views of one, and in the scratch memory those that are never needed at
    once: a tensor is from the first to the last call that is given it.
    """

    def __init__(self, known: Sequence[Tensor | None], calls: Sequence[Call]) -> None:
        self.known = {_memory(tensor): (number, tensor) for number, tensor in enumerate(known) if tensor is not None}
        self.number = len(known)
        if len(self.known) != sum(tensor is not None for tensor in known):
            raise RuntimeError("a program returned a tensor that it was given, or one twice")
        needed: dict[int, _Needed] = {}
        for at, call in enumerate(calls):
            for tensor in call.tensors:
                own = needed.setdefault(_memory(tensor), _Needed(at, at, tensor.untyped_storage().nbytes()))
                needed[_memory(tensor)] = own._replace(last=at)
        memories = [memory for memory in needed if memory not in self.known]
        offsets, self.bytes = _shared_memory([needed[memory] for memory in memories])
        self.offsets = dict(zip(memories, offsets, strict=True))

    def of(self, tensor: Tensor) -> tuple[int, int]:
        """The number of a tensor's base, the scratch memory being the last, and its byte offset."""
        memory = _memory(tensor)
        if memory in self.known:
            number, whole = self.known[memory]
            return number, tensor.data_ptr() - whole.data_ptr()
        return self.number, self.offsets[memory] + tensor.data_ptr() - memory


class _Needed(NamedTuple):
    """A tensor's memory: the first and the last call that need it, and its bytes."""

    first: int
    last: int
    bytes: int


def _shared_memory(needed: Sequence[_Needed]) -> tuple[list[int], int]:
    """Offsets in one memory, at the lowest place that is free as long as each is needed, and the bytes of all."""
    offsets: list[int] = []
    ends: list[int] = []
    for own in needed:
        size = -(-own.bytes // ALIGNMENT) * ALIGNMENT
        taken = zip(needed, offsets, ends, strict=False)
        at_once = sorted((at, end) for other, at, end in taken if other.last >= own.first and other.first <= own.last)
        offset = 0
        for at, end in at_once:
            if offset + size <= at:
                break
            offset = max(offset, end)
        offsets.append(offset)
        ends.append(offset + size)
    return offsets, max(ends, default=0)


def _like(shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype, device=CPU)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_whole(tensor: Tensor) -> bool:
    return tensor.data_ptr() == _memory(tensor) and tensor.untyped_storage().nbytes() == tensor.nbytes


class _NothingElse(TorchFunctionMode):
    """Refuses what a program would not repeat. (A mode of dispatch would import a compiler, which takes seconds.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", str(func))
        given = {_memory(own) for own in args if isinstance(own, Tensor)}
        made = [own for own in (result if isinstance(result, tuple | list) else [result]) if isinstance(own, Tensor)]
        changes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if changes or ("empty" not in name and any(_memory(own) not in given for own in made)):
            raise RuntimeError(f"a program has calls of source.c, views and empty tensors; got {name}")
        return result
