"""What an ablation is to run: arms, points of a grid, seeds, and what is left out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bifusion.studies.grids.plan import GridPlan

Role = Literal["staged", "removed", "added", "rival"]


@dataclass(frozen=True)
class GridPoint:
    """One setting that all arms are trained with."""

    key: str
    """Its name in reports."""
    label: str
    """As shown."""
    lr: float
    """Factor on every arm's own learning rate."""
    range_2d: float
    """Factor on the lifted 2D features that enter the 2D head."""
    precision: str
    """trainer.precision."""

    @classmethod
    def at(cls, lr: float, range_2d: float, precision: str) -> GridPoint:
        return cls(
            f"lr{lr:g}-range{range_2d:g}-{precision}",
            f"lr ×{lr:g}, range ×{range_2d:g}, {precision}",
            lr,
            range_2d,
            precision,
        )


@dataclass(frozen=True)
class AblationArm:
    """One recipe of the ablation."""

    key: str
    """Its name in reports: the recipe."""
    recipe: str
    """Recipe."""
    label: str
    """As shown; of a measure removed or added, the measure's."""
    role: Role
    """Its part in the ablation."""
    instead: str
    """What the recipe does instead of the staged one; a phrase."""
    has_range: bool
    """It has a 2D head that reads images, so `range_2d` concerns it; else one run counts at every
    range."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan(GridPlan):
    """What is to be run: every arm at every point with every seed; and what is left out of it."""

    arms: tuple[AblationArm, ...]
    """The staged recipe first."""
    points: tuple[GridPoint, ...]
    folders: Mapping[tuple[str, str, int], Path]
    """(recipe, key of the point, seed) → run folder; one folder may stand at several points."""
    points_left_out: tuple[GridPoint, ...] = ()
    """Of the default grid."""
