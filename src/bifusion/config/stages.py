"""Training stages as data: what trains, which losses, which gate, until when, how it ramps.

Every quantity moves linearly from what it was at the end of the stage before to the stage's own
value, so nothing changes abruptly at a boundary; before the first stage everything is 0. The state
at any time follows from the plan alone, so a run can be resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from typing import Annotated, TypeVar

from bifusion.bounds import AtMost, PositiveFloat, Share
from bifusion.errors import InputError
from bifusion.types import FusionControl

T = TypeVar("T")


@dataclass(frozen=True)
class Ramp:
    """A value and when it is reached: linearly between two fractions of the stage."""

    value: float
    """What is reached."""
    begin: Annotated[Share, AtMost("end")] = 0.0
    """Fraction of the stage, in [0, 1], until which the value of the stage before holds."""
    end: Share = 0.25
    """Fraction of the stage, in [begin, 1], from which `value` holds; 0: at once."""

    def at(self, previous: float, fraction: float) -> float:
        """The value at `fraction` of the stage, in [0, 1], coming from `previous`."""
        if fraction >= self.end:
            return self.value
        if fraction <= self.begin:
            return previous
        return previous + (self.value - previous) * (fraction - self.begin) / (self.end - self.begin)


def at_once(value: float) -> Ramp:
    """`value` from the first step of the stage on."""
    return Ramp(value, 0.0, 0.0)


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    name: str
    """What records and reports call it."""
    share: PositiveFloat
    """Length relative to the other stages."""
    trains: dict[str, Ramp]
    """Pattern of parameter group names (fnmatch) -> factor on their learning rate; the last pattern
    that matches counts, a group that none matches is frozen."""
    weights: dict[str, Ramp]
    """Loss term -> weight; a term not named ramps to 0."""
    gate_scale: Ramp = field(default_factory=lambda: at_once(0.0))
    """s: the gate that acts is s · alpha."""
    fixed_alpha: Share | None = None
    """alpha on seen points until `fixed_alpha_until`; None: learned throughout."""
    fixed_alpha_until: Share = 1.0
    """Fraction of the stage from which alpha is learned after all; 1: never in this stage."""
    run_2d: bool = True
    """Run the 2D branch at all."""
    tower_gradient_scale: Ramp = field(default_factory=lambda: at_once(0.0))
    """Factor on the gradient that reaches the image tower; 0 isolates it. Above 0 it acts through
    clipping (less of the norm is the tower's): Adam's steps do not depend on a gradient's scale. How
    fast the tower moves is the business of `trains` and of the optimiser's rates."""

    @property
    def opens_gate(self) -> bool:
        """Images may reach the network at some time of the stage: alpha is not fixed at 0 throughout."""
        return self.run_2d and (self.fixed_alpha != 0.0 or self.fixed_alpha_until < 1)


@dataclass(frozen=True)
class StageState:
    """What a stage asks for at one moment."""

    stage: Stage
    weights: dict[str, float]
    """Loss term -> weight; every term that any stage names."""
    control: FusionControl
    lr_factor: Callable[[str], float]
    """Parameter group -> factor on its learning rate, 0 where it is frozen."""
    trains: Callable[[str], bool]
    """Parameter group -> whether the stage trains it (its rate may still be ramping from 0)."""


@dataclass(frozen=True)
class StagePlan:
    """All stages of a run, in order."""

    stages: tuple[Stage, ...]


class Timeline:
    """A plan laid out over a run of `epochs` epochs, counted from 0.

    Stages get their share of the run, rounded to whole epochs, at least one each.
    Raises InputError if there are fewer epochs than stages.
    """

    def __init__(self, plan: StagePlan, epochs: int):
        self.stages = plan.stages
        self.epochs = epochs
        self.bounds = _bounds(plan.stages, epochs)
        """[first, end) epoch of every stage."""
        self._terms = list(dict.fromkeys(term for stage in plan.stages for term in stage.weights))

    def index_at(self, epoch: float) -> int:
        """Index of the stage that holds from `epoch` (fractional) on; at the end the last one."""
        return next((i for i, (_, end) in enumerate(self.bounds) if epoch < end), len(self.bounds) - 1)

    def at(self, epoch: float) -> StageState:
        """State from `epoch` on: 3.25 is a quarter through epoch 3."""
        index = self.index_at(epoch)
        return self._state(index, min(self._fraction(index, epoch), 1.0))

    def at_end(self, epoch: float) -> StageState:
        """State just before `epoch`: at a boundary that of the stage that ends there."""
        index = next(i for i, (_, end) in enumerate(self.bounds) if epoch <= end)
        return self._state(index, self._fraction(index, epoch))

    def _fraction(self, index: int, epoch: float) -> float:
        first, end = self.bounds[index]
        return (epoch - first) / (end - first)

    def _state(self, index: int, fraction: float) -> StageState:
        stage = self.stages[index]
        before = self.stages[index - 1] if index > 0 else None

        def value(ramp_of: Callable[[Stage], Ramp | None]) -> float:
            previous = ramp_of(before) if before else None
            return (ramp_of(stage) or Ramp(0.0)).at(previous.value if previous else 0.0, fraction)

        def lr_factor(group: str) -> float:
            if find_pattern(stage.trains, group) is None:
                return 0.0
            return value(lambda s: find_pattern(s.trains, group))

        alpha_is_fixed = fraction < stage.fixed_alpha_until or stage.fixed_alpha_until >= 1
        control = FusionControl(
            scale=value(lambda s: s.gate_scale),
            fixed_alpha=stage.fixed_alpha if alpha_is_fixed else None,
            run_2d=stage.run_2d,
            tower_gradient_scale=value(lambda s: s.tower_gradient_scale),
        )
        return StageState(
            stage=stage,
            weights={term: value(lambda s, term=term: s.weights.get(term)) for term in self._terms},
            control=control,
            lr_factor=lr_factor,
            trains=lambda group: find_pattern(stage.trains, group) is not None,
        )


def check_factors(plan: StagePlan) -> None:
    """InputError for a factor on rates or on the tower's gradient below 0, which would climb the loss,
    and for a gate beyond 0 … 1, which adds one branch to excess and subtracts the other."""
    for stage in plan.stages:
        rates = {f"trains[{pattern!r}]": ramp for pattern, ramp in stage.trains.items()}
        low = {**rates, "tower_gradient_scale": stage.tower_gradient_scale}
        bounds = {name: (ramp, inf, "0 or more") for name, ramp in low.items()}
        bounds["gate_scale"] = stage.gate_scale, 1.0, "from 0 to 1"
        for name, (ramp, most, expected) in bounds.items():
            if not 0 <= ramp.value <= most:
                raise InputError(
                    f"stages: {name} of stage {stage.name!r} comes to {ramp.value}, expected {expected}"
                )


def same_start(plan: StagePlan, one: int, other: int, until: float) -> bool:
    """Whether runs of `one` and of `other` epochs are asked for the same in their first `until` epochs.

    Stages are shares of a run, ramps shares of a stage: both move where the length changes.
    """
    here, there = Timeline(plan, one).bounds, Timeline(plan, other).bounds
    for stage, (first, end), (other_first, other_end) in zip(plan.stages, here, there, strict=True):
        if first >= until and other_first >= until:
            return True
        if first != other_first:
            return False
        shorter = min(end, other_end)
        if end != other_end and (shorter < until or _moves(stage, (until - first) / (shorter - first))):
            return False
    return True


def _moves(stage: Stage, share: float) -> bool:
    """Whether anything moves within the first `share` of the stage."""
    ramps = (
        *stage.trains.values(), *stage.weights.values(), stage.gate_scale, stage.tower_gradient_scale,
    )  # fmt: skip
    frees_alpha = stage.fixed_alpha is not None and 0 < stage.fixed_alpha_until < min(share, 1)
    return frees_alpha or any(ramp.end > 0 and ramp.begin < share for ramp in ramps)


def _bounds(stages: tuple[Stage, ...], epochs: int) -> list[tuple[int, int]]:
    count = len(stages)
    if epochs < max(count, 1):
        raise InputError(
            f"trainer.epochs is {epochs}, but the plan has {count} stages of at least one epoch each: "
            f"train for {max(count, 1)} epochs or more"
        )
    total = sum(stage.share for stage in stages)
    bounds, passed, first = [], 0.0, 0
    for index, stage in enumerate(stages):
        passed += stage.share
        still_to_come = count - 1 - index
        end = min(max(round(passed / total * epochs), first + 1), epochs - still_to_come)
        bounds.append((first, end))
        first = end
    return bounds


def find_pattern(table: dict[str, T], name: str) -> T | None:
    """Value of the last pattern (fnmatch) of `table` that matches `name`; None if none does."""
    found = None
    for pattern, value in table.items():
        if fnmatchcase(name, pattern):
            found = value
    return found


def unmatched_patterns(plan: StagePlan, groups: Iterable[str]) -> list[str]:
    """Patterns of the plan that match no parameter group: a misspelt name trains nothing."""
    names = list(groups)
    patterns = {pattern for stage in plan.stages for pattern in stage.trains}
    return sorted(p for p in patterns if not any(fnmatchcase(name, p) for name in names))
