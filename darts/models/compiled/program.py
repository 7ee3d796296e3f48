"""Many calls of source.c as one: a function of operators, traced once for tensors of given layouts, then run as often.

A call from Python takes some 20 microseconds with the map it makes, and the arithmetic of a small map less than that.
A program is what a function of operators did with uninitialised stand-ins for its tensors: which functions of source.c
it called, with which sizes, and which arguments were addresses of what. To run it is to make its results and scratch
memory for the maps in between, and to let the C function `run` make all calls with these addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from darts.models.compiled.call import tracing
from darts.models.compiled.library import load, widest

MOST_PROGRAMS = 512  # that are kept; with the next one all are traced anew
ALIGNMENT = 64  # bytes of which a map's offset in the scratch memory is a multiple
_programs: dict[Hashable, Program] = {}


def run(function: Callable[..., Sequence[Tensor]], plan: Hashable, *tensors: Tensor | None) -> list[Tensor]:
    """What `function(plan, *tensors)` returns, by a program that is traced where there is none for these layouts.

    The function calls operators of operators.py, makes empty tensors and views of tensors, and does nothing else. What
    it does may depend on the plan and on layouts, never on values. It returns tensors that it has made, whole ones.
    """
    layouts = [None if own is None else (own.shape, own.stride(), own.dtype) for own in tensors]
    key = function, plan, torch.get_num_threads(), widest(), *layouts
    found = _programs.get(key)
    if found is None:
        if len(_programs) >= MOST_PROGRAMS:
            _programs.clear()
        found = _programs[key] = Program(function, plan, tensors)
    return found(tensors)


class Program:
    """What a function did with tensors of some layouts, or with None in their places."""

    def __init__(
        self, function: Callable[..., Sequence[Tensor]], plan: Hashable, tensors: Sequence[Tensor | None]
    ) -> None:
        given = [None if t is None else _like(t.shape, t.stride(), t.dtype) for t in tensors]
        calls: list[Any] = []
        tracing.calls = calls
        try:
            with _NothingElse():
                results = function(plan, *given)
        finally:
            tracing.calls = None
        self.layouts = [(result.shape, result.stride(), result.dtype) for result in results]
        if not all(map(_is_whole, results)):
            raise RuntimeError("a program returned part of a tensor")
        places = _Places([*given, *results])
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
        self.run = load(widest()).run

    def __call__(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """The results, of tensors of the same layouts."""
        results = [_like(*layout) for layout in self.layouts]
        scratch = torch.empty(self.scratch, dtype=torch.uint8, device="cpu")
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (*tensors, *results, scratch)]
        self.run(self.code, (ctypes.c_int64 * len(addresses))(*addresses))
        return results


class _Places:
    """Where the tensors of a traced function will lie: a base (given, result or scratch memory) and a byte offset.

    No two of the tensors share memory but as views of one.
    """

    def __init__(self, known: Sequence[Tensor | None]) -> None:
        self.known = {_memory(tensor): (number, tensor) for number, tensor in enumerate(known) if tensor is not None}
        self.number = len(known)
        self.offsets: dict[int, int] = {}  # in the scratch memory
        self.bytes = 0
        if len(self.known) != sum(tensor is not None for tensor in known):
            raise RuntimeError("a program returned a tensor that it was given, or one twice")

    def of(self, tensor: Tensor) -> tuple[int, int]:
        """The number of a tensor's base, the scratch memory being the last, and its byte offset."""
        memory = _memory(tensor)
        if memory in self.known:
            number, whole = self.known[memory]
            return number, tensor.data_ptr() - whole.data_ptr()
        if memory not in self.offsets:
            self.offsets[memory] = self.bytes
            self.bytes += -(-tensor.untyped_storage().nbytes() // ALIGNMENT) * ALIGNMENT
        return self.number, self.offsets[memory] + tensor.data_ptr() - memory


def _like(shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype, device="cpu")


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
