"""Colours and line styles: the same for an arm in every chart, chip and table of the report.

Mid-lightness hues that are told apart with colour-blindness and on light and dark grounds; dashes
tell them apart without colour.
"""

from __future__ import annotations

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
    "lifted_rgb": "dash",
    "random_tower": "dot",
}


def arm_color(arm: Arm, index: int) -> str:
    """Colour of an arm, the `index`-th of a comparison; where a role occurs twice, one of its own."""
    if arm.key in COLORS:
        return COLORS[arm.key]
    return OTHER_COLORS[index % len(OTHER_COLORS)]


def arm_dash(arm: Arm) -> str:
    """Plotly's dash of an arm's lines."""
    return DASHES.get(arm.role, "solid")
