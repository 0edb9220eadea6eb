"""Where finite numbers grew out of proportion: the ranges of two traced steps side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bifusion.diagnosis.calls import Call
from bifusion.diagnosis.ranges import Range

JUMP = 10.0
"""Factor between what goes into a module and what comes out, relative to the healthy step, that makes
it the origin. From one healthy batch to the next ranges differ by factors up to about 3."""
TINY = 1e-12
"""Ranges below are as good as zero, and nothing is measured by them."""


@dataclass(frozen=True)
class Jump:
    """A module whose values, or gradients, grew far beyond those of a healthy step."""

    call: Call
    backward: bool
    factor: float
    """Growth of what comes out over that of what goes in."""


def find_jump(calls: list[Call], healthy: list[Call], *, gradients: bool) -> Jump | None:
    """The first module that makes more of its numbers than in the healthy step, on the way there,
    then, with `gradients`, on the way back; None where no module stands out."""
    usual = {(call.module, call.number): call for call in healthy}
    forward = (
        Jump(call, False, _growth(call.output, twin.output) / _own(call.inputs, twin.inputs))
        for call in calls
        if (twin := usual.get((call.module, call.number))) is not None
    )
    found = _first(forward)
    if found is not None or not gradients:
        return found
    return _first(
        Jump(
            call,
            True,
            _growth(call.grad_input, twin.grad_input) / _own(call.grad_output, twin.grad_output),
        )
        for call in sorted(calls, key=lambda call: -call.begun)  # inner ones before those around them
        if (twin := usual.get((call.module, call.number))) is not None
    )


def _first(jumps: Iterable[Jump]) -> Jump | None:
    return next((jump for jump in jumps if jump.factor >= JUMP), None)


def _own(now: Range | None, before: Range | None) -> float:
    """Growth of what a module was given, for which it is not to blame; shrinking is no excuse."""
    return max(_growth(now, before), 1.0)


def _growth(now: Range | None, before: Range | None) -> float:
    """Of the root mean square, or of the largest number if that grew more; 1 where not measurable."""
    if now is None or before is None or before.rms < TINY or before.largest < TINY:
        return 1.0
    return max(now.rms / before.rms, now.largest / before.largest)
