"""Samples of single scenes in numpy, and their concatenation into a Batch of tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bifusion.data.images import EncoderView
from bifusion.data.voxels import SuperpointLabels
from bifusion.types import Batch, BatchView, SceneTruth, Targets


@dataclass
class Sample:
    """One scene ready for a batch. Numpy, because that crosses process borders without using up
    file descriptors as shared tensors would. Shapes as in types.Batch, for this scene alone."""

    name: str
    voxel_coords: np.ndarray
    """(M, 3) int32."""
    voxel_feats: np.ndarray
    voxel_position_m: np.ndarray
    point_to_voxel: np.ndarray
    point_to_superpoint: np.ndarray
    num_superpoints: int
    bounds_m: np.ndarray
    """(2, 3) float32."""
    seed: int
    targets: SuperpointLabels
    """Nothing labelled and no instance where the scene has no annotation."""
    truth: SceneTruth | None = None
    """Only in validation; -1 everywhere where the scene has no annotation."""
    annotated: bool = True
    views: list[EncoderView] = field(default_factory=list)
    voxel_augmented_m: np.ndarray | None = None
    """None where the scene was not augmented."""


def collate(samples: list[Sample]) -> Batch:
    """The batch of `samples`, in their order.

    `truths` is None in training. In validation and prediction, `targets` and `truths` are None where
    no scene of the batch is annotated.
    """
    voxels = _offsets([len(sample.voxel_coords) for sample in samples])
    superpoints = _offsets([sample.num_superpoints for sample in samples])
    coords = [
        np.column_stack([np.full(len(s.voxel_coords), index, np.int32), s.voxel_coords])
        for index, s in enumerate(samples)
    ]
    views: list[BatchView] = [
        view.to_batch_view(index) for index, sample in enumerate(samples) for view in sample.views
    ]
    truths = [sample.truth for sample in samples if sample.truth is not None]
    augmented = [s.voxel_augmented_m for s in samples if s.voxel_augmented_m is not None]
    unannotated = bool(truths) and not any(sample.annotated for sample in samples)
    return Batch(
        names=[sample.name for sample in samples],
        voxel_coords=_tensor(coords),
        voxel_feats=_tensor([s.voxel_feats for s in samples]),
        voxel_position_m=_tensor([s.voxel_position_m for s in samples]),
        point_to_voxel=_tensor([s.point_to_voxel + at for s, at in zip(samples, voxels, strict=True)]),
        point_to_superpoint=_tensor(
            [s.point_to_superpoint + at for s, at in zip(samples, superpoints, strict=True)]
        ),
        points_per_scene=[len(sample.point_to_voxel) for sample in samples],
        superpoints_per_scene=[sample.num_superpoints for sample in samples],
        scene_bounds_m=torch.from_numpy(np.stack([sample.bounds_m for sample in samples])),
        seeds=[sample.seed for sample in samples],
        voxel_augmented_m=_tensor(augmented) if len(augmented) == len(samples) else None,
        targets=None if unannotated else [_targets(sample) for sample in samples],
        truths=None if unannotated or not truths else truths,
        views=views,
    )


def split_scenes(batch: Batch) -> list[Batch]:
    """A batch of its own for each scene of `batch`, in order."""
    return [select_scenes(batch, [index]) for index in range(len(batch.names))]


def select_scenes(batch: Batch, scenes: list[int]) -> Batch:
    """The batch that only the given scenes, indices that ascend, would have made."""
    sizes = torch.bincount(batch.voxel_coords[:, 0].long(), minlength=len(batch.names)).tolist()
    voxels, points = _offsets(sizes), _offsets(batch.points_per_scene)
    superpoints = _offsets(batch.superpoints_per_scene)

    def rows(tensor: Tensor, first: list[int], count: list[int]) -> list[Tensor]:
        return [tensor[first[b] : first[b] + count[b]] for b in scenes]

    def numbered(parts: list[Tensor], first: list[int], count: list[int]) -> Tensor:
        """Rows counted from the chosen scenes' first."""
        begins = _offsets([count[b] for b in scenes])
        return torch.cat([p - first[b] + at for p, b, at in zip(parts, scenes, begins, strict=True)])

    coords = [part.clone() for part in rows(batch.voxel_coords, voxels, sizes)]
    for index, part in enumerate(coords):
        part[:, 0] = index
    augmented = batch.voxel_augmented_m
    of_points = points, batch.points_per_scene
    return Batch(
        names=[batch.names[b] for b in scenes],
        voxel_coords=torch.cat(coords),
        voxel_feats=torch.cat(rows(batch.voxel_feats, voxels, sizes)),
        voxel_position_m=torch.cat(rows(batch.voxel_position_m, voxels, sizes)),
        point_to_voxel=numbered(rows(batch.point_to_voxel, *of_points), voxels, sizes),
        point_to_superpoint=numbered(
            rows(batch.point_to_superpoint, *of_points), superpoints, batch.superpoints_per_scene
        ),
        points_per_scene=[batch.points_per_scene[b] for b in scenes],
        superpoints_per_scene=[batch.superpoints_per_scene[b] for b in scenes],
        scene_bounds_m=torch.stack([batch.scene_bounds_m[b] for b in scenes]),
        seeds=[batch.seeds[b] for b in scenes],
        voxel_augmented_m=None if augmented is None else torch.cat(rows(augmented, voxels, sizes)),
        targets=None if batch.targets is None else [batch.targets[b] for b in scenes],
        truths=None if batch.truths is None else [batch.truths[b] for b in scenes],
        views=[
            replace(view, scene=index)
            for index, b in enumerate(scenes)
            for view in batch.views
            if view.scene == b
        ],
    )


def _offsets(counts: list[int]) -> list[int]:
    """Where each run of `counts` entries begins."""
    return [sum(counts[:index]) for index in range(len(counts))]


def _tensor(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _targets(sample: Sample) -> Targets:
    """The sample's targets as tensors."""
    return Targets(
        semantic=torch.from_numpy(sample.targets.semantic),
        masks=torch.from_numpy(sample.targets.masks),
        labels=torch.from_numpy(sample.targets.labels),
    )
