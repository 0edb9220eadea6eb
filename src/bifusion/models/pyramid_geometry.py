"""Where the voxels of every pyramid level lie, and how much of each superpoint they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.geometry import Fetch, fetch_together
from bifusion.sparse.coordinates import column, lexicographic_order
from bifusion.sparse.tensor import SparseTensor
from bifusion.types import Batch


@dataclass(frozen=True)
class LevelSize:
    """Numbers of one level, an entry a scene."""

    voxels: list[int]
    pairs: list[int]
    """Of a voxel and a superpoint in it."""


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
        return F.embedding_bag(
            self.pair_superpoint,
            values.contiguous(),
            self._first_pair,
            mode="sum",
            per_sample_weights=self.pair_weight,
        )

    @cached_property
    def _first_pair(self) -> Tensor:
        """(K,) number of each voxel's first pair."""
        voxels = torch.arange(len(self.feats), device=self.feats.device)
        return torch.searchsorted(self.pair_voxel, voxels)


@torch.no_grad()
def superpoint_of_voxel(batch: Batch) -> Tensor:
    """(M,) int64 superpoint, over the batch, of the first point of each voxel."""
    return batch.point_to_superpoint.index_select(0, _first_points(batch))


@torch.no_grad()
def is_first_of_voxel(batch: Batch) -> Tensor:
    """(N,) bool: the first point of each voxel, the one that it stands for in official code."""
    points = torch.arange(len(batch.point_to_voxel), device=batch.point_to_voxel.device)
    return _first_points(batch).index_select(0, batch.point_to_voxel) == points


def _first_points(batch: Batch) -> Tensor:
    """(M,) int64 first point of each voxel."""
    points = torch.arange(len(batch.point_to_voxel), device=batch.point_to_voxel.device)
    first = points.new_full((len(batch.voxel_coords),), len(points))
    return first.scatter_reduce(0, batch.point_to_voxel, points, "amin")


@torch.no_grad()
def level_sizes(batch: Batch, strides: Sequence[int], fetch: Fetch = fetch_together) -> list[LevelSize]:
    """Sizes of the levels of those strides, of the coordinates alone: all the numbers for which the host
    would have to wait in `scene_levels`, by one `fetch`."""
    superpoint, count = superpoint_of_voxel(batch), batch.num_superpoints
    scene, *finest = batch.voxel_coords.long().unbind(1)
    scenes = torch.arange(len(batch.names), device=scene.device)
    counts = []
    for stride in strides:
        x, y, z = (axis.div(stride, rounding_mode="floor") for axis in finest)
        columns, rest = column(scene, x, y), z * count + superpoint
        order = lexicographic_order(columns, rest)
        columns, z, superpoints, of_scene = (t[order] for t in (columns, z, superpoint, scene))
        for first in (_first_of_equal(columns, z), _first_of_equal(columns, z, superpoints)):
            # no index_add: where it is to be deterministic, a scene's voxels are added one by one
            counts.append(((of_scene[:, None] == scenes) & first[:, None]).sum(0))
    numbers = iter(fetch(torch.cat(counts).unbind()))
    of_each = [[next(numbers) for _ in batch.names] for _ in counts]
    return [LevelSize(*pair) for pair in zip(of_each[::2], of_each[1::2], strict=True)]


def scene_levels(
    pyramid: list[SparseTensor], batch: Batch, position_m: Tensor, sizes: Sequence[LevelSize]
) -> list[list[SceneLevel]]:
    """Every level of `pyramid` (coarsest first, the last of stride 1) split by scene.

    `position_m` (M, 3) are the positions of the finest voxels, `sizes` those of `level_sizes` at the
    pyramid's strides. Returns levels[level][scene].

    Pooling is linear, so instead of averaging a map of all queries over voxels level by level, as
    the official code does, the shares of the superpoints in each voxel are averaged once.
    """
    superpoint = superpoint_of_voxel(batch)
    weight = torch.ones(len(superpoint), device=superpoint.device)
    ancestor = torch.arange(len(superpoint), device=superpoint.device)
    levels, count = [], batch.num_superpoints
    for x, size in zip(reversed(pyramid), reversed(sizes), strict=True):
        if x.stride > 1:
            parent = _parents(x)
            children = parent.new_zeros(len(x.coords)).index_add(0, parent, torch.ones_like(parent))
            sums = position_m.new_zeros(len(x.coords), 3).index_add(0, parent, position_m)
            position_m = sums / children[:, None]
            ancestor = parent.index_select(0, ancestor)
            weight = weight / children.index_select(0, ancestor)
        pairs = _pairs(ancestor * count + superpoint, weight, size, count)
        levels.append(_split(x, position_m, pairs, size, batch))
    return levels[::-1]


def _parents(x: SparseTensor) -> Tensor:
    """Row of `x` in which each voxel of the next finer level lies."""
    finer = x.maps.strided(x.stride // 2, 2, 2).transposed
    return finer.neighbors.amax(dim=1).long()  # all -1 but one


def _pairs(
    keys: Tensor, weight: Tensor, size: LevelSize, superpoints: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(voxel, superpoint, weight) of every pair that occurs, sorted by voxel, of the keys voxel ·
    superpoints + superpoint of the finest voxels; `unique` would make the host wait."""
    ascending, order = keys.sort(stable=True)
    number = _first_of_equal(ascending).long().cumsum(0) - 1
    pair = torch.empty_like(number).index_copy_(0, order, number)
    occurring = keys.new_zeros(sum(size.pairs)).scatter_(0, pair, keys)
    weights = weight.new_zeros(sum(size.pairs)).index_add(0, pair, weight)
    return occurring // superpoints, occurring % superpoints, weights


def _first_of_equal(*ascending: Tensor) -> Tensor:
    """(M,) bool: rows that differ, in one of the (M,) tensors, from the row before."""
    first = torch.ones_like(ascending[0], dtype=torch.bool)
    first[1:] = torch.stack([rows[1:] != rows[:-1] for rows in ascending]).any(0)
    return first


def _split(
    x: SparseTensor,
    position_m: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor],
    size: LevelSize,
    batch: Batch,
) -> list[SceneLevel]:
    parts = zip(
        x.feats.split(size.voxels),
        position_m.split(size.voxels),
        *(values.split(size.pairs) for values in pairs),
        strict=True,
    )
    levels, first_voxel, first_superpoint = [], 0, 0
    for b, (feats, position, voxel, superpoint, weight) in enumerate(parts):
        levels.append(
            SceneLevel(feats, position, voxel - first_voxel, superpoint - first_superpoint, weight)
        )
        first_voxel += size.voxels[b]
        first_superpoint += batch.superpoints_per_scene[b]
    return levels
