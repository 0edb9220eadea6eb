"""Annotated regions of views: what the image tower's pretraining learns from.

A region is what one view sees of one instance, or of one class without instances (wall, floor).
Where it lies comes from the scan's labels, projected with the visibility test that features are
lifted with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.geometry import LiftingConfig, find_sightings
from bifusion.types import Batch, SceneTruth

MIN_POINTS = 3
"""Projected voxels that a patch needs to be annotated."""
MIN_PURITY = 0.75
"""Share of them that must lie on one region."""


@dataclass
class RegionViews:
    """V views of equal size, the P labelled points they see, and the R regions these form."""

    images: Tensor
    """(V, 3, H, W) uint8 RGB."""
    pixel: Tensor
    """(P, 2) float32: x, y of a projected voxel in its view's image; grouped by view, in order."""
    region: Tensor
    """(P,) int64: 0 … R-1, -1 where the voxel has no label."""
    points_per_view: list[int]
    region_class: Tensor
    """(R,) int64."""
    region_view: Tensor
    """(R,) int64."""

    def points_of(self, view: int) -> tuple[Tensor, Tensor]:
        """Pixels (n, 2) and regions (n,) of one view."""
        first = sum(self.points_per_view[:view])
        chosen = slice(first, first + self.points_per_view[view])
        return self.pixel[chosen], self.region[chosen]


def find_regions(dataset: SceneDataset) -> RegionViews:
    """Regions of all views of a data set read without augmentation (`training` False).

    Scenes without annotation or without views are left out; all may be.
    """
    images, pixels, regions, counts, classes, region_views = [], [], [], [], [], []
    found = 0
    for index in range(len(dataset)):
        batch = collate([dataset.sample(index, epoch=0)])
        if batch.truths is None or not batch.views:
            continue
        pixel, view, region, of_region = scene_regions(batch, batch.truths[0])
        pixels.append(pixel)
        regions.append(torch.where(region >= 0, region + found, -1))
        counts += torch.bincount(view, minlength=len(batch.views)).tolist()
        classes.append(of_region[:, 1])
        region_views.append(of_region[:, 0] + len(images))
        images += [(view.image * 255).round().byte() for view in batch.views]
        found += len(of_region)
    if not images:
        nothing = torch.zeros(0, dtype=torch.int64)
        return RegionViews(torch.zeros(0, 3, 0, 0), torch.zeros(0, 2), nothing, [], nothing, nothing)
    return RegionViews(
        torch.stack(images),
        torch.cat(pixels),
        torch.cat(regions),
        counts,
        torch.cat(classes),
        torch.cat(region_views),
    )


def scene_regions(batch: Batch, truth: SceneTruth) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Regions of the views of a batch of one scene, and the projected voxels that show them.

    Returns:
        pixel (P, 2), view (P,), region (P,) of every sighting, ordered by view; region is 0 … R-1
        or -1. of_region (R, 2): view and class of each region.
    """
    sightings = find_sightings(
        batch.voxel_position_m, batch.voxel_coords[:, 0], batch.views, LiftingConfig()
    )
    order = torch.argsort(sightings.view, stable=True)
    view, voxel = sightings.view[order].numpy(), sightings.voxel[order].numpy()
    semantic, instance = np.full((2, len(batch.voxel_coords)), -1)
    semantic[batch.point_to_voxel.numpy()] = truth.semantic
    instance[batch.point_to_voxel.numpy()] = truth.instance
    # Instances and, numbered after them, the classes without instances.
    thing = np.where(instance >= 0, instance, instance.max(initial=-1) + 1 + semantic)
    labelled = semantic[voxel] >= 0
    keys = np.stack([view, thing[voxel], semantic[voxel]], axis=1)[labelled]
    of_region, number = np.unique(keys, axis=0, return_inverse=True)
    region = np.full(len(voxel), -1)
    region[labelled] = number.reshape(-1)
    return (
        sightings.pixel[order],
        torch.from_numpy(view),
        torch.from_numpy(region),
        torch.from_numpy(of_region[:, [0, 2]]),
    )


def patch_regions(pixel: Tensor, region: Tensor, rows: int, columns: int, patch_size: int) -> Tensor:
    """The region that nearly all points in a patch lie on, -1 where there is none; (rows, columns).

    Args:
        pixel: (n, 2) points of one image; those outside its rows × columns patches do not count.
        region: (n,) region of each, -1 none.
    """
    cell = ((pixel + 0.5) / patch_size).floor().long()
    inside = (cell >= 0).all(1) & (cell[:, 0] < columns) & (cell[:, 1] < rows)
    patch = (cell[:, 1] * columns + cell[:, 0])[inside].numpy()
    total = np.bincount(patch, minlength=rows * columns)
    pairs, count = np.unique(
        np.stack([patch, region[inside].numpy()], axis=1), axis=0, return_counts=True
    )
    enough = (count >= MIN_POINTS) & (count >= MIN_PURITY * total[pairs[:, 0]])
    owner = np.full(rows * columns, -1)
    owner[pairs[enough, 0]] = pairs[enough, 1]
    return torch.from_numpy(owner).view(rows, columns)
