"""Instance segmentation: average precision by ScanNet's protocol.

The protocol is that of ScanNet's `evaluate_semantic_instance.py` as mmdetection3d and OneFormer3D
run it. What is easily overlooked in it:

- predicted masks under the minimum region are dropped; annotated instances under it are neither
  to be found nor errors to be predicted;
- points without an annotated instance of a thing class are *void*: a prediction that matches
  nothing is a false positive only if at most a share `overlap` of it is void or such small fry;
- annotated instances take predictions greedily, in order; of several on one instance the best
  score is the true positive and the others are false positives;
- a class without annotated instances is NaN and not part of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.evaluation.semantic import ratio_or_nan
from bifusion.labels.label_set import LabelSet
from bifusion.types import SceneTruth

OVERLAPS = np.append(np.arange(0.5, 0.95, 0.05), 0.25)
"""IoU thresholds: AP is the mean over all but the last, AP50 the first, AP25 the last."""


@dataclass
class AnnotatedInstances:
    """The G annotated instances of thing classes of one scene, by class, then by instance id."""

    point_index: np.ndarray
    """(N,) int64, row of the instance of each point, G where void."""
    labels: np.ndarray
    """(G,) int64 semantic class."""
    sizes: np.ndarray
    """(G,) int64 number of points."""


def annotated_instances(truth: SceneTruth, label_set: LabelSet) -> AnnotatedInstances:
    """The instances of `truth`; one whose points carry several classes is one for each class."""
    is_instance = np.isin(truth.semantic, label_set.thing_classes) & (truth.instance >= 0)
    semantic = truth.semantic[is_instance].astype(np.int64)
    instance = truth.instance[is_instance].astype(np.int64)
    stride = int(instance.max(initial=0)) + 1
    keys, rows, sizes = np.unique(semantic * stride + instance, return_inverse=True, return_counts=True)
    point_index = np.full(len(truth.semantic), len(keys), dtype=np.int64)
    point_index[is_instance] = rows
    return AnnotatedInstances(point_index, keys // stride, sizes)


def count_overlaps(packed_masks: np.ndarray, point_index: np.ndarray, num_groups: int) -> np.ndarray:
    """Points that each mask has in each group of points.

    Args:
        packed_masks: (P, ceil(N/8)) uint8, `numpy.packbits` along axis 1.
        point_index: (N,) int64, group of each point, 0 … num_groups-1.

    Returns:
        (P, num_groups) int64. One mask is unpacked at a time, so memory stays at O(N).
    """
    num_points = len(point_index)
    counts = np.zeros((len(packed_masks), num_groups), dtype=np.int64)
    for row, packed in enumerate(packed_masks):
        inside = np.unpackbits(packed, count=num_points).view(bool)
        counts[row] = np.bincount(point_index[inside], minlength=num_groups)
    return counts


@dataclass
class SceneMatches:
    """What average precision needs of one class in one scene; masks are no longer needed."""

    num_truths: int
    """Annotated instances that count (minimum region reached)."""
    scores: np.ndarray
    """(P,) float64 of the predictions that count."""
    best_iou: np.ndarray
    """(P,) largest IoU with any annotated instance of the class, also with small ones."""
    ignored_share: np.ndarray
    """(P,) share of the mask on void points and small annotated instances."""
    pairs: np.ndarray
    """(K, 2) int64: annotated instance and prediction with IoU above the lowest threshold, sorted."""
    pair_iou: np.ndarray
    """(K,) float64."""


def match_scene(
    counts: np.ndarray, truth_sizes: np.ndarray, mask_sizes: np.ndarray, void: np.ndarray,
    scores: np.ndarray, min_region: int,
) -> SceneMatches:  # fmt: skip
    """Reduce the overlaps of one class in one scene.

    Args:
        counts: (P, G) points shared by each prediction and annotated instance of the class.
        truth_sizes: (G,) points of each annotated instance.
        mask_sizes: (P,) points of each prediction.
        void: (P,) points of each prediction without an annotated instance.
        scores: (P,) confidence; NaN, as of a model that has diverged: less than any other.
        min_region: points below which masks and instances do not count.
    """
    kept = mask_sizes >= min_region
    counts, mask_sizes, void = counts[kept], mask_sizes[kept], void[kept]
    small = truth_sizes < min_region
    iou = ratio_or_nan(counts, mask_sizes[:, None] + truth_sizes[None] - counts)
    ignored = void + counts[:, small].sum(axis=1)
    large_iou = iou[:, ~small].T
    pairs = np.argwhere(large_iou > OVERLAPS.min())
    return SceneMatches(
        num_truths=int((~small).sum()),
        scores=np.nan_to_num(
            scores[kept].astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf
        ),
        best_iou=iou.max(axis=1, initial=0.0),
        ignored_share=ratio_or_nan(ignored, mask_sizes),
        pairs=pairs,
        pair_iou=large_iou[pairs[:, 0], pairs[:, 1]],
    )


def judge_predictions(matches: SceneMatches, overlap: float) -> tuple[list[float], list[float], int]:
    """Scores of the true positives, scores of the false positives, number of missed instances."""
    found: dict[int, float] = {}
    taken: set[int] = set()
    false_scores: list[float] = []
    for truth, prediction in matches.pairs[matches.pair_iou > overlap].tolist():
        if prediction in taken:
            continue
        score = float(matches.scores[prediction])
        if truth not in found:
            found[truth] = score
            taken.add(prediction)
        else:  # a duplicate is an error, but stays free for another instance, as officially
            false_scores.append(min(found[truth], score))
            found[truth] = max(found[truth], score)
    stray = (matches.best_iou <= overlap) & (matches.ignored_share <= overlap)
    false_scores.extend(matches.scores[stray].tolist())
    return list(found.values()), false_scores, matches.num_truths - len(found)


def average_precision(true_scores: list[float], false_scores: list[float], missed: int) -> float:
    """Area under the precision-recall curve, ScanNet's integral (mean of neighbouring steps).

    The curve has a point for each distinct score s (predictions of at least s) and ends in
    precision 1, recall 0. 0 where nothing was predicted.
    """
    scores = np.array(true_scores + false_scores)
    is_true = np.arange(len(scores)) < len(true_scores)
    if not is_true.any():
        return 0.0
    order = np.argsort(scores)
    true_below = np.concatenate([[0], np.cumsum(is_true[order])])
    _, first = np.unique(scores[order], return_index=True)
    true_positives = len(true_scores) - true_below[first]
    precision = np.append(true_positives / (len(scores) - first), 1.0)
    recall = np.append(true_positives / (len(true_scores) + missed), 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(np.dot(precision, (padded[:-2] - padded[2:]) / 2))


class InstanceAP:
    """Average precision of each class, scene by scene; keeps matches, never masks."""

    def __init__(self, num_classes: int, min_region: int = 100) -> None:
        self.min_region = min_region
        self.matches: list[list[SceneMatches]] = [[] for _ in range(num_classes)]

    def add(
        self, counts: np.ndarray, annotated: AnnotatedInstances, truth_classes: np.ndarray,
        mask_classes: np.ndarray, scores: np.ndarray,
    ) -> None:  # fmt: skip
        """Count one scene.

        Args:
            counts: (P, G+1) of `count_overlaps`, last column void.
            annotated: the G annotated instances.
            truth_classes: (G,) class 0 … num_classes-1 of each.
            mask_classes: (P,) class of each prediction; others than 0 … num_classes-1 are skipped.
            scores: (P,) confidence.
        """
        mask_sizes = counts.sum(axis=1)
        for index, matches in enumerate(self.matches):
            truths = np.flatnonzero(truth_classes == index)
            masks = np.flatnonzero(mask_classes == index)
            if len(truths) or len(masks):
                matches.append(
                    match_scene(
                        counts[np.ix_(masks, truths)],
                        annotated.sizes[truths],
                        mask_sizes[masks],
                        counts[masks, -1],
                        scores[masks],
                        self.min_region,
                    )
                )

    def merge(self, other: InstanceAP) -> None:
        """Adds the scenes that another one has counted, after those that are there."""
        for matches, added in zip(self.matches, other.matches, strict=True):
            matches.extend(added)

    def compute(self) -> np.ndarray:
        """(num_classes, len(OVERLAPS)) average precision, NaN rows for classes never annotated."""
        table = np.full((len(self.matches), len(OVERLAPS)), np.nan)
        for row, matches in zip(table, self.matches, strict=True):
            if not any(scene.num_truths for scene in matches):
                continue
            for column, overlap in enumerate(OVERLAPS):
                judged = [judge_predictions(scene, overlap) for scene in matches]
                row[column] = average_precision(
                    [score for true, _, _ in judged for score in true],
                    [score for _, false, _ in judged for score in false],
                    sum(missed for _, _, missed in judged),
                )
        return table


def summarise(table: np.ndarray) -> np.ndarray:
    """(num_classes, 3) AP, AP50, AP25 from the (num_classes, len(OVERLAPS)) table."""
    return np.stack([table[:, :-1].mean(axis=1), table[:, 0], table[:, -1]], axis=1)
