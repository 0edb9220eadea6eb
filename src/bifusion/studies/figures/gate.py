"""What a run's evaluation tells of its learned gate, point by point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bifusion.studies.figures.metrics import series, value_at
from bifusion.studies.figures.run import Record, Run


def gate_of(run: Run) -> Record | None:
    """`GateFigures.compute` of the last checkpoint; None before it was evaluated, for a gate that is not
    learned or is shut, and where no view sees a point."""
    return (run.evaluation or {}).get("gate")


def learned_alpha(steps: Sequence[Record]) -> np.ndarray:
    """(n,) float64 in [0, 1]: mean α of the seen points of n steps while the gate is learned and acts,
    else NaN: where it is fixed, shut (s is 0), or nothing was seen."""
    alpha = series(list(steps), "gate", "alpha_mean")
    acts = np.array([_learns(step.get("gate") or {}) for step in steps], dtype=bool)
    return np.where(acts, alpha, np.nan)


def _learns(gate: Record) -> bool:
    if gate.get("scale") == 0:
        return False
    told = gate.get("learned")
    # Records of versions that do not tell: a gate that is held says the same of every point.
    return bool(told) if told is not None else value_at(gate, "alpha_std") > 0


def group_names(runs: Sequence[Run], table: str) -> list[str]:
    """Groups of one of the gate's tables, in order."""
    names: dict[str, None] = {}
    for run in runs:
        names |= dict.fromkeys((gate_of(run) or {}).get(table) or {})
    return list(names)


def texture_gate(run: Run, texture: set[str], over_texture: bool) -> float:
    """Mean gate over the points of texture classes, or of the others; NaN where there are none."""
    classes = (gate_of(run) or {}).get("classes") or {}
    wanted = [
        (value_at(classes, name, "points"), value_at(classes, name, "mean"))
        for name in classes
        if (name in texture) == over_texture
    ]
    counted = [(points, mean) for points, mean in wanted if points > 0 and math.isfinite(mean)]
    total = sum(points for points, _ in counted)
    return sum(points * mean for points, mean in counted) / total if total else math.nan
