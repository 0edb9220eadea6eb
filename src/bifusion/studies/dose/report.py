"""Dose and response: what images add, as one property of the generated rooms changes.

From run folders on several data sets to dose.json (schema: dose.schema.json) and dose.html.
The gain of a model is its mIoU minus that of BiFusion without views on the same rooms, paired by
seed, at the last checkpoint. May be written again and again while the runs train.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from bifusion.storage.files import write_text
from bifusion.storage.json_files import to_json
from bifusion.studies.comparison.classes import TEXTURE_PARTS, texture_iou
from bifusion.studies.comparison.performance import why_refused
from bifusion.studies.dose.page import render_dose
from bifusion.studies.figures.arms import FIRST_ROLE, Arm, find_role, group_runs
from bifusion.studies.figures.metrics import Sample, final_value, over_seeds, value_at
from bifusion.studies.figures.run import Record, Run, load_run, read_json
from bifusion.studies.page.markup import Look
from bifusion.studies.page.style import arm_color, arm_dash

REFERENCE = "without_views"
"""Role of the arm that gains are measured from."""
PARTS = ("all", "seen", "unseen", *TEXTURE_PARTS)
"""Whose mIoU: all points, points seen and not seen, texture classes and the others (all points),
texture classes on points seen and not seen."""
SENSES = ("voxels", "images")


@dataclass(frozen=True)
class Knob:
    """The property that changes from one data set to the next."""

    name: str
    label: str
    unit: str
    """ "" where it has none."""
    meaning: str
    """One sentence: what changes with it."""
    zero_at: float | None = None
    """Value at which images cannot help: the expected gain is zero there."""


@dataclass(frozen=True)
class Level:
    """One value of the knob: the data set made with it, and the runs on that."""

    value: float
    folder: Path
    run_dirs: tuple[Path, ...]
    """All that are planned; those not started yet are left out of the figures."""
    audit: Path


@dataclass(frozen=True)
class _Measured:
    """What a level's folders tell so far."""

    level: Level
    arms: list[Arm]
    audit: Record | None

    @property
    def complete(self) -> bool:
        runs = sum(len(arm.runs) for arm in self.arms)
        return runs == len(self.level.run_dirs) and all(arm.finished for arm in self.arms)


def write_dose(knob: Knob, levels: Sequence[Level], out: Path, *, title: str) -> dict[str, Any]:
    """Writes dose.json and dose.html of the levels, in order of their values; returns the former.

    Each file appears complete or not at all. InputError for a damaged run folder or audit.
    """
    measured = [_measure(level) for level in sorted(levels, key=lambda level: level.value)]
    arms: dict[str, Arm] = {}
    for of_level in measured:
        arms = {arm.key: arm for arm in of_level.arms} | arms
    in_order = sorted(arms.values(), key=lambda arm: (arm.role != FIRST_ROLE, arm.control is not None))
    dose = build_dose(knob, measured, in_order, title)
    looks = {
        arm.key: Look(arm.label, arm_color(arm, index), arm_dash(arm))
        for index, arm in enumerate(in_order)
    }
    for name, text in (
        ("dose.json", json.dumps(dose, indent=1, allow_nan=False)),
        ("dose.html", render_dose(dose, looks)),
    ):
        write_text(out / name, text)
    return dose


def build_dose(knob: Knob, measured: list[_Measured], arms: list[Arm], title: str) -> dict[str, Any]:
    """The content of dose.json, checked against its schema."""
    dose = {
        "schema_version": 1,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": all(of_level.complete for of_level in measured),
        "knob": asdict(knob),
        "reference": next((arm.key for arm in arms if arm.role == REFERENCE), None),
        "arms": [
            {
                "key": arm.key,
                "role": arm.role,
                "label": arm.label,
                "control": arm.control,
                "recipe": arm.first.recipe,
                "tower": arm.first.tower,
            }
            for arm in arms
        ],
        "levels": [_level_entry(of_level, knob) for of_level in measured],
    }
    dose = to_json(dose)
    jsonschema.validate(dose, load_schema())
    return dose


