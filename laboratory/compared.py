"""Figures of trained runs, over seeds: what laboratory.balance and laboratory.ladder print."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from bifusion.datasets.rooms.config import TEXTURE_CLASSES
from bifusion.studies.demo import rooms_of
from bifusion.studies.training_runs.plan import PlannedRun, plan_runs

FIGURES = ("miou", "ap", "agnostic_ap", "fusion_2d_ratio", "texture", "other")
"""Of the last checkpoint; "texture", "other": mean IoU of the classes that only texture tells apart, of
the rest."""


def plan_on_ground(
    recipes: Sequence[str], seeds: Sequence[int], ground: Path, out: Path, epochs: int | None
) -> list[PlannedRun]:
    """Every recipe with every seed, on the rooms of that seed and the image tower of a demo's folder."""
    tower = ground / "tower-small.safetensors"
    return [
        run
        for seed in seeds
        for run in plan_runs(
            recipes, (seed,), rooms_of(ground, seed), out, tower_weights=tower, epochs=epochs
        )
    ]


def figure(run: PlannedRun, name: str) -> float | None:
    """One of `FIGURES`; None where the model has none."""
    full = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))["full"]
    if name not in ("texture", "other"):
        return full[name]
    wanted = name == "texture"
    values = [
        v for label, v in full["iou"].items() if v is not None and (label in TEXTURE_CLASSES) == wanted
    ]
    return statistics.mean(values) if values else None


def spread(values: Iterable[float | None], signed: bool = False) -> str:
    """Mean ± standard deviation over what is there; the mean alone of one."""
    told = [value for value in values if value is not None]
    if not told:
        return "–"
    deviation = f" ± {statistics.stdev(told):.3f}" if len(told) > 1 else ""
    return f"{statistics.mean(told):{'+' if signed else ''}.3f}{deviation}"
