"""The learned gates of a comparison point by point, from the runs' evaluation.json."""

from __future__ import annotations

import math

from bifusion.studies.comparison.fusion_report import GateEntry, GateGroup, GateKind
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.classes import finite_mean
from bifusion.studies.figures.gate import gate_of, group_names, texture_gate
from bifusion.studies.figures.metrics import Sample, final_value, value_at
from bifusion.studies.figures.run import Record, Run

TABLES: dict[str, GateKind] = {
    "views": "views", "distance": "distance", "outcome": "outcome", "classes": "class",
}  # fmt: skip
"""Table of evaluation.json's gate -> what its groups are."""
ANNOTATED = ("classes", "outcome")
"""Tables that count annotated points alone."""
PARTS = {"texture classes": True, "other classes": False}


def gate_entries(arms: list[Arm], audit: Record | None) -> dict[str, GateEntry]:
    """Of every arm with a learned gate that has been evaluated point by point."""
    texture = set((audit or {}).get("texture_classes") or [])
    return {arm.key: _entry(arm, texture) for arm in arms if any(map(gate_of, arm.runs))}


def _entry(arm: Arm, texture: set[str]) -> GateEntry:
    groups = [_part(arm, texture, name) for name in PARTS] if texture else []
    for table, kind in TABLES.items():
        groups += [_group(arm, table, kind, name) for name in group_names(arm.runs, table)]
    return GateEntry(
        std=arm.over_seeds(lambda run: value_at(gate_of(run), "std")),
        std_within_scenes=arm.over_seeds(lambda run: value_at(gate_of(run), "std_within_scenes")),
        flat_miou=_lost_flat(arm, "miou"),
        flat_ap=_lost_flat(arm, "ap"),
        histogram=_histogram(arm),
        groups=[group for group in groups if group.share > 0],
    )


def _lost_flat(arm: Arm, figure: str) -> Sample:
    """What the figure loses where every seen point has the mean gate."""
    return arm.over_seeds(
        lambda run: final_value(run, "full", figure) - final_value(run, "flat_gate", figure)
    )


def _part(arm: Arm, texture: set[str], name: str) -> GateGroup:
    """Texture classes, or the others."""
    wanted = PARTS[name]
    mean = arm.over_seeds(lambda run: texture_gate(run, texture, wanted))
    names = [n for n in group_names(arm.runs, "classes") if (n in texture) == wanted]
    share = finite_mean(sum(_share(run, "classes", n) for n in names) for run in arm.runs)
    return GateGroup("classes", name, share, mean)


def _group(arm: Arm, table: str, kind: GateKind, name: str) -> GateGroup:
    mean = arm.over_seeds(lambda run: value_at(gate_of(run), table, name, "mean"))
    return GateGroup(kind, name, finite_mean(_share(run, table, name) for run in arm.runs), mean)


def _share(run: Run, table: str, name: str) -> float:
    """Of the points that the table counts; NaN for a run without a gate."""
    gate = gate_of(run)
    points = value_at(gate, table, name, "points")
    counted = value_at(gate, "points") if table not in ANNOTATED else _counted(gate, table)
    return points / counted if counted > 0 else math.nan


def _counted(gate: Record | None, table: str) -> float:
    groups = (gate or {}).get(table) or {}
    return sum(value_at(groups, name, "points") for name in groups)


def _histogram(arm: Arm) -> list[float]:
    shares = []
    for gate in filter(None, map(gate_of, arm.runs)):
        counts = [count or 0 for count in gate.get("histogram") or []]
        total = max(sum(counts), 1)
        shares.append([count / total for count in counts])
    return [finite_mean(of_bin) for of_bin in zip(*shares, strict=False)]