def load_schema() -> dict[str, Any]:
    """The JSON schema of dose.json."""
    text = (
        resources.files("bifusion.studies.dose").joinpath("dose.schema.json").read_text(encoding="utf-8")
    )
    return json.loads(text)


def _measure(level: Level) -> _Measured:
    started = [folder for folder in level.run_dirs if (folder / "config.json").exists()]
    return _Measured(
        level, group_runs([load_run(folder) for folder in started]), read_json(level.audit, {})
    )


def _level_entry(measured: _Measured, knob: Knob) -> dict[str, Any]:
    reference = find_role(measured.arms, REFERENCE)
    texture = set((measured.audit or {}).get("texture_classes") or [])
    return {
        "value": measured.level.value,
        "folder": measured.level.folder.name,
        "complete": measured.complete,
        "expected_zero": measured.level.value == knob.zero_at,
        "audit": _audit_figures(measured.audit) if measured.audit else None,
        "arms": {arm.key: _arm_entry(arm, reference, texture) for arm in measured.arms},
    }


# ------------------------------------------------------------------------------------- the gain


def _arm_entry(arm: Arm, reference: Arm | None, texture: set[str]) -> dict[str, Any]:
    miou = {part: arm.over_seeds(lambda run, part=part: part_miou(run, part, texture)) for part in PARTS}
    refused = why_refused([arm, reference]) if reference is not None else None
    gain = None
    if reference is not None and arm.key != reference.key and refused is None:
        gain = {part: _sample(paired_gain(arm, reference, part, texture)) for part in PARTS}
    return {
        "states": [run.state for run in arm.runs],
        "miou": {part: _sample(sample) for part, sample in miou.items()},
        "gain": gain,
        "refused": refused,
    }


def part_miou(run: Run, part: str, texture: set[str]) -> float:
    """mIoU of the last checkpoint on one of `PARTS`; NaN before the final evaluation, or where the
    audit names no texture classes."""
    if part in ("all", "seen", "unseen"):
        return final_value(run, "full" if part == "all" else part, "miou")
    return texture_iou(run, part, texture) if run.evaluation is not None and texture else math.nan


def paired_gain(arm: Arm, reference: Arm, part: str, texture: set[str]) -> Sample:
    """mIoU of `arm` minus that of `reference`, seed by seed; only pairs trained to their end count."""
    ours, theirs = (
        {seed: run for seed, run in one.by_seed().items() if run.state == "completed"}
        for one in (arm, reference)
    )
    return over_seeds(
        {
            seed: part_miou(ours[seed], part, texture) - part_miou(theirs[seed], part, texture)
            for seed in ours.keys() & theirs.keys()
        }
    )


def _sample(sample: Sample) -> dict[str, Any]:
    return {"mean": sample.mean, "spread": sample.spread, "by_seed": sample.by_seed}


# ------------------------------------------------------------------------------------ the rooms


def _audit_figures(audit: Record) -> dict[str, Any]:
    oracle = audit.get("superpoint_oracle") or {}
    return {
        "seen_share": value_at(audit, "seen_share", "val", "all"),
        "oracle_miou": value_at(oracle, "miou"),
        "probe": {sense: _probe_figures(audit, sense) for sense in SENSES},
    }


def _probe_figures(audit: Record, sense: str) -> dict[str, float] | None:
    """Cross-validated accuracy of the probe, mean over the texture groups; None where not probed."""
    texture = set(audit.get("texture_classes") or [])
    groups = [
        group
        for group in ((audit.get("probe") or {}).get(sense) or {}).values()
        if group is not None and set(group["classes"]) <= texture
    ]
    if not groups:
        return None
    count = len(groups)
    crossed = [group["cross_validated"] for group in groups]
    return {
        "accuracy": sum(c["accuracy"] for c in crossed) / count,
        "standard_error": math.sqrt(sum(c["standard_error"] ** 2 for c in crossed)) / count,
        "chance": sum(group["chance"] for group in groups) / count,
    }
