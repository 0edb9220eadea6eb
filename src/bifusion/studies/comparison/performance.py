"""The verdict of performance: an arm against its rivals at the fixed last checkpoint, paired by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bifusion.errors import listing
from bifusion.studies.comparison.report import Outcome, Verdict
from bifusion.studies.comparison.rivals import DECISIVE, rival_of
from bifusion.studies.comparison.verdicts import indicative, worst
from bifusion.studies.figures.arms import FIRST_ROLE, MIN_SEEDS, ROLES, Arm, find_role
from bifusion.studies.figures.fairness import why_more_than_images, why_refused
from bifusion.studies.figures.metrics import Sample, final_value, latest_value, over_seeds
from bifusion.studies.figures.text import mean_spread, number, signed
from bifusion.wording import plural

YARDSTICKS = ("baseline", DECISIVE)
UNFINISHED: dict[Outcome, Outcome] = {"pass": "indicative pass", "fail": "indicative fail"}
"""What an outcome becomes while seeds of the arm are missing: left out, a bad one would not count."""


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
        return Verdict("performance", arm.key, "not judged", "The yardstick itself.", {})
    if arm.control is not None:
        return _beside_control(arm, arms)
    metric = "ap" if arm.first.model_kind == "mask3d" else "miou"
    roles = ("baseline",) if metric == "ap" or arm.role == DECISIVE else YARDSTICKS
    rivals = [rival for role in roles if (rival := rival_of(arm, role, arms)) is not None]
    reason = why_refused([arm, *rivals]) or _why_not_decisive(arm, rivals)
    if reason:
        return Verdict("performance", arm.key, "refused", reason, {})
    if not rivals:
        return Verdict("performance", arm.key, "not judged", "No 3D baseline in this comparison.", {})
    stopped = [run for run in arm.runs if run.state == "guard_stopped"]
    if stopped:
        seeds = listing(f"seed {run.seed} in epoch {run.epochs_done}" for run in stopped)
        reason = f"Its guard stopped {seeds}: there is no end result."
        return Verdict("performance", arm.key, "fail", reason, {})
    comparisons = [compare(arm, rival, metric) for rival in rivals]
    outcome = worst([c.outcome for c in comparisons])
    evidence = " ".join(c.evidence for c in comparisons)
    if len(rivals) < len(roles):
        missing = [ROLES[role] for role in roles if find_role(arms, role) is None]
        evidence += f" Not among the runs: {listing(missing)}."
        outcome = "indicative pass" if outcome == "pass" else outcome
    if going_on := [str(run.seed) for run in arm.runs if run.state in ("running", "interrupted")]:
        evidence += f" Seed {listing(going_on)} has not come to its end."
        outcome = UNFINISHED.get(outcome, outcome)
    figures = {"metric": metric} | {f"vs {c.rival.key}": c.figures for c in comparisons}
    return Verdict("performance", arm.key, outcome, evidence, figures)


def _why_not_decisive(arm: Arm, rivals: list[Arm]) -> str | None:
    """Why the arm the comparison is about must not be judged by the one without views; None where it
    may. Others (naive, Plan A, an ablation) differ from that one by what they are."""
    if arm.role != FIRST_ROLE:
        return None
    reasons = (why_more_than_images(arm, rival) for rival in rivals if rival.role == DECISIVE)
    return next((reason for reason in reasons if reason is not None), None)


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
        if ours[seed].state == theirs[seed].state == "completed"
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
    if unpaired := [str(seed) for seed in ours if seed not in differences.by_seed]:
        remark += f"; without seed {listing(unpaired)}, of which there is no pair of end results"
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
