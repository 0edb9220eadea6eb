"""The ablation: staged BiFusion without each of its stabilising measures, and its rivals, over a grid of
settings. Plan, train, judge, show."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from bifusion.errors import InputError
from bifusion.recipes import RECIPES, get_recipe
from bifusion.recipes.ablations import MEASURES
from bifusion.recipes.bifusion import bifusion_model
from bifusion.studies.ablation.figures import RunFigures
from bifusion.studies.ablation.judge import judge_ablation
from bifusion.studies.ablation.page import render_ablation
from bifusion.studies.ablation.plan import AblationArm, AblationPlan, GridPoint
from bifusion.studies.ablation.report import AblationReport
from bifusion.studies.ablation.terminal import print_ablation
from bifusion.studies.figures.arms import ROLES
from bifusion.studies.grids.request import (
    GridRequest,
    check_staged,
    factor,
    grid_values,
    keys_asked_for,
)
from bifusion.studies.grids.run import run_grid
from bifusion.studies.grids.runs import Measured
from bifusion.studies.page.files import write_study
from bifusion.studies.training_runs.plan import PlannedRun, check_seeds
from bifusion.wording import plural

DEFAULT_GRID: dict[str, tuple[str, ...]] = {
    "lr": ("1", "5"),
    "range": ("1", "30"),
    "precision": ("32-true", "bf16-mixed"),
}
"""Coordinate → its values: a factor on every arm's learning rate, a factor on the lifted 2D features
(ranges that far apart are what the study fears), and the arithmetic."""
RIVALS = {
    "naive": "S3’s formula as it stands: no normalisation, no stages, no ramps, one rate",
    "plan_a": "S7: no CLIP, semantic loss only",
    "plan_b": "S8: learning rate 1e-5, weight decay 1e-6, clipping at 1",
    "without_views": "the same network, losses and stages without images",
}
BASELINES = {
    "oneformer3d": "3D alone, its own losses from the first step",
    "mask3d": "3D alone, instances only",
}


@dataclass
class AblationConfig(GridRequest):
    """What `compare --ablate` was asked for; its arms are recipes beside the base."""

    base: str = "bifusion_small"
    out: Path = Path("runs/ablation")


def run_ablation(wanted: AblationConfig, console: Console) -> int:
    """Trains what is not trained yet and reports; returns the exit status (1 if a run crashed).

    Interrupted, the same call goes on where it was. InputError, before anything is trained, for a
    recipe, grid or folder that does not fit.
    """
    plan, runs = plan_ablation(wanted)
    title = f"What stabilises {wanted.base}"
    write = partial(write_ablation, out=wanted.out, title=title, measured=Measured())
    return run_grid(
        "ablation",
        wanted,
        (plan, runs),
        console,
        summary=f"{plural(len(runs), 'run')}: {plural(len(plan.arms), 'arm')} at "
        f"{plural(len(plan.points), 'point')} of the grid, {plural(len(plan.seeds), 'seed')}",
        write=write,
        show=print_ablation,
        alike={arm.recipe: wanted.base for arm in plan.arms if arm.role != "rival"},
    )


def write_ablation(
    plan: AblationPlan, out: Path, *, title: str, measured: Measured[RunFigures] | None = None
) -> AblationReport:
    """Judges what there is so far, writes ablation.json, its schema and ablation.html to `out`.

    `measured` keeps what was read from one call to the next. InputError for a damaged run folder.
    """
    report = judge_ablation(plan, title, measured or Measured())
    write_study(out, "ablation", "BiFusion ablation", report, render_ablation(report))
    return report


def plan_ablation(wanted: AblationConfig) -> tuple[AblationPlan, list[PlannedRun]]:
    """All arms at all points with all seeds; InputError where the request makes none.

    Runs come seed by seed and, within a seed, point by point, so that an interrupted ablation holds
    whole comparisons. A run that a coordinate does not concern is planned once.
    """
    check_seeds(wanted.seeds)
    every_arm = all_arms(wanted.base)
    keys = keys_asked_for({arm.key: arm.key for arm in every_arm}, wanted.arms, "--ablate")
    arms = tuple(arm for arm in every_arm if arm.key in keys | {wanted.base})
    points = grid_points(parse_grid(wanted.grid))
    runs: dict[Path, PlannedRun] = {}
    folders: dict[tuple[str, str, int], Path] = {}
    for seed, point, arm in itertools.product(wanted.seeds, points, arms):
        run = _planned(wanted, arm, point, seed)
        runs.setdefault(run.folder, run)
        folders[arm.recipe, point.key, seed] = run.folder
    default = grid_points(parse_grid(()))
    plan = AblationPlan(
        base=wanted.base,
        arms=arms,
        points=points,
        seeds=tuple(wanted.seeds),
        folders=folders,
        points_left_out=tuple(point for point in default if point not in points),
        arms_left_out=tuple(arm.recipe for arm in every_arm if arm not in arms),
    )
    return plan, list(runs.values())


def _planned(wanted: AblationConfig, arm: AblationArm, point: GridPoint, seed: int) -> PlannedRun:
    config = wanted.usual(arm.recipe, seed)
    config.optim.lr *= point.lr
    config.trainer.precision = point.precision  # pyright: ignore[reportAttributeAccessIssue]
    name = point.key
    if arm.has_range:
        bifusion_model(config).fusion.range_2d = point.range_2d
    else:
        name = f"lr{point.lr:g}-{point.precision}"
    return wanted.planned(config, name)


# -------------------------------------------------------------------------------------- the arms


def all_arms(base: str) -> tuple[AblationArm, ...]:
    """The staged recipe, it without each measure, and its rivals; InputError if `base` is no staged
    BiFusion."""
    check_staged(base, "bifusion_small")
    arms = [AblationArm(base, base, ROLES["staged"], "staged", "all measures", True)]
    for measure in MEASURES.values():
        recipe = measure.recipe_name(base)
        role = "added" if measure.adds else "removed"
        arms.append(AblationArm(recipe, recipe, measure.label, role, measure.instead, True))
    for name, what in RIVALS.items():
        arms.append(_rival(f"{base}_{name}", what))
    for kind, what in BASELINES.items():
        names = (base.replace("bifusion", kind), f"{base}_baseline" if kind == "oneformer3d" else "")
        name = next((name for name in names if name in RECIPES), None)
        if name is not None:
            arms.append(_rival(name, what))
    return tuple(arms)


def _rival(recipe: str, what: str) -> AblationArm:
    config = get_recipe(recipe)
    return AblationArm(recipe, recipe, ROLES[config.arm], "rival", what, config.uses_views)


# -------------------------------------------------------------------------------------- the grid


def parse_grid(items: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The default grid with coordinates replaced by `items` such as "lr=1,5"; InputError for others."""
    grid = dict(DEFAULT_GRID)
    for item in items:
        name, values = grid_values(item, grid, "lr=1 precision=32-true")
        grid[name] = values
    return grid


def grid_points(grid: dict[str, tuple[str, ...]]) -> tuple[GridPoint, ...]:
    """Every combination; InputError for a value that a coordinate cannot take."""
    points = []
    for precision, lr, span in itertools.product(grid["precision"], grid["lr"], grid["range"]):
        if precision not in ("32-true", "bf16-mixed", "16-mixed"):
            raise InputError(f"--grid precision={precision}: expected 32-true, bf16-mixed or 16-mixed")
        points.append(GridPoint.at(factor("lr", lr), factor("range", span), precision))
    return tuple(points)
