"""The ablation report: from the run folders of a grid to ablation.json and ablation.html.

Everything is computed from the runs' own records (`ablation_figures`), judged by a rule fixed before
(`ablation_rules`) and shown whole, what was not run included. May be written again and again while the
runs train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from bifusion.storage.files import write_text
from bifusion.storage.json_files import to_json
from bifusion.studies.ablation import rules
from bifusion.studies.ablation.figures import (
    FIGURES,
    NO_RUN,
    RunFigures,
    measure_run,
    over_runs,
)
from bifusion.studies.ablation.page import render_ablation
from bifusion.studies.ablation.plan import AblationArm, AblationPlan, GridPoint
from bifusion.studies.comparison.performance import why_refused
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.run import Run


@dataclass
class Measured:
    """Figures of runs that have ended, which need not be read again while the others train."""

    ended: dict[Path, tuple[RunFigures, Run | None]] = field(default_factory=dict)

    def of(self, folder: Path, crashed: bool) -> tuple[RunFigures, Run | None]:
        """Figures of the run in `folder`, and the run without its records."""
        if folder in self.ended:
            return self.ended[folder]
        figures, run = measure_run(folder, crashed=crashed)
        if run is not None:
            run = replace(run, steps=[], epoch_records=[], evaluation=None)
        if figures.state in ("completed", "guard_stopped"):
            self.ended[folder] = figures, run
        return figures, run


def write_ablation(
    plan: AblationPlan, out: Path, *, title: str, measured: Measured | None = None
) -> dict[str, Any]:
    """Writes ablation.json and ablation.html to `out`; returns the content of the former.

    Each file appears complete or not at all. `measured` keeps what was read from one call to the next.
    InputError for a damaged run folder.
    """
    report = build_ablation(plan, title, measured or Measured())
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "ablation.json", json.dumps(report, indent=1, allow_nan=False))
    write_text(out / "ablation.html", render_ablation(report))
    return report


def build_ablation(plan: AblationPlan, title: str, measured: Measured) -> dict[str, Any]:
    """The content of ablation.json, checked against its schema."""
    crashed = set(plan.crashed)
    read = {folder: measured.of(folder, folder.name in crashed) for folder in plan.folders.values()}
    figures = {where: read[folder][0] for where, folder in plan.folders.items()}
    runs = [run for _, run in read.values() if run is not None]
    refused = _refused(plan, read)
    states = {folder: told.state for folder, (told, _) in read.items()}
    report = {
        "schema_version": 1,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": all(told.ended for told in figures.values()),
        "synthetic": any("generated" in s for run in runs for s in run.config.get("sources") or []),
        "base": plan.base,
        "seeds": list(plan.seeds),
        "setting": _setting(runs),
        "points": [asdict(point) | {"key": point.key, "label": point.label} for point in plan.points],
        "arms": [_arm_entry(arm) for arm in plan.arms],
        "not_run": {
            "points": [point.label for point in plan.points_left_out],
            "arms": list(plan.arms_left_out),
            "waiting": sorted(
                f.name for f, state in states.items() if state in ("running", "not started")
            ),
            "crashed": sorted(f.name for f, state in states.items() if state == "crashed"),
        },
        "runs": {state: list(states.values()).count(state) for state in sorted(set(states.values()))},
        "figures": FIGURES,
        "rule": list(rules.RULE),
        "refused": refused,
        "findings": [_finding(arm, plan, figures, refused) for arm in plan.arms if arm.role != "staged"],
        "cells": [
            _cell(arm, point, plan, figures, refused) for point in plan.points for arm in plan.arms
        ],
    }
    report = to_json(report)
    jsonschema.validate(report, load_schema())
    return report


def load_schema() -> dict[str, Any]:
    """The JSON schema of ablation.json."""
    text = (
        resources.files("bifusion.studies.ablation").joinpath("ablation.schema.json").read_text("utf-8")
    )
    return json.loads(text)


def _arm_entry(arm: AblationArm) -> dict[str, Any]:
    return {"key": arm.recipe, **asdict(arm)}


def _setting(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Scenes, length and image tower that all runs share; None before the first started."""
    if not runs:
        return None
    towers = [run.tower for run in runs if run.tower]
    return {
        "epochs": runs[0].epochs,
        "train_scenes": len(runs[0].train_scenes),
        "val_scenes": len(runs[0].val_scenes),
        "label_set": runs[0].label_set,
        "tower": towers[0] if towers else None,
    }


