"""What a sweep of learning rates is to run: arms, conditions, rates, seeds, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bifusion.studies.grids.plan import GridPlan

Place = tuple[str, str, float, int]
"""(recipe, key of the condition, factor on the rate, seed)."""


@dataclass(frozen=True)
class SweepArm:
    """One recipe of the sweep."""

    key: str
    """Its name in reports: the recipe."""
    role: str
    """Its role in a comparison, such as naive."""
    label: str
    """As shown."""
    lr: float
    """The recipe's own learning rate, which factors multiply."""
    loss_weights: dict[str, float]
    """Loss term → weight at the end of its plan: one measure of the loss for the whole run, whatever
    ramps in it."""


@dataclass(frozen=True)
class Condition:
    """One way in which runs are trained at every rate."""

    key: str
    """Its name in --grid and reports."""
    label: str
    """As shown."""
    meaning: str
    """What differs from the first condition; a phrase."""


@dataclass(frozen=True, kw_only=True)
class SweepPlan(GridPlan):
    """What is to be run, and what is left out of the whole grid."""

    arms: tuple[SweepArm, ...]
    factors: tuple[float, ...]
    """On every arm's own rate, ascending."""
    conditions: tuple[Condition, ...]
    folders: Mapping[Place, Path]
    """Run folders; an arm that a condition does not concern has none in it."""
    factors_left_out: tuple[float, ...] = ()
    conditions_left_out: tuple[str, ...] = ()
    """Labels."""
