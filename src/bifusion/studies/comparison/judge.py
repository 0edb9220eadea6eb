"""From the arms of a comparison to its report: verdicts, tables, what every run shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from bifusion.errors import listing
from bifusion.studies.comparison.classes import class_table, seen_split, texture_split
from bifusion.studies.comparison.differences import fusion_differences
from bifusion.studies.comparison.fixed_gate import beside_fixed_gate
from bifusion.studies.comparison.gate import gate_entries
from bifusion.studies.comparison.performance import judge_performance
from bifusion.studies.comparison.report import (
    ArmEntry,
    ComparisonReport,
    Results,
    RunEntry,
    Stage,
    Verdict,
)
from bifusion.studies.comparison.rivals import rival_of
from bifusion.studies.comparison.stage_verdicts import judge_stages
from bifusion.studies.comparison.study_table import study_table
from bifusion.studies.comparison.verdicts import judge_fusion, judge_stability
from bifusion.studies.figures.arms import FIRST_ROLE, Arm
from bifusion.studies.figures.cautions import cautions
from bifusion.studies.figures.fairness import require_one_set, unlike_arms, why_refused
from bifusion.studies.figures.generated import generated
from bifusion.studies.figures.metrics import (
    finite_epochs,
    latest_value,
    longest_row,
    series,
    spikes,
    training_seconds,
    update_counts,
)
from bifusion.studies.figures.model_parts import part_counts
from bifusion.studies.figures.run import Record, Run


def judge_comparison(
    arms: list[Arm], *, audit: Record | None, title: str, crashed: Sequence[str] = ()
) -> ComparisonReport:
    """The report of `arms`. `audit` is the content of a benchmark's audit.json, shown beside the
    results; `crashed` names runs that have no result because they crashed. `InputError` where runs
    have other classes."""
    require_one_set([(str(run.folder), run.labels) for arm in arms for run in arm.runs])
    verdicts = judge_all(arms)
    return ComparisonReport(
        title=title,
        complete=not crashed and all(arm.finished for arm in arms),
        cautions=[
            *cautions(run for arm in arms for run in arm.runs),
            *unlike_arms(arms),
            *_audited_in_part(arms, audit),
        ],
        crashed=list(crashed),
        **generated((run for arm in arms for run in arm.runs), audited=audit is not None),
        scenes_refused=_refusals(arms, verdicts),
        arms=[_arm_entry(arm) for arm in arms],
        runs=[_run_entry(run, arm) for arm in arms for run in arm.runs],
        verdicts=verdicts,
        study_table=study_table(arms),
        classes=class_table(arms),
        texture=texture_split(arms, audit),
        seen_split=seen_split(arms),
        gate=gate_entries(arms, audit),
        fusion_differences=fusion_differences(arms),
        audit=audit,
    )


def judge_all(arms: list[Arm]) -> list[Verdict]:
    """Every verdict on every arm; the arm the comparison is about comes first."""
    verdicts: list[Verdict] = []
    for arm in sorted(arms, key=lambda arm: arm.role != FIRST_ROLE):
        performance = judge_performance(arm, arms)
        fusion = beside_fixed_gate(judge_fusion(arm), arm, arms)
        verdicts += [judge_stability(arm), performance, fusion]
        verdicts += judge_stages(arm, rival_of(arm, "baseline", arms), performance)
    return verdicts


def _refusals(arms: list[Arm], verdicts: list[Verdict]) -> str | None:
    """Whose performance is not judged and why; None if nobody's was refused, and nobody's would be.

    A table of runs that differ is read as a comparison even where none of them is judged by another."""
    labels = {arm.key: arm.label for arm in arms}
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.criterion == "performance" and verdict.outcome == "refused":
            reasons.setdefault(verdict.evidence, []).append(labels[verdict.arm])
    if not reasons and (reason := why_refused(arms)):
        reasons[reason] = ["the models among each other"]
    return " ".join(f"{listing(who, 8)}: {why}" for why, who in reasons.items()) or None


def _audited_in_part(arms: list[Arm], audit: Record | None) -> list[str]:
    """That the audit is of other scenes than most runs saw, where each seed has rooms of its own."""
    rooms = {frozenset((*run.train_scenes, *run.val_scenes)) for arm in arms for run in arm.runs}
    if audit is None or len(rooms) == 1:
        return []
    return [f"Superpoint oracle and audit are of one of the {len(rooms)} data sets that the runs saw."]


def _arm_entry(arm: Arm) -> ArmEntry:
    run = arm.first
    figures = {
        field.name: arm.over_seeds(lambda r, key=field.name: latest_value(r, key))
        for field in fields(Results)
    }
    return ArmEntry(
        key=arm.key,
        role=arm.role,
        label=arm.label,
        control=arm.control,
        model_kind=run.model_kind,
        seeds=[r.seed for r in arm.runs],
        states=[r.state for r in arm.runs],
        final=all(r.evaluation is not None for r in arm.runs),
        epochs=run.epochs,
        epochs_done=min(r.epochs_done for r in arm.runs),
        figures=Results(**figures),
        **asdict(update_counts(*arm.runs)),
        parameters=run.parameters.get("total", sum(part_counts(run).values())),
        seconds=arm.over_seeds(training_seconds),
        stages=[Stage(**asdict(stage)) for stage in run.stages],
    )


def _run_entry(run: Run, arm: Arm) -> RunEntry:
    return RunEntry(
        name=run.folder.name,
        arm=arm.key,
        recipe=run.recipe,
        seed=run.seed,
        state=run.state,
        reason=run.stop_reason,
        accepted_changes=run.accepted_changes,
        epochs=run.epochs,
        epochs_done=run.epochs_done,
        steps=len(run.steps),
        **asdict(update_counts(run)),
        finite_epochs_in_a_row=longest_row(finite_epochs(run))[0],
        loss_spikes=int(spikes(series(run.steps, "total")).sum()),
        gradient_spikes=int(spikes(series(run.steps, "grad_norm", "total")).sum()),
        train_scenes=len(run.train_scenes),
        val_scenes=len(run.val_scenes),
        label_set=run.label_set,
        tower=run.tower,
        seconds=training_seconds(run),
        versions=run.config.get("versions") or {},
        settings=_settings(run),
    )


def _settings(run: Run) -> dict[str, Any]:
    """The run's settings; its classes by name, as `labels` of them all would hide the rest."""
    data = run.settings.get("data")
    if not isinstance(data, dict) or "labels" not in data:
        return run.settings
    return {**run.settings, "data": {**data, "labels": run.class_names}}
