"""Whether a study's scenes can be read: found out once, before its runs, and not by each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console

from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset
from bifusion.errors import InputError, listing_lines
from bifusion.runs.run_folder import RunFolder
from bifusion.studies.training_runs.plan import PlannedRun
from bifusion.studies.training_runs.progress import progress_bar
from bifusion.training.preconditions import check_data

MOST_TOLD = 5
"""Scenes whose faults are told one by one."""


def check_scenes(runs: Sequence[PlannedRun], console: Console) -> None:
    """InputError naming every scene of the runs' data that cannot be read, how many they are, or what
    their annotation lacks.

    A scene is read as validation reads it, with one of its views: to decode all images takes as long as
    an epoch. Only before the first run: where one has begun, it has read its data.
    """
    if any(RunFolder(run.folder).steps.exists() for run in runs):
        return
    for config in _one_of_each_data(run.config for run in runs):
        views = min(config.data.max_views, 1)
        data = dataclasses.replace(config.data, max_views=views, cache_mb=0)
        splits = [SceneDataset(data, split, config.seed, training=False) for split in ("train", "val")]
        check_data(splits[0], config)
        with progress_bar("scenes looked at", console) as progress:
            found = _faults(splits, progress)
        if found:
            total = sum(map(len, splits))
            told = listing_lines(found, MOST_TOLD)
            raise InputError(f"{len(found)} of {total} scenes cannot be used:{told}")


def _one_of_each_data(configs: Iterable[Config]) -> list[Config]:
    """Of the configurations of each data set the first that reads most views."""
    found: dict[tuple, Config] = {}
    for config in sorted(configs, key=lambda config: -config.data.max_views):
        data = config.data
        found.setdefault((data.root, data.source, data.classes.name), config)
    return list(found.values())


def _faults(splits: Sequence[SceneDataset], progress: Callable[[int, int], None]) -> list[str]:
    """What is wrong with each scene that cannot be read."""
    found, done, total = [], 0, sum(map(len, splits))
    for dataset in splits:
        for index in range(len(dataset)):
            try:
                dataset.sample(index, 0)
            except InputError as error:
                found.append(str(error))
            done += 1
            progress(done, total)
    return found
