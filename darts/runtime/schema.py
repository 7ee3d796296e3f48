"""Whether plain data has the shape that a program needs: a file with the right checksum may still hold anything.

A schema is

    a type                     the value is of it; bool is no int, an int serves as a float
    {"key": schema, ...}       a dictionary that has these keys, and perhaps others
    exactly({...})             the same with no other keys
    {str: schema}              a dictionary from texts to values of that schema
    [schema]                   a list
    (schema, schema)           either; None stands for null
    At(least, most)            a whole number within limits
    Within(least, most)        a finite number within limits
    Length(number, schema)     a list of so many
    Row((schema, ...))         a list with a value of each schema in turn
    Part({"key": schema})      a dictionary of some of these keys
    OneOf(("a", ...))          one of these texts
    {int: [schema, ...]}       a dictionary from 0, 1, ... to a value of each schema; or an empty one
    Like(shape, dtype)         a tensor
    JSON                       whatever JSON can hold
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Schema = Any


class At(NamedTuple):
    """A whole number from `least` to `most`."""

    least: int
    most: int


class Within(NamedTuple):
    """A finite number from `least` to `most`."""

    least: float
    most: float


class Length(NamedTuple):
    """A list of `number` values of a schema."""

    number: int
    schema: Any


class Row(NamedTuple):
    """A list with a value of each schema in turn."""

    schemas: tuple[Any, ...]


class Part(NamedTuple):
    """A dictionary of some of these keys, each with its schema."""

    schemas: Mapping[str, Any]


class OneOf(NamedTuple):
    """One of these texts."""

    texts: tuple[str, ...]


class Like(NamedTuple):
    """A tensor of a shape and a type."""

    shape: tuple[int, ...]
    dtype: Any


class _Json(NamedTuple):
    pass


JSON = _Json()
FINITE = Within(-sys.float_info.max, sys.float_info.max)


class SchemaError(Exception):
    """A value that is not of its schema; the text says where and what."""


def require_schema(value: Any, schema: Schema, place: str = "") -> None:
    """Raise `SchemaError` naming the first place where a value departs from a schema."""
    check = _CHECKS.get(type(schema))
    if check is not None:
        check(value, schema, place)
    elif schema is None:
        _require(value is None, place, value, "null")
    else:
        _require(_is(value, schema), place, value, f"a {schema.__name__}")


def like(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The schema of a dictionary with exactly these tensors' names, shapes and types."""
    return exactly({name: like_tensor(tensor) for name, tensor in tensors.items()})


