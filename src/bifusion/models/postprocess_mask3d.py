"""From a Mask3D prediction to instances at the points of each scene.

The steps of `eval_instance_step` and `get_mask_and_scores` in Mask3D's `trainer/trainer.py`, with
masks and evaluation on segments. There is no semantic head, so no semantic and no panoptic labels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bifusion.bounds import PositiveFloat, PositiveInt, Share
from bifusion.labels.label_set import LabelSet
from bifusion.models.distance_clusters import distance_clusters
from bifusion.models.model import ResultsConfig
from bifusion.models.postprocess import pack_point_masks
from bifusion.types import Batch, Prediction, SceneResult


@dataclass
class Mask3DPostprocessConfig(ResultsConfig):
    """Defaults are the published ScanNet validation settings (`scripts/scannet/scannet_val.sh`)."""

    top_k: PositiveInt = 500
    """(mask, class) pairs kept, by class probability."""
    split_masks: bool = True
    """Split masks whose parts lie apart, each part with the classes of the whole (DBSCAN)."""
    dbscan_eps_m: PositiveFloat = 0.95
    """Parts further apart than this are split; every point is a core point (min_points 1)."""

    score_threshold: Share = 0.0
    """An instance is kept if its score is not below this; 0: all, as published."""

    @property
    def min_score(self) -> float:
        """Without a panoptic part every candidate is an object."""
        return self.score_threshold

    def with_min_score(self, least: float) -> Mask3DPostprocessConfig:
        return dataclasses.replace(self, score_threshold=least)

    def results(self, prediction: Prediction, batch: Batch, label_set: LabelSet) -> list[SceneResult]:
        return postprocess_mask3d(prediction, batch, label_set, self)


@dataclass(frozen=True)
class SceneVoxels:
    """The M voxels of a scene, and the P pairs of a voxel and a superpoint with points in common."""

    position_m: np.ndarray
    """(M, 3)."""
    owner: np.ndarray
    """(M,) superpoint of a voxel's first point. A superpoint may own none."""
    pair_voxel: np.ndarray
    pair_superpoint: np.ndarray
    pair_points: np.ndarray
    """(P,) each; of the last one the number of points in common."""
    superpoint_points: np.ndarray
    """(S,) points of each superpoint."""

    @classmethod
    def of(cls, position_m: np.ndarray, voxel: np.ndarray, superpoint: np.ndarray) -> SceneVoxels:
        """`voxel` and `superpoint` (N,) of each point; every voxel has one."""
        owner = np.empty(len(position_m), np.int64)
        owner[voxel[::-1]] = superpoint[::-1]  # of points in one voxel the first is written last
        superpoints = int(superpoint.max(initial=-1)) + 1
        pairs, points = np.unique(voxel * superpoints + superpoint, return_counts=True)
        of_pair = np.divmod(pairs, max(superpoints, 1))
        return cls(position_m, owner, *of_pair, points, np.bincount(superpoint, minlength=superpoints))


@torch.no_grad()
def postprocess_mask3d(
    prediction: Prediction, batch: Batch, label_set: LabelSet, config: Mask3DPostprocessConfig
) -> list[SceneResult]:
    """One `SceneResult` a scene from the last decoder output of a prediction in evaluation mode.

    A mask is where its logit is above 0. Parts of it are found among its voxels; a superpoint, all
    points of it, belongs to the part in whose voxels more than half of its points lie.
    """
    layer = prediction.layers[-1]
    positions = batch.voxel_position_m.split(batch.voxels_per_scene)
    points = batch.point_to_superpoint.split(batch.points_per_scene)
    voxels = batch.point_to_voxel.split(batch.points_per_scene)
    things = np.array(label_set.thing_classes, dtype=np.int16)
    results, first, first_voxel = [], 0, 0
    for b, name in enumerate(batch.names):
        superpoint_of_point = points[b] - first
        of_points = torch.stack([voxels[b] - first_voxel, superpoint_of_point]).cpu().numpy()
        scene = SceneVoxels.of(positions[b].cpu().numpy(), *of_points)
        masks, labels, scores = select_masks(
            layer.class_logits[b].float(), layer.mask_logits[b].float(), scene, config
        )
        first += batch.superpoints_per_scene[b]
        first_voxel += batch.voxels_per_scene[b]
        there = torch.from_numpy(masks).to(superpoint_of_point.device, non_blocking=True)
        results.append(
            SceneResult(
                name=name,
                num_points=len(superpoint_of_point),
                masks=pack_point_masks(there, superpoint_of_point),
                labels=things[labels],
                scores=scores,
            )
        )
    return results


def select_masks(
    class_logits: Tensor,
    mask_logits: Tensor,
    scene: SceneVoxels,
    config: Mask3DPostprocessConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instances of one scene: (P, S) bool masks, (P,) thing labels, (P,) float32 scores, descending.

    `class_logits` (Q, T+1), `mask_logits` (Q, S). Scores are class probability times the mean mask
    probability over the voxels of the part.
    """
    probabilities = class_logits.softmax(dim=1)[:, :-1].cpu()
    mask_logits = mask_logits.cpu()  # all that follows is done on the host
    soft = mask_logits.sigmoid().numpy()
    queries, masks, quality = [], [], []
    for query, inside in enumerate((mask_logits > 0).numpy()):
        for part, voxels_in_part in split_mask(inside, scene, config):
            queries.append(query)
            masks.append(part)
            quality.append(soft[query] @ voxels_in_part / (voxels_in_part.sum() + 1e-6))
    num_things, num_superpoints = probabilities.shape[1], mask_logits.shape[1]
    scores = probabilities[torch.tensor(queries, dtype=torch.int64)].flatten()
    scores, pairs = scores.topk(min(config.top_k, len(scores)))
    part = (pairs // num_things).numpy()
    final = scores.numpy() * np.array(quality, dtype=np.float32)[part]
    order = np.argsort(-final, kind="stable")
    of_pairs = np.array(masks, dtype=bool).reshape(-1, num_superpoints)[part[order]]
    final, labels = final[order].astype(np.float32), (pairs % num_things).numpy()[order]
    kept = of_pairs.any(axis=1) & ~(final < config.score_threshold)  # NaN stays, to be told
    return of_pairs[kept], labels[kept], final[kept]


def split_mask(
    inside: np.ndarray, scene: SceneVoxels, config: Mask3DPostprocessConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parts of a mask `inside` (S,): of each its superpoints (S,) bool and its voxels in each (S,)."""
    voxels = np.flatnonzero(inside[scene.owner])
    if len(voxels) == 0:
        return []
    cluster = np.zeros(len(voxels), np.int64)
    if config.split_masks:
        cluster = distance_clusters(scene.position_m[voxels], config.dbscan_eps_m)
    parts, superpoints = int(cluster.max()) + 1, len(inside)
    part_of_voxel = np.full(len(scene.owner), -1, np.int32)
    part_of_voxel[voxels] = cluster
    pairs = np.flatnonzero(part_of_voxel[scene.pair_voxel] >= 0)

    def count(part: np.ndarray, superpoint: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        key = part * superpoints + superpoint
        return np.bincount(key, weights, parts * superpoints).reshape(parts, superpoints)

    in_voxels = count(cluster, scene.owner[voxels], None)
    part = part_of_voxel[scene.pair_voxel[pairs]].astype(np.int64)
    in_points = count(part, scene.pair_superpoint[pairs], scene.pair_points[pairs])
    return list(zip(2 * in_points > scene.superpoint_points, in_voxels, strict=True))
