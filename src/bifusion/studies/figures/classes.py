"""IoU of the classes of one run: each, and those that only texture tells apart against the others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from bifusion.studies.figures.metrics import value_at
from bifusion.studies.figures.run import Run

TEXTURE_PARTS = {
    "texture": ("full", True),
    "other": ("full", False),
    "texture_seen": ("seen", True),
    "texture_unseen": ("unseen", True),
}
"""Part of the results → key of evaluation.json, and whether it is over the texture classes."""


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


def texture_iou(run: Run, part: str, texture: set[str]) -> float:
    """Mean IoU of one of `TEXTURE_PARTS`; `texture`: the classes that only texture tells apart."""
    key, over_texture = TEXTURE_PARTS[part]
    ious = class_iou(run, key)
    return finite_mean(iou for name, iou in ious.items() if (name in texture) == over_texture)


def finite_mean(values: Iterable[float]) -> float:
    """Mean of the finite values, NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
