"""The verdict of performance: an arm against its rivals at the fixed last checkpoint, paired by seed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from bifusion.labels.label_set import named_differences
from bifusion.studies.comparison.verdicts import MIN_SEEDS, Outcome, Verdict, indicative, worst
from bifusion.studies.figures.arms import FIRST_ROLE, ROLES, Arm, find_role
from bifusion.studies.figures.metrics import Sample, final_value, latest_value, over_seeds
from bifusion.studies.figures.run import Run
from bifusion.studies.page.text import listing, mean_spread, number, plural, signed

DECISIVE = "without_views"
"""The same network, losses and stages without images: only what images add is compared."""
YARDSTICKS = ("baseline", DECISIVE)
VOXEL_SIZE = ("data", "voxel_size_m")
FINE = "fine_voxels"
"""The control whose voxels are meant to differ."""
SHARED_SETTINGS = (
    ("data", "augment"),
    VOXEL_SIZE,
    ("trainer", "guard"),
)
"""Settings that have to be equal for a fair comparison, where runs record them."""
SHARED_NETWORK = (("model", "unet", "kind"), ("model", "unet", "planes"))
"""What makes two networks the same size; Mask3D is another network by nature."""


@dataclass(frozen=True)
class Comparison:
    """An arm against one rival."""

    rival: Arm
    outcome: Outcome
    evidence: str
    figures: dict[str, Any]


def judge_performance(arm: Arm, arms: list[Arm]) -> Verdict:
    """mIoU above the 3D baseline's and, decisive, above that of BiFusion without views.

    Mask3D has no semantic head and competes on AP. An arm passes only where it beats every rival
    there is; without the decisive rival, or under three seeds, that is indicative.
    """
    if arm.role == "baseline":
        return Verdict("performance", arm.key, "not judged", "The yardstick itself.")
    if arm.control is not None:
        return _beside_control(arm, arms)
    metric = "ap" if arm.first.model_kind == "mask3d" else "miou"
    roles = ("baseline",) if metric == "ap" or arm.role == DECISIVE else YARDSTICKS
    rivals = [rival for role in roles if (rival := find_role(arms, role)) is not None]
    reason = why_refused([arm, *rivals])
    if reason:
        return Verdict("performance", arm.key, "refused", reason)
    if not rivals:
        return Verdict("performance", arm.key, "not judged", "No 3D baseline in this comparison.")
    if any(run.state == "guard_stopped" for run in arm.runs):
        stopped = [
            f"seed {run.seed} in epoch {run.epochs_done}"
            for run in arm.runs
            if run.state == "guard_stopped"
        ]
        return Verdict(
            "performance",
            arm.key,
            "fail",
            f"Its guard stopped {listing(stopped)}: there is no end result.",
        )
    comparisons = [compare(arm, rival, metric) for rival in rivals]
    outcome = worst([c.outcome for c in comparisons])
    evidence = " ".join(c.evidence for c in comparisons)
    if len(rivals) < len(roles):
        missing = [ROLES[role] for role in roles if find_role(arms, role) is None]
        evidence += f" Not among the runs: {listing(missing)}."
        outcome = "indicative pass" if outcome == "pass" else outcome
    figures = {"metric": metric} | {f"vs {c.rival.key}": c.figures for c in comparisons}
    return Verdict("performance", arm.key, outcome, evidence, figures)


def _beside_control(control: Arm, arms: list[Arm]) -> Verdict:
    """Not judged; how far the arm that the comparison is about lies above it is told."""
    evidence, figures = f"No rival: {control.control}.", {}
    main = find_role(arms, FIRST_ROLE)
    if main is not None and why_refused([main, control]) is None:
        found = compare(main, control, "miou")
        evidence += f" {main.label}: {found.evidence}"
        figures = {f"{main.key} minus {control.key}": found.figures}
    return Verdict("performance", control.key, "not judged", evidence, figures)


def compare(arm: Arm, rival: Arm, metric: str) -> Comparison:
    """`metric` ("miou" or "ap") of the last checkpoints, arm minus rival, paired by seed."""
    ours, theirs = arm.by_seed(), rival.by_seed()
    pairs: dict[int, tuple[float, float]] = {
        seed: (final_value(ours[seed], "full", metric), final_value(theirs[seed], "full", metric))
        for seed in sorted(ours.keys() & theirs.keys())
        if theirs[seed].state == "completed"
    }
    differences = over_seeds({seed: mine - other for seed, (mine, other) in pairs.items()})
    name = "mIoU" if metric == "miou" else "AP"
    if not differences.by_seed:
        return Comparison(rival, "not judged", _so_far(arm, rival, metric, name), {})
    mine = over_seeds({seed: pairs[seed][0] for seed in differences.by_seed})
    other = over_seeds({seed: pairs[seed][1] for seed in differences.by_seed})
    decisive = " (decisive)" if rival.role == DECISIVE else ""
    evidence = (
        f"{name} {mean_spread(mine)} against {mean_spread(other)} of {rival.label}{decisive}: "
        f"{signed(differences.mean)}"
    )
    outcome, remark = _outcome(differences)
    figures = {
        "arm": mine.by_seed,
        "rival": other.by_seed,
        "difference": differences.by_seed,
        "mean_difference": differences.mean,
        "spread_of_difference": differences.spread,
    }
    return Comparison(rival, outcome, f"{evidence}{remark}.", figures)


def _outcome(differences: Sample) -> tuple[Outcome, str]:
    """Judged on paired differences; a gain smaller than its own spread over seeds is no clear one."""
    mean, spread = differences.mean, differences.spread
    seeds = len(differences.by_seed)
    if seeds < MIN_SEEDS:
        return indicative(mean > 0), f" ({plural(seeds, 'seed')}, fewer than {MIN_SEEDS})"
    remark = f" ± {number(spread)} over {seeds} paired seeds"
    if mean <= 0:
        return "fail", remark
    if mean <= spread:
        return "indicative pass", f"{remark}, smaller than its spread"
    return "pass", remark


def _so_far(arm: Arm, rival: Arm, metric: str, name: str) -> str:
    ours, theirs = (over_seeds({r.seed: latest_value(r, metric) for r in a.runs}) for a in (arm, rival))
    if all(run.state == "guard_stopped" for run in rival.runs):
        return f"{rival.label} was stopped by its guard: there is no end result to compare with."
    text = f"No final pair with {rival.label} yet"
    if math.isfinite(ours.mean) and math.isfinite(theirs.mean):
        done = [min(run.epochs_done for run in a.runs) for a in (arm, rival)]
        text += (
            f"; so far {name} {number(ours.mean)} after {plural(done[0], 'epoch')} "
            f"against {number(theirs.mean)} after {done[1]}"
        )
    return text + "."


# ------------------------------------------------------------------------------ is it a fair pair?


def why_refused(arms: list[Arm]) -> str | None:
    """Why results of `arms` must not be compared, or None: leaking scenes, unequal data or length."""
    runs = [run for arm in arms for run in arm.runs]
    train = {_room(scene) for run in runs for scene in run.train_scenes}
    validation = {scene for run in runs for scene in run.val_scenes}
    shared = sorted(scene for scene in validation if _room(scene) in train)
    if shared:
        return (
            f"{plural(len(shared), 'scene')} used both in training and in validation "
            f"({listing(shared, 3)}): figures on them say nothing about new scenes."
        )
    first = runs[0]
    for run in runs[1:]:
        unequal = _unequal(first, run)
        if unequal:
            pair = f"{first.folder.name} and {run.folder.name}"
            return f"{pair} differ in {listing(unequal)}: no fair comparison."
    return None


def _room(scene: str) -> str:
    """The room that a scan shows: ScanNet's sceneNNNN_00, sceneNNNN_01 … are scans of one room."""
    return re.sub(r"^(scene\d{4})_\d{2}$", r"\1", scene)


