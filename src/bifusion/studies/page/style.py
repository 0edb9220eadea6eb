"""Colours and line styles: the same for an arm in every chart, chip and table of a page.

Mid-lightness hues that are told apart with colour-blindness and on light and dark grounds; dashes
tell them apart without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from bifusion.studies.figures.arms import Arm

COLORS = {
    "baseline": "#3f7fd0",
    "mask3d": "#8b8f98",
    "without_views": "#23997a",
    "naive": "#b65aa6",
    "plan_a": "#c2951a",
    "plan_b": "#55a7d6",
    "staged": "#dd6420",
    "fine_voxels": "#6c6fc4",
    "2d_only": "#a8683c",
    "gate_half": "#b23645",
    "lifted_rgb": "#6f9c2f",
    "random_tower": "#cf5470",
    "ablation": "#c48a5a",
}
OTHER_COLORS = ("#7a6bd0", "#9a7b4f", "#5d9e3c", "#d1556a")
DASHES = {
    "without_views": "dash",
    "naive": "dot",
    "plan_a": "dashdot",
    "plan_b": "longdash",
    "fine_voxels": "longdash",
    "2d_only": "dashdot",
    "gate_half": "longdash",
    "lifted_rgb": "dash",
    "random_tower": "dot",
}


DASH_ARRAYS = {"dash": "5 3", "dot": "2 2.5", "dashdot": "5 2 1.5 2", "longdash": "8 3"}
"""Plotly's dashes in SVG's words."""


@dataclass(frozen=True)
class Look:
    """How an arm, or whatever else lines stand for, appears throughout a page."""

    label: str
    color: str
    dash: str
    """Plotly's word for it."""

    @property
    def dash_array(self) -> str:
        return DASH_ARRAYS.get(self.dash, "none")


Looks = Mapping[str, Look]
"""Key of an arm → its look, in the order of tables."""


def arm_looks(arms: Sequence[Arm]) -> dict[str, Look]:
    """Looks of the arms of a comparison; where a role occurs twice or is from outside, each has a
    colour, or a dash, of its own."""
    others = cycle((color, dash) for dash in ("solid", *DASH_ARRAYS) for color in OTHER_COLORS)
    looks = {}
    for arm in arms:
        named = (COLORS[arm.key], DASHES.get(arm.role, "solid")) if arm.key in COLORS else next(others)
        looks[arm.key] = Look(arm.label, *named)
    return looks
