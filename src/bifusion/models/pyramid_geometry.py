"""Where the voxels of every pyramid level lie, and how much of each superpoint they hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bifusion.sparse.tensor import SparseTensor
from bifusion.types import Batch


@dataclass
class SceneLevel:
    """One level of one scene: K voxels, S_b superpoints, P pairs of a voxel and a superpoint in it."""

    feats: Tensor
    """(K, C)."""
    position_m: Tensor
    """(K, 3): mean of means, a voxel's position is the mean of those of its (up to 8) finer ones."""
    pair_voxel: Tensor
    """(P,) int64 voxel of each pair, ascending."""
    pair_superpoint: Tensor
    """(P,) int64 superpoint within the scene."""
    pair_weight: Tensor
    """(P,) share of the superpoint in the voxel, again as a mean of means; sums to 1 a voxel."""

    def spread(self, values: Tensor) -> Tensor:
        """(K, D): `values` (S_b, D) of the superpoints, averaged in every voxel."""
        share = values.index_select(0, self.pair_superpoint) * self.pair_weight[:, None]
        return share.new_zeros(len(self.feats), values.shape[1]).index_add(0, self.pair_voxel, share)


@torch.no_grad()
def superpoint_of_voxel(batch: Batch) -> Tensor:
    """(M,) int64 superpoint, over the batch, of the first point of each voxel."""
    points = torch.arange(len(batch.point_to_voxel), device=batch.point_to_voxel.device)
    first = points.new_full((len(batch.voxel_coords),), len(points))
    first = first.scatter_reduce(0, batch.point_to_voxel, points, "amin")
    return batch.point_to_superpoint.index_select(0, first)


def scene_levels(
    pyramid: list[SparseTensor], batch: Batch, position_m: Tensor
) -> list[list[SceneLevel]]:
    """Every level of `pyramid` (coarsest first, the last of stride 1) split by scene.

    `position_m` (M, 3) are the positions of the finest voxels. Returns levels[level][scene].

    Pooling is linear, so instead of averaging a map of all queries over voxels level by level, as
    the official code does, the shares of the superpoints in each voxel are averaged once.
    """
    superpoint = superpoint_of_voxel(batch)
    weight = torch.ones(len(superpoint), device=superpoint.device)
    ancestor = torch.arange(len(superpoint), device=superpoint.device)
    levels = []
    for x in reversed(pyramid):
        if x.stride > 1:
            parent = _parents(x)
            children = torch.bincount(parent, minlength=len(x.coords))
            sums = position_m.new_zeros(len(x.coords), 3).index_add(0, parent, position_m)
            position_m = sums / children[:, None]
            ancestor = parent.index_select(0, ancestor)
            weight = weight / children.index_select(0, ancestor)
        levels.append(_split(x, position_m, _pairs(ancestor, superpoint, weight, batch), batch))
    return levels[::-1]


def _parents(x: SparseTensor) -> Tensor:
    """Row of `x` in which each voxel of the next finer level lies."""
    finer = x.maps.strided(x.stride // 2, 2, 2).transposed
    return finer.neighbors.amax(dim=1).long()  # all -1 but one


def _pairs(ancestor: Tensor, superpoint: Tensor, weight: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    """(voxel, superpoint, weight) of every pair that occurs, sorted by voxel."""
    count = batch.num_superpoints
    keys, pair = (ancestor * count + superpoint).unique(return_inverse=True)
    weights = weight.new_zeros(len(keys)).index_add(0, pair, weight)
    return keys // count, keys % count, weights


def _split(
    x: SparseTensor, position_m: Tensor, pairs: tuple[Tensor, ...], batch: Batch
) -> list[SceneLevel]:
    scenes = len(batch.names)
    sizes = torch.bincount(x.coords[:, 0], minlength=scenes).tolist()
    pair_scene = x.coords[:, 0].index_select(0, pairs[0])
    pair_sizes = torch.bincount(pair_scene, minlength=scenes).tolist()
    parts = zip(
        x.feats.split(sizes),
        position_m.split(sizes),
        *(values.split(pair_sizes) for values in pairs),
        strict=True,
    )
    levels, first_voxel, first_superpoint = [], 0, 0
    for b, (feats, position, voxel, superpoint, weight) in enumerate(parts):
        levels.append(
            SceneLevel(feats, position, voxel - first_voxel, superpoint - first_superpoint, weight)
        )
        first_voxel += sizes[b]
        first_superpoint += batch.superpoints_per_scene[b]
    return levels
