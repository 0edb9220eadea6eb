"""Where the points go: `python -m laboratory.ladder --ground runs/demo --seeds 0 1 2 3 4`.

From OneFormer3D to BiFusion without views, one change at a time, on the rooms that `bifusion demo` made
for each seed. A rung keeps all changes of those before it; the table says what each costs or gives,
paired by seed, but for a rung whose predecessor is left out. A finished run is taken as it is. Generated
rooms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bifusion.config.run import Config
from bifusion.config.stages import Stage, StagePlan, at_once
from bifusion.errors import InputError
from bifusion.recipes import get_recipe
from bifusion.recipes.bifusion import LOSS_WEIGHTS, bifusion_model
from bifusion.recipes.oneformer3d import OFFICIAL_INSTANCE_WEIGHTS
from bifusion.studies.training_runs.plan import PlannedRun, check_runs, default_jobs
from bifusion.studies.training_runs.train import train_runs
from laboratory.compared import figure, plan_on_ground, spread

BASELINE, TOP = "oneformer3d_small", "bifusion_small_without_views"
SEMANTIC_WEIGHT = 0.5
"""OneFormer3D's, on ScanNet200 and at small size."""
WIDTH = 100
"""Of the table, in a file too."""
FIGURES = ("miou", "ap", "agnostic_ap", "other")


@dataclass
class Arguments:
    """Trains every rung from OneFormer3D to BiFusion without views and prints what each change does."""

    ground: Path = Path("runs/demo")
    """Folder of `bifusion demo` with the same seeds: its rooms-seedK/ are used."""
    out: Path = Path("runs/ladder")
    rungs: tuple[str, ...] = ()
    """Some of them; none named: all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int | None = None
    """Length of all runs instead of the recipes' own."""
    jobs: int = 0


def _losses(**weights: float) -> StagePlan:
    """Everything trains on these losses from the first step, images aside."""
    stage = Stage(
        name="at_once",
        share=1.0,
        trains={"*": at_once(1.0)},
        weights={term: at_once(weight) for term, weight in weights.items()},
        fixed_alpha=0.0,
        fixed_alpha_until=1.0,
        run_2d=False,
        tower_gradient_scale=at_once(0.0),
    )
    return StagePlan((stage,))


def _same(config: Config) -> None:
    """Nothing changes."""


def _head(config: Config) -> None:
    """BiFusion's 3D head between U-Net and decoder, and nothing else of it."""
    model = bifusion_model(config)
    model.decoder.score_head = False
    fusion = model.fusion
    fusion.head_norm = fusion.film = fusion.squeeze_excitation = False
    config.stages = _losses(semantic=SEMANTIC_WEIGHT, **OFFICIAL_INSTANCE_WEIGHTS)


def _norm(config: Config) -> None:
    bifusion_model(config).fusion.head_norm = True


def _film(config: Config) -> None:
    bifusion_model(config).fusion.film = True


def _excitation(config: Config) -> None:
    bifusion_model(config).fusion.squeeze_excitation = True


def _score(config: Config) -> None:
    bifusion_model(config).decoder.score_head = True
    weights = {term: ramp.value for term, ramp in config.stages.stages[0].weights.items()}
    config.stages = _losses(**weights, score=LOSS_WEIGHTS["score"])


def _balance(config: Config) -> None:
    config.stages = _losses(**LOSS_WEIGHTS)


def _stages(config: Config) -> None:
    config.stages = get_recipe(TOP).stages


RUNGS: dict[str, tuple[str, Callable[[Config], None]]] = {
    "oneformer3d": ("OneFormer3D", _same),
    "head": ("its decoder behind BiFusion's 3D head", _head),
    "norm": ("LayerNorm of the head", _norm),
    "film": ("FiLM by geometry", _film),
    "excitation": ("squeeze-excitation", _excitation),
    "score": ("score head and its loss", _score),
    "balance": ("BiFusion's balance of losses", _balance),
    "stages": ("its stages: BiFusion without views", _stages),
}
"""Name → what is added, and how a configuration with all before it gets it."""


def climb(config: Config, rung: str) -> None:
    """Makes of `config`, the recipe of BiFusion without views, what stands at `rung`."""
    for name, (_, change) in RUNGS.items():
        change(config)
        if name == rung:
            break
    config.name = f"ladder_{rung}"


def main() -> int:
    wanted, console = tyro.cli(Arguments), Console()
    unknown = [name for name in wanted.rungs if name not in RUNGS]
    if unknown:
        raise InputError(f"--rungs: {unknown[0]!r} is unknown; known are {', '.join(RUNGS)}")
    runs = {rung: _runs(wanted, rung) for rung in RUNGS if not wanted.rungs or rung in wanted.rungs}
    every = [run for of_seed in zip(*runs.values(), strict=True) for run in of_seed]
    check_runs(every)
    jobs = wanted.jobs or default_jobs()
    crashed = train_runs(every, jobs=jobs, console=console, report=lambda: None)
    _show(runs, console)
    return 1 if crashed else 0


def _runs(wanted: Arguments, rung: str) -> list[PlannedRun]:
    """All seeds of one rung."""
    recipe = BASELINE if rung == "oneformer3d" else TOP
    planned = plan_on_ground((recipe,), wanted.seeds, wanted.ground, wanted.out / rung, wanted.epochs)
    for run in planned:
        climb(run.config, rung)
    return planned


def _show(runs: dict[str, list[PlannedRun]], console: Console) -> None:
    """Each rung's figures, and below each its difference from the rung before, paired by seed."""
    table = Table("added", "seeds", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in FIGURES:
        table.add_column(name, no_wrap=True)
    of_all = {rung: {r.config.seed: r for r in runs.get(rung, []) if r.finished} for rung in RUNGS}
    rung_before = dict(pairwise(reversed(RUNGS)))
    for rung in runs:
        mine, before = of_all[rung], of_all.get(rung_before.get(rung, ""), {})
        pairs = [(mine[seed], before[seed]) for seed in mine if seed in before]
        cells = []
        for name in FIGURES:
            there = spread(figure(run, name) for run in mine.values())
            change = spread((_change(pair, name) for pair in pairs), signed=True)
            cells.append(f"{there}\n{change}" if pairs else there)
        table.add_row(RUNGS[rung][0], str(len(mine)), *cells)
    console.print(table, width=WIDTH, crop=False)


def _change(pair: tuple[PlannedRun, PlannedRun], name: str) -> float | None:
    after, before = (figure(run, name) for run in pair)
    return None if after is None or before is None else after - before


if __name__ == "__main__":
    sys.exit(main())
