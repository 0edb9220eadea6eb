"""The verdicts of stability and fusion.

A verdict must not be able to fool its reader: it is judged on raw figures, carries them, and says
"indicative" where they are too few.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from bifusion.errors import listing
from bifusion.studies.comparison.report import Outcome, Verdict
from bifusion.studies.figures.arms import MIN_SEEDS, Arm
from bifusion.studies.figures.fairness import why_leaking, why_not_one
from bifusion.studies.figures.gate import learned_alpha
from bifusion.studies.figures.metrics import (
    MEAN_GATE,
    final_value,
    finite_epochs,
    longest_row,
    series,
    update_counts,
)
from bifusion.studies.figures.run import Run
from bifusion.studies.figures.text import mean_spread, number, signed
from bifusion.wording import plural

WORST_FIRST: tuple[Outcome, ...] = (
    "refused",
    "fail",
    "indicative fail",
    "not judged",
    "indicative pass",
    "pass",
)
STABLE_EPOCHS = 20
"""Consecutive epochs without a non-finite value that stability asks for."""
GATE_RANGE = (0.3, 0.7)
"""Where the mean gate over seen validation points has to lie."""


def worst(outcomes: list[Outcome]) -> Outcome:
    """The outcome of several runs together: that of the worst."""
    for outcome in WORST_FIRST:
        if outcome in outcomes:
            return outcome
    return "not judged"


def indicative(passed: bool) -> Outcome:
    return "indicative pass" if passed else "indicative fail"


# ----------------------------------------------------------------------------------- stability


def judge_stability(arm: Arm) -> Verdict:
    """20 consecutive epochs without a raw non-finite loss, activation or gradient, for every seed."""
    judged = {run.seed: _run_stability(run) for run in arm.runs}
    alike: dict[str, list[str]] = {}
    for seed, (_, evidence, _) in judged.items():
        alike.setdefault(evidence, []).append(str(seed))
    texts = [
        f"Seed {', '.join(seeds)}: {evidence}" if len(judged) > 1 else evidence[0].upper() + evidence[1:]
        for evidence, seeds in alike.items()
    ]
    return Verdict(
        "stability",
        arm.key,
        worst([outcome for outcome, _, _ in judged.values()]),
        " ".join(texts),
        {f"seed {seed}": figures for seed, (_, _, figures) in judged.items()},
    )


def _run_stability(run: Run) -> tuple[Outcome, str, dict[str, Any]]:
    flags = finite_epochs(run)
    row, start = longest_row(flags)
    counts = update_counts(run)
    evidence = (
        f"longest row of finite epochs {row} of {len(flags)}; "
        f"{plural(counts.raw_nonfinite, 'raw non-finite step')} in {len(run.steps):,}, "
        f"{counts.skipped} skipped"
    )
    if counts.rollbacks:
        evidence += f", {plural(counts.rollbacks, 'rollback')} to an earlier state"
    if counts.warnings:
        evidence += f", {plural(counts.warnings, 'warning')}"
    if counts.scaler_overflows:
        overflows = plural(counts.scaler_overflows, "overflow")
        evidence += f" (and {overflows} of the precision scaler, counted apart)"
    if run.state == "guard_stopped":
        evidence += (
            f"; its guard stopped it in epoch {run.epochs_done}: {run.stop_reason or 'no reason given'}"
        )
    elif run.state != "completed":
        doing = "still training" if run.state == "running" else "interrupted"
        evidence += f"; {doing}, {run.epochs} epochs planned"
    outcome = _stability_outcome(run, row, len(flags), clean=counts.raw_nonfinite == 0)
    if "indicative" in outcome:
        evidence += f"; the criterion asks for {STABLE_EPOCHS} in a row"
    figures = {
        "finite_epochs_in_a_row": row,
        "first_of_row": start,
        "epochs": len(flags),
        **asdict(counts),
        "state": run.state,
    }
    return outcome, evidence + ".", figures


def _stability_outcome(run: Run, row: int, epochs: int, *, clean: bool) -> Outcome:
    if run.state == "guard_stopped":
        return "fail"  # whatever came before: the run did not reach its end
    if row >= STABLE_EPOCHS:
        return "indicative pass" if run.state == "running" else "pass"
    if epochs >= STABLE_EPOCHS and run.state != "running":
        return "fail"
    if epochs == 0 and clean:
        return "not judged"
    return indicative(clean)


# -------------------------------------------------------------------------------------- fusion


def judge_fusion(arm: Arm) -> Verdict:
    """Mean gate within [0.3, 0.7] on seen validation points, and views that are worth their cost.

    Withholding the views must cost more mIoU than mIoU spreads over the seeds; otherwise the gate
    may open as far as it likes without the images being of use.
    """
    reason = _why_no_fusion(arm)
    if reason:
        return Verdict("fusion", arm.key, "not judged", reason, {})
    if unfair := why_not_one(arm) or why_leaking(arm.runs):
        return Verdict("fusion", arm.key, "refused", unfair, {})
    ratio = arm.over_seeds(lambda run: final_value(run, "full", MEAN_GATE))
    miou = arm.over_seeds(lambda run: final_value(run, "full", "miou"))
    cost = arm.over_seeds(lambda run: _miou_cost(run, "views_withheld"))
    shuffled = arm.over_seeds(lambda run: _miou_cost(run, "shuffled_2d"))
    share = arm.over_seeds(lambda run: final_value(run, "full", "share_2d"))
    seen = arm.over_seeds(lambda run: final_value(run, "full", "seen_share"))
    figures = {
        "fusion_2d_ratio": ratio.by_seed,
        "share_2d": share.by_seed,
        "seen_share": seen.by_seed,
        "miou": miou.by_seed,
        "miou_spread": miou.spread,
        "cost_of_withholding_views": cost.by_seed,
        "cost_of_shuffling_2d": shuffled.by_seed,
    }
    if not ratio.by_seed or not cost.by_seed:
        missing = (
            "no learned gate that was open"
            if not ratio.by_seed
            else "no evaluation with the views withheld"
        )
        return Verdict("fusion", arm.key, "not judged", f"The evaluation holds {missing}.", figures)
    low, high = GATE_RANGE
    evidence = (
        f"Mean gate {mean_spread(ratio)} on the {number(100 * seen.mean, 0)} % of validation points "
        f"that a view sees (asked: {low} to {high}); 2D's real share {mean_spread(share)}. "
        f"Without the views mIoU changes by {signed(-cost.mean)}, with 2D features shuffled by "
        f"{signed(-shuffled.mean)}. "
    )
    if any(run.state == "guard_stopped" for run in arm.runs):
        evidence += "Its guard stopped a seed: there is no end result to judge. "
        return Verdict("fusion", arm.key, "fail", evidence, figures)
    in_range = all(low <= value <= high for value in ratio.by_seed.values())
    lacking = [
        str(seed) for seed in arm.by_seed() if not (seed in ratio.by_seed and seed in cost.by_seed)
    ]
    if in_range and lacking:  # no seed passes by what was measured of the others
        evidence += f"Of seed {listing(lacking)} the gate, or its cost, is no number."
        return Verdict("fusion", arm.key, "not judged", evidence, figures)
    return Verdict(
        "fusion", arm.key, *_fusion_outcome(arm, in_range, cost.mean, miou.spread, evidence), figures
    )


def _fusion_outcome(
    arm: Arm, in_range: bool, cost: float, spread: float, evidence: str
) -> tuple[Outcome, str]:
    if not in_range:
        return "fail", evidence + "The gate lies outside its range."
    used_to = [str(run.seed) for run in arm.runs if _always_with_views(run)]
    if used_to:
        evidence += (
            f"Seed {listing(used_to)} never trained without views (no view dropout): withholding them "
            "asks for what was not learnt. "
        )
    if math.isnan(spread):
        return indicative(cost > 0), evidence + "One seed: there is no spread to hold that against."
    evidence += f"mIoU spreads by {number(spread)} over {plural(len(arm.runs), 'seed')}."
    if len(arm.runs) < MIN_SEEDS:
        return indicative(cost > spread), evidence + f" Fewer than {MIN_SEEDS} seeds."
    if used_to:
        return indicative(cost > spread), evidence
    return ("pass" if cost > spread else "fail"), evidence


def _why_no_fusion(arm: Arm) -> str | None:
    """Why there is no learned gate to judge, or None."""
    run = arm.first
    if run.model_kind != "bifusion":
        return "A 3D model: it fuses nothing."
    if run.tower is None:
        return "It has no image tower: there is nothing to fuse."
    if not run.views_used:
        return "Trained without views: there is nothing to fuse."
    if run.fusion_type != "gate":
        kind = run.fusion_type or "none"
        return f"Its gate is fixed (fusion type {kind}); only learned gates are judged."
    if run.fixed_alpha is not None:
        return f"Its gate is fixed (α = {run.fixed_alpha:g}); only learned gates are judged."
    missing = [str(run.seed) for run in arm.runs if run.evaluation is None]
    stopped = [
        str(run.seed) for run in arm.runs if run.evaluation is None and run.state == "guard_stopped"
    ]
    if stopped:
        return f"Its guard stopped seed {listing(stopped)}: there is no end result."
    if missing:
        return f"No final evaluation yet (seed {listing(missing)})."
    short = [str(run.seed) for run in arm.runs if run.state in ("running", "interrupted")]
    if short:
        return f"Training has not come to its end (seed {listing(short)})."
    unlearned = [str(run.seed) for run in arm.runs if not _gate_learned(run)]
    if unlearned:
        why = "Training ended before the gate began to learn"
        if run.own_gate:
            why = f"The gate {run.own_gate} gave all voxels one α, or was never asked"
        return f"{why} (seed {listing(unlearned)})."
    return None


def _gate_learned(run: Run) -> bool:
    """Whether it was learned and acted in some step; one from outside, which may have nothing to learn,
    whether it told points apart in one."""
    learned = np.isfinite(learned_alpha(run.steps))
    if run.own_gate:
        learned &= series(run.steps, "gate", "alpha_std") > 0
    return not run.steps or bool(learned.any())


def _always_with_views(run: Run) -> bool:
    """Whether its settings say that no scene, and no part of one, was ever shown without its views."""
    augment = (run.settings.get("data") or {}).get("augment") or {}
    if "no_views_probability" not in augment:
        return False  # they do not say
    dropout = ((run.settings.get("model") or {}).get("training_views") or {}).get("dropout")
    return not dropout and not (augment.get("enabled", True) and augment["no_views_probability"])


def _miou_cost(run: Run, ablation: str) -> float:
    return final_value(run, "full", "miou") - final_value(run, ablation, "miou")
