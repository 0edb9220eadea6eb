"""From the run folders of a sweep to its report. May be judged again and again while the runs train."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bifusion.runs.run_folder import OVER
from bifusion.storage.json_schema import field_docs
from bifusion.studies.figures.metrics import over_seeds
from bifusion.studies.figures.run import Run
from bifusion.studies.grids.report import grid_fields
from bifusion.studies.grids.runs import Measured, RunState, grid_state, load_begun, without_records
from bifusion.studies.sweep import sensitivity as estimate
from bifusion.studies.sweep.breaking import breaks_of, final_loss
from bifusion.studies.sweep.findings import DEFINITIONS, findings
from bifusion.studies.sweep.plan import Condition, Place, SweepArm, SweepPlan
from bifusion.studies.sweep.report import (
    Breaking,
    Curve,
    Rate,
    RateFigures,
    RunOutcome,
    SweepNotRun,
    SweepReport,
    Verdict,
)
from bifusion.studies.sweep.signals import Signals, signals_of


@dataclass(frozen=True)
class SweptRun:
    """What one run folder tells so far (`ToldRun`)."""

    name: str
    state: RunState
    signals: Signals | None
    """None before its first step."""
    run: Run | None

    @property
    def ended(self) -> bool:
        return self.state in OVER


def read_run(folder: Path, weights: Mapping[str, float], crashed: bool) -> SweptRun:
    """The run in `folder` so far, its loss by these weights; InputError for a damaged folder."""
    run = load_begun(folder)
    state = grid_state(run, crashed)
    if run is None:
        return SweptRun(folder.name, state, None, None)
    signals = signals_of(run, weights) if run.steps else None
    return SweptRun(folder.name, state, signals, without_records(run))


def judge_sweep(plan: SweepPlan, title: str, measured: Measured[SweptRun]) -> SweepReport:
    """The report of the runs of `plan` so far. `measured` keeps what was read from one call to the
    next. InputError for a damaged run folder."""
    arms = {arm.key: arm for arm in plan.arms}

    def read(place: Place, folder: Path, crashed: bool) -> SweptRun:
        return read_run(folder, arms[place[0]].loss_weights, crashed)

    swept = measured.of(plan, read)
    curves = [
        _curve(arm, condition, plan, swept)
        for condition in plan.conditions
        for arm in plan.arms
        if any(place[:2] == (arm.key, condition.key) for place in plan.folders)
    ]
    not_run = partial(
        SweepNotRun,
        factors=list(plan.factors_left_out),
        conditions=list(plan.conditions_left_out),
    )
    fields = grid_fields(plan, title, swept, not_run)
    return SweepReport(
        **fields,
        factors=list(plan.factors),
        conditions=list(plan.conditions),
        arms=list(plan.arms),
        figures=field_docs(RateFigures),
        definitions=list(DEFINITIONS),
        findings=findings(curves, arms, plan.conditions) if fields["refused"] is None else [],
        curves=curves,
    )


# -------------------------------------------------------------------------------------- the curves


def _curve(
    arm: SweepArm, condition: Condition, plan: SweepPlan, swept: Mapping[Place, SweptRun]
) -> Curve:
    mine = {
        factor: {seed: swept[arm.key, condition.key, factor, seed] for seed in plan.seeds}
        for factor in plan.factors
    }
    initial = _initial(mine)
    figures = {factor: _figures(runs, initial) for factor, runs in mine.items()}
    good = estimate.good_rates({f: told.miou.mean for f, told in figures.items() if told.miou.by_seed})
    losses = [told.final_loss.mean for told in figures.values() if told.final_loss.by_seed]
    lowest = min(losses, default=math.nan)
    best = good.best if math.isfinite(good.best) else _lowest_at(figures, lowest)
    rates = [
        Rate(
            factor,
            figures[factor],
            [_outcome(seed, run, initial, lowest, factor < best) for seed, run in runs.items()],
        )
        for factor, runs in mine.items()
    ]
    whole = {seed: [mine[f][seed] for f in plan.factors] for seed in plan.seeds}
    whole = {seed: runs for seed, runs in whole.items() if all(run.ended for run in runs)}
    finals = {seed: [_final(run) for run in runs] for seed, runs in whole.items()}
    miou = {seed: [_accuracy(run, "miou") for run in runs] for seed, runs in whole.items()}
    return Curve(
        arm=arm.key,
        condition=condition.key,
        initial_loss=over_seeds(initial),
        sensitivity=over_seeds({s: estimate.sensitivity(v, initial[s]) for s, v in finals.items()}),
        relative_sensitivity=over_seeds(
            {s: estimate.relative_sensitivity(v, initial[s]) for s, v in finals.items()}
        ),
        miou_shortfall=over_seeds({s: estimate.shortfall(v) for s, v in miou.items()}),
        good=good,
        breaking=_breaking(rates),
        rates=rates,
    )


def _initial(mine: Mapping[float, Mapping[int, SweptRun]]) -> dict[int, float]:
    """Seed → loss of the first step, which no rate has touched; NaN where none has begun."""
    told: dict[int, float] = {}
    for runs in mine.values():
        for seed, run in runs.items():
            told.setdefault(seed, math.nan)
            if run.signals is not None and math.isfinite(run.signals.loss[0]):
                told[seed] = float(run.signals.loss[0])
    return told


def _final(run: SweptRun) -> float:
    return math.nan if run.signals is None else final_loss(run.signals)


def _accuracy(run: SweptRun, name: str) -> float:
    """mIoU or AP at the end; of a run that was stopped 0."""
    return 0.0 if run.state == "guard_stopped" else getattr(run.signals, name, math.nan)


def _figures(runs: Mapping[int, SweptRun], initial: Mapping[int, float]) -> RateFigures:
    """Of the runs that have ended."""
    ended = {seed: run for seed, run in runs.items() if run.ended and run.signals is not None}
    signals = {seed: run.signals for seed, run in ended.items() if run.signals is not None}
    finals = {seed: estimate.capped(_final(run), initial[seed]) for seed, run in ended.items()}
    return RateFigures(
        final_loss=over_seeds(finals),
        miou=over_seeds({seed: _accuracy(run, "miou") for seed, run in ended.items()}),
        ap=over_seeds({seed: _accuracy(run, "ap") for seed, run in ended.items()}),
        gate=over_seeds({seed: told.gate for seed, told in signals.items()}),
        raw_nonfinite=over_seeds({seed: float(told.raw_nonfinite) for seed, told in signals.items()}),
        alarms=over_seeds({seed: float(sum(told.alarms.values())) for seed, told in signals.items()}),
    )


def _lowest_at(figures: Mapping[float, RateFigures], lowest: float) -> float:
    """Factor at which the final loss is lowest; where there is none, every rate is above the best."""
    return next((f for f, told in figures.items() if told.final_loss.mean == lowest), -math.inf)


def _outcome(
    seed: int, run: SweptRun, initial: Mapping[int, float], lowest: float, below_best: bool
) -> RunOutcome:
    signals = run.signals
    breaks = breaks_of(signals, initial[seed], lowest) if signals is not None and run.ended else []
    verdict: Verdict | None = None
    if run.ended and signals is not None:
        verdict = breaks[0].kind if breaks else "learns"
        if below_best and breaks and {b.kind for b in breaks} <= {"loss stuck", "one class"}:
            verdict = "too slow"
    return RunOutcome(
        seed=seed,
        folder=run.name,
        state=run.state,
        verdict=verdict,
        breaks=breaks,
        steps=0 if signals is None else len(signals.loss),
        alarms=dict(signals.alarms) if signals is not None else {},
    )


def _breaking(rates: Sequence[Rate]) -> Breaking | None:
    """The lowest rate at which more than half of the seeds that ended broke, other than by slowness: an
    arm may do best where its gate is dead already."""
    for rate in rates:
        ended = [run for run in rate.runs if run.verdict is not None]
        broken = [run.breaks[0] for run in ended if run.breaks and run.verdict != "too slow"]
        if 2 * len(broken) > len(ended):
            kinds: Counter[str] = Counter(b.kind for b in broken)
            first = min(broken, key=lambda one: one.step)
            return Breaking(rate.factor, dict(kinds), [b.step for b in broken], first.where)
    return None
