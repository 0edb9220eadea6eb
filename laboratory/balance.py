"""How the balance of losses moves every arm: `python -m laboratory.balance --ground runs/demo`.

Each recipe is trained with several weights of its loss terms, whatever its stages ramp, on the rooms of
each seed and the image tower that `bifusion demo` made, and evaluated at its last checkpoint. A finished
run is taken as it is. Generated rooms; a figure of one seed says little.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from bifusion.config.stages import StagePlan
from bifusion.errors import InputError
from bifusion.recipes.bifusion import LOSS_WEIGHTS, S4_WEIGHTS
from bifusion.studies.training_runs.plan import PlannedRun, check_runs, default_jobs
from bifusion.studies.training_runs.train import train_runs
from laboratory.compared import FIGURES, figure, plan_on_ground, spread

TERMS = ("semantic", "instance_class", "mask_bce", "mask_dice", "score")
BALANCES: dict[str, tuple[float, ...]] = {
    "S4": tuple(S4_WEIGHTS[term] for term in TERMS),
    "means": (0.4, 0.25, 0.2, 0.15, 0.075),  # S4 with instance terms as means over four outputs
    "S2": (1.0, 0.37, 0.30, 0.22, 0.11),  # S2's 1.0 and 1.0, S4's proportions among the instances
    # about these shares of the gradient at the features that heads share (laboratory.gradient_norms)
    "S2-shares": (1.0, 0.065, 0.264, 0.064, 0.37),
    "S4-shares": tuple(LOSS_WEIGHTS[term] for term in TERMS),  # BiFusion's default
    "even": (1.0, 0.5, 1.0, 1.0, 0.3),
}
"""Weights of `TERMS`; those of the instances act on the sum over the decoder's outputs."""


@dataclass
class Arguments:
    """Trains recipes with several balances of their losses and prints one line an arm."""

    ground: Path = Path("runs/demo")
    """Folder of `bifusion demo`: its rooms-seedK/ and tower-small.safetensors are used."""
    out: Path = Path("runs/balance")
    recipes: tuple[str, ...] = (
        "bifusion_small",
        "bifusion_small_naive",
        "bifusion_small_without_views",
        "oneformer3d_small",
    )
    balances: tuple[str, ...] = ("even",)
    """Of S4, means, S2, S2-shares, S4-shares, even."""
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int | None = None
    """Length of all runs instead of the recipes' own."""
    jobs: int = 0


def main() -> int:
    wanted, console = tyro.cli(Arguments), Console()
    unknown = [name for name in wanted.balances if name not in BALANCES]
    if unknown:
        raise InputError(f"--balances: {unknown[0]!r} is unknown; known are {', '.join(BALANCES)}")
    runs = {balance: _runs(wanted, balance) for balance in wanted.balances}
    every = [run for of_balance in runs.values() for run in of_balance]
    check_runs(every)
    jobs = wanted.jobs or default_jobs()
    crashed = train_runs(every, jobs=jobs, console=console, report=lambda: None)
    table = Table("recipe", "balance", "seeds", *FIGURES)
    for balance, of_balance in runs.items():
        for recipe in wanted.recipes:
            mine = [run for run in of_balance if run.config.recipe == recipe and run.finished]
            table.add_row(
                recipe,
                balance,
                str(len(mine)),
                *(spread(figure(run, name) for run in mine) for name in FIGURES),
            )
    console.print(table)
    return 1 if crashed else 0


def _runs(wanted: Arguments, balance: str) -> list[PlannedRun]:
    """All recipes and seeds with one balance."""
    folder = wanted.out / balance
    planned = plan_on_ground(wanted.recipes, wanted.seeds, wanted.ground, folder, wanted.epochs)
    for run in planned:
        run.config.stages = balanced(run.config.stages, BALANCES[balance])
    return planned


def balanced(plan: StagePlan, values: tuple[float, ...]) -> StagePlan:
    """`plan` with other weights of the terms that its stages weigh; when they ramp stays."""
    weights = dict(zip(TERMS, values, strict=True))
    stages = []
    for stage in plan.stages:
        changed = {
            term: dataclasses.replace(ramp, value=weights[term])
            for term, ramp in stage.weights.items()
            if term in weights and ramp.value != 0.0
        }
        stages.append(dataclasses.replace(stage, weights=stage.weights | changed))
    return StagePlan(tuple(stages))


if __name__ == "__main__":
    sys.exit(main())
