"""What may change in a configuration while its run goes on, said beside the fields; what differs.

A field annotated with `MAY_CHANGE` changes neither what is learned nor what is measured on the way:
where data lie, how they are read, what is kept. All others make another run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeGuard, get_args, get_origin, get_type_hints

MAY_CHANGE = "may change while a run goes on"
"""Annotation of such a field."""
_ABSENT = object()
MOST_SHOWN = 80
"""Characters of a value in a message."""


@dataclass(frozen=True)
class Change:
    """A field that differs between two configurations."""

    path: str
    """Dotted, as in `Config`: "optim.lr"."""
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: then {_shown(self.then)}, now {_shown(self.now)}"


def changes(then: Any, now: Any, path: str = "") -> Iterator[Change]:
    """Every field that differs between two dataclasses and may not, in order; groups field by field."""
    if _of_dataclasses(then) and _of_dataclasses(now) and len(then) == len(now):
        for index, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from changes(one, other, _joined(path, str(index)))
    elif dataclasses.is_dataclass(then) and type(then) is type(now):
        for name, may_change in _fields(type(then)).items():
            if not may_change:
                yield from changes(getattr(then, name), getattr(now, name), _joined(path, name))
    elif isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*then, *now)):
            yield from changes(then.get(key, _ABSENT), now.get(key, _ABSENT), _joined(path, str(key)))
    elif then != now:
        yield Change(path, then, now)


def changeable(config: Any, path: str = "") -> Iterator[str]:
    """Paths of the fields that may change, within the dataclasses that the fields hold too."""
    for name, may_change in _fields(type(config)).items():
        where, value = _joined(path, name), getattr(config, name)
        if may_change:
            yield where
        elif dataclasses.is_dataclass(value):
            yield from changeable(value, where)


@cache
def _fields(kind: type) -> dict[str, bool]:
    """Field → whether it may change."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: MAY_CHANGE in _marks(hints[field.name]) for field in dataclasses.fields(kind)}


def _marks(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _of_dataclasses(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple) and any(dataclasses.is_dataclass(item) for item in value)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
