"""Ranges of the numbers that flow through a model, over their finite part."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Range:
    """Of all numbers of one or several tensors; infinities and NaN count in `finite` alone."""

    rms: float
    min: float
    max: float
    finite: float
    """Share of the numbers that are finite, in [0, 1]; 1 for tensors without any."""

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.min), abs(self.max))


def float_tensors(value: Any) -> list[Tensor]:
    """Every floating-point tensor in nested lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts: Iterable[Any] = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    else:
        return []
    return [tensor for part in parts for tensor in float_tensors(part)]


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor | None]) -> bool:
    """No NaN and no infinity in any of them; None is skipped."""
    return all(is_finite(tensor) for tensor in tensors if tensor is not None)


def is_finite(tensor: Tensor) -> bool:
    """No NaN and no infinity in it. Its extremes, which either would reach, tell that on a CPU in a
    tenth of the time that it takes to look at every number."""
    if tensor.numel() == 0:
        return True
    least, most = torch.aminmax(tensor.detach())
    return math.isfinite(float(most - least)) or bool(torch.isfinite(tensor).all())


@torch.no_grad()
def range_of(tensors: Iterable[Tensor | None]) -> Range | None:
    """Range over all numbers of `tensors`, computed in float64; None where there is no tensor.

    Zeros where there is no finite number.
    """
    squares, count, total, low, high, found = 0.0, 0, 0, float("inf"), float("-inf"), False
    for tensor in tensors:
        if tensor is None:
            continue
        found = True
        numbers = tensor.detach().reshape(-1)
        total += numbers.numel()
        if not is_finite(numbers):
            numbers = numbers[torch.isfinite(numbers)]
        if numbers.numel():
            least, most = torch.aminmax(numbers)
            low, high = min(low, float(least)), max(high, float(most))
            # numbers up to 3e38 have squares that only float64 holds
            squares += float(torch.linalg.vector_norm(numbers, dtype=_wide(numbers))) ** 2
            count += numbers.numel()
    if not found:
        return None
    if count == 0:
        return Range(0.0, 0.0, 0.0, 0.0 if total else 1.0)
    return Range((squares / count) ** 0.5, low, high, count / total)


def _wide(numbers: Tensor) -> torch.dtype:
    """Float64 where the device has it."""
    return torch.float32 if numbers.device.type == "mps" else torch.float64
