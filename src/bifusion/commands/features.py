"""The command that computes the features of a data set's views in advance.

It imports what it needs once its options are read: torch takes seconds, no help should.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.commands.telling import going_on
from bifusion.untrusted.screen import Screen

MOST_TOLD = 20


@dataclass
class PrepareFeatures:
    """Features of all views of a data set, computed once for all runs whose image tower is frozen."""

    recipe: tyro.conf.Positional[str]
    """Recipe of these runs, or a run's config.json."""
    data: Path
    """Data set: data/train, data/val."""
    out: Path = Path("runs/.tower-cache")
    """Where runs look for them: .tower-cache beside their folders."""
    tower_weights: Path | None = None
    """Weights of the image tower, as the runs get them."""
    splits: Annotated[tuple[str, ...], tyro.conf.arg(metavar="{train,val}")] = ("train", "val")
    """Parts of the data set."""
    shard: str | None = None
    """i/n: only every n-th scene from the i-th on; left out: as torchrun or srun say, or all."""
    jobs: int = 1
    """Processes at a time."""
    threads: int | None = None
    """Threads of each, and of the runs (the last bits depend on it); left out: as torch takes."""
    gb: float | None = None
    """Most that is kept; left out: the recipe's trainer.tower_cache_gb."""


def prepare_features(args: list[str]) -> int:
    """Features of all views of a data set, computed once for all runs; it goes on where it was."""
    told = Help("prepare features bifusion_scannet20_dinov2 --data data/scannet --jobs 4 --threads 2")
    wanted = parsing.parse(PrepareFeatures, args, "prepare features", told)

    from bifusion.datasets.shards import asked_shard
    from bifusion.recipes import config_of
    from bifusion.studies.training_runs.plan import give_weights
    from bifusion.studies.training_runs.progress import progress_bar
    from bifusion.training.view_features import keep_features

    config = config_of(wanted.recipe)
    config.data.root = wanted.data
    if wanted.tower_weights is not None:
        give_weights([config], wanted.tower_weights)
    if wanted.gb is not None:
        config.trainer.tower_cache_gb = wanted.gb
    console = Screen()
    with going_on(), progress_bar("scenes", console) as progress:
        kept = keep_features(
            config,
            wanted.out,
            splits=wanted.splits,
            shard=asked_shard(wanted.shard),
            workers=wanted.jobs if wanted.jobs > 1 else 0,
            threads=wanted.threads,
            progress=progress,
        )
    for scene, why in list(kept.wrong.items())[:MOST_TOLD]:
        console.print(f"{scene}: {why}", markup=False)
    console.print(
        f"{kept.computed} views computed, {kept.found} were there, of {kept.scenes} scenes; "
        f"{len(kept.wrong)} scenes with errors; in {wanted.out}"
    )
    if kept.full:
        console.print(
            f"the cache is full at {config.trainer.tower_cache_gb:g} GB: the other views are computed "
            "while a run trains, or give more with --gb (and the runs --trainer.tower-cache-gb)"
        )
    return 1 if kept.wrong else 0
