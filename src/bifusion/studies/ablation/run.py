"""The ablation: staged BiFusion without each of its stabilising measures, and its rivals, over a grid of
settings. Plan, train, judge, show."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bifusion.config.run import Config
from bifusion.errors import InputError
from bifusion.recipes import RECIPES, get_recipe
from bifusion.recipes.ablations import MEASURES
from bifusion.recipes.bifusion import bifusion_model
from bifusion.spelling import did_you_mean
from bifusion.storage.files import locked
from bifusion.studies.ablation.judge import Measured, judge_ablation
from bifusion.studies.ablation.page import render_ablation
from bifusion.studies.ablation.plan import AblationArm, AblationPlan, GridPoint
from bifusion.studies.ablation.report import AblationReport
from bifusion.studies.ablation.terminal import print_ablation
from bifusion.studies.figures.arms import ROLES
from bifusion.studies.page.files import write_study
from bifusion.studies.training_runs.forked import can_fork
from bifusion.studies.training_runs.plan import PlannedRun, check_runs, default_jobs, plan_runs
from bifusion.studies.training_runs.progress import RunCount
from bifusion.studies.training_runs.scenes import check_scenes
from bifusion.studies.training_runs.train import train_runs

DEFAULT_GRID: dict[str, tuple[str, ...]] = {
    "lr": ("1", "5"),
    "range": ("1", "30"),
    "precision": ("32-true", "bf16-mixed"),
}
"""Coordinate → its values: a factor on every arm's learning rate, a factor on the lifted 2D features
(ranges that far apart are what the study fears), and the arithmetic."""
DEFAULT_SEEDS = (0, 1, 2)
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
class AblationConfig:
    """What `compare --ablate` was asked for."""

    data: Path
    base: str = "bifusion_small"
    out: Path = Path("runs/ablation")
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    arms: tuple[str, ...] = ()
    """Recipes beside the base; none named: all."""
    grid: tuple[str, ...] = ()
    """Coordinates narrowed (or changed), as "lr=1,5"."""
    epochs: int | None = None
    tower_weights: Path | None = None
    jobs: int = 0
    accept_changes: bool = False
    """Scenes and versions may be others than when a run was begun."""


def run_ablation(wanted: AblationConfig, console: Console) -> int:
    """Trains what is not trained yet and reports; returns the exit status (1 if a run crashed).

    Interrupted, the same call goes on where it was. InputError, before anything is trained, for a
    recipe, grid or folder that does not fit.
    """
    plan, runs = plan_ablation(wanted)
    check_runs([run for run in runs if run.config.seed == plan.seeds[0]])
    check_scenes(runs, console)
    with locked(wanted.out):
        return _run_planned(wanted, plan, runs, console)


def _run_planned(
    wanted: AblationConfig, plan: AblationPlan, runs: Sequence[PlannedRun], console: Console
) -> int:
    title, measured = f"What stabilises {wanted.base}", Measured()
    console.print(
        f"{len(runs)} runs: {len(plan.arms)} arms at {len(plan.points)} points of the grid, "
        f"{len(plan.seeds)} seeds"
    )

    def report(crashed: Sequence[str] = ()) -> AblationReport:
        told = dataclasses.replace(plan, crashed=tuple(crashed))
        return write_ablation(told, wanted.out, title=title, measured=measured)

    crashed = train_runs(
        runs,
        jobs=wanted.jobs or default_jobs(),
        console=console,
        report=report,
        watch=RunCount([run.folder for run in runs], console, time.monotonic),
        forked=can_fork(),
        accept_changes=wanted.accept_changes,
    )
    print_ablation(report(crashed), console)
    console.print(f"ablation: {wanted.out / 'ablation.html'} (ablation.json beside it)")
    return 1 if crashed else 0


def write_ablation(
    plan: AblationPlan, out: Path, *, title: str, measured: Measured | None = None
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
    if len(set(wanted.seeds)) < max(1, len(wanted.seeds)):
        raise InputError(f"--seeds {wanted.seeds}: expected one or more, each once")
    every_arm = all_arms(wanted.base)
    arms = _chosen(every_arm, wanted)
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
    (run,) = plan_runs(
        [arm.recipe],
        [seed],
        wanted.data,
        wanted.out,
        tower_weights=wanted.tower_weights,
        epochs=wanted.epochs,
    )
    config = run.config
    config.optim.lr *= point.lr
    config.trainer.precision = point.precision  # pyright: ignore[reportAttributeAccessIssue]
    name = point.key
    if arm.has_range:
        bifusion_model(config).fusion.range_2d = point.range_2d
    else:
        name = f"lr{point.lr:g}-{point.precision}"
    return PlannedRun(config, wanted.out / f"{config.name}-{name}-seed{seed}")


# -------------------------------------------------------------------------------------- the arms


def all_arms(base: str) -> tuple[AblationArm, ...]:
    """The staged recipe, it without each measure, and its rivals; InputError if `base` is no staged
    BiFusion."""
    staged = get_recipe(base)
    if staged.arm != "staged":
        raise InputError(
            f"--base {base} is {ROLES.get(staged.arm, staged.arm)}; expected a staged recipe, such as "
            "bifusion_small: measures are removed from it"
        )
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
    return AblationArm(recipe, recipe, ROLES[config.arm], "rival", what, has_range(config))


def has_range(config: Config) -> bool:
    """Whether lifted image features enter a 2D head of this configuration."""
    return config.uses_views


def _chosen(every_arm: tuple[AblationArm, ...], wanted: AblationConfig) -> tuple[AblationArm, ...]:
    """The base and the arms asked for, in their own order."""
    known = [arm.recipe for arm in every_arm]
    for name in wanted.arms:
        if name not in known:
            raise InputError(
                f"--ablate: {name!r} is no arm of {wanted.base}'s ablation{did_you_mean(name, known)}; "
                f"they are {', '.join(known)}"
            )
    asked = {wanted.base, *(wanted.arms or known)}
    return tuple(arm for arm in every_arm if arm.recipe in asked)


# -------------------------------------------------------------------------------------- the grid


def parse_grid(items: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The default grid with coordinates replaced by `items` such as "lr=1,5"; InputError for others."""
    grid = dict(DEFAULT_GRID)
    for item in items:
        name, _, values = item.partition("=")
        told = tuple(value for value in values.split(",") if value)
        if name not in grid or not told or len(set(told)) < len(told):
            raise InputError(
                f"--grid {item}: expected COORDINATE=VALUE[,VALUE] with values that differ and one "
                f"of the coordinates {', '.join(grid)}, such as --grid lr=1 precision=32-true"
            )
        grid[name] = told
    return grid


def grid_points(grid: dict[str, tuple[str, ...]]) -> tuple[GridPoint, ...]:
    """Every combination; InputError for a value that a coordinate cannot take."""
    points = []
    for precision, lr, span in itertools.product(grid["precision"], grid["lr"], grid["range"]):
        if precision not in ("32-true", "bf16-mixed", "16-mixed"):
            raise InputError(f"--grid precision={precision}: expected 32-true, bf16-mixed or 16-mixed")
        points.append(GridPoint.at(_factor("lr", lr), _factor("range", span), precision))
    return tuple(points)


def _factor(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"--grid {name}={text}: expected a factor above 0")
    return value
