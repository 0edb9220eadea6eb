"""What a sweep found, in sentences made of its figures, and how the figures are defined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bifusion.studies.figures.text import number
from bifusion.studies.sweep.breaking import GATE_DEAD, GATE_SATURATED, LEAST_GAIN
from bifusion.studies.sweep.grid import PLAIN
from bifusion.studies.sweep.plan import Condition, SweepArm
from bifusion.studies.sweep.report import Breaking, Curve
from bifusion.studies.sweep.sensitivity import WITHIN, GoodRates
from bifusion.wording import plural

PERCENT = f"{100 * WITHIN:g} %"
DEFINITIONS = (
    "Loss: the terms of a step with the weights that the arm has at the end of its plan, so that losses "
    "which ramp in do not look like a rise; initial, of the first step; final, the median of the last "
    "steps. A run that was stopped counts with its initial loss and with an mIoU of 0.",
    "Sensitivity: the mean over rates of min(final loss, initial loss) − the best final loss (Wortsman "
    "et al., arXiv 2309.14322); relative, as a share of what the best rate gains.",
    f"Good rates: those around the best one whose mean mIoU is within {PERCENT} of the best.",
    "A run breaks by whichever comes first: a number that is not finite ends it; its learned gate "
    f"stays below {GATE_DEAD} (dead) or above {GATE_SATURATED} (saturated) to its end; its loss no "
    f"longer falls, with less than {100 * LEAST_GAIN:g} % of what the arm’s best rate gains; its "
    "validations find one class at most, to its end. Below the arm’s best rate the last two are called "
    "too slow.",
    "An arm breaks at the lowest rate at which more than half of the seeds broke, but not as too slow.",
    "Without a guard the first NaN or infinity ends a run: clipping and the optimiser would carry it "
    "into every weight.",
)
"""Shown on the page, above what they were applied to."""


def findings(
    curves: Sequence[Curve], arms: Mapping[str, SweepArm], conditions: Sequence[Condition]
) -> list[str]:
    """One sentence an arm, and one a condition that holds staged against naive."""
    told = [_of_curve(curve, arms[curve.arm]) for curve in curves if curve.condition == PLAIN.key]
    compared = [_staged_and_naive(curves, arms, condition) for condition in conditions]
    return told + [sentence for sentence in compared if sentence is not None]


def _of_curve(curve: Curve, arm: SweepArm) -> str:
    good, seeds = curve.good, max(len(rate.figures.miou.by_seed) for rate in curve.rates)
    if not math.isfinite(good.best):
        return f"{arm.label}: nothing learnt at any rate that has ended."
    return (
        f"{arm.label}: best mIoU {number(good.best_miou)} at × {good.best:g}; within {PERCENT} of it "
        f"{range_text(good)}; {breaking_text(curve.breaking)} ({plural(seeds, 'seed')})."
    )


def range_text(good: GoodRates) -> str:
    """ "over × 0.27 to × 5.2, a factor of 19"."""
    if not math.isfinite(good.best):
        return "—"
    if good.low == good.high:
        text = f"at × {good.best:g} alone"
    else:
        text = f"over × {good.low:g} to × {good.high:g}, a factor of {good.span:.3g}"
    edges = [
        side for side, is_edge in (("below", good.low_is_edge), ("above", good.high_is_edge)) if is_edge
    ]
    return f"{text} (nothing tried {' or '.join(edges)})" if edges else text


def breaking_text(breaking: Breaking | None) -> str:
    """ "breaks at × 37: gate dead (3) from step 120"."""
    if breaking is None:
        return "does not break in the rates tried"
    kinds = ", ".join(f"{kind} ({count})" for kind, count in breaking.kinds.items())
    first = f"first at step {min(breaking.steps)}, {breaking.where}"
    return f"breaks at × {breaking.factor:g}: {kinds}, {first}"


def _staged_and_naive(
    curves: Sequence[Curve], arms: Mapping[str, SweepArm], condition: Condition
) -> str | None:
    """How much wider the staged arm's range of good rates is than the naive one's, and where it breaks
    beside it and the baseline; None where one of the two has no good rate."""
    of_role = {arms[curve.arm].role: curve for curve in curves if curve.condition == condition.key}
    staged, naive, baseline = (of_role.get(role) for role in ("staged", "naive", "baseline"))
    if staged is None or naive is None:
        return None
    if not (math.isfinite(staged.good.span) and math.isfinite(naive.good.span)):
        return None
    times = staged.good.span / naive.good.span
    edges = [edge for one in (staged.good, naive.good) for edge in (one.low_is_edge, one.high_is_edge)]
    wide = f"{times:.3g} times as wide" if times != 1 else "as wide"
    rivals = {"naive fusion": naive.breaking}
    if baseline is not None:
        rivals[arms[baseline.arm].label] = baseline.breaking
    return (
        f"{condition.label}: staged fusion is within {PERCENT} of its best, "
        f"{number(staged.good.best_miou)}, {range_text(staged.good)}, naive of its own, "
        f"{number(naive.good.best_miou)}, {range_text(naive.good)}: "
        f"{wide}{' in the rates tried' * any(edges)}; "
        f"{where_it_breaks(staged.breaking, rivals)}."
    )


def where_it_breaks(staged: Breaking | None, rivals: Mapping[str, Breaking | None]) -> str:
    """ "it breaks at × 14, naive fusion at × 1.9 (7.4 times lower), OneFormer3D at the same rate"."""
    told = [
        "it breaks nowhere in the rates tried" if staged is None else f"it breaks at × {staged.factor:g}"
    ]
    for name, rival in rivals.items():
        if rival is None:
            told.append(f"{name} nowhere" + " in the rates tried" * (staged is not None))
        elif staged is None:
            told.append(f"{name} at × {rival.factor:g}")
        elif rival.factor == staged.factor:
            told.append(f"{name} at the same rate")
        else:
            lower = staged.factor / rival.factor
            times = f"{lower:.2g} times lower" if lower > 1 else f"{1 / lower:.2g} times higher"
            told.append(f"{name} at × {rival.factor:g} ({times})")
    return ", ".join(told)
