"""Tiny batches for tests: one point a voxel, voxels on a grid, random input features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bifusion.losses.criterion import Criterion
from bifusion.types import Batch, Prediction, SceneTruth, Targets


def batch_of_superpoints(
    superpoints: list[Tensor],
    targets: list[Targets] | None = None,
    truths: list[SceneTruth] | None = None,
    channels: int = 6,
) -> Batch:
    """A batch of the scenes whose points have the given superpoints (each (N_b,), ids 0 … S_b-1)."""
    per_scene = [int(ids.max()) + 1 for ids in superpoints]
    offsets = np.cumsum([0, *per_scene])
    joined = torch.cat([ids.long() + int(o) for ids, o in zip(superpoints, offsets[:-1], strict=True)])
    coords = torch.cat([_grid_coords(b, len(ids)) for b, ids in enumerate(superpoints)])
    scenes = len(superpoints)
    return Batch(
        names=[f"scene{b}" for b in range(scenes)],
        voxel_coords=coords,
        voxel_feats=torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(0)),
        voxel_position_m=coords[:, 1:] * 0.05,
        point_to_voxel=torch.arange(len(coords)),
        point_to_superpoint=joined,
        points_per_scene=[len(ids) for ids in superpoints],
        superpoints_per_scene=per_scene,
        scene_bounds_m=torch.tensor([[0.0, 0, 0], [1, 1, 1]]).repeat(scenes, 1, 1),
        seeds=list(range(scenes)),
        targets=targets,
        truths=truths,
    )


def _grid_coords(scene: int, number: int) -> Tensor:
    """(number, 4) int32 coordinates of voxels that fill an 8 × 8 column from below."""
    i = torch.arange(number, dtype=torch.int32)
    return torch.stack([torch.full_like(i, scene), i % 8, (i // 8) % 8, i // 64], dim=1)


def targets_of(labels: list[int], owners: list[int], num_classes: int = 20) -> Targets:
    """Targets from the instance that owns each superpoint (-1: none); things follow two stuff classes.

    Superpoints of no instance are unlabelled.
    """
    owner = torch.tensor(owners)
    thing = torch.tensor(labels, dtype=torch.int64)
    semantic = torch.full((len(owners),), num_classes)
    if labels:
        semantic = torch.where(owner >= 0, thing[owner.clamp(min=0)] + 2, semantic)
    masks = owner[None] == torch.arange(len(labels))[:, None]
    return Targets(semantic=semantic, masks=masks, labels=thing)


def layer_terms(
    criterion: Criterion, prediction: Prediction, batch: Batch, index: int
) -> dict[str, Tensor]:
    """The loss terms of decoder output `index` alone, of those that every output has."""
    (context,), given = criterion.contexts(prediction, batch, [index]), prediction.optional_outputs()
    return {
        name: term.function(prediction, batch, context)
        for name, term in criterion.terms.items()
        if term.of_every_output and (term.needs is None or term.needs in given)
    }
