"""Commands that train several models side by side: demo, compare, dose; and pretrain-tower.

A command imports what it needs once its options are read: torch takes seconds, no help should.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.errors import InputError
from bifusion.untrusted.screen import Screen

ROOMS = ("rooms.train-rooms", "rooms.val-rooms", "rooms.texture-contrast")
"""What one changes first about generated rooms."""
COMPARE_HELP = Help(
    "compare oneformer3d_small bifusion_small --data data/rooms --seeds 0 1 2 --out runs/rooms"
)


def demo(args: list[str]) -> int:
    """Make rooms, pretrain the image tower, train and compare five models."""
    from bifusion.studies.demo import DemoConfig, run_demo

    told = Help("demo --seeds 0 1 2", common=("out", "seeds", "epochs", "jobs", *ROOMS))
    return run_demo(parsing.parse(DemoConfig, args, "demo", told), Screen())


@dataclass
class Compare:
    """Train recipes side by side (or take finished runs) and report on them."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ()
    """Recipes to train; leave out to report on finished runs (--runs). With --ablate: only these arms
    beside the base; with --sweep: only these."""
    data: Path | None = None
    """Data set to train on (train/ and val/ with scene folders)."""
    out: Path | None = None
    """Folder of the comparison (runs/compare, runs/ablation or runs/sweep); what is finished in it is
    not trained again."""
    seeds: tuple[int, ...] | None = None
    """Left out: 0, or, with --ablate and --sweep, 0 1 2."""
    epochs: int | None = None
    """Length of all runs instead of the recipes' own."""
    tower_weights: Path | None = None
    """Weights of the image tower for the recipes that have one."""
    jobs: int = 0
    """Runs at a time; 0: one a GPU, or two on a machine without."""
    runs: tuple[Path, ...] = ()
    """Finished run folders to report on, beside those trained here."""
    ablate: bool = False
    """Train the base, the base without each of its stabilising measures, and its rivals, all over one
    grid of settings, and write ablation.html: what matters, what does not show, what harms."""
    sweep: Literal["lr"] | None = None
    """lr: train the base and its rivals at rates over three decades and write sweep.html: where each
    of them breaks, and how. Without a guard: the first number that is not finite ends a run."""
    base: str | None = None
    """Staged recipe of --ablate (bifusion_small) or --sweep (bifusion_mini)."""
    grid: tuple[str, ...] = ()
    """--ablate: narrow the grid lr=1,5 range=1,30 precision=32-true,bf16-mixed (factors on learning
    rates and on lifted 2D features), such as --grid lr=1 precision=32-true. --sweep: likewise, such as
    --grid lr=0.1,1,10 condition=plain."""
    accept_changes: bool = False
    """Go on with runs though scenes or versions of the software have changed; reports then say what."""


def compare(args: list[str]) -> int:
    """Train and compare recipes; --ablate: what stabilises; --sweep lr: what breaks."""
    wanted = parsing.parse(Compare, args, "compare", COMPARE_HELP)
    if wanted.ablate and wanted.sweep:
        raise InputError("--ablate does not go with --sweep: each has a grid and a folder of its own")
    study = _ablate if wanted.ablate else _sweep if wanted.sweep else _compare
    return study(wanted, Screen())


def _ablate(wanted: Compare, console: Console) -> int:
    from bifusion.studies.ablation.run import AblationConfig, run_ablation

    return run_ablation(AblationConfig(**_over_a_grid(wanted, "--ablate", "an ablation")), console)


def _sweep(wanted: Compare, console: Console) -> int:
    from bifusion.studies.sweep.run import SweepConfig, run_sweep

    return run_sweep(SweepConfig(**_over_a_grid(wanted, "--sweep", "a sweep")), console)


def _over_a_grid(wanted: Compare, option: str, what: str) -> dict[str, Any]:
    """Fields of the study's request, those with defaults of its own only where they were given."""
    if wanted.data is None:
        raise InputError(f"--data is missing: {what} needs a data set (train/ and val/ folders)")
    if wanted.runs:
        raise InputError(f"--runs does not go with {option}: it reports on the runs of its own grid")
    own = {"base": wanted.base, "out": wanted.out, "seeds": wanted.seeds}
    return {
        **_shared(wanted),
        "arms": wanted.recipes,
        "grid": wanted.grid,
        **{name: value for name, value in own.items() if value is not None},
    }


def _compare(wanted: Compare, console: Console) -> int:
    from bifusion.studies.comparison.run import ComparisonConfig, run_comparison

    if wanted.grid:
        raise InputError("--grid goes with --ablate and --sweep")
    comparison = ComparisonConfig(
        **_shared(wanted),
        recipes=wanted.recipes,
        out=wanted.out or Path("runs/compare"),
        seeds=wanted.seeds if wanted.seeds is not None else (0,),
        runs=wanted.runs,
    )
    return run_comparison(comparison, console)


def _shared(wanted: Compare) -> dict[str, Any]:
    """Fields of the request for a comparison and for a study over a grid."""
    names = ("data", "epochs", "tower_weights", "jobs", "accept_changes")
    return {name: getattr(wanted, name) for name in names}


def dose(args: list[str]) -> int:
    """What images add as one property of generated rooms changes."""
    from bifusion.studies.dose.run import DoseConfig, run_dose

    told = Help(
        "dose --knob texture_contrast --values 0 0.33 0.66 1 --seeds 0 1 2 --out runs/dose",
        common=(
            "knob", "values", "out", "recipes", "seeds", "epochs", "jobs", "tower-weights",
            *ROOMS,
        ),
    )  # fmt: skip
    return run_dose(parsing.parse(DoseConfig, args, "dose", told), Screen())


def pretrain_tower(args: list[str]) -> int:
    """Pretrain the small image tower on generated rooms of other seeds."""
    from bifusion.studies.demo import PretrainTower, run_pretraining

    told = Help(
        "pretrain-tower --out runs/tower.safetensors",
        common=("out", "rooms", "num-rooms", "config.objective"),
    )
    run_pretraining(parsing.parse(PretrainTower, args, "pretrain-tower", told), Screen())
    return 0