def _differences(name: str, one: Any, other: Any) -> list[str]:
    """The settings that differ, by their full names; within groups of settings, those alone."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys((*one, *other))
        absent = "absent"
        nested = [
            _differences(f"{name}.{key}", one.get(key, absent), other.get(key, absent)) for key in keys
        ]
        return [text for texts in nested for text in texts]
    return [] if one == other else [f"{name} ({one}, {other})"]


def _unequal(one: Run, other: Run) -> list[str]:
    """What has to be equal between two runs and is not."""
    found = []
    if set(one.train_scenes) != set(other.train_scenes):
        found.append("their training scenes")
    if set(one.val_scenes) != set(other.val_scenes):
        found.append("their validation scenes")
    sources = [run.config.get("sources") for run in (one, other)]
    if None not in sources and sources[0] != sources[1]:
        found.append("where their scenes come from")
    classes = named_differences(one.labels, other.labels)
    if classes:
        found.append(f"label set ({one.label_set}, {other.label_set}: {classes})")
    if one.epochs != other.epochs:
        found.append(f"length ({one.epochs} and {other.epochs} epochs)")
    another_network = "mask3d" in (one.model_kind, other.model_kind)
    for keys in SHARED_SETTINGS + (() if another_network else SHARED_NETWORK):
        if keys == VOXEL_SIZE and FINE in (one.arm, other.arm):
            continue
        mine, theirs = (_setting(run, keys) for run in (one, other))
        if mine is not None and theirs is not None:
            found += _differences(".".join(keys), mine, theirs)
    return found


def _setting(run: Run, keys: tuple[str, ...]) -> Any:
    """A setting of the run's configuration; view dropout, which 3D models have not, left out."""
    value: Any = run.settings
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if "view" not in key}
    return value
