"""Verdicts on the three stages of an arm: as stable as the baseline, aligned, better than its rivals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from bifusion.errors import listing
from bifusion.runs.run_folder import StageSpan
from bifusion.studies.comparison.report import Criterion, Verdict
from bifusion.studies.comparison.verdicts import indicative
from bifusion.studies.figures.arms import MIN_SEEDS, Arm
from bifusion.studies.figures.fairness import why_leaking, why_not_one, why_unequal
from bifusion.studies.figures.metrics import (
    Sample,
    final_value,
    log_scatter,
    nonfinite_steps,
    over_seeds,
    series,
    steps_in_epochs,
    value_at,
)
from bifusion.studies.figures.run import Run
from bifusion.studies.figures.text import mean_spread, number
from bifusion.wording import plural

LIKE_BASELINE = 1.5
"""Gradient norms scatter like the baseline's up to this multiple of its scatter."""
CHANCE_RETRIEVAL = 0.01
"""Recall of a point among 100 by chance."""


def judge_stages(arm: Arm, baseline: Arm | None, performance: Verdict) -> list[Verdict]:
    """One verdict a stage, for an arm trained in the study's three stages; none for others, and for
    controls, whose stages are those of the arm they control."""
    if not arm.is_staged or arm.control is not None:
        return []
    return [
        judge_stage_1(arm, baseline),
        judge_stage_2(arm),
        replace(performance, criterion="stage 3"),
    ]


def judge_stage_1(arm: Arm, baseline: Arm | None) -> Verdict:
    """No raw non-finite step, and gradient norms that scatter like the baseline's in those epochs."""
    both = [one for one in (arm, baseline) if one is not None]
    if reason := next(filter(None, map(why_not_one, both)), None) or why_unequal(both):
        return Verdict("stage 1", arm.key, "refused", reason, {})
    stage = arm.first.stages[0]
    bad = sum(_nonfinite_in(run, stage) for run in arm.runs)
    scatter = arm.over_seeds(lambda run: _gradient_scatter(run, stage))
    figures: dict[str, Any] = {"raw_nonfinite": bad, "gradient_scatter": scatter.by_seed}
    done = min(run.epochs_done for run in arm.runs) >= stage.end_epoch
    evidence = (
        f"{plural(bad, 'raw non-finite step')} in {_epochs(stage)}; "
        f"gradient norm scatters by {_factor(scatter)}"
    )
    if bad:
        return Verdict("stage 1", arm.key, "fail", evidence + ".", figures)
    if not done:
        stopped = all(run.state != "running" for run in arm.runs)
        remark = "training ended within it" if stopped else "it is still going on"
        return Verdict("stage 1", arm.key, "not judged", f"{evidence}; {remark}.", figures)
    if baseline is None:
        return Verdict(
            "stage 1", arm.key, "not judged", evidence + "; there is no baseline beside it.", figures
        )
    through = [run for run in baseline.runs if run.epochs_done >= stage.end_epoch]
    usual = over_seeds({run.seed: _gradient_scatter(run, stage) for run in through})
    figures["baseline_gradient_scatter"] = usual.by_seed
    if not usual.by_seed or not scatter.by_seed:
        reason = "too few steps to compare" if through else "the baseline did not come through them"
        return Verdict("stage 1", arm.key, "not judged", f"{evidence}; {reason}.", figures)
    ratio = scatter.mean / usual.mean if usual.mean > 0 else math.inf
    figures["ratio"] = ratio
    evidence += (
        f" from step to step, the baseline's by {_factor(usual)}: {number(ratio, 2)} times "
        f"(like it: up to {LIKE_BASELINE})."
    )
    seeds = min(len(scatter.by_seed), len(usual.by_seed))
    return _verdict("stage 1", arm, ratio <= LIKE_BASELINE, seeds, evidence, figures)


