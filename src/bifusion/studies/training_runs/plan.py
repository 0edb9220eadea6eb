"""Which runs a study trains, and whether each of them can start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bifusion.config.run import Config
from bifusion.config.stages import Timeline
from bifusion.data.dataset import SceneDataset, with_labels
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.towers.clip_weights import FILE_SUFFIXES, locate_weights
from bifusion.recipes import get_recipe
from bifusion.runs.check_config import check_config
from bifusion.runs.run_folder import RunFolder
from bifusion.runs.same_run import is_to_go_on

FINISHED = ("completed", "guard_stopped")


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, and the folder it trains in."""

    config: Config
    folder: Path

    @property
    def finished(self) -> bool:
        """Trained to its end (or stopped by its guard) and evaluated."""
        folder = RunFolder(self.folder)
        status, evaluated = folder.read_status(), folder.evaluation.exists()
        ended = status is not None and status.state in FINISHED
        return ended and evaluated and not is_to_go_on(folder, self.config)


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

    All of them read `data`; `tower_weights` initialises the image tower of those that have one (but
    for the control whose tower is to be random), `epochs` overrides the length of all. InputError
    for an unknown recipe, or a damaged labels.json in `data`.
    """
    runs = []
    for seed in seeds:
        for recipe in recipes:
            config = get_recipe(recipe)
            config.seed = seed
            config.data.root = data
            config.data = with_labels(config.data)
            if epochs is not None:
                config.trainer.epochs = epochs
            tower = tower_for_weights(config)
            if tower is not None and tower_weights is not None:
                tower.pretrained = str(tower_weights)
            runs.append(PlannedRun(config, out / f"{config.name}-seed{seed}"))
    return runs


def tower_for_weights(config: Config) -> ClipConfig | None:
    """The image tower that pretrained weights are for; not that of the control with a random one."""
    return None if config.arm == "random_tower" else config.model.pretrained_tower


def check_runs(runs: Sequence[PlannedRun]) -> None:
    """InputError for what would end a run as it starts: its numbers, length, data or weights."""
    for config in (run.config for run in runs):
        check_config(config)
        Timeline(config.stages, config.trainer.epochs)
        for split in ("train", "val"):
            SceneDataset(config.data, split, config.seed, training=False)
        tower = tower_for_weights(config)
        if tower is not None and Path(tower.pretrained or "").suffix in FILE_SUFFIXES:
            locate_weights(tower.architecture, str(tower.pretrained), quick_gelu=False)


def default_jobs() -> int:
    """Runs at a time: one a GPU; without one two, which use two cores better than one run does."""
    return torch.cuda.device_count() or min(2, os.cpu_count() or 1)
