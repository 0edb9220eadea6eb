"""How sensitive an arm is to its learning rate.

Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities" (ICLR 2024,
arXiv 2309.14322), section 2.2: the mean over rates of min(final loss, initial loss) − the best final
loss. A run that blows up counts as one that has learnt nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WITHIN = 0.1
"""Share of the best mIoU that a rate may cost and still be among the good ones."""


def capped(final: float, initial: float) -> float:
    """min(final, initial); the initial loss where the final one is not finite."""
    return min(final, initial) if math.isfinite(final) else initial


def sensitivity(finals: Sequence[float], initial: float) -> float:
    """E over rates of min(final, initial) − best, in the loss's unit; NaN without rates or where the
    initial loss is not known."""
    if not finals or not math.isfinite(initial):
        return math.nan
    losses = [capped(final, initial) for final in finals]
    return float(np.mean(losses)) - min(losses)


def relative_sensitivity(finals: Sequence[float], initial: float) -> float:
    """The same as a share of what the best rate gains: 0, every rate is as good; near 1, one rate learns
    and no other. NaN where none gains anything. Comparable between arms whose losses differ."""
    if not finals or not math.isfinite(initial):
        return math.nan
    gain = initial - min(capped(final, initial) for final in finals)
    return sensitivity(finals, initial) / gain if gain > 0 else math.nan


def shortfall(values: Sequence[float]) -> float:
    """Mean over rates of 1 − value / best, for figures of which more is better; a value that is not
    finite counts 0. NaN where the best is not above 0."""
    told = [value if math.isfinite(value) else 0.0 for value in values]
    best = max(told, default=0.0)
    return 1 - float(np.mean(told)) / best if best > 0 else math.nan


@dataclass(frozen=True)
class GoodRates:
    """The rates around the best one that cost little; factors on the arm's own rate."""

    best: float
    """Factor at which the mIoU is highest; null before there is one."""
    best_miou: float
    """The highest mean mIoU."""
    low: float
    """Lowest factor of those that are good without a gap; null before there is one."""
    high: float
    """Highest factor of them."""
    span: float
    """high / low: 1 where only the best rate is good."""
    low_is_edge: bool
    """No lower factor was tried, so the range may go on."""
    high_is_edge: bool
    """No higher one was tried."""


def good_rates(miou: Mapping[float, float]) -> GoodRates:
    """From factor → mean mIoU, the factors next to the best one that are within 10 % of it; a value that
    is not finite counts 0."""
    factors = sorted(miou)
    values = [miou[f] if math.isfinite(miou[f]) else 0.0 for f in factors]
    if not values or not max(values) > 0:
        return GoodRates(*[math.nan] * 5, low_is_edge=False, high_is_edge=False)
    at = int(np.argmax(values))
    low = high = at
    least = (1 - WITHIN) * values[at]
    while low > 0 and values[low - 1] >= least:
        low -= 1
    while high < len(values) - 1 and values[high + 1] >= least:
        high += 1
    return GoodRates(
        best=factors[at],
        best_miou=values[at],
        low=factors[low],
        high=factors[high],
        span=factors[high] / factors[low],
        low_is_edge=low == 0,
        high_is_edge=high == len(values) - 1,
    )
