"""Where a run breaks, and how: whichever comes first, read from its signals.

| kind | a run has it when | step |
| --- | --- | --- |
| non-finite | NaNs or infinities ended it: without a guard the first does | its first such step |
| gate dead or saturated | its learned gate stays below 0.05 or above 0.95 to the end | the first |
| loss stuck | it no longer falls, with less than half of the best rate's gain | its last new low |
| one class | its validations find one class at most, to the end | the first |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bifusion.storage.json_schema import Count
from bifusion.studies.figures.metrics import median_of, running_median
from bifusion.studies.sweep.signals import Signals

Kind = Literal["non-finite", "gate dead", "gate saturated", "loss stuck", "one class"]

GATE_DEAD, GATE_SATURATED = 0.05, 0.95
"""A mean gate beyond these leaves one branch unheard. (That it leaves the study's range, 0.3 to 0.7, is
an alarm: gate_collapse.)"""
LEAST_GAIN = 0.5
"""Share of what the arm's best rate gains that a run has to gain itself."""
NEW_LOW = 0.01
"""A loss has fallen when it is lower than before by this share of what the best rate gains."""
SHARE_OF_STEPS = 20
"""Windows of medians are a run's steps divided by this, …"""
LEAST_WINDOW = 5
"""… but no fewer than these."""


@dataclass(frozen=True)
class Break:
    """One way in which a run broke."""

    kind: Kind
    """How."""
    step: Count
    """From which step on."""
    where: str
    """Paths and module, gate, loss or class."""


def window_of(steps: int) -> int:
    """Odd number of steps whose median stands for the one in their midst."""
    return max(LEAST_WINDOW, steps // SHARE_OF_STEPS) | 1


def breaks_of(signals: Signals, initial: float, best: float) -> list[Break]:
    """Every way in which a run broke, by step.

    `initial`, `best`: the loss before training, and the lowest final loss of the arm over the rates.
    """
    found = [_nonfinite(signals), _gate(signals), _stuck(signals, initial, best), _one_class(signals)]
    return sorted((b for b in found if b is not None), key=lambda b: b.step)


def _nonfinite(signals: Signals) -> Break | None:
    return Break("non-finite", *signals.fault) if signals.stopped and signals.fault else None


def _gate(signals: Signals) -> Break | None:
    """The last stretch of steps in which the gate was learned and beyond its bounds."""
    learned = np.flatnonzero(np.isfinite(signals.alpha))
    window = window_of(len(signals.alpha))
    if len(learned) < window:
        return None
    alpha = running_median(signals.alpha[learned], window)
    for kind, beyond in (("gate dead", alpha < GATE_DEAD), ("gate saturated", alpha > GATE_SATURATED)):
        if beyond[-1]:
            first = int(learned[_last_stretch(beyond)])
            return Break(kind, first, f"gate: mean α {alpha[-1]:.3f} at the end")  # pyright: ignore[reportArgumentType]
    return None


def _last_stretch(flags: np.ndarray) -> int:
    """Index from which on all flags are up; the last one is."""
    down = np.flatnonzero(~flags)
    return int(down[-1]) + 1 if len(down) else 0


def _stuck(signals: Signals, initial: float, best: float) -> Break | None:
    """The loss gained too little and has had no new low in its last window."""
    gain, loss = initial - best, signals.loss[np.isfinite(signals.loss)]
    window = window_of(len(loss))
    if not gain > 0 or len(loss) < window:
        return None
    final, lowest, step = float(np.median(loss[-window:])), initial, 0
    for index, value in enumerate(running_median(loss, window)):
        if value < lowest - NEW_LOW * gain:
            lowest, step = float(value), index
    if final <= initial - LEAST_GAIN * gain or step >= len(loss) - window:
        return None
    told = f"{final:.3g} at the end, lowest {lowest:.3g}; best rate {best:.3g}"
    return Break("loss stuck", int(np.flatnonzero(np.isfinite(signals.loss))[step]), f"loss: {told}")


def final_loss(signals: Signals) -> float:
    """Median over the last steps; infinity for a run that was stopped, NaN for one without steps."""
    if signals.stopped:
        return math.inf
    return median_of(signals.loss[-window_of(len(signals.loss)) :])


def _one_class(signals: Signals) -> Break | None:
    """The validations at the end that find one class at most."""
    told = signals.one_class
    if not told or told[-1][1] is None:
        return None
    flags = np.array([name is not None for _, name in told])
    first = told[_last_stretch(flags)][0]
    return Break("one class", first, f"semantic: {told[-1][1]}")
