"""Trains the small recipes as they are and counts what guard and rules said: nothing is wrong there.

    python tools/healthy_runs.py [--recipes …] [--seeds 0 1 2 3 4] [--epochs 20] [--out runs/healthy]

Generated rooms, the image tower of `bifusion demo`. Exit status 1 where a run was not finite, skipped a
step, was rolled back, or warned more than once. An interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bifusion.recipes import get_recipe
from bifusion.studies.comparison.run import report_so_far
from bifusion.studies.demo import DemoConfig, make_ground, plan_demo
from bifusion.studies.figures.metrics import update_counts
from bifusion.studies.figures.run import Run, load_run
from bifusion.studies.training_runs.plan import default_jobs
from bifusion.studies.training_runs.train import train_runs

RECIPES = (
    "oneformer3d_small",
    "mask3d_small",
    "bifusion_small",
    "bifusion_small_without_views",
    "bifusion_small_plan_a",
    "bifusion_small_plan_b",
)
"""Not the naive one, which is here to go wrong."""
SEEDS = (0, 1, 2, 3, 4)
EPOCHS = 20
TABLE_WIDTH = 150
WARNINGS = 1
"""As many in a run are borne with."""


def problems_of(run: Run) -> list[str]:
    """What a healthy run must not show."""
    counts = update_counts(run)
    found = {
        "the run did not end by itself": run.state != "completed",
        f"{counts.raw_nonfinite} non-finite steps": counts.raw_nonfinite > 0,
        f"{counts.skipped} skipped steps": counts.skipped > 0,
        f"{counts.rollbacks} rollbacks": counts.rollbacks > 0,
        f"{counts.warnings} warnings": counts.warnings > WARNINGS,
    }
    return [f"{run.name}, seed {run.seed}: {what}" for what, holds in found.items() if holds]


def rules_of(runs: Iterable[Run]) -> str:
    """Which rules warned, how often, and at which steps."""
    told: dict[str, list[str]] = {}
    for run in runs:
        for step in run.steps:
            for alarm in step["alarms"]:
                place = f"{alarm['rule']} {'|'.join(alarm['where'])}"
                told.setdefault(place, []).append(f"{run.seed}:{step['step']}")
    return "\n".join(f"{place} ({', '.join(steps)})" for place, steps in told.items())


def report(runs: Sequence[Run], console: Console) -> None:
    """One line a recipe."""
    counted = ("steps", "non-finite", "skipped", "rollbacks", "warnings a run")
    table = Table("recipe", "seeds", *counted, "warned (seed:step)")
    for recipe in Counter(run.recipe for run in runs):
        mine = [run for run in runs if run.recipe == recipe]
        counts = update_counts(*mine)
        table.add_row(
            recipe,
            " ".join(str(run.seed) for run in mine),
            str(sum(len(run.steps) for run in mine)),
            str(counts.raw_nonfinite),
            str(counts.skipped),
            str(counts.rollbacks),
            " ".join(str(update_counts(run).warnings) for run in mine),
            escape(rules_of(mine)),
        )
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("runs/healthy"))
    wanted = parser.parse_args()
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    for recipe in wanted.recipes:
        get_recipe(recipe)  # an unknown one is refused before anything is made
    demo = DemoConfig(out=wanted.out, recipes=wanted.recipes, seeds=wanted.seeds, epochs=wanted.epochs)
    planned = plan_demo(demo, make_ground(demo, console))
    title = "Healthy runs"
    crashed = train_runs(
        planned,
        jobs=default_jobs(),
        console=console,
        report=lambda: report_so_far(planned, wanted.out, title, None),
    )
    runs = [load_run(run.folder) for run in planned if run.folder.name not in crashed]
    report(runs, console)
    problems = [f"{name} crashed" for name in crashed]
    problems += [what for run in runs for what in problems_of(run)]
    for problem in problems:
        console.print(problem, markup=False, highlight=False)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
