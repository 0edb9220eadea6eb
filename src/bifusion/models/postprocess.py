"""From a prediction to instances, semantic and panoptic labels at the points of each scene.

The steps are those of OneFormer3D's `predict_by_feat_*` and `mask_matrix_nms.py`; they run on
superpoints, and only finished masks are spread over points, a few at a time, so that memory does not
grow with instances × points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.bounds import Count, PositiveInt
from bifusion.labels.label_set import LabelSet
from bifusion.models.model import ResultsConfig
from bifusion.types import Batch, Prediction, SceneResult

POINT_MASK_BYTES = 2**22
"""Of masks over points that are unpacked at a time."""
ONE_BIT_A_BYTE = 0x8040201008040201 - 2**64
"""Times eight bytes of 0 or 1, read as one number, it has them as bits of its highest byte."""


@dataclass
class PostprocessConfig(ResultsConfig):
    """Defaults are the published ScanNet settings."""

    top_k: PositiveInt = 600
    """(query, class) pairs kept, by class probability."""
    score_threshold: float = 0.0
    """An instance is kept if its score is above this."""
    panoptic_score_threshold: float = 0.5
    """The same, for instances that enter the panoptic labelling."""
    superpoint_threshold: float = 0.4
    """A superpoint is part of a mask if its probability is above this."""
    min_points: Count = 100
    """An instance must have more points than this."""
    object_normalization: bool = True
    """Multiply scores by the mean probability inside the mask."""
    matrix_nms: bool = True
    """Let scores decay with the overlap of better instances of the same class (linear kernel)."""

    @property
    def min_score(self) -> float:
        return self.panoptic_score_threshold

    def with_min_score(self, least: float) -> PostprocessConfig:
        return dataclasses.replace(self, panoptic_score_threshold=least)

    def results(self, prediction: Prediction, batch: Batch, label_set: LabelSet) -> list[SceneResult]:
        return postprocess(prediction, batch, label_set, self)


@dataclass
class Instances:
    """Instances of one scene on its superpoints, scores descending."""

    masks: Tensor
    """(P, S) bool."""
    labels: Tensor
    """(P,) int64, index into thing_classes."""
    scores: Tensor
    """(P,) float32."""

    def keep(self, kept: Tensor) -> Instances:
        """Those of `kept` (P,) bool; the host waits once for how many."""
        rows = torch.nonzero(kept)[:, 0]
        fields = (self.masks, self.labels, self.scores)
        return Instances(*(field.index_select(0, rows) for field in fields))


@torch.no_grad()
def postprocess(
    prediction: Prediction, batch: Batch, label_set: LabelSet, config: PostprocessConfig
) -> list[SceneResult]:
    """One `SceneResult` a scene from the last decoder output of a prediction in evaluation mode.

    Semantic and panoptic labels are given where the model has a semantic head, which must then have
    spoken for every superpoint (ValueError otherwise: the model was in training mode). Panoptic
    instance ids are rows of the result's masks.
    """
    layer = prediction.layers[-1]
    points = batch.point_to_superpoint.split(batch.points_per_scene)
    results, first = [], 0
    for b, name in enumerate(batch.names):
        point_to_superpoint = points[b] - first
        first += batch.superpoints_per_scene[b]
        superpoint_of_point = point_to_superpoint.cpu()
        # counted where they have come to anyway: bincount has the host wait for a GPU
        sizes = torch.bincount(superpoint_of_point, minlength=batch.superpoints_per_scene[b])
        sizes = sizes.to(point_to_superpoint.device, non_blocking=True)
        instances = select_instances(
            layer.class_logits[b].float(),
            layer.mask_logits[b].float(),
            None if layer.scores is None else layer.scores[b].float(),
            sizes,
            config,
        )
        masks = pack_point_masks(instances.masks, point_to_superpoint)
        scores = instances.scores.cpu().numpy()
        things = np.array(label_set.thing_classes, dtype=np.int16)
        result = SceneResult(
            name=name,
            num_points=len(superpoint_of_point),
            masks=masks,
            labels=things[instances.labels.cpu().numpy()],
            scores=scores,
        )
        if prediction.semantic_logits is not None:
            logits = prediction.semantic_logits[b].float()
            if len(logits) != len(sizes):
                raise ValueError(
                    f"{name}: {len(logits)} semantic predictions for {len(sizes)} superpoints"
                )
            semantic = logits[:, :-1].argmax(dim=1)
            confident = int((scores > config.panoptic_score_threshold).sum())
            panoptic = merge_panoptic(instances, confident, logits, sizes, label_set, config)
            of_superpoints = torch.stack([semantic, *panoptic]).cpu().numpy()  # one wait for all three
            at_points = superpoint_of_point.numpy()
            result.semantic = of_superpoints[0].astype(np.int16)[at_points]
            result.panoptic_semantic = of_superpoints[1].astype(np.int16)[at_points]
            result.panoptic_instance = of_superpoints[2].astype(np.int32)[at_points]
        results.append(result)
    return results


def select_instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    quality: Tensor | None,
    sizes: Tensor,
    config: PostprocessConfig,
) -> Instances:
    """Instances of one scene.

    `class_logits` (Q, T+1), `mask_logits` (Q, S), `quality` (Q, 1) output of the score head,
    `sizes` (S,) points of each superpoint.
    """
    scores = class_logits.softmax(dim=1)[:, :-1]
    if quality is not None:
        scores = scores * quality
    num_things = scores.shape[1]
    scores, pairs = scores.flatten().topk(min(config.top_k, scores.numel()))
    queries, labels = pairs // num_things, pairs % num_things
    logits = mask_logits[queries]
    soft = logits.sigmoid()
    if config.object_normalization:
        inside = logits > 0
        scores = scores * ((soft * inside).sum(dim=1) / (inside.sum(dim=1) + 1e-6))
    if config.matrix_nms:
        scores, labels, soft = matrix_nms(scores, labels, soft)
    else:
        scores, order = scores.sort(descending=True, stable=True)
        labels, soft = labels[order], soft[order]

    instances = Instances(soft > config.superpoint_threshold, labels, scores)
    num_points = (instances.masks * sizes).sum(dim=1)
    return instances.keep((scores > config.score_threshold) & (num_points > config.min_points))


def matrix_nms(scores: Tensor, labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix NMS (Wang et al., SOLOv2, 2020, eq. 5) with the linear kernel, on soft masks.

    (P,) scores and labels and (P, S) masks in [0, 1]; returned in order of the decayed scores.
    """
    if len(scores) == 0:
        return scores, labels, masks
    tiny = torch.finfo(masks.dtype).tiny
    scores, order = scores.sort(descending=True, stable=True)
    labels, masks = labels[order], masks[order]
    area = masks.sum(dim=1)
    overlap = masks @ masks.T
    iou = overlap / (area[None] + area[:, None] - overlap).clamp(min=tiny)
    same_class = labels[None] == labels[:, None]
    iou = (iou * same_class).triu(diagonal=1)
    # row i: how far a better mask already covers the suppressor i itself. The clamp only acts where
    # i repeats a better mask exactly, and then that mask suppresses in its place.
    remaining = (1 - iou.amax(dim=0)).clamp(min=tiny)
    decay = ((1 - iou) / remaining[:, None]).amin(dim=0)
    scores, order = (scores * decay).sort(descending=True, stable=True)
    return scores, labels[order], masks[order]