def judge_stage_2(arm: Arm) -> Verdict:
    """2D and 3D features of the same validation point come closer and find each other more often.

    FiLM writes a point's place into both features, so that they agree more even where the image says
    nothing: 2D features shuffled among the points, which keep their place, must be found less often.
    """
    if not arm.first.views_used:
        return Verdict("stage 2", arm.key, "not judged", "Trained without views: nothing to align.", {})
    if unfair := why_not_one(arm) or why_leaking(arm.runs):
        return Verdict("stage 2", arm.key, "refused", unfair, {})
    name = arm.first.stages[1].name
    samples = {
        (figure, moment): arm.over_seeds(
            lambda run, figure=figure, moment=moment: value_at(
                run.evaluation, "alignment_by_stage", name, moment, figure
            )
        )
        for figure in ("cosine", "retrieval_at_1")
        for moment in ("start", "end")
    }
    figures = {f"{figure} at {moment}": sample.by_seed for (figure, moment), sample in samples.items()}
    lacking = _unmeasured(arm, samples.values())
    if lacking is not None:
        reason = f"Alignment at the start and end of the stage was not measured (yet){lacking}."
        return Verdict("stage 2", arm.key, "not judged", reason, figures)
    rises = {
        figure: _all_rise(samples[figure, "start"], samples[figure, "end"])
        for figure in ("cosine", "retrieval_at_1")
    }
    beats_chance = samples["retrieval_at_1", "end"].mean > CHANCE_RETRIEVAL
    own, shuffled = (
        arm.over_seeds(lambda run, part=part: final_value(run, part, "alignment", "retrieval_at_1"))
        for part in ("full", "shuffled_2d")
    )
    figures |= {"retrieval_at_1 in the end": own.by_seed, "with 2D shuffled": shuffled.by_seed}
    evidence = (
        f"Cosine {mean_spread(samples['cosine', 'start'])} → {mean_spread(samples['cosine', 'end'])}; "
        "a point is found among 100 by its 2D feature in "
        f"{_percent(samples['retrieval_at_1', 'start'])} → "
        f"{_percent(samples['retrieval_at_1', 'end'])} of cases (chance 1 %)."
    )
    lacking = _unmeasured(arm, (own, shuffled))
    if lacking is not None:
        evidence += f" With 2D features shuffled between points it was not measured{lacking}."
        return Verdict("stage 2", arm.key, "not judged", evidence, figures)
    evidence += (
        f" At the last checkpoint {_percent(own)}, and {_percent(shuffled)} with 2D features "
        "shuffled between points: that much the place alone gives away."
    )
    passed = all(rises.values()) and beats_chance and _all_rise(shuffled, own)
    return _verdict("stage 2", arm, passed, len(arm.runs), evidence, figures)


def _verdict(
    criterion: Criterion, arm: Arm, passed: bool, seeds: int, evidence: str, figures: dict[str, Any]
) -> Verdict:
    """What a comparison of means over so many seeds comes to."""
    if seeds < MIN_SEEDS:
        evidence += f" ({plural(seeds, 'seed')}, fewer than {MIN_SEEDS}.)"
        return Verdict(criterion, arm.key, indicative(passed), evidence, figures)
    return Verdict(criterion, arm.key, "pass" if passed else "fail", evidence, figures)


def _nonfinite_in(run: Run, stage: StageSpan) -> int:
    flags = nonfinite_steps(run)
    return sum(
        bool(flag)
        for flag, step in zip(flags, run.steps, strict=True)
        if stage.first_epoch <= step["epoch"] < stage.end_epoch
    )


def _gradient_scatter(run: Run, stage: StageSpan) -> float:
    steps = steps_in_epochs(run, stage.first_epoch, stage.end_epoch)
    return log_scatter(series(steps, "grad_norm", "total"))


def _unmeasured(arm: Arm, samples: Iterable[Sample]) -> str | None:
    """Of which seeds one of the samples has no figure, as a remark; None where each has them all. What
    was measured of the other seeds is no answer: none of a seed's own may be missing."""
    seeds = set(arm.by_seed())
    lacking = sorted({seed for sample in samples for seed in seeds - sample.by_seed.keys()})
    if not lacking:
        return None
    return f" of seed {listing([str(seed) for seed in lacking])}" if len(lacking) < len(seeds) else ""


def _all_rise(start: Sample, end: Sample) -> bool:
    return all(end.by_seed[seed] > start.by_seed[seed] for seed in start.by_seed)


def _epochs(stage: StageSpan) -> str:
    return f"epochs {stage.first_epoch} to {stage.end_epoch - 1}"


def _factor(scatter: Sample) -> str:
    """A standard deviation of log10 as "×/÷ 1.26"."""
    return "—" if math.isnan(scatter.mean) else f"×/÷ {10**scatter.mean:.2f}"


def _percent(sample: Sample) -> str:
    return f"{number(100 * sample.mean, 1)} %"