def exactly(schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """The schema of a dictionary that has these keys and no others."""
    return {"": sorted(schemas), **schemas}


def like_tensor(tensor: Tensor) -> Like:
    """The schema of one tensor."""
    return Like(tuple(tensor.shape), tensor.dtype)


def by_example(value: Any) -> Schema:
    """The schema of values that are built as this one: the same keys, lengths, and types of what is within."""
    if isinstance(value, dict):
        return {key: by_example(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return Length(len(value), by_example(value[0])) if value else Length(0, object)
    if hasattr(value, "dtype"):
        return like_tensor(value)
    return None if value is None else type(value)


def _require_at(value: Any, schema: At, place: str) -> None:
    within = type(value) is int and schema.least <= value <= schema.most
    _require(within, place, value, f"a whole number from {schema.least} to {schema.most}")


def _require_within(value: Any, schema: Within, place: str) -> None:
    within = _is(value, float) and schema.least <= value <= schema.most
    limits = "a finite number" if schema == FINITE else f"a number from {schema.least:g} to {schema.most:g}"
    _require(within, place, value, limits)


def _require_one_of(value: Any, schema: OneOf, place: str) -> None:
    _require(isinstance(value, str) and value in schema.texts, place, value, f"one of {', '.join(schema.texts)}")


def _require_list(value: Any, schema: list[Schema], place: str) -> None:
    _require(isinstance(value, list | tuple), place, value, "a list")
    for number, inner in enumerate(value):
        require_schema(inner, schema[0], f"{place}[{number}]")


def _require_length(value: Any, schema: Length, place: str) -> None:
    sized = isinstance(value, list | tuple) and len(value) == schema.number
    _require(sized, place, value, f"a list of {schema.number}")
    _require_list(value, [schema.schema], place)


def _require_row(value: Any, schema: Row, place: str) -> None:
    sized = isinstance(value, list | tuple) and len(value) == len(schema.schemas)
    _require(sized, place, value, f"a list of {len(schema.schemas)}")
    for number, inner in enumerate(schema.schemas):
        require_schema(value[number], inner, f"{place}[{number}]")


def _require_part(value: Any, schema: Part, place: str) -> None:
    _require(isinstance(value, dict), place, value, "a dictionary")
    unknown = [key for key in value if key not in schema.schemas]
    _require(not unknown, place, unknown[:3], "with known keys")
    for key, inner in value.items():
        require_schema(inner, schema.schemas[key], f"{place}.{key}")


def _require_mapping(value: Any, schema: Mapping[Any, Any], place: str) -> None:
    _require(isinstance(value, dict), place, value, "a dictionary")
    if str in schema:
        for key, inner in value.items():
            _require(isinstance(key, str), place, key, "with texts as keys")
            require_schema(inner, schema[str], f"{place}.{key}".lstrip("."))
    elif int in schema:
        numbers = list(range(len(schema[int])))
        _require(list(value) in ([], numbers), place, list(value)[:3], f"numbered from 0 to {len(numbers) - 1}")
        for key, inner in value.items():
            require_schema(inner, schema[int][key], f"{place}[{key}]")
    else:
        _require_keys(value, schema, place)


def _require_keys(value: dict[Any, Any], schema: Mapping[Any, Any], place: str) -> None:
    names = schema.get("")  # exactly these and no others
    if names is not None:
        found = sorted(map(str, value))
        _require(found == names, place, found[:3], f"with the {len(names)} names {', '.join(names[:3])}, ...")
    for key, inner in schema.items():
        if key:
            here = f"{place}.{key}".lstrip(".")
            _require(key in value, here, "missing", "there")
            require_schema(value[key], inner, here)


def _require_json(value: Any, schema: _Json, place: str) -> None:
    if isinstance(value, dict):
        _require_mapping(value, {str: schema}, place)
    elif isinstance(value, list | tuple):
        _require_list(value, [schema], place)
    else:
        _require(value is None or isinstance(value, bool | int | float | str), place, value, "what JSON can hold")


def _require_either(value: Any, schemas: tuple[Schema, ...], place: str) -> None:
    for schema in schemas[:-1]:
        try:
            return require_schema(value, schema, place)
        except SchemaError:
            continue
    return require_schema(value, schemas[-1], place)


def _require_tensor(value: Any, schema: Like, place: str) -> None:
    import torch

    _require(isinstance(value, torch.Tensor), place, value, "a tensor")
    _require(not value.is_nested, place, "nested", "one tensor")
    found = like_tensor(value)
    _require(found == schema, place, found, f"a tensor of {schema}")
    _require(value.layout is torch.strided, place, value.layout, "a dense tensor")
    _require(value.device.type != "meta", place, value.device, "a tensor with values")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return type(value) is int
    return isinstance(value, kind)


def _require(holds: bool, place: str, value: Any, wanted: str) -> None:
    if not holds:
        raise SchemaError(f"{place or 'the content'} is {one_line(value)}, not {wanted}")


def one_line(value: Any) -> str:
    """A value as Python prints it, in at most 60 characters of one line."""
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 60 else shown[:57] + "..."


_CHECKS: dict[type, Callable[[Any, Any, str], None]] = {
    At: _require_at,
    Within: _require_within,
    OneOf: _require_one_of,
    _Json: _require_json,
    Length: _require_length,
    Row: _require_row,
    Part: _require_part,
    Like: _require_tensor,
    tuple: _require_either,
    list: _require_list,
    dict: _require_mapping,
}
