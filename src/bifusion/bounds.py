"""Bounds of a configuration's numbers, said beside its fields, and the walk that holds them.

A field is annotated with one of the types below (`lr: PositiveFloat = 1e-4`), which to a type checker
and to the command line are the plain ones. Every number of a configuration must be finite besides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from numbers import Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from bifusion.errors import InputError


@dataclass(frozen=True)
class Bound:
    """What a value must be."""

    fits: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class MultipleOf:
    """A whole number of times another field of the same dataclass, which has a bound of its own."""

    field: str

    def fits(self, number: Any, other: Any) -> bool:
        return other < 1 or number % other == 0

    def expected(self, other: str) -> str:
        return f"a multiple of {other}"


@dataclass(frozen=True)
class AtMost:
    """Not above another number of the same dataclass."""

    field: str
    times: int = 1
    """So many times the number are not above the other."""

    def fits(self, number: Any, other: Any) -> bool:
        return self.times * number <= other

    def expected(self, other: str) -> str:
        return f"at most {other}" if self.times == 1 else f"at most 1/{self.times} of {other}"


ABOVE_ZERO = Bound(lambda number: number > 0, "above 0")
NOT_NEGATIVE = Bound(lambda number: number >= 0, "0 or more")
ASCENDING = Bound(lambda pair: pair[0] <= pair[1], "the smaller number first")
WHOLE = Bound(lambda number: number % 1 == 0, "a whole number")
"""Of what is annotated as an int."""
SHARE = Bound(lambda number: 0 <= number <= 1, "from 0 to 1")


def _between(low: int, high: int) -> Bound:
    return Bound(lambda number: low <= number <= high, f"from {low:,} to {high:,}")


PositiveInt = Annotated[int, ABOVE_ZERO]
PositiveFloat = Annotated[float, ABOVE_ZERO]
Count = Annotated[int, NOT_NEGATIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Share = Annotated[float, SHARE]
Width = Annotated[int, ABOVE_ZERO, _between(1, 1 << 16)]
"""Channels, queries, heads: what no memory holds is refused before anything is built."""
Layers = Annotated[int, NOT_NEGATIVE, _between(0, 1000)]
"""Of one kind, one after another."""
OptionalWidth = Annotated[int, _between(0, 1 << 16)]
"""0 stands for what follows from others."""
Kernel = Annotated[int, _between(1, 9)]
"""Voxels along a side of a convolution's kernel."""
Pixels = Annotated[int, ABOVE_ZERO, _between(1, 1 << 14)]
"""Side of a picture that is made."""
Processes = Annotated[int, NOT_NEGATIVE, _between(0, 1024)]
Metres = Annotated[float, ABOVE_ZERO, Bound(lambda number: 1e-4 <= number <= 1, "0.0001 to 1 m")]
"""Side of a voxel: a room has no more of them than fit its coordinates. What is larger was meant in
centimetres, and a room would be a handful of voxels."""
Decay = Annotated[float, Bound(lambda number: 0 <= number < 1, "from 0 to below 1")]
"""What an average keeps of itself."""
Cosine = Annotated[float, _between(-1, 1)]
Minutes = Annotated[float, ABOVE_ZERO, Bound(lambda number: number <= 1e6, "at most 1,000,000")]
"""Of waiting: two years, more than any clock of it is meant for."""
Interval = Annotated[tuple[float, float], ASCENDING]


def check_bounds(config: Any, path: str = "") -> None:
    """InputError, naming field and option, for a number out of its bounds or not finite, and for what
    stands in its place and is none.

    Args:
        config: a dataclass; those that its fields hold are looked at too, each as what it is.
        path: the dotted path it has in the whole.
    """
    for name, hint in _hints(type(config)).items():
        where, value = f"{path}.{name}" if path else name, getattr(config, name)
        for number, bounds in _bounded(hint, value):
            if isinstance(number, int | float):
                _require(math.isfinite(number), where, number, "a finite number")
            for bound in bounds:
                if isinstance(bound, Bound | MultipleOf | AtMost):
                    _require(isinstance(number, Real | list | tuple), where, repr(number), "a number")
                if isinstance(bound, Bound):
                    _require(bound.fits(number), where, number, bound.expected)
                elif isinstance(bound, MultipleOf | AtMost):
                    other, place = getattr(config, bound.field), where.removesuffix(name) + bound.field
                    expected = f"{bound.expected(place)}, {other}"
                    _require(bound.fits(number, other), where, number, expected)
        for part in _members(value):
            if dataclasses.is_dataclass(part):
                check_bounds(part, where)


def _bounded(hint: Any, value: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every number within a field's value, and what else is bounded, with its bounds."""
    origin, args = get_origin(hint), get_args(hint)
    if value is None or isinstance(value, bool):
        return
    if origin is Annotated:
        if not isinstance(value, int | float):
            yield from _bounded(args[0], value)
        yield value, (args[1:] if args[0] is not int else (*args[1:], WHOLE))
    elif origin in (Union, UnionType):
        yield from _bounded(next(kind for kind in args if kind is not NoneType), value)
    elif isinstance(value, int | float):
        yield value, ()
    elif not args:
        return  # a list where a text is expected: whoever reads it says so
    elif isinstance(value, dict):
        for item in value.values():
            yield from _bounded(args[1], item)
    elif isinstance(value, list | tuple):
        same = args[:1] * len(value) if len(args) == 1 or args[-1] is Ellipsis else args
        for kind, item in zip(same, value, strict=True):
            yield from _bounded(kind, item)


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else (value,)


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _require(fits: bool, path: str, found: Any, expected: str) -> None:
    if not fits:
        option = path.replace("_", "-")
        raise InputError(f"{path}: found {found}, expected {expected}; change --{option}")
