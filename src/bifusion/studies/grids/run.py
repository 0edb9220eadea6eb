"""Runs a study over a grid: check, train what is not trained yet, show."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from rich.console import Console

from bifusion.storage.files import locked
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
from bifusion.studies.training_runs.train import check_jobs, train_runs

Plan = TypeVar("Plan", bound=GridPlan)
Report = TypeVar("Report", bound=GridReport)


def run_grid(
    name: str,
    wanted: GridRequest,
    planned: tuple[Plan, Sequence[PlannedRun]],
    console: Console,
    *,
    announce: Callable[[int], None],
    write: Callable[[Plan], Report],
    show: Callable[[Report, Console], None],
) -> int:
    """Trains the runs that are not trained yet; returns the exit status (1 if a run crashed).

    `announce` says what is to come, given how many run at a time; `write` writes NAME.json and NAME.html
    of what there is so far, given the plan with the runs that crashed; `show` prints the report.

    Interrupted, the same call goes on where it was. InputError, before anything is trained, for a run
    that cannot start.
    """
    plan, runs = planned
    jobs = wanted.jobs or default_jobs()
    check_jobs(jobs)
    check_distinct(runs)
    check_runs([run for run in runs if run.config.seed == wanted.seeds[0]])
    check_scenes(runs, console)
    tell_untrained_towers(runs, console)
    with locked(wanted.out):
        announce(jobs)
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