def _refused(plan: AblationPlan, read: Mapping[Path, tuple[RunFigures, Run | None]]) -> str | None:
    """Why accuracies must not be compared, from one run of each arm; None where they may."""
    first: dict[str, Run] = {}
    for (recipe, _, _), folder in plan.folders.items():
        run = read[folder][1]
        if run is not None:
            first.setdefault(recipe, run)
    arms = [Arm(recipe, run.arm, recipe, (run,)) for recipe, run in first.items()]
    return why_refused(arms) if arms else None


# ------------------------------------------------------------------------------------ the findings


def _pairs(
    arm: AblationArm, plan: AblationPlan, figures: Mapping[tuple[str, str, int], RunFigures]
) -> dict[tuple[str, int], rules.Pair]:
    """(with the measure, without it) at each point with each seed; of a rival, (staged, rival)."""
    pairs = {}
    for point in plan.points:
        for seed in plan.seeds:
            staged = figures.get((plan.base, point.key, seed), NO_RUN)
            other = figures.get((arm.recipe, point.key, seed), NO_RUN)
            pairs[point.key, seed] = (other, staged) if arm.role == "added" else (staged, other)
    return pairs


def _finding(
    arm: AblationArm,
    plan: AblationPlan,
    figures: Mapping[tuple[str, str, int], RunFigures],
    refused: str | None,
) -> dict[str, Any]:
    pairs = _pairs(arm, plan, figures)
    stability = rules.judge("stability", pairs)
    accuracy = rules.judge("accuracy", {} if refused else pairs)
    headline = rules.rival_headline if arm.role == "rival" else rules.headline
    return {
        "arm": arm.recipe,
        "headline": headline(stability, accuracy),
        "sentence": rules.sentence(
            pairs,
            stability,
            accuracy,
            without=_without(arm),
            points={point.key: point.label for point in plan.points},
        ),
        "stability": asdict(stability) | {"pairs": stability.pairs},
        "accuracy": asdict(accuracy) | {"pairs": accuracy.pairs},
        "difference": over_runs(_mean_differences(arm, plan, figures) if refused is None else {}),
    }


def _mean_differences(
    arm: AblationArm, plan: AblationPlan, figures: Mapping[tuple[str, str, int], RunFigures]
) -> dict[int, float]:
    """Accuracy of the arm minus that of the staged recipe, by seed, mean over the grid."""
    told = {}
    for seed in plan.seeds:
        told[seed] = rules.mean_gain(
            [
                (
                    figures.get((arm.recipe, point.key, seed), NO_RUN),
                    figures.get((plan.base, point.key, seed), NO_RUN),
                )
                for point in plan.points
            ]
        )
    return told


def _without(arm: AblationArm) -> str:
    if arm.role == "rival":
        return f"With {arm.label} in its place"
    return f"Without it ({'the staged recipe as it is' if arm.role == 'added' else arm.instead})"


# --------------------------------------------------------------------------------------- the cells


def _cell(
    arm: AblationArm,
    point: GridPoint,
    plan: AblationPlan,
    figures: Mapping[tuple[str, str, int], RunFigures],
    refused: str | None,
) -> dict[str, Any]:
    """The runs of one arm at one point of the grid."""
    mine = {seed: figures.get((arm.recipe, point.key, seed), NO_RUN) for seed in plan.seeds}
    staged = {seed: figures.get((plan.base, point.key, seed), NO_RUN) for seed in plan.seeds}
    return {
        "arm": arm.recipe,
        "point": point.key,
        "shared": not arm.has_range and len({p.range_2d for p in plan.points}) > 1,
        "states": {seed: run.state for seed, run in mine.items()},
        "reasons": {seed: run.reason for seed, run in mine.items() if run.reason},
        "steps": sum(run.steps for run in mine.values()),
        "skipped": sum(run.skipped for run in mine.values()),
        "rollbacks": sum(run.rollbacks for run in mine.values()),
        "figures": {
            name: over_runs({seed: run.figures[name] for seed, run in mine.items()}) for name in FIGURES
        },
        "difference": over_runs(
            {seed: rules.accuracy_gain(mine[seed], staged[seed]) for seed in plan.seeds}
            if arm.role != "staged" and refused is None
            else {}
        ),
    }
