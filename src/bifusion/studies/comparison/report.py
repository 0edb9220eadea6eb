"""The report of a comparison: from run folders to report.json, report.html and a terminal table.

May be written again and again while the runs train: it shows what there is so far.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from bifusion.storage.files import write_text
from bifusion.storage.json_files import to_json
from bifusion.studies.comparison.classes import class_table, seen_split, texture_split
from bifusion.studies.comparison.page import render_page
from bifusion.studies.comparison.performance import judge_performance
from bifusion.studies.comparison.stage_verdicts import judge_stages
from bifusion.studies.comparison.study_table import study_table
from bifusion.studies.comparison.terminal import print_table
from bifusion.studies.comparison.verdicts import Verdict, judge_fusion, judge_stability
from bifusion.studies.figures.arms import FIRST_ROLE, Arm, find_role, group_runs
from bifusion.studies.figures.metrics import (
    Sample,
    finite_epochs,
    latest_value,
    longest_row,
    series,
    spikes,
    training_seconds,
    update_counts,
)
from bifusion.studies.figures.model_parts import part_counts
from bifusion.studies.figures.run import Record, Run, load_run, read_json
from bifusion.studies.page.text import listing
from bifusion.types import InputError

__all__ = ["build_report", "print_table", "write_report"]

SCHEMA_VERSION = 1
RESULT_FIGURES = ("miou", "ap", "ap50", "ap25", "pq", "fusion_2d_ratio", "share_2d")


def write_report(
    run_dirs: Sequence[Path],
    out_dir: Path,
    *,
    audit: Path | None = None,
    crashed: Sequence[str] = (),
    title: str = "BiFusion comparison",
) -> dict[str, Any]:
    """Writes report.json and report.html of the runs in `run_dirs` to `out_dir`; returns the former.

    `audit` is a benchmark's audit.json, shown beside the results; `crashed` names runs that have no
    result because they crashed, which the report tells. Each file is written beside and
    renamed, so that a reader never meets half of one. `InputError` for a folder that is no run, a
    damaged file, or two runs that are the same arm and seed.
    """
    if not run_dirs:
        raise InputError("no run folder was given; name at least one that `bifusion train` wrote")
    runs = [load_run(Path(folder)) for folder in run_dirs]
    arms = group_runs(runs)
    told = _read_audit(audit)
    report = build_report(arms, audit=told, title=title, crashed=crashed)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "report.json", json.dumps(report, indent=1, allow_nan=False))
    write_text(out_dir / "report.html", render_page(report, arms))
    return report


def audit_of(run_dirs: Sequence[Path]) -> Path | None:
    """The audit.json of the data set that all runs were trained on; None where they differ, or there
    is none there."""
    configs = [read_json(Path(folder) / "config.json", {}) or {} for folder in run_dirs]
    roots = {str(config.get("config", {}).get("data", {}).get("root")) for config in configs}
    audit = Path(roots.pop()) / "audit.json" if len(roots) == 1 else None
    return audit if audit is not None and audit.is_file() else None


def _refusals(arms: list[Arm], verdicts: list[Verdict]) -> str | None:
    """Whose performance is not judged and why; None if nobody's was refused."""
    labels = {arm.key: arm.label for arm in arms}
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.criterion == "performance" and verdict.outcome == "refused":
            reasons.setdefault(verdict.evidence, []).append(labels[verdict.arm])
    return " ".join(f"{listing(who, 8)}: {why}" for why, who in reasons.items()) or None


