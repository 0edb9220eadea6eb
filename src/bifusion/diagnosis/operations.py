"""Watches single tensor operations of a forward pass for the one that makes a non-finite number.

Only used when a step runs again to find out what went wrong: every operation's result is looked at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bifusion import plugins
from bifusion.diagnosis.ranges import is_finite

PACKAGE = Path(__file__).resolve().parent.parent
_BETWEEN = ("diagnosis/", "models/recompute.py")
"""Code that watches or calls, and computes nothing itself."""
_UNFILLED = ("empty", "new_empty", "resize", "set_")
"""Operations whose result is memory that nothing was written to yet."""


@dataclass(frozen=True)
class Place:
    """A line of this package's code, or of a package from outside that the user has named."""

    function: str
    """With its class: "LiteFusionGate.forward"."""
    file: str
    """Path in this package; from outside with that package's name, "my_rooms/networks.py"."""
    line: int

    def __str__(self) -> str:
        return f"{self.function}, {self.file}:{self.line}"


@dataclass(frozen=True)
class Made:
    """An operation that made non-finite numbers out of finite ones."""

    operation: str
    """As ATen names it: "div", "native_layer_norm"."""
    place: Place | None
    owner: nn.Module | None
    """Module whose method called it; None for a plain function called by none."""


class OperationWatch(TorchDispatchMode):
    """Calls `report` with every operation that makes NaN or infinities out of finite numbers.

    Infinities that the code asks for by name (masks of attention, forbidden matches) are none, and
    neither is what only hands them on; a NaN made of them is.
    """

    def __init__(self, report: Callable[[Made], None]):
        super().__init__()
        self._report = report
        self._watching = False
        self._intended: dict[int, Tensor] = {}
        """Storages that hold infinities on purpose; kept alive, so that no other takes their place."""

    def watch(self, on: bool) -> None:
        """From now on, or no more: operations of hooks and of the way back do not come by here, which
        would take ten times as long as they do."""
        if on and not self._watching:
            self.__enter__()
        elif self._watching and not on:
            self.__exit__(None, None, None)
        self._watching = on

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = _tensors((args, kwargs))
        overwritten = func._schema.is_mutable
        before = _state(inputs) if overwritten else None
        result = func(*args, **kwargs)
        outputs = _tensors(result)
        nan, infinite = _state(outputs)
        if nan or infinite:
            known = before if before is not None else _state(inputs)
            self._judge(func._schema.name, inputs, known, outputs, nan, (args, kwargs))
        return result

    def _judge(
        self,
        name: str,
        inputs: list[Tensor],
        state: tuple[bool, bool],
        outputs: list[Tensor],
        nan: bool,
        arguments: Any,
    ) -> None:
        operation = name.removeprefix("aten::")
        nan_before, infinite_before = state
        if operation == "lift_fresh":  # a number in the code becomes a tensor
            nan_before = infinite_before = False
            arguments = [tensor.tolist() for tensor in inputs]
        if nan_before or operation.startswith(_UNFILLED):
            return
        on_purpose = _names_infinity(arguments)
        if infinite_before:
            bad = [tensor for tensor in inputs if bool(torch.isinf(tensor).any())]
            on_purpose = on_purpose or all(_storage(tensor) in self._intended for tensor in bad)
            if not on_purpose:
                return
        if on_purpose and not nan:
            self._intended |= {_storage(tensor): tensor for tensor in outputs}
            return
        place, owner = _caller()
        self._report(Made(operation, place, owner))


def _state(tensors: list[Tensor]) -> tuple[bool, bool]:
    """Whether a NaN, and whether an infinity is among the numbers."""
    if all(is_finite(tensor) for tensor in tensors):
        return False, False
    nan = any(bool(torch.isnan(tensor).any()) for tensor in tensors)
    return nan, any(bool(torch.isinf(tensor).any()) for tensor in tensors)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


def _names_infinity(value: Any) -> bool:
    """An infinity written as a number among the arguments."""
    if isinstance(value, float):
        return math.isinf(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(_names_infinity(item) for item in value)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _caller() -> tuple[Place | None, nn.Module | None]:
    """The innermost line at work that is a `Place`, and the innermost module."""
    frame: FrameType | None = sys._getframe(2)
    place, owner = None, None
    while frame is not None and (place is None or owner is None):
        code = frame.f_code
        if place is None:
            place = place_of(code.co_filename, frame.f_lineno, code.co_qualname)
        if owner is None and isinstance(frame.f_locals.get("self"), nn.Module):
            owner = frame.f_locals["self"]
        frame = frame.f_back
    return place, owner


def place_of(filename: str, line: int, function: str) -> Place | None:
    """The place if it is in this package and computes something, or in one that the user has named:
    a gate's mistake is to be looked for in the gate, not where it is called."""
    path = Path(filename)
    if PACKAGE not in path.parents:
        outside = plugins.path_in_package(path)
        return Place(function, outside, line) if outside else None
    file = path.relative_to(PACKAGE).as_posix()
    return None if file.startswith(_BETWEEN) else Place(function, file, line)
