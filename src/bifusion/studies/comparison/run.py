"""The comparison: plan its runs, train them, judge their folders, show what came out.

Judging and showing may be done again and again while the runs train: they tell what there is so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bifusion.errors import InputError
from bifusion.storage.files import locked
from bifusion.studies.comparison.judge import judge_comparison
from bifusion.studies.comparison.page import render_page
from bifusion.studies.comparison.report import ComparisonReport
from bifusion.studies.comparison.terminal import print_table
from bifusion.studies.figures.arms import group_runs
from bifusion.studies.figures.fairness import require_one_set
from bifusion.studies.figures.run import Record, Run, load_run, read_json
from bifusion.studies.page.files import write_study
from bifusion.studies.page.room_views import write_room_views
from bifusion.studies.training_runs.plan import (
    PlannedRun,
    check_runs,
    default_jobs,
    plan_runs,
    tell_untrained_towers,
)
from bifusion.studies.training_runs.scenes import check_scenes
from bifusion.studies.training_runs.train import check_jobs, check_out, require_result, train_runs


@dataclass
class ComparisonConfig:
    """What `bifusion compare` was asked for."""

    recipes: tuple[str, ...] = ()
    """To train; none: report on `runs` alone."""
    data: Path | None = None
    out: Path = Path("runs/compare")
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    tower_weights: Path | None = None
    jobs: int = 0
    runs: tuple[Path, ...] = ()
    """Finished run folders, beside those trained here."""
    accept_changes: bool = False
    """Scenes and versions may be others than when a run was begun."""


def run_comparison(wanted: ComparisonConfig, console: Console) -> int:
    """Trains what is not trained yet and shows what came out; returns the exit status (1 if a run
    crashed)."""
    report = compare_runs(wanted, console)
    print_table(report, console)
    console.print(f"report: {wanted.out / 'report.html'}", markup=False)
    return 1 if report.crashed else 0


def compare_runs(wanted: ComparisonConfig, console: Console) -> ComparisonReport:
    """Trains what is not trained yet, showing how it goes, and writes the report over all runs."""
    planned = plan_comparison(wanted)
    check_jobs(wanted.jobs or default_jobs())
    if planned:
        check_out(wanted.out)
        check_scenes(planned, console)
        tell_untrained_towers(planned, console)
    with locked(wanted.out):
        return _compare(wanted, planned, console)


def _compare(
    wanted: ComparisonConfig, planned: Sequence[PlannedRun], console: Console
) -> ComparisonReport:
    title, crashed = wanted.out.resolve().name, []
    if planned:
        crashed = train_runs(
            planned,
            jobs=wanted.jobs or default_jobs(),
            console=console,
            report=lambda: report_so_far(planned, wanted.out, title, audit_file(wanted.data)),
            accept_changes=wanted.accept_changes,
        )
    folders = [run.folder for run in planned if run.folder.name not in crashed] + list(wanted.runs)
    require_result(folders, crashed, wanted.out)
    audit = audit_of(folders, wanted.data)
    return write_report(folders, wanted.out, audit=audit, crashed=crashed, title=title)


def plan_comparison(wanted: ComparisonConfig) -> list[PlannedRun]:
    """The runs to train; InputError, before anything is made, for a request that makes none, and for
    finished runs that are none or do not go together."""
    if not wanted.recipes and not wanted.runs:
        raise InputError("nothing to compare: name recipes to train, or finished runs with --runs")
    given = [load_run(folder) for folder in wanted.runs]
    group_runs(given)
    if not wanted.recipes:
        require_one_set([(str(run.folder), run.labels) for run in given])
        return []
    if wanted.data is None:
        raise InputError("--data is missing: recipes to train need a data set (train/ and val/ folders)")
    planned = plan_runs(
        wanted.recipes,
        wanted.seeds,
        wanted.data,
        wanted.out,
        tower_weights=wanted.tower_weights,
        epochs=wanted.epochs,
    )
    check_runs(planned)
    require_one_set(
        [(str(run.folder), run.config.data.classes) for run in planned]
        + [(str(run.folder), run.labels) for run in given]
    )
    _check_new(planned, given)
    return planned


def _check_new(planned: Sequence[PlannedRun], given: Sequence[Run]) -> None:
    """InputError where a run to train would be an arm and seed that a given one is already."""
    there = {(run.arm, run.name, run.seed): run.folder for run in given}
    for config in (run.config for run in planned):
        folder = there.get((config.arm, config.name, config.seed))
        if folder is not None:
            raise InputError(
                f"--runs {folder}: is {config.name} with seed {config.seed}, which would be trained "
                "too; leave it out, or that recipe or seed"
            )


def write_report(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    audit: Path | None = None,
    crashed: Sequence[str] = (),
    title: str = "BiFusion comparison",
    room_views: bool = True,
) -> ComparisonReport:
    """Judges the runs in `run_dirs`, writes report.json, its schema and report.html to `out`, and, for
    `room_views`, the pages of what each arm predicted, to which report.html links.

    `audit` is a benchmark's audit.json, shown beside the results; `crashed` names runs that have no
    result because they crashed. `InputError` for a folder that is no run, a damaged file, or two
    runs that are the same arm and seed.
    """
    if not run_dirs:
        raise InputError("no run folder was given; name at least one that `bifusion train` wrote")
    arms = group_runs([load_run(Path(folder)) for folder in run_dirs])
    report = judge_comparison(arms, audit=_read_audit(audit), title=title, crashed=crashed)
    views = write_room_views(arms, out) if room_views else {}
    write_study(out, "report", "BiFusion comparison report", report, render_page(report, arms, views))
    return report


def report_so_far(runs: Sequence[PlannedRun], out: Path, title: str, audit: Path | None) -> None:
    """Writes the report over the runs that have logged at least one epoch, if any has."""
    started = [run.folder for run in runs if (run.folder / "epochs.jsonl").exists()]
    if started:
        write_report(started, out, audit=audit, title=title, room_views=False)


def audit_file(data: Path | None) -> Path | None:
    """The audit.json of a data set, where there is one."""
    audit = None if data is None else data / "audit.json"
    return audit if audit is not None and audit.is_file() else None


def audit_of(run_dirs: Sequence[Path], data: Path | None) -> Path | None:
    """The audit.json of `data`, the data set that was named; None where a run was trained on another, or
    there is none. What a run itself names is not read: it may be a stranger's."""
    roots = {str(_data_root(Path(folder) / "config.json")) for folder in run_dirs}
    return audit_file(data) if roots == {str(data)} else None


def _data_root(config: Path) -> object:
    """What a run says of where its data lay; None where it says nothing."""
    found: object = read_json(config, {})
    for key in ("config", "data", "root"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _read_audit(path: Path | None) -> Record | None:
    audit = None if path is None else read_json(path, {})
    if path is not None and audit is None:
        raise InputError(
            f"{path}: there is no such audit; leave it out, or make it with the benchmark's rooms"
        )
    return audit
