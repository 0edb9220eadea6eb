"""From a Mask3D prediction to instances at the points of each scene.

The steps of `eval_instance_step` and `get_mask_and_scores` in Mask3D's `trainer/trainer.py`, with
masks and evaluation on segments. There is no semantic head, so no semantic and no panoptic labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bifusion.bounds import PositiveFloat, PositiveInt
from bifusion.labels.label_set import LabelSet
from bifusion.models.distance_clusters import distance_clusters
from bifusion.models.model import ResultsConfig
from bifusion.models.postprocess import pack_point_masks
from bifusion.models.pyramid_geometry import superpoint_of_voxel
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

    def results(self, prediction: Prediction, batch: Batch, label_set: LabelSet) -> list[SceneResult]:
        return postprocess_mask3d(prediction, batch, label_set, self)


@torch.no_grad()
def postprocess_mask3d(
    prediction: Prediction, batch: Batch, label_set: LabelSet, config: Mask3DPostprocessConfig
) -> list[SceneResult]:
    """One `SceneResult` a scene from the last decoder output of a prediction in evaluation mode.

    A mask is where its logit is above 0. Parts of it are found among its voxels; a superpoint, all
    points of it, belongs to the part that holds more than half of its voxels.
    """
    layer = prediction.layers[-1]
    positions = batch.voxel_position_m.split(batch.voxels_per_scene)
    owners = superpoint_of_voxel(batch).split(batch.voxels_per_scene)
    points = batch.point_to_superpoint.split(batch.points_per_scene)
    things = np.array(label_set.thing_classes, dtype=np.int16)
    results, first = [], 0
    for b, name in enumerate(batch.names):
        masks, labels, scores = select_masks(
            layer.class_logits[b].float(),
            layer.mask_logits[b].float(),
            positions[b].cpu().numpy(),
            (owners[b] - first).cpu().numpy(),
            config,
        )
        superpoint_of_point = points[b] - first
        first += batch.superpoints_per_scene[b]
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
    position_m: np.ndarray,
    owner: np.ndarray,
    config: Mask3DPostprocessConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instances of one scene: (P, S) bool masks, (P,) thing labels, (P,) float32 scores, descending.

    `class_logits` (Q, T+1), `mask_logits` (Q, S), `position_m` (M, 3), `owner` (M,) superpoint of
    each voxel. Scores are class probability times the mean mask probability over the voxels of the part.
    """
    probabilities = class_logits.softmax(dim=1)[:, :-1].cpu()
    mask_logits = mask_logits.cpu()  # all that follows is done on the host
    soft = mask_logits.sigmoid().numpy()
    queries, masks, quality = [], [], []
    for query, inside in enumerate((mask_logits > 0).numpy()):
        for part, voxels_in_part in split_mask(inside, position_m, owner, config):
            queries.append(query)
            masks.append(part)
            quality.append(soft[query] @ voxels_in_part / (voxels_in_part.sum() + 1e-6))
    num_things, num_superpoints = probabilities.shape[1], mask_logits.shape[1]
    scores = probabilities[torch.tensor(queries, dtype=torch.int64)].flatten()
    scores, pairs = scores.topk(min(config.top_k, len(scores)))
    part = (pairs // num_things).numpy()
    final = scores.numpy() * np.array(quality, dtype=np.float32)[part]
    order = np.argsort(-final, kind="stable")
    kept = np.array(masks, dtype=bool).reshape(-1, num_superpoints)[part[order]]
    occupied = kept.any(axis=1)
    labels = (pairs % num_things).numpy()[order]
    return kept[occupied], labels[occupied], final[order][occupied].astype(np.float32)


def split_mask(
    inside: np.ndarray,
    position_m: np.ndarray,
    owner: np.ndarray,
    config: Mask3DPostprocessConfig,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parts of a mask `inside` (S,): of each its superpoints (S,) bool and its voxels in each (S,)."""
    voxels = np.flatnonzero(inside[owner])
    if len(voxels) == 0:
        return []
    cluster = np.zeros(len(voxels), np.int64)
    if config.split_masks:
        cluster = distance_clusters(position_m[voxels], config.dbscan_eps_m)
    parts = int(cluster.max()) + 1
    key = cluster * len(inside) + owner[voxels]
    counts = np.bincount(key, minlength=parts * len(inside)).reshape(parts, len(inside))
    if parts == 1:
        return [(inside, counts[0])]
    return [(2 * row > counts.sum(axis=0), row) for row in counts]
