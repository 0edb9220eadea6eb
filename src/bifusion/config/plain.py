"""Dataclass configurations to JSON and back, strictly: an unknown or misfit field is an error."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from bifusion.errors import InputError
from bifusion.spelling import did_you_mean
from bifusion.untrusted.names import brief

KIND = "kind"
"""Class attribute, and key beside the fields, of dataclasses of which one may stand for another."""


def to_plain(value: Any) -> Any:
    """Nested dataclasses, tuples, paths and numpy's numbers as dicts, lists, text and Python's numbers,
    ready for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {**_kind_of(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def check_names(value: Any, where: str) -> None:
    """InputError for an attribute of a dataclass within `value` that is none of its fields: Python sets
    a misspelt one without a word, and nothing ever reads it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = [f.name for f in dataclasses.fields(value)]
        set_here = set(getattr(value, "__dict__", {})) - set(fields)
        # what a cached property keeps is called as the property of its class is
        _require_known([name for name in set_here if not hasattr(kind, name)], fields, kind, where)
        for name in fields:
            check_names(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_names(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_names(item, f"{where}[{index}]")


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """An object of type `kind` from what `to_plain` made of it.

    `where` names the value in errors ("run.json: optim.lr"). Fields left out take their defaults.
    Raises InputError for an unknown field, a missing one without default, or a value of another type.
    """
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (Union, types.UnionType):
        return _union(args, value, where)
    if origin is Literal:
        meant = did_you_mean(value, args) if isinstance(value, str) else ""
        _require(value in args, where, value, f"one of {', '.join(map(repr, args))}{meant}")
        return value
    if origin is dict:
        _require(isinstance(value, dict), where, value, "an object")
        return {key: from_plain(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (list, tuple):
        return _sequence(origin, args, value, where)
    return _leaf(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, kind):
        return value
    _require(isinstance(value, dict), where, value, f"an object with the fields of {kind.__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    _require_known(set(value) - set(fields), fields, kind, where)
    missing = [
        name
        for name, f in fields.items()
        if name not in value
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} of {kind.__name__} is missing; add it")
    hints = get_type_hints(kind)
    return kind(
        **{name: from_plain(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    )


def _require_known(unknown: Iterable[str], known: Iterable[str], kind: type, where: str) -> None:
    names = sorted(unknown)
    if names:
        raise InputError(
            f"{where}: unknown field {', '.join(names)} of {kind.__name__}"
            f"{did_you_mean(names[0], known)}; known are {', '.join(known)}"
        )


def _kind_of(of_value: type) -> dict[str, str]:
    """The `kind` that tells a dataclass from the others that may stand in its place, if it has one."""
    kind = of_value.__dict__.get(KIND)
    return {KIND: kind} if isinstance(kind, str) else {}


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The alternative of the value's `kind`, where they have one; else the first that fits, or the error
    of the last one if none does."""
    if value is None and types.NoneType in kinds:
        return None
    alternatives = [kind for kind in kinds if kind is not types.NoneType]
    of_kind = {_kind_of(a)[KIND]: a for a in alternatives if isinstance(a, type) and _kind_of(a)}
    if of_kind and not isinstance(value, tuple(of_kind.values())):
        return _of_kind(of_kind, value, where)
    for kind in alternatives[:-1]:
        try:
            return from_plain(kind, value, where)
        except InputError:
            continue
    return from_plain(alternatives[-1], value, where)


def _of_kind(kinds: dict[str, type], value: Any, where: str) -> Any:
    kind = str(value.get(KIND)) if isinstance(value, dict) else str(value)
    expected = f"one of {', '.join(kinds)}{did_you_mean(kind, kinds)}"
    _require(isinstance(value, dict) and kind in kinds, f"{where}.{KIND}", kind, expected)
    return from_plain(kinds[kind], {n: v for n, v in value.items() if n != KIND}, where)


def _sequence(origin: type, args: tuple[Any, ...], value: Any, where: str) -> Any:
    _require(isinstance(value, list | tuple), where, value, "a list")
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        kinds = [args[0]] * len(value)
    else:
        _require(len(value) == len(args), where, value, f"a list of {len(args)} values")
        kinds = list(args)
    return origin(from_plain(kinds[i], item, f"{where}[{i}]") for i, item in enumerate(value))


def _leaf(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is Path:
        _require(isinstance(value, str | Path), where, value, "a path")
        return Path(value)
    if kind is float:
        _require(
            isinstance(value, int | float) and not isinstance(value, bool), where, value, "a number"
        )
        return float(value)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    _require(fits, where, value, kind.__name__)
    return value


def _require(fits: bool, where: str, value: Any, expected: str) -> None:
    if not fits:
        raise InputError(f"{where}: found {brief(value)}, expected {expected}")
