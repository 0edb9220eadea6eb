"""What the reports of studies over a grid have in common, and how the terminal tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from bifusion.storage.json_schema import Count
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.cautions import cautions
from bifusion.studies.figures.fairness import why_other_scenes, why_refused
from bifusion.studies.figures.generated import generated, generated_line
from bifusion.studies.figures.run import Run
from bifusion.studies.figures.setting import Setting, setting_of
from bifusion.studies.figures.terminal import some_of
from bifusion.studies.grids.plan import GridPlan
from bifusion.studies.grids.runs import ToldRun
from bifusion.studies.page.files import StudyReport
from bifusion.wording import plural


@dataclass(frozen=True)
class NotRun:
    """What the figures do not hold."""

    arms: list[str]
    """Recipes that were left out."""
    waiting: list[str]
    """Run folders that have not ended."""
    crashed: list[str]
    """Run folders without a result because the run crashed."""


@dataclass(frozen=True, kw_only=True)
class GridReport(StudyReport):
    """What the report of every study over a grid tells."""

    complete: bool
    """Every planned run ended and was evaluated, was stopped by its guard, or crashed."""
    synthetic: bool
    """All scenes are generated rooms."""
    partly_synthetic: bool
    """Some of the scenes are generated rooms, others are not."""
    base: str
    """The staged recipe that arms are made of."""
    seeds: list[int]
    """Seeds of every arm at every point."""
    setting: Setting | None
    """What all runs share; null before the first started."""
    not_run: NotRun
    """What the figures do not hold."""
    runs: dict[str, Count]
    """State → number of runs."""
    figures: dict[str, str]
    """Figure → what it is."""
    refused: str | None
    """Why accuracies are not compared; null where they are."""


# ---------------------------------------------------------------------------------------- judging


def grid_fields(
    plan: GridPlan, title: str, told: Mapping[Any, ToldRun], not_run: Callable[..., NotRun]
) -> dict[str, Any]:
    """The fields of every `GridReport`, all but `figures`.

    `told`: place in the grid → its run. `not_run` makes the study's own `NotRun`.
    """
    read = {plan.folders[place]: run for place, run in told.items()}
    runs = [run.run for run in read.values() if run.run is not None]
    named = sorted((folder.name, run.state) for folder, run in read.items())
    waiting = [name for name, state in named if state in ("running", "not started")]
    crashed = [name for name, state in named if state == "crashed"]
    return {
        "title": title,
        "complete": not waiting,
        "cautions": cautions(runs),
        **generated(runs),
        "base": plan.base,
        "seeds": list(plan.seeds),
        "setting": setting_of(runs),
        "not_run": not_run(arms=list(plan.arms_left_out), waiting=waiting, crashed=crashed),
        "runs": dict(sorted(Counter(state for _, state in named).items())),
        "refused": _refused(told),
    }


def _refused(told: Mapping[tuple[Any, ...], ToldRun]) -> str | None:
    """Why accuracies must not be compared, or None: at one setting arms and seeds must be as those of
    any comparison, over all settings a seed's scenes the same."""
    at_setting: dict[tuple[Any, ...], dict[str, list[Run]]] = {}
    for (recipe, *setting, _), one in told.items():
        if one.run is not None:
            at_setting.setdefault(tuple(setting), {}).setdefault(recipe, []).append(one.run)
    for recipes in at_setting.values():
        arms = [Arm(recipe, runs[0].arm, recipe, tuple(runs)) for recipe, runs in recipes.items()]
        if found := why_refused(arms):
            return found
    return why_other_scenes([one.run for one in told.values() if one.run is not None])


# ---------------------------------------------------------------------------------------- telling


def print_rest(report: GridReport, console: Console) -> None:
    """The lines under a table: what stands between it and a conclusion."""
    left = report.not_run
    if report.refused:
        console.print(f"[yellow]Accuracies not compared[/yellow]: {escape(report.refused)}")
    if left.crashed:
        console.print(f"[yellow]Crashed[/yellow]: {some_of(left.crashed)}.")
    for caution in report.cautions:
        console.print(escape(caution))
    if line := generated_line(report.synthetic, report.partly_synthetic):
        console.print(line)
    if not report.complete:
        console.print(f"Partial: {plural(len(left.waiting), 'run')} still to be trained.")
