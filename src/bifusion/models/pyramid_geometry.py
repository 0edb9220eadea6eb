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
    positions, pairs = [], []
    for x in reversed(pyramid):
        if x.stride > 1:
            parent = _parents(x)
            children = _counts(parent, len(x.coords))
            sums = position_m.new_zeros(len(x.coords), 3).index_add(0, parent, position_m)
            position_m = sums / children[:, None]
            ancestor = parent.index_select(0, ancestor)
            weight = weight / children.index_select(0, ancestor)
        positions.append(position_m)
        pairs.append(_Pairs(ancestor * batch.num_superpoints + superpoint, weight))
    sizes = _sizes(pyramid[::-1], pairs, batch)
    levels = [
        _split(
            x, position_m, of_level.listed(sum(of_pairs), batch.num_superpoints), voxels, of_pairs, batch
        )
        for x, position_m, of_level, (voxels, of_pairs) in zip(
            reversed(pyramid), positions, pairs, sizes, strict=True
        )
    ]
    return levels[::-1]


def _parents(x: SparseTensor) -> Tensor:
    """Row of `x` in which each voxel of the next finer level lies."""
    finer = x.maps.strided(x.stride // 2, 2, 2).transposed
    return finer.neighbors.amax(dim=1).long()  # all -1 but one


def _counts(rows: Tensor, size: int) -> Tensor:
    """(size,) int64: how often each number occurs in `rows`; bincount would make the host wait."""
    return rows.new_zeros(size, dtype=torch.int64).index_add(
        0, rows, torch.ones_like(rows, dtype=torch.int64)
    )


class _Pairs:
    """The pairs of a level's voxel and a superpoint, of which only the device knows how many there are.

    keys: (M,) int64 voxel · superpoints + superpoint of every finest voxel; weight: (M,) its share.
    """

    def __init__(self, keys: Tensor, weight: Tensor) -> None:
        self._keys, self._weight = keys, weight
        ascending, order = keys.sort(stable=True)
        self.new = torch.ones_like(ascending, dtype=torch.bool)
        """(M,): the first of equal keys in ascending order."""
        self.new[1:] = ascending[1:] != ascending[:-1]
        number = self.new.long().cumsum(0) - 1
        self.first_voxel = order
        """(M,): the finest voxels in that order."""
        self._number = torch.empty_like(number).index_copy_(0, order, number)

    def listed(self, count: int, superpoints: int) -> tuple[Tensor, Tensor, Tensor]:
        """(voxel, superpoint, weight) of every pair that occurs, `count` of them, sorted by voxel."""
        keys = self._keys.new_zeros(count).scatter_(0, self._number, self._keys)
        weights = self._weight.new_zeros(count).index_add(0, self._number, self._weight)
        return keys // superpoints, keys % superpoints, weights


def _sizes(
    levels: list[SparseTensor], pairs: list[_Pairs], batch: Batch
) -> list[tuple[list[int], list[int]]]:
    """For each level its voxels and its pairs a scene; the host waits for a device once for all."""
    scenes, finest = len(batch.names), batch.voxel_coords[:, 0].long()
    counts = []
    for x, of_level in zip(levels, pairs, strict=True):
        scene = finest.index_select(0, of_level.first_voxel)
        counts.append(_counts(x.coords[:, 0].long(), scenes))
        counts.append(finest.new_zeros(scenes).index_add(0, scene, of_level.new.long()))
    table = torch.stack(counts).tolist()
    return list(zip(table[::2], table[1::2], strict=True))


def _split(
    x: SparseTensor,
    position_m: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    sizes: list[int],
    pair_sizes: list[int],
    batch: Batch,
) -> list[SceneLevel]:
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
