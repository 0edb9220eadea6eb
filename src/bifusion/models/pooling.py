"""From voxels to superpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from bifusion.types import Batch


def pool_superpoints(voxel_feats: Tensor, batch: Batch) -> Tensor:
    """Mean of `voxel_feats` (M, D) over the *points* of each superpoint: (S, D).

    Points and not voxels are counted, as in OneFormer3D: a voxel with many points of a superpoint
    weighs more than one that only touches it. Sums run in at least float32, so half precision
    features keep their accuracy; the result has that type.
    """
    superpoint = batch.point_to_superpoint
    num_superpoints = batch.num_superpoints
    point_feats = voxel_feats.index_select(0, batch.point_to_voxel)
    point_feats = point_feats.to(torch.promote_types(point_feats.dtype, torch.float32))
    sums = point_feats.new_zeros(num_superpoints, point_feats.shape[1])
    sums = sums.index_add(0, superpoint, point_feats)
    counts = torch.bincount(superpoint, minlength=num_superpoints).clamp(min=1)
    return sums / counts[:, None]
