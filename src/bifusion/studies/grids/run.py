"""Runs a study over a grid: check, train what is not trained yet, show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from rich.console import Console

from bifusion.storage.files import locked
from bifusion.studies.figures.text import duration
from bifusion.studies.grids.plan import GridPlan
from bifusion.studies.grids.report import GridReport
from bifusion.studies.grids.request import GridRequest
from bifusion.studies.training_runs.forked import can_fork
from bifusion.studies.training_runs.plan import (
    PlannedRun,
    check_distinct,
    check_runs,
    default_jobs,
    tell_untrained_towers,
)
from bifusion.studies.training_runs.progress import RunCount
from bifusion.studies.training_runs.scenes import check_scenes
from bifusion.studies.training_runs.timing import seconds_of_runs, side_by_side
from bifusion.studies.training_runs.train import check_jobs, check_out, train_runs

Plan = TypeVar("Plan", bound=GridPlan)
Report = TypeVar("Report", bound=GridReport)


def run_grid(
    name: str,
    wanted: GridRequest,
    planned: tuple[Plan, Sequence[PlannedRun]],
    console: Console,
    *,
    summary: str,
    write: Callable[[Plan], Report],
    show: Callable[[Report, Console], None],
    alike: Mapping[str, str] | None = None,
) -> int:
    """Trains the runs that are not trained yet; returns the exit status (1 if a run crashed).

    `summary` says how many runs of what there are; `write` writes NAME.json and NAME.html of what there
    is so far, given the plan with the runs that crashed; `show` prints the report. `alike`: recipes that
    take about as long as another one, which is measured for them.

    Interrupted, the same call goes on where it was. InputError, before anything is trained, for a run
    that cannot start.
    """
    plan, runs = planned
    jobs = wanted.jobs or default_jobs()
    check_jobs(jobs)
    check_out(wanted.out)
    check_distinct(runs)
    check_runs([run for run in runs if run.config.seed == wanted.seeds[0]])
    check_scenes(runs, console)
    tell_untrained_towers(runs, console)
    with locked(wanted.out):
        console.print(summary, highlight=False, markup=False)
        _tell_time([run for run in runs if not run.finished], jobs, console, alike)
        crashed = train_runs(
            runs,
            jobs=jobs,
            console=console,
            report=lambda: write(plan),
            watch=RunCount([run.folder for run in runs], console, time.monotonic),
            forked=can_fork(),
            accept_changes=wanted.accept_changes,
        )
        show(write(replace(plan, crashed=tuple(crashed))), console)
    console.print(f"{name}: {wanted.out / f'{name}.html'} ({name}.json beside it)", markup=False)
    return 1 if crashed else 0


def _tell_time(
    waiting: Sequence[PlannedRun], jobs: int, console: Console, alike: Mapping[str, str] | None
) -> None:
    """About how long those runs take that are not finished."""
    if not waiting:
        return
    seconds = side_by_side(seconds_of_runs([run.config for run in waiting], jobs, alike), jobs)
    measured = "the base and each rival" if alike else "each arm"
    console.print(
        f"{len(waiting)} of them to be trained, {jobs} at a time: about {duration(seconds)}, by a step "
        f"of {measured} in each of its stages, measured now",
        highlight=False,
    )
