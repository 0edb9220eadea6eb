"""Features of all views of a data set, computed before any training: the view cache filled in advance.

Runs find them as they find what an earlier run left (`models/towers/view_cache.py`): by weights, pixels
and arithmetic, so these must be those of the runs. An interrupted call goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from lightning_fabric import Fabric

from bifusion.config.run import Config, config_from_dict, config_to_dict
from bifusion.data.dataset import DataConfig, open_scenes, with_labels
from bifusion.data.images import encoder_view
from bifusion.datasets.processes import Died, run_in_processes
from bifusion.datasets.shards import WHOLE, Shard
from bifusion.errors import InputError
from bifusion.models.build import build_model
from bifusion.models.towers.dense import DenseTower
from bifusion.models.towers.view_cache import ViewCache, bytes_under
from bifusion.precision import float32_products
from bifusion.runs.check_config import check_config
from bifusion.step.runtime import deterministic, make_fabric
from bifusion.storage.json_files import json_text

SPLITS = ("train", "val")
ALMOST = 0.99
"""A cache so full counts as full: the next view is larger than what is left."""


@dataclass
class KeptFeatures:
    """What a call left."""

    computed: int = 0
    found: int = 0
    """Views whose features were there already."""
    scenes: int = 0
    wrong: dict[str, str] = dataclasses.field(default_factory=dict)
    """Scene → why it was left out, or not finished."""
    full: bool = False
    """The limit was reached, or the folder can no longer be written to, which is warned of; what was not
    kept is computed in training."""


@dataclass(frozen=True)
class _Job:
    """One scene, for a process that knows nothing yet."""

    config: str
    folder: Path
    limit_bytes: int
    threads: int | None
    split: str
    scene: str


@dataclass(frozen=True)
class _Done:
    computed: int = 0
    found: int = 0
    wrong: str | None = None
    stored: int = 0
    """Bytes added to the cache."""
    full: bool = False


def keep_features(
    config: Config,
    folder: Path,
    *,
    splits: Sequence[str] = SPLITS,
    shard: Shard = WHOLE,
    workers: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KeptFeatures:
    """Fills the cache in `folder` with the features of all views of `config.data`, at most
    `config.trainer.tower_cache_gb` of them.

    Args:
        folder: where runs look (`trainer.tower_cache_dir`; by default .tower-cache beside their
            folders).
        shard: i of n: every n-th scene, from the i-th on, so that n machines share the work.
        workers: processes; 0: this one.
        threads: of each process, and of the runs that are to find the features, whose last bits depend
            on it; None: as many as torch takes.
    Raises:
        InputError: a recipe without an image tower whose features can be kept, no such data set,
            weights that cannot be had. What is wrong with a single scene is told in the result.
    """
    config = check_config(config)
    config = dataclasses.replace(config, data=with_labels(config.data))
    text, limit = json_text(config_to_dict(config)), int(config.trainer.tower_cache_gb * 2**30)
    jobs = [
        _Job(text, folder.absolute(), limit, threads, split, name)
        for split in splits
        for name in _scenes(config, split)
    ]
    jobs = shard.of(jobs)
    _tower(text, folder.absolute(), limit)  # refused here, before any process starts
    kept, size = KeptFeatures(), bytes_under(folder)
    for done, (number, result) in enumerate(run_in_processes(_keep_scene, jobs, workers)):
        if isinstance(result, Died):
            result = _Done(wrong=f"its process {result}")
        kept.computed, kept.found = kept.computed + result.computed, kept.found + result.found
        if result.wrong is not None:
            kept.wrong[f"{jobs[number].split}/{jobs[number].scene}"] = result.wrong
        kept.scenes += result.wrong is None
        if progress is not None:
            progress(done + 1, len(jobs))
        size += result.stored
        if size >= ALMOST * limit:  # unless other towers' have made room
            size = bytes_under(folder)
        if result.full or size >= ALMOST * limit:
            kept.full = True
            break
    return kept


def _scenes(config: Config, split: str) -> list[str]:
    return open_scenes(_all_views(config), split, annotated=False).names


def _all_views(config: Config) -> DataConfig:
    """Views are read even where the recipe withholds them; which of them is asked here."""
    return dataclasses.replace(config.data, max_views=max(1, config.data.max_views))


@lru_cache(maxsize=1)
def _tower(config: str, folder: Path, limit_bytes: int) -> tuple[Config, Fabric, DenseTower]:
    """The tower of the runs with its cache, frozen; once a process."""
    whole = config_from_dict(json.loads(config))
    model = build_model(whole.model, whole.seed, whole.labels)
    tower = getattr(model, "tower", None)
    if not isinstance(tower, DenseTower):
        raise InputError(
            f"{whole.name}: it has no image tower whose features can be kept; expected a recipe such as "
            "bifusion_small"
        )
    fabric = make_fabric(whole.trainer)
    tower = tower.to(fabric.device).requires_grad_(False).train()
    tower.keep_views(ViewCache(folder, limit_bytes))
    return whole, fabric, tower


def _keep_scene(job: _Job) -> _Done:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    config, fabric, tower = _tower(job.config, job.folder, job.limit_bytes)
    data = _all_views(config)
    cache = tower.cache
    assert cache is not None
    misses, hits, stored, wrong = cache.misses, cache.hits, cache.stored, None
    try:
        scenes = open_scenes(data, job.split, annotated=False)
        repeatable = deterministic(config.trainer.deterministic, fabric.device)
        products = float32_products(config.trainer.matmul, fabric.device)
        with repeatable, products, torch.no_grad():
            for name in scenes.scene(job.scene).view_names:
                view = encoder_view(
                    scenes.view(job.scene, name), data.image_size, data.patch_size, data.depth_size
                )
                with fabric.autocast():
                    tower.encode_views([fabric.to_device(view.to_batch_view(0))])
    except InputError as error:
        wrong = str(error)
    return _Done(cache.misses - misses, cache.hits - hits, wrong, cache.stored - stored, cache.full)
