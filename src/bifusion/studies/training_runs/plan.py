"""Which runs a study trains, and whether each of them can start."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from bifusion.config.run import Config
from bifusion.config.stages import Timeline
from bifusion.data.dataset import SceneDataset, with_labels
from bifusion.errors import InputError, listing
from bifusion.models.towers.clip import ClipConfig
from bifusion.recipes import get_recipe
from bifusion.runs.check_config import check_config
from bifusion.runs.run_folder import RunFolder
from bifusion.runs.same_run import is_to_go_on


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, and the folder it trains in."""

    config: Config
    folder: Path

    @property
    def finished(self) -> bool:
        """Trained to its end (or stopped by its guard) and evaluated."""
        folder = RunFolder(self.folder)
        status = folder.read_status()
        ended = status is not None and status.is_over
        return ended and folder.is_evaluated and not is_to_go_on(folder, self.config)


def check_seeds(seeds: Sequence[int]) -> None:
    """InputError unless there are some, each once."""
    if len(set(seeds)) < max(1, len(seeds)):
        raise InputError(f"--seeds {tuple(seeds)}: expected one or more, each once")


def plan_runs(
    recipes: Sequence[str],
    seeds: Sequence[int],
    data: Path,
    out: Path,
    *,
    tower_weights: Path | None = None,
    epochs: int | None = None,
) -> list[PlannedRun]:
    """Every recipe with every seed, seed by seed, in folders `out/NAME-seedK`.

    All of them read `data`; `tower_weights` initialises the image towers (`give_weights`), `epochs`
    overrides the length of all. InputError for no seed or one given twice, an unknown recipe, a damaged
    labels.json in `data`, or towers of several kinds that one file would be for.
    """
    check_seeds(seeds)
    runs = []
    for seed in seeds:
        for recipe in recipes:
            config = get_recipe(recipe)
            config.seed = seed
            config.data.root = data
            config.data = with_labels(config.data)
            if epochs is not None:
                config.trainer.epochs = epochs
            runs.append(PlannedRun(config, out / f"{config.name}-seed{seed}"))
    if tower_weights is not None:
        give_weights([run.config for run in runs], tower_weights)
    return runs


def give_weights(configs: Sequence[Config], weights: Path) -> None:
    """Lets the image towers that take weights start from the file `weights`: those that name none of
    their own, or, where all do, all of them. InputError where these are of several architectures."""
    towers = [(config, tower) for config in configs if (tower := config.tower_for_weights) is not None]
    without = [(config, tower) for config, tower in towers if tower.reads is None]
    given = without or towers
    architectures = {f"{tower.kind} {getattr(tower, 'architecture', '')}".strip() for _, tower in given}
    if len(architectures) > 1:
        raise InputError(
            f"tower weights {weights}: the recipes' image towers are of several architectures "
            f"({', '.join(sorted(architectures))}), which one file cannot fit; compare them with "
            "weights named in their recipes (model.tower.pretrained)"
        )
    for config, tower in given:
        config.model = config.model.with_tower(tower.with_weights(str(weights)))


def need_small_tower(recipes: Sequence[str]) -> bool:
    """Whether one of the recipes has the small image tower, pretrained on generated rooms."""
    towers = [get_recipe(recipe).tower_for_weights for recipe in recipes]
    return any(isinstance(tower, ClipConfig) and tower.architecture == "small" for tower in towers)


def tell_untrained_towers(runs: Sequence[PlannedRun], console: Console) -> None:
    """Names the recipes, if there are some, whose image tower starts from random weights."""
    names = dict.fromkeys(run.config.name for run in runs if run.config.has_untrained_tower)
    if names:
        console.print(
            f"{', '.join(names)}: trained with an image tower of random weights; --tower-weights FILE "
            "(in Python tower_weights) starts from trained ones",
            markup=False,
        )


def check_distinct(runs: Sequence[PlannedRun]) -> None:
    """InputError where two runs are one: the second would find the first at work in its folder."""
    counts = Counter(run.folder for run in runs)
    if twice := [folder.name for folder, count in counts.items() if count > 1]:
        raise InputError(
            f"{listing(twice)}: asked for more than once; name each recipe, seed and value once"
        )


def check_settings(runs: Sequence[PlannedRun]) -> None:
    """InputError for what of a run's configuration would end it as it starts, its numbers or length, or
    that it is there twice. Its data need not be there yet."""
    check_distinct(runs)
    for run in runs:
        config = check_config(run.config)
        Timeline(config.stages, config.trainer.epochs)


def check_runs(runs: Sequence[PlannedRun]) -> None:
    """InputError for what would end a run as it starts: its settings, data or weights."""
    check_settings(runs)
    for config in (check_config(run.config) for run in runs):
        for split in ("train", "val"):
            SceneDataset(config.data, split, config.seed, training=False)
        tower = config.tower_for_weights
        if tower is not None:
            tower.check_weights()


def default_jobs() -> int:
    """Runs at a time: one a GPU; without one two, which use two cores better than one run does."""
    return torch.cuda.device_count() or min(2, os.cpu_count() or 1)
