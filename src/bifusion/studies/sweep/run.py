"""The sweep of learning rates: arms at rates that span decades. Plan, estimate, train, judge, show."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from bifusion.errors import InputError
from bifusion.studies.grids.request import GridRequest
from bifusion.studies.grids.run import run_grid
from bifusion.studies.grids.runs import Measured
from bifusion.studies.page.files import write_study
from bifusion.studies.sweep.grid import (
    COMPARED,
    CONDITIONS,
    PLAIN,
    chosen_arms,
    parse_grid,
    sweep_arms,
)
from bifusion.studies.sweep.judge import SweptRun, judge_sweep
from bifusion.studies.sweep.page import render_sweep
from bifusion.studies.sweep.plan import Condition, Place, SweepArm, SweepPlan
from bifusion.studies.sweep.report import SweepReport
from bifusion.studies.sweep.terminal import print_sweep
from bifusion.studies.training_runs.plan import PlannedRun, check_seeds
from bifusion.wording import plural


@dataclass
class SweepConfig(GridRequest):
    """What `compare --sweep lr` was asked for; its arms are recipes or roles."""

    base: str = "bifusion_mini"
    out: Path = Path("runs/sweep")


def run_sweep(wanted: SweepConfig, console: Console) -> int:
    """Trains what is not trained yet and reports; returns the exit status (1 if a run crashed).

    Interrupted, the same call goes on where it was. InputError, before anything is trained, for a
    recipe, grid or folder that does not fit.
    """
    plan, runs = plan_sweep(wanted)
    title = f"Learning rates of {wanted.base}"
    write = partial(write_sweep, out=wanted.out, title=title, measured=Measured())
    return run_grid(
        "sweep",
        wanted,
        (plan, runs),
        console,
        summary=_summary(plan, len(runs)),
        write=write,
        show=print_sweep,
    )


def _summary(plan: SweepPlan, runs: int) -> str:
    """How many runs there are, of what."""
    further = ", ".join(c.label for c in plan.conditions if c != PLAIN)
    return (
        f"{plural(runs, 'run')}: {plural(len(plan.arms), 'arm')} at "
        f"{plural(len(plan.factors), 'rate')}, {plural(len(plan.seeds), 'seed')}"
        + (f"; for {' and '.join(COMPARED)} also {further}" if further else "")
    )


def write_sweep(
    plan: SweepPlan, out: Path, *, title: str, measured: Measured[SweptRun] | None = None
) -> SweepReport:
    """Judges what there is so far, writes sweep.json, its schema and sweep.html to `out`.

    `measured` keeps what was read from one call to the next. InputError for a damaged run folder.
    """
    report = judge_sweep(plan, title, measured or Measured())
    write_study(out, "sweep", "BiFusion sweep of learning rates", report, render_sweep(report))
    return report


def plan_sweep(wanted: SweepConfig) -> tuple[SweepPlan, list[PlannedRun]]:
    """All arms at all rates with all seeds, then the further conditions one at a time for the arms that
    they concern; InputError where the request makes none.

    Within a condition runs come seed by seed and rate by rate, so that an interrupted sweep holds whole
    comparisons.
    """
    check_seeds(wanted.seeds)
    every_arm = sweep_arms(wanted.base)
    arms = chosen_arms(every_arm, wanted.arms)
    factors, conditions = parse_grid(wanted.grid)
    folders: dict[Place, Path] = {}
    runs = []
    for condition, seed, factor, arm in itertools.product(conditions, wanted.seeds, factors, arms):
        if condition != PLAIN and arm.role not in COMPARED:
            continue
        run = _planned(wanted, arm, condition, factor, seed)
        runs.append(run)
        folders[arm.key, condition.key, factor, seed] = run.folder
    if not runs:
        raise InputError(
            "--sweep: nothing to run: conditions other than plain concern the staged and the naive arm"
        )
    default_factors, default_conditions = parse_grid(())
    plan = SweepPlan(
        base=wanted.base,
        arms=arms,
        factors=factors,
        conditions=conditions,
        seeds=tuple(wanted.seeds),
        folders=folders,
        factors_left_out=tuple(f for f in default_factors if f not in factors),
        conditions_left_out=tuple(c.label for c in default_conditions if c not in conditions),
        arms_left_out=tuple(arm.key for arm in every_arm if arm not in arms),
    )
    return plan, runs


def _planned(
    wanted: SweepConfig, arm: SweepArm, condition: Condition, factor: float, seed: int
) -> PlannedRun:
    config = wanted.usual(arm.key, seed)
    config.optim.lr *= factor
    change = CONDITIONS[condition.key][1]
    change(config)
    return wanted.planned(config, f"{condition.key}-lr{factor:g}")
