"""What the literature has against instability, one measure at a time: `python -m laboratory.literature`.

Staged BiFusion at mini size, at several learning rates, with one measure each, paired by seed with the
same run without it; the data set is that of `bifusion compare --sweep lr`. A finished run is taken as it
is. Generated rooms.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from bifusion import plugins
from bifusion.config.run import Config
from bifusion.config.stages import StagePlan, at_once
from bifusion.errors import InputError
from bifusion.recipes.bifusion import bifusion_model
from bifusion.studies.sweep.grid import CONDITIONS
from bifusion.studies.training_runs.plan import PlannedRun, check_runs, default_jobs, plan_runs
from bifusion.studies.training_runs.train import train_runs
from laboratory.compared import figure, spread

FIGURES = ("miou", "ap", "fusion_2d_ratio")


@dataclass
class Arguments:
    """Trains staged fusion with one measure of the literature each and prints what each changes."""

    data: Path = Path("data/mini")
    tower_weights: Path = Path("runs/demo/tower-small.safetensors")
    out: Path = Path("runs/literature")
    measures: tuple[str, ...] = ()
    """Some of them; none named: all."""
    rates: tuple[float, ...] = (0.72, 1.9)
    """Factors on the recipe's learning rate."""
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 0


def _none(config: Config) -> None:
    """As it is."""


def _qk_norm(config: Config) -> None:
    bifusion_model(config).decoder.qk_norm = True


def _layer_scale(config: Config) -> None:
    bifusion_model(config).decoder.layer_scale = 0.1


def _z_loss(config: Config) -> None:
    config.criterion.extra = {"z": "laboratory.z_loss:z_loss"}
    config.stages = StagePlan(
        tuple(
            dataclasses.replace(stage, weights={**stage.weights, "z": at_once(1e-4)})
            for stage in config.stages.stages
        )
    )


def _stable(config: Config) -> None:
    config.optim.clip_updates = True


def _beta2(config: Config) -> None:
    config.optim.betas = (0.9, 0.95)


def _average(config: Config) -> None:
    config.trainer.average_decay = 0.99


def _dropout(config: Config) -> None:
    bifusion_model(config).training_views.dropout = 0.5


MEASURES: dict[str, tuple[str, Callable[[Config], None]]] = {
    "none": ("none", _none),
    "qk_norm": ("QK-norm in the decoder", _qk_norm),
    "z_loss": ("z-loss, weight 1e-4", _z_loss),
    "layer_scale": ("LayerScale in the decoder, 0.1", _layer_scale),
    "stable_adamw": ("StableAdamW", _stable),
    "beta2": ("β2 = 0.95", _beta2),
    "average": ("EMA of the weights, 0.99", _average),
    "dropout_2d": ("half of the superpoints unseen in training", _dropout),
}


def main() -> int:
    wanted, console = tyro.cli(Arguments), Console()
    unknown = [name for name in wanted.measures if name not in MEASURES]
    if unknown:
        raise InputError(f"--measures: {unknown[0]!r} is unknown; known are {', '.join(MEASURES)}")
    plugins.allow("laboratory")
    names = ["none", *(n for n in MEASURES if n != "none" and n in (wanted.measures or MEASURES))]
    runs = {name: _runs(wanted, name) for name in names}
    every = [run for of_place in zip(*runs.values(), strict=True) for run in of_place]
    check_runs(every)
    jobs = wanted.jobs or default_jobs()
    crashed = train_runs(every, jobs=jobs, console=console, report=lambda: None, forked=True)
    for rate in wanted.rates:
        _show(rate, runs, console)
    return 1 if crashed else 0


def _runs(wanted: Arguments, measure: str) -> list[PlannedRun]:
    """All seeds and rates with one measure."""
    planned = []
    for seed in wanted.seeds:
        for rate in wanted.rates:
            folder = wanted.out / f"{measure}-lr{rate:g}"
            (run,) = plan_runs(
                ("bifusion_mini",), (seed,), wanted.data, folder, tower_weights=wanted.tower_weights
            )
            run.config.optim.lr *= rate
            CONDITIONS["plain"][1](run.config)
            MEASURES[measure][1](run.config)
            planned.append(run)
    return planned


def _show(rate: float, runs: dict[str, list[PlannedRun]], console: Console) -> None:
    """Figures of each measure at one rate, and their difference from none, paired by seed."""
    heads = (head for name in FIGURES for head in (name, "difference"))
    table = Table("measure", "seeds", *heads, title=f"learning rate × {rate:g}")
    base = _finished(runs["none"], rate)
    for measure, of_measure in runs.items():
        mine = _finished(of_measure, rate)
        cells = []
        for name in FIGURES:
            values = {seed: figure(run, name) for seed, run in mine.items()}
            before = {seed: figure(base[seed], name) for seed in mine if seed in base}
            changes = [
                value - other
                for seed, other in before.items()
                if (value := values[seed]) is not None and other is not None
            ]
            cells += [spread(values.values()), spread(changes, signed=True)]
        table.add_row(MEASURES[measure][0], str(len(mine)), *cells)
    console.print(table)


def _finished(runs: list[PlannedRun], rate: float) -> dict[int, PlannedRun]:
    of_rate = [run for run in runs if run.folder.parent.name.endswith(f"-lr{rate:g}")]
    return {run.config.seed: run for run in of_rate if run.finished}


if __name__ == "__main__":
    sys.exit(main())
