"""From voxels to superpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.types import Batch


def pool_superpoints(voxel_feats: Tensor, batch: Batch, counted: Tensor | None = None) -> Tensor:
    """Mean of `voxel_feats` (M, D) over the *points* of each superpoint: (S, D).

    Points and not voxels are counted, as in OneFormer3D: a voxel with many points of a superpoint
    weighs more than one that only touches it. Of the points only those `counted` (N,) bool, where a
    superpoint has such; None: all. Sums run in at least float32, so half precision features keep their
    accuracy; the result has that type.
    """
    superpoint = batch.point_to_superpoint
    ordered, order = torch.sort(superpoint, stable=True)
    voxel = batch.point_to_voxel.index_select(0, order)
    # by bisection: bincount makes the host wait for a GPU, and an index_add whose rows collide crawls
    # where it is to be deterministic
    numbers = torch.arange(batch.num_superpoints, device=ordered.device)
    ends = torch.searchsorted(ordered, numbers, right=True)
    counts = ends.diff(prepend=ends.new_zeros(1))
    starts, weight = ends - counts, None
    voxel_feats = voxel_feats.to(torch.promote_types(voxel_feats.dtype, torch.float32))
    if counted is not None:
        counted = counted.index_select(0, order)
        before = F.pad(counted.cumsum(0), (1, 0))
        own = before.index_select(0, ends) - before.index_select(0, starts)
        counts = torch.where(own > 0, own, counts)
        weight = (counted | (own == 0).index_select(0, ordered)).to(voxel_feats.dtype)
    # a bag of voxel rows a superpoint: no (N, D) copy of the features of all points is ever made
    sums = F.embedding_bag(voxel, voxel_feats, starts, mode="sum", per_sample_weights=weight)
    return sums / counts.clamp(min=1)[:, None]
