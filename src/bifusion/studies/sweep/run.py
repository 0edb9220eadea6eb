"""The sweep of learning rates: arms at rates that span decades. Plan, estimate, train, judge, show."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bifusion.errors import InputError
from bifusion.storage.files import locked
from bifusion.studies.figures.text import duration, plural
from bifusion.studies.page.files import write_study
from bifusion.studies.sweep.grid import (
    COMPARED,
    CONDITIONS,
    PLAIN,
    chosen_arms,
    parse_grid,
    sweep_arms,
)
from bifusion.studies.sweep.judge import Measured, judge_sweep
from bifusion.studies.sweep.page import render_sweep
from bifusion.studies.sweep.plan import Condition, Place, SweepArm, SweepPlan
from bifusion.studies.sweep.report import SweepReport
from bifusion.studies.sweep.terminal import print_sweep
from bifusion.studies.training_runs.forked import can_fork
from bifusion.studies.training_runs.plan import PlannedRun, check_runs, default_jobs, plan_runs
from bifusion.studies.training_runs.progress import RunCount
from bifusion.studies.training_runs.scenes import check_scenes
from bifusion.studies.training_runs.timing import seconds_of_runs
from bifusion.studies.training_runs.train import train_runs

DEFAULT_BASE = "bifusion_mini"
DEFAULT_SEEDS = (0, 1, 2)


@dataclass
class SweepConfig:
    """What `compare --sweep lr` was asked for."""

    data: Path
    base: str = DEFAULT_BASE
    out: Path = Path("runs/sweep")
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    arms: tuple[str, ...] = ()
    """Recipes or roles; none named: all."""
    grid: tuple[str, ...] = ()
    """Rates and conditions narrowed (or changed), as "lr=0.1,1,10"."""
    epochs: int | None = None
    tower_weights: Path | None = None
    jobs: int = 0
    accept_changes: bool = False
    """Scenes and versions may be others than when a run was begun."""


def run_sweep(wanted: SweepConfig, console: Console) -> int:
    """Trains what is not trained yet and reports; returns the exit status (1 if a run crashed).

    Interrupted, the same call goes on where it was. InputError, before anything is trained, for a
    recipe, grid or folder that does not fit.
    """
    plan, runs = plan_sweep(wanted)
    check_runs([run for run in runs if run.config.seed == plan.seeds[0]])
    check_scenes(runs, console)
    with locked(wanted.out):
        return _run_planned(wanted, plan, runs, console)


def _run_planned(
    wanted: SweepConfig, plan: SweepPlan, runs: Sequence[PlannedRun], console: Console
) -> int:
    title, measured = f"Learning rates of {wanted.base}", Measured()
    jobs = wanted.jobs or default_jobs()
    _tell_time(plan, runs, jobs, console)

    def report(crashed: Sequence[str] = ()) -> SweepReport:
        told = dataclasses.replace(plan, crashed=tuple(crashed))
        return write_sweep(told, wanted.out, title=title, measured=measured)

    crashed = train_runs(
        runs,
        jobs=jobs,
        console=console,
        report=report,
        watch=RunCount([run.folder for run in runs], console, time.monotonic),
        forked=can_fork(),
        accept_changes=wanted.accept_changes,
    )
    print_sweep(report(crashed), console)
    console.print(f"sweep: {wanted.out / 'sweep.html'} (sweep.json beside it)")
    return 1 if crashed else 0


def _tell_time(plan: SweepPlan, runs: Sequence[PlannedRun], jobs: int, console: Console) -> None:
    """How many runs there are, and about how long those take that are not finished."""
    further = ", ".join(c.label for c in plan.conditions if c != PLAIN)
    console.print(
        f"{plural(len(runs), 'run')}: {plural(len(plan.arms), 'arm')} at "
        f"{plural(len(plan.factors), 'rate')}, {plural(len(plan.seeds), 'seed')}"
        + (f"; for {' and '.join(COMPARED)} also {further}" if further else ""),
        highlight=False,
    )
    waiting = [run for run in runs if not run.finished]
    if waiting:
        seconds = sum(seconds_of_runs([run.config for run in waiting], jobs)) / jobs
        console.print(
            f"{len(waiting)} of them to be trained, {jobs} at a time: about {duration(seconds)}, by a "
            "step of each arm in each of its stages, measured now",
            highlight=False,
        )


def write_sweep(
    plan: SweepPlan, out: Path, *, title: str, measured: Measured | None = None
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
    if len(set(wanted.seeds)) < max(1, len(wanted.seeds)):
        raise InputError(f"--seeds {wanted.seeds}: expected one or more, each once")
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
    (run,) = plan_runs(
        [arm.key],
        [seed],
        wanted.data,
        wanted.out,
        tower_weights=wanted.tower_weights,
        epochs=wanted.epochs,
    )
    config = run.config
    config.optim.lr *= factor
    change = CONDITIONS[condition.key][1]
    change(config)
    return PlannedRun(config, wanted.out / f"{config.name}-{condition.key}-lr{factor:g}-seed{seed}")
