"""What Python code hands in, held to its type: InputError names an argument of another, what it is and
what is expected."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from bifusion.errors import InputError
from bifusion.spelling import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def told_by_name(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which called with an argument that it has not raises InputError with the one that
    was meant."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def called(*args: P.args, **given: P.kwargs) -> R:
        for name in given:
            if name not in known:
                raise InputError(
                    f"{function.__name__}: argument {name!r} is unknown{did_you_mean(name, known)}; "
                    f"known are {', '.join(known)}"
                )
        return function(*args, **given)

    return called


def require(fits: bool, given: Any, name: str, expected: str) -> None:
    """InputError unless the argument `name` fits."""
    if not fits:
        raise InputError(f"{name}: is a {type(given).__name__}; expected {expected}")


def path_of(given: Any, name: str) -> Path:
    require(isinstance(given, str | os.PathLike), given, name, "a path")
    return Path(given)


def text_of(given: Any, name: str, expected: str = "a name") -> str:
    require(isinstance(given, str), given, name, expected)
    return given


def whole_of(given: Any, name: str) -> int:
    """Python's own number, also of numpy's."""
    try:
        return operator.index(given)
    except TypeError as error:
        raise InputError(f"{name}: found {given!r}, expected a whole number") from error


def place_of(given: Any, name: str, count: int, of: str) -> int:
    """A place among `count` of what `of` says; none is counted from the end."""
    place = whole_of(given, name)
    if not 0 <= place < count:
        raise InputError(f"{name}: found {place}, expected 0 or more and less than {count:,}, the {of}")
    return place


def check_positive(given: Any, name: str, expected: str) -> None:
    """InputError for what is neither None nor a finite number above 0."""
    if given is not None and not (isinstance(given, Real) and 0 < float(given) < math.inf):
        raise InputError(f"{name}: found {given}; expected {expected}")