def merge_panoptic(
    instances: Instances,
    confident: int,
    semantic_logits: Tensor,
    sizes: Tensor,
    label_set: LabelSet,
    config: PostprocessConfig,
) -> tuple[Tensor, Tensor]:
    """(S,) class and (S,) instance (row of `instances`, -1 for stuff) of each superpoint.

    The best-scored instance takes a superpoint; one that keeps too few points gives all of them
    back; what no instance holds is the likeliest stuff class (-1 in label sets without stuff).
    `confident`: so many of the instances, the best-scored and so the first, take part.
    """
    rows = torch.arange(confident, device=sizes.device)
    # a last row that holds everything stands for "no instance"
    owner = torch.where(instances.masks[:confident], rows[:, None], confident)
    owner = torch.cat([owner, owner.new_full((1, len(sizes)), confident)]).amin(dim=0)
    kept_points = sizes.new_zeros(confident + 1).index_add(0, owner, sizes)
    held = (owner < confident) & (kept_points > config.min_points)[owner]

    stuff = _uploaded([*label_set.stuff_classes, -1], sizes.device)
    if label_set.stuff_classes:
        semantic = stuff[semantic_logits.index_select(1, stuff[:-1]).argmax(dim=1)]
    else:
        semantic = stuff.expand(len(sizes))
    things = _uploaded(label_set.thing_classes, sizes.device)
    thing_of_row = torch.cat([things[instances.labels[:confident]], stuff[-1:]])
    return torch.where(held, thing_of_row[owner], semantic), torch.where(held, owner, -1)


def pack_point_masks(masks: Tensor, superpoint_of_point: Tensor) -> np.ndarray:
    """(P, S) bool superpoint masks as (P, ceil(N/8)) uint8 point masks, as np.packbits has them.

    superpoint_of_point: (N,) int64. Packed where they are: from a GPU an eighth of them travels.
    """
    at_once = max(1, POINT_MASK_BYTES // max(1, len(superpoint_of_point)))
    blocks = masks.split(at_once)
    if masks.device.type != "cpu":
        parts = [pack_by_product(block, superpoint_of_point) for block in blocks]
        return torch.cat(parts).cpu().numpy()
    points = superpoint_of_point.numpy()
    packed = np.empty((len(masks), -(-len(points) // 8)), dtype=np.uint8)
    for number, block in enumerate(blocks):
        rows = slice(number * at_once, number * at_once + len(block))
        packed[rows] = np.packbits(np.take(block.numpy(), points, axis=1), axis=1)
    return packed


def pack_by_product(masks: Tensor, superpoint_of_point: Tensor) -> Tensor:
    """`pack_point_masks` in operations that a GPU has; (P, ceil(N/8)) uint8 on the device."""
    points = F.pad(superpoint_of_point, (0, -len(superpoint_of_point) % 8), value=masks.shape[1])
    masks = F.pad(masks, (0, 1))  # the points that fill the last byte are in no mask
    eight = masks.index_select(1, points).view(torch.int64)
    return ((eight * ONE_BIT_A_BYTE) >> 56 & 0xFF).to(torch.uint8)


def _uploaded(numbers: Sequence[int], device: torch.device) -> Tensor:
    """(n,) int64, for which nobody waits."""
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)