def build_report(
    arms: list[Arm], *, audit: Record | None, title: str, crashed: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of report.json, checked against its schema (report.schema.json)."""
    baseline = find_role(arms, "baseline")
    verdicts = []
    for arm in sorted(arms, key=lambda arm: arm.role != FIRST_ROLE):
        performance = judge_performance(arm, arms)
        verdicts += [judge_stability(arm), performance, judge_fusion(arm)]
        verdicts += judge_stages(arm, baseline, performance)
    report = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": not crashed and all(arm.finished for arm in arms),
        "crashed": list(crashed),
        "synthetic": _is_synthetic(arms, audit),
        "scenes_refused": _refusals(arms, verdicts),
        "arms": [_arm_entry(arm) for arm in arms],
        "runs": [_run_entry(run, arm) for arm in arms for run in arm.runs],
        "verdicts": [verdict.as_dict() for verdict in verdicts],
        "study_table": study_table(arms),
        "classes": class_table(arms),
        "texture": texture_split(arms, audit),
        "seen_split": seen_split(arms),
        "audit": audit,
    }
    report = to_json(report)
    jsonschema.validate(report, load_schema())
    return report


def load_schema() -> dict[str, Any]:
    """The JSON schema of report.json."""
    text = (
        resources.files("bifusion.studies.comparison")
        .joinpath("report.schema.json")
        .read_text(encoding="utf-8")
    )
    return json.loads(text)


def _read_audit(path: Path | None) -> Record | None:
    if path is None:
        return None
    audit = read_json(path, {})
    if audit is None:
        raise InputError(
            f"{path}: there is no such audit; leave it out, or make it with the benchmark's rooms"
        )
    return audit


def _is_synthetic(arms: list[Arm], audit: Record | None) -> bool:
    """Generated rooms: only those come with an audit, or their scenes say so themselves."""
    sources = [source for arm in arms for run in arm.runs for source in run.config.get("sources") or []]
    return audit is not None or any(source.startswith("generated") for source in sources)


def _sample(sample: Sample) -> dict[str, Any]:
    return {"mean": sample.mean, "spread": sample.spread, "by_seed": sample.by_seed}


def _arm_entry(arm: Arm) -> dict[str, Any]:
    counts = [update_counts(run) for run in arm.runs]
    run = arm.first
    return {
        "key": arm.key,
        "role": arm.role,
        "label": arm.label,
        "control": arm.control,
        "model_kind": run.model_kind,
        "seeds": [r.seed for r in arm.runs],
        "states": [r.state for r in arm.runs],
        "final": all(r.evaluation is not None for r in arm.runs),
        "epochs": run.epochs,
        "epochs_done": min(r.epochs_done for r in arm.runs),
        "figures": {
            key: _sample(arm.over_seeds(lambda r, key=key: latest_value(r, key)))
            for key in RESULT_FIGURES
        },
        "raw_nonfinite": sum(c.nonfinite for c in counts),
        "skipped": sum(c.skipped for c in counts),
        "rollbacks": sum(c.rollbacks for c in counts),
        "warnings": sum(c.warnings for c in counts),
        "scaler_overflows": sum(c.scaler_overflows for c in counts),
        "parameters": run.parameters.get("total", sum(part_counts(run).values())),
        "seconds": _sample(arm.over_seeds(training_seconds)),
        "stages": [
            {"name": stage.name, "first_epoch": stage.first_epoch, "end_epoch": stage.end_epoch}
            for stage in run.stages
        ],
    }


def _run_entry(run: Run, arm: Arm) -> dict[str, Any]:
    counts = update_counts(run)
    return {
        "name": run.folder.name,
        "arm": arm.key,
        "recipe": run.recipe,
        "seed": run.seed,
        "state": run.state,
        "reason": run.stop_reason,
        "epochs": run.epochs,
        "epochs_done": run.epochs_done,
        "steps": counts.attempted,
        "raw_nonfinite": counts.nonfinite,
        "skipped": counts.skipped,
        "rollbacks": counts.rollbacks,
        "warnings": counts.warnings,
        "scaler_overflows": counts.scaler_overflows,
        "finite_epochs_in_a_row": longest_row(finite_epochs(run))[0],
        "loss_spikes": int(spikes(series(run.steps, "total")).sum()),
        "gradient_spikes": int(spikes(series(run.steps, "grad_norm", "total")).sum()),
        "train_scenes": len(run.train_scenes),
        "val_scenes": len(run.val_scenes),
        "label_set": run.label_set,
        "tower": run.tower,
        "seconds": training_seconds(run),
        "versions": run.config.get("versions") or {},
        "settings": _settings(run),
    }


def _settings(run: Run) -> dict[str, Any]:
    """The run's settings; its classes by name, as `labels` of them all would hide the rest."""
    data = run.settings.get("data")
    if not isinstance(data, dict) or "labels" not in data:
        return run.settings
    return {**run.settings, "data": {**data, "labels": run.class_names}}
