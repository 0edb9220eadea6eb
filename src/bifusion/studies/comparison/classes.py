"""Results per class: all of them, texture classes against the others, points seen and not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.metrics import final_value, value_at
from bifusion.studies.figures.run import Record, Run


def class_iou(run: Run, *keys: str) -> dict[str, float]:
    """Class → IoU under evaluation.json's `keys`; without a final evaluation, of the last validation."""
    record: Any = run.evaluation
    if record is None:
        latest = next((r["val"] for r in reversed(run.epoch_records) if r.get("val")), None)
        record, keys = {"full": latest}, keys if keys[0] == "full" else ("none",)
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    ious = record.get("iou") if isinstance(record, dict) else None
    return {name: value_at(ious, name) for name in ious} if isinstance(ious, dict) else {}


def class_table(arms: list[Arm]) -> dict[str, Any]:
    """{"names", "iou": {arm: {class: mean over seeds}}}; classes nobody was scored on are left out."""
    tables = {arm.key: _mean_by_class(arm, "full") for arm in arms}
    names = [
        name
        for name in arms[0].first.class_names
        if any(math.isfinite(table.get(name, math.nan)) for table in tables.values())
    ]
    return {
        "names": names,
        "iou": {
            key: {name: table.get(name, math.nan) for name in names} for key, table in tables.items()
        },
    }


TEXTURE_PARTS = {
    "texture": ("full", True),
    "other": ("full", False),
    "texture_seen": ("seen", True),
    "texture_unseen": ("unseen", True),
}
"""Part of the results → key of evaluation.json, and whether it is over the texture classes."""


def texture_iou(run: Run, part: str, texture: set[str]) -> float:
    """Mean IoU of one of `TEXTURE_PARTS`; `texture`: the classes that only texture tells apart."""
    key, over_texture = TEXTURE_PARTS[part]
    return _mean_over(class_iou(run, key), lambda name: (name in texture) == over_texture)


def texture_split(arms: list[Arm], audit: Record | None) -> dict[str, Any] | None:
    """Mean IoU over the classes that only texture tells apart (the audit names them) and the others,
    the former on points seen and not seen as well."""
    names = set((audit or {}).get("texture_classes") or [])
    if not names:
        return None
    rows = {
        arm.key: {
            part: _mean(arm, lambda run, part=part: texture_iou(run, part, names))
            for part in TEXTURE_PARTS
        }
        for arm in arms
    }
    return {"classes": sorted(names), "arms": rows}


def seen_split(arms: list[Arm]) -> dict[str, dict[str, float]] | None:
    """mIoU on points that a view sees and on those none sees; None before the first evaluation."""
    rows = {
        arm.key: {
            part: _mean(arm, lambda run, part=part: final_value(run, part, "miou"))
            for part in ("seen", "unseen")
        }
        for arm in arms
    }
    measured = any(math.isfinite(value) for row in rows.values() for value in row.values())
    return rows if measured else None


def _mean_by_class(arm: Arm, *keys: str) -> dict[str, float]:
    tables = [class_iou(run, *keys) for run in arm.runs]
    names = {name for table in tables for name in table}
    return {name: _finite_mean([table.get(name, math.nan) for table in tables]) for name in names}


def _mean_over(ious: dict[str, float], wanted: Callable[[str], bool]) -> float:
    return _finite_mean([value for name, value in ious.items() if wanted(name)])


def _mean(arm: Arm, figure: Callable[[Run], float]) -> float:
    return arm.over_seeds(figure).mean


def _finite_mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
