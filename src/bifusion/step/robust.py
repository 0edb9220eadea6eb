"""Statistics that single bad values cannot move, and that non-finite values cannot enter.

A mean and standard deviation are ruled by the very outliers they are to find, and one NaN makes an
exponential moving average NaN for ever: it never fires again. Median and MAD (median absolute deviation)
stand up to half the values being wrong (Huber, "Robust Statistics", 1981); what is not finite is left
out before it is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

MAD_TO_SIGMA = 1.4826
"""Standard deviations per MAD of a normal distribution: 1 / Φ⁻¹(3/4)."""


def finite(value: Any) -> float | None:
    """`value` as a float if it is a finite number; None for NaN, infinities and what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def centre_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and MAD brought to the scale of a standard deviation."""
    centre = median(values)
    return centre, MAD_TO_SIGMA * median(abs(value - centre) for value in values)


class Windows:
    """The last finite values of named series; plain lists, so that a checkpoint holds them exactly."""

    def __init__(self, size: int):
        self.size = size
        self.series: dict[str, list[float]] = {}

    def push(self, name: str, value: Any) -> None:
        """Takes `value` in as the newest, if it is finite; the oldest beyond `size` goes."""
        number = finite(value)
        if number is not None:
            values = self.series.setdefault(name, [])
            values.append(number)
            del values[: -self.size]

    def last(self, name: str, count: int) -> list[float]:
        """The newest `count` values, fewer where there are fewer, oldest first."""
        return self.series.get(name, [])[-count:]

    def before(self, name: str, count: int) -> list[float]:
        """All values but the newest `count`."""
        return self.series.get(name, [])[:-count]

    def forget(self, prefix: str) -> None:
        """Drops every series whose name begins with `prefix`."""
        self.series = {n: values for n, values in self.series.items() if not n.startswith(prefix)}

    def state_dict(self) -> dict[str, list[float]]:
        """A copy, for a checkpoint."""
        return {name: list(values) for name, values in self.series.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Takes what `state_dict` gave."""
        self.series = {name: [float(v) for v in values] for name, values in state.items()}


WORSE = 2.0
"""An alarm that stands is raised again for so many times what it was last raised for."""


class Latches:
    """An alarm that persists is raised once, and again only when it had cleared or has become far worse.

    It has cleared when its figure was in order `calm` times in a row that it was looked at.
    """

    def __init__(self) -> None:
        self.standing: dict[str, tuple[int, float]] = {}
        """Name of each alarm that stands -> looks in order that are still missing, and how bad it was
        when it was last raised."""

    def fresh(self, name: str, badness: float = 1.0) -> bool:
        """An alarm of that name would be raised now."""
        return name not in self.standing or badness > WORSE * self.standing[name][1]

    def look(self, name: str, bad: bool, *, calm: int, badness: float = 1.0) -> bool:
        """Counts one look at the alarm's figure; True where the alarm is to be raised now."""
        if bad:
            fresh = self.fresh(name, badness)
            self.standing[name] = calm, badness if fresh else self.standing[name][1]
            return fresh
        if name in self.standing:
            left, told = self.standing[name]
            self.standing[name] = left - 1, told
            if left <= 1:
                del self.standing[name]
        return False

    def state_dict(self) -> dict[str, list[float]]:
        """A copy, for a checkpoint."""
        return {name: [left, told] for name, (left, told) in self.standing.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Takes what `state_dict` gave."""
        self.standing = {name: (int(left), float(told)) for name, (left, told) in state.items()}
