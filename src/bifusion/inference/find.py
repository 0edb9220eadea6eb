"""Searches a scan for words: CLIP's dense features of its views, lifted, pooled, compared with them.

As OpenScene (Peng et al., CVPR 2023) and OpenMask3D (Takmaz et al., NeurIPS 2023) without their training
and mask proposals: every patch of every view is a unit vector in the space of words (clip_parts.py), a
voxel the mean of those at its pixels, a region the mean over its points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.bounds import PositiveFloat, PositiveInt, check_bounds
from bifusion.data.batching import collate
from bifusion.data.dataset import DataConfig, scene_sample
from bifusion.data.open_scene import OpenScene
from bifusion.data.scene_source import OneScene
from bifusion.data.transforms import SceneStream
from bifusion.errors import InputError
from bifusion.geometry import LiftingConfig, find_sightings, lift_features
from bifusion.inference.found import Found, Instances, Regions
from bifusion.inference.scene_warning import warn_of_views
from bifusion.inference.word_tower import WordTower
from bifusion.models.pooling import pool_superpoints
from bifusion.models.towers.clip_text import check_words
from bifusion.precision import full_float32
from bifusion.torch_defaults import as_torch_starts
from bifusion.types import Batch

Progress = Callable[[int, int], None]
"""Views done, of all."""


@dataclass(frozen=True)
class FindOptions:
    """How a scan is looked at."""

    views: PositiveInt = 16
    """Most views that are looked at, spread evenly."""
    image_size: PositiveInt = 448
    """Long side in pixels of the images that the tower sees."""
    voxel_size_m: PositiveFloat = 0.03
    """Side of the voxels that features are lifted to."""


@as_torch_starts()
def find_words(
    scene: OpenScene,
    words: Sequence[str],
    tower: WordTower,
    options: FindOptions | None = None,
    *,
    instances: Instances | None = None,
    progress: Progress = lambda done, count: None,
) -> Found:
    """How well the superpoints of a scene, and a prediction's objects, fit each of `words`.

    Args:
        scene: with views and superpoints; annotation is not looked at.
        words: taken as they are: "a red chair" and "a photo of a red chair" are two searches.
        tower: of `load_word_tower`.
        instances: objects at the scene's points.

    Raises:
        InputError: a scene without views, or whose views see nothing; empty words; instances of other
            points; an option out of its bounds; whatever is wrong with the scene.
    """
    words = check_words(words)
    if instances is not None and len(instances.of_point) != len(scene.coord):
        raise InputError(
            f"prediction: is of {len(instances.of_point)} points, scene {scene.name} has "
            f"{len(scene.coord)}; name the prediction that was made of it"
        )
    batch = scene_batch(scene, tower.image.size.patch_size, options or FindOptions()).to(tower.device)
    text = tower.text(words)
    features, seen = _lift(batch, tower, progress)
    share = float(seen.index_select(0, batch.point_to_voxel).float().mean())
    if share == 0:
        raise InputError(
            f"scene {scene.name}: its {len(batch.views)} views see none of its points, so that there is "
            "nothing to compare with words; `bifusion check` tells what is wrong with poses or depth"
        )
    coord = np.asarray(scene.coord)
    points = coord + scene.offset_m if scene.offset_m.any() else coord

    def measured(of_point: np.ndarray, ids: np.ndarray, **known: Any) -> Regions:
        regions = torch.from_numpy(of_point).to(tower.device)
        similarity, seen_share = _compare(batch, features, seen, regions, len(ids), text)
        boxes = _boxes(points, of_point, len(ids))
        return Regions(of_point, ids, *boxes, seen_share, similarity, **known)

    superpoint = batch.point_to_superpoint.cpu().numpy()
    superpoints = measured(superpoint, np.arange(batch.num_superpoints))
    objects = None
    if instances is not None:
        ids, of_point = _compact(instances.of_point)
        known = {"class_names": instances.class_names, "scores": instances.scores}
        objects = measured(of_point, ids, **known)
    offset_m, said = scene.offset_m, tower.image.describe()
    return Found(scene.name, points, offset_m, tuple(words), superpoints, objects, share, said)


def require_views(scene: OpenScene) -> None:
    """InputError for a scene without any."""
    if not scene.view_names:
        raise InputError(
            f"scene {scene.name}: has no views, and words are found in pictures; give a scene folder "
            "with views/ (`bifusion prepare` makes them of a recording or of ScanNet)"
        )


def scene_batch(scene: OpenScene, patch_size: int, options: FindOptions) -> Batch:
    """The scene with the views that are looked at; InputError for whatever is wrong with it, or with the
    options."""
    check_bounds(options)
    require_views(scene)
    config = DataConfig(
        voxel_size_m=options.voxel_size_m,
        max_views=options.views,
        image_size=options.image_size,
        patch_size=patch_size,
    )
    scenes = OneScene(scene, read_views=True)
    sample = scene_sample(scenes, scene.name, config, SceneStream(0, 0, scene.name))
    warn_of_views(f"scene {scene.name}", scenes, scene.name, config.agreement)
    return collate([sample])


@torch.inference_mode()
def _lift(batch: Batch, tower: WordTower, progress: Progress) -> tuple[Tensor, Tensor]:
    """(M, D) features of the voxels, 0 where unseen, and (M,) bool, where they are seen."""
    maps = []
    for number, view in enumerate(batch.views):
        progress(number, len(batch.views))
        with full_float32(view.image.device):
            maps.append(F.normalize(tower.image.encode_views([view])[0].float(), dim=2))
    progress(len(batch.views), len(batch.views))
    scene, per_scene = batch.voxel_coords[:, 0], batch.voxels_per_scene
    position_m, lifting = batch.voxel_position_m, LiftingConfig()
    sightings = find_sightings(position_m, scene, batch.views, lifting, per_scene)
    return lift_features(maps, batch.views, sightings), sightings.seen


@torch.inference_mode()
def _compare(
    batch: Batch, features: Tensor, seen: Tensor, regions: Tensor, count: int, text: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """(R, W) cosines of `count` regions, NaN where unseen, and (R,) the share of each that is seen.

    `regions`: (N,) row of each point's, −1 none.
    """
    rows = torch.where(regions < 0, count, regions)
    of_regions = dataclasses.replace(batch, point_to_superpoint=rows, superpoints_per_scene=[count + 1])
    pooled = F.normalize(pool_superpoints(features, of_regions)[:count], dim=1)
    share = pool_superpoints(seen[:, None].float(), of_regions)[:count, 0]
    similarity = (pooled @ text.T).masked_fill(share[:, None] == 0, torch.nan)
    return similarity.cpu().numpy(), share.cpu().numpy()


def _compact(instance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids that there are, ascending, and (N,) int64 each point's place among them, −1 none."""
    ids = np.unique(instance[instance >= 0])
    return ids, np.where(instance < 0, -1, np.searchsorted(ids, instance)).astype(np.int64)


def _boxes(
    points: np.ndarray, of_point: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each region, none of which is empty, (R,) points, and (R, 3) corners of its box."""
    if count == 0:
        return np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3))
    inside = np.flatnonzero(of_point >= 0)
    order = inside[np.argsort(of_point[inside], kind="stable")]
    starts = np.searchsorted(of_point[order], np.arange(count))
    low, high = (f.reduceat(points[order], starts, axis=0) for f in (np.minimum, np.maximum))
    return np.bincount(of_point[inside], minlength=count), low, high
