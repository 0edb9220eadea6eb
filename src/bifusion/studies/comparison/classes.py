"""Results per class: all of them, texture classes against the others, points seen and not seen."""

from __future__ import annotations

import math

from bifusion.studies.comparison.report import ClassTable, SeenSplit, TextureIoU, TextureSplit
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.classes import TEXTURE_PARTS, class_iou, finite_mean, texture_iou
from bifusion.studies.figures.metrics import final_value
from bifusion.studies.figures.run import Record


def class_table(arms: list[Arm]) -> ClassTable:
    """IoU of every class that somebody was scored on."""
    tables = {arm.key: _mean_by_class(arm) for arm in arms}
    names = [
        name
        for name in arms[0].first.class_names
        if any(math.isfinite(table.get(name, math.nan)) for table in tables.values())
    ]
    iou = {key: {name: table.get(name, math.nan) for name in names} for key, table in tables.items()}
    return ClassTable(names, iou)


def _mean_by_class(arm: Arm) -> dict[str, float]:
    tables = [class_iou(run, "full") for run in arm.runs]
    names = {name for table in tables for name in table}
    return {name: finite_mean(table.get(name, math.nan) for table in tables) for name in names}


def texture_split(arms: list[Arm], audit: Record | None) -> TextureSplit | None:
    """Mean IoU over the classes that only texture tells apart (the audit names them) and the others,
    the former on points seen and not seen as well."""
    names = set((audit or {}).get("texture_classes") or [])
    if not names:
        return None
    rows = {arm.key: TextureIoU(**_texture_means(arm, names)) for arm in arms}
    return TextureSplit(sorted(names), rows)


def _texture_means(arm: Arm, names: set[str]) -> dict[str, float]:
    return {
        part: arm.over_seeds(lambda run, part=part: texture_iou(run, part, names)).mean
        for part in TEXTURE_PARTS
    }


def seen_split(arms: list[Arm]) -> dict[str, SeenSplit] | None:
    """mIoU on points that a view sees and on those none sees; None before the first evaluation."""
    rows = {
        arm.key: SeenSplit(
            arm.over_seeds(lambda run: final_value(run, "seen", "miou")).mean,
            arm.over_seeds(lambda run: final_value(run, "unseen", "miou")).mean,
        )
        for arm in arms
    }
    measured = any(math.isfinite(value) for row in rows.values() for value in (row.seen, row.unseen))
    return rows if measured else None
