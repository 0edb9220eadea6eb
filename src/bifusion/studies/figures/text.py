"""How numbers are written: alike in verdicts, tables, the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection

from bifusion.studies.figures.metrics import Sample
from bifusion.wording import plural

NONE = "—"
"""Stands where nothing was measured."""


def number(value: float, digits: int = 3) -> str:
    """Fixed digits, a true minus, "—" for NaN."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else NONE


def signed(value: float) -> str:
    """With its sign, a true minus."""
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else NONE


def significant(value: float, digits: int = 3) -> str:
    """Significant digits, for quantities of any size: 0.0123, 4.56, 789, 1.2e+04."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def mean_spread(sample: Sample, digits: int = 3) -> str:
    """ "0.512 ± 0.010", without ± under two seeds."""
    if math.isnan(sample.spread):
        return number(sample.mean, digits)
    return f"{number(sample.mean, digits)} ± {number(sample.spread, digits)}"


def count(value: int) -> str:
    """17,515,048"""
    return f"{value:,}"


def millions(value: int) -> str:
    """ "17.5 M"; small networks in thousands."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"


def span(values: Collection[int], one: str | None = None) -> str:
    """ "3 epochs", or "3 to 5 epochs" where values differ; numbers alone without a word for `one`."""
    low, high = min(values), max(values)
    most = plural(high, one) if one else count(high)
    return most if low == high else f"{count(low)} to {most}"


def duration(seconds: float) -> str:
    """ "45 s", "7.5 min", "3.2 h"."""
    if not math.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
