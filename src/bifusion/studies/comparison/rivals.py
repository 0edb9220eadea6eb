"""Which arm another one is held against, where a comparison has several of a role, as of two sizes."""

from __future__ import annotations

from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.fairness import why_more_than_images, why_unequal

DECISIVE = "without_views"
"""The same network, losses and stages without images: only what images add is compared."""


def rival_of(arm: Arm, role: str, arms: list[Arm]) -> Arm | None:
    """The arm's own: of those with `role` the first that it may be compared with, else the first of
    them, which says why not; None: there is none."""
    of_role = [other for other in arms if other.role == role]
    own = (other for other in of_role if _why_not_own(arm, other) is None)
    return next(own, of_role[0] if of_role else None)


def _why_not_own(arm: Arm, other: Arm) -> str | None:
    if other.role == DECISIVE:
        return why_more_than_images(arm, other)
    return why_unequal([arm, other])
