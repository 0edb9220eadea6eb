"""From run folders on several data sets to the dose report.

The gain of a model is its mIoU minus that of BiFusion without views on the same rooms, paired by
seed, at the last checkpoint. May be judged again and again while the runs train.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bifusion.studies.dose.report import (
    ArmAtLevel,
    DoseArm,
    DoseReport,
    GateAtLevel,
    Knob,
    LevelEntry,
    Parts,
    Probe,
    Probes,
    RoomsAudit,
)
from bifusion.studies.figures.arms import (
    FIRST_ROLE,
    Arm,
    arm_keys,
    find_role,
    group_runs,
    has_result,
)
from bifusion.studies.figures.cautions import cautions
from bifusion.studies.figures.classes import texture_iou
from bifusion.studies.figures.fairness import why_refused
from bifusion.studies.figures.gate import gate_of, texture_gate
from bifusion.studies.figures.metrics import Sample, final_value, over_seeds, value_at
from bifusion.studies.figures.run import Record, Run, load_run, read_json

REFERENCE = "without_views"
"""Role of the arm that gains are measured from."""
PARTS = tuple(field.name for field in fields(Parts))


@dataclass(frozen=True)
class Level:
    """One value of the knob: the data set made with it, and the runs on that."""

    value: float
    folder: Path
    run_dirs: tuple[Path, ...]
    """All that are planned; those not started yet are left out of the figures."""
    audit: Path


@dataclass(frozen=True)
class MeasuredLevel:
    """What a level's folders tell so far."""

    level: Level
    arms: list[Arm]
    """Without the runs that crashed."""
    crashed: list[str]
    """LEVEL/RUN of each run without a result because it crashed."""
    waiting: list[str]
    """The same of runs that have not ended or been evaluated."""
    audit: Record | None

    @property
    def complete(self) -> bool:
        return not self.crashed and not self.waiting


def measure_levels(levels: Sequence[Level], crashed: Collection[Path] = ()) -> list[MeasuredLevel]:
    """Reads the levels, in rising order; InputError for a damaged run folder or audit.

    `crashed`: folders of runs that crashed; where such a run has a result all the same, it counts.
    """
    levels = sorted(levels, key=lambda level: level.value)
    started = [_started(level, crashed) for level in levels]
    # Of all levels at once: an arm keeps its key where the other recipe of its role has not begun.
    keys = arm_keys([run for runs in started for run in runs])
    return [
        _measure(level, group_runs(runs, keys), crashed)
        for level, runs in zip(levels, started, strict=True)
    ]


def _started(level: Level, crashed: Collection[Path]) -> list[Run]:
    """The runs that have begun, but for those that crashed."""
    begun = [load_run(folder) for folder in level.run_dirs if (folder / "config.json").exists()]
    return [run for run in begun if run.folder not in crashed or has_result(run)]


def _measure(level: Level, arms: list[Arm], crashed: Collection[Path]) -> MeasuredLevel:
    over = {run.folder for arm in arms for run in arm.runs if has_result(run)}
    left = [folder for folder in level.run_dirs if folder not in over]
    names = {folder: f"{level.folder.name}/{folder.name}" for folder in left}
    return MeasuredLevel(
        level,
        arms,
        crashed=[names[folder] for folder in left if folder in crashed],
        waiting=[names[folder] for folder in left if folder not in crashed],
        audit=read_json(level.audit, {}),
    )


def arms_of(measured: list[MeasuredLevel]) -> list[Arm]:
    """Every arm, as at the first level that has it, in the order of tables."""
    arms: dict[str, Arm] = {}
    for level in measured:
        arms = {arm.key: arm for arm in level.arms} | arms
    return sorted(arms.values(), key=lambda arm: (arm.role != FIRST_ROLE, arm.control is not None))


def judge_dose(knob: Knob, measured: list[MeasuredLevel], title: str) -> DoseReport:
    """The report of the levels."""
    arms = arms_of(measured)
    return DoseReport(
        title=title,
        complete=all(level.complete for level in measured),
        crashed=[name for level in measured for name in level.crashed],
        waiting=[name for level in measured for name in level.waiting],
        cautions=cautions(run for level in measured for arm in level.arms for run in arm.runs),
        knob=knob,
        reference=next((arm.key for arm in arms if arm.role == REFERENCE), None),
        arms=[
            DoseArm(arm.key, arm.role, arm.label, arm.control, arm.first.recipe, arm.first.tower)
            for arm in arms
        ],
        levels=[_level_entry(level, knob) for level in measured],
    )


def _level_entry(measured: MeasuredLevel, knob: Knob) -> LevelEntry:
    reference = find_role(measured.arms, REFERENCE)
    texture = set((measured.audit or {}).get("texture_classes") or [])
    return LevelEntry(
        value=measured.level.value,
        folder=measured.level.folder.name,
        complete=measured.complete,
        expected_zero=measured.level.value == knob.zero_at,
        audit=_rooms_audit(measured.audit) if measured.audit else None,
        arms={arm.key: _at_level(arm, reference, texture) for arm in measured.arms},
    )


# ------------------------------------------------------------------------------------- the gain


def _at_level(arm: Arm, reference: Arm | None, texture: set[str]) -> ArmAtLevel:
    miou = {part: arm.over_seeds(lambda run, part=part: part_miou(run, part, texture)) for part in PARTS}
    refused = why_refused([arm, reference]) if reference is not None else None
    gain = None
    if reference is not None and arm.key != reference.key and refused is None:
        gain = Parts(**{part: paired_gain(arm, reference, part, texture) for part in PARTS})
    return ArmAtLevel(
        [run.state for run in arm.runs], Parts(**miou), gain, refused, gate_at_level(arm, texture)
    )


def gate_at_level(arm: Arm, texture: set[str]) -> GateAtLevel | None:
    """None for models without a learned gate, and before the evaluation."""
    if not any(map(gate_of, arm.runs)):
        return None
    return GateAtLevel(
        mean=arm.over_seeds(lambda run: value_at(gate_of(run), "mean")),
        std_within_scenes=arm.over_seeds(lambda run: value_at(gate_of(run), "std_within_scenes")),
        texture_minus_other=arm.over_seeds(
            lambda run: texture_gate(run, texture, True) - texture_gate(run, texture, False)
        ),
    )


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


# ------------------------------------------------------------------------------------ the rooms


def _rooms_audit(audit: Record) -> RoomsAudit:
    return RoomsAudit(
        seen_share=value_at(audit, "seen_share", "val", "all"),
        oracle_miou=value_at(audit, "superpoint_oracle", "miou"),
        probe=Probes(_probe(audit, "voxels"), _probe(audit, "images")),
    )


def _probe(audit: Record, sense: str) -> Probe | None:
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
    return Probe(
        accuracy=sum(c["accuracy"] for c in crossed) / count,
        standard_error=math.sqrt(sum(c["standard_error"] ** 2 for c in crossed)) / count,
        chance=sum(group["chance"] for group in groups) / count,
    )
