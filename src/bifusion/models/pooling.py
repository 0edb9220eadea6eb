"""From voxels to superpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.types import Batch


def pool_superpoints(voxel_feats: Tensor, batch: Batch) -> Tensor:
    """Mean of `voxel_feats` (M, D) over the *points* of each superpoint: (S, D).

    Points and not voxels are counted, as in OneFormer3D: a voxel with many points of a superpoint
    weighs more than one that only touches it. Sums run in at least float32, so half precision
    features keep their accuracy; the result has that type.
    """
    superpoint = batch.point_to_superpoint
    ordered, order = torch.sort(superpoint, stable=True)
    voxel = batch.point_to_voxel.index_select(0, order)
    # by bisection: bincount makes the host wait for a GPU, and an index_add whose rows collide crawls
    # where it is to be deterministic
    numbers = torch.arange(batch.num_superpoints, device=ordered.device)
    ends = torch.searchsorted(ordered, numbers, right=True)
    counts = ends.diff(prepend=ends.new_zeros(1))
    voxel_feats = voxel_feats.to(torch.promote_types(voxel_feats.dtype, torch.float32))
    # a bag of voxel rows a superpoint: no (N, D) copy of the features of all points is ever made
    sums = F.embedding_bag(voxel, voxel_feats, ends - counts, mode="sum")
    return sums / counts.clamp(min=1)[:, None]
