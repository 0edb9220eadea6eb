"""Panoptic quality: PQ = SQ · RQ per class (Kirillov et al., CVPR 2019), as OneFormer3D reports it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bifusion.evaluation.semantic import SemanticConfusion, ratio_or_nan
from bifusion.labels.label_set import LabelSet


class PanopticQuality:
    """Panoptic quality over scenes, with the protocol of mmdetection3d's `panoptic_seg_eval.py`.

    Points without an annotated class are left out before anything is counted. A segment is the
    points of one class and one instance; all points of a stuff class are one segment; points of a
    thing class with instance -1 belong to none. Segments match at IoU > 0.5. Unmatched segments
    under `min_region` points are no errors. In the means a class that never occurs counts as 0,
    as officially (`pq_per_class` has NaN there).
    """

    def __init__(self, label_set: LabelSet, min_region: int = 1) -> None:
        self.label_set = label_set
        self.min_region = min_region
        classes = label_set.num_classes
        self.confusion = SemanticConfusion(label_set)
        self.iou_sum = np.zeros(classes)
        self.matched = np.zeros(classes, dtype=np.int64)
        self.unmatched_predictions = np.zeros(classes, dtype=np.int64)
        self.unmatched_truths = np.zeros(classes, dtype=np.int64)
        self.occurs = np.zeros(classes, dtype=bool)

    def add(
        self, semantic: np.ndarray, instance: np.ndarray, truth_semantic: np.ndarray,
        truth_instance: np.ndarray,
    ) -> None:  # fmt: skip
        """Count one scene; all arguments (N,) int, instances -1 for stuff and for none."""
        self.confusion.add(semantic, truth_semantic)
        annotated = (truth_semantic >= 0) & (truth_semantic < self.label_set.num_classes)
        predicted, predicted_sizes, predicted_class = self._segments(
            semantic[annotated], instance[annotated]
        )
        truth, truth_sizes, truth_class = self._segments(
            truth_semantic[annotated], truth_instance[annotated]
        )

        in_both = (predicted >= 0) & (truth >= 0)
        # max(…, 1): without any annotated segment there is nothing to divide by, and no pair either.
        num_truths = max(len(truth_sizes), 1)
        pairs, shared = np.unique(predicted[in_both] * num_truths + truth[in_both], return_counts=True)
        of_predicted, of_truth = pairs // num_truths, pairs % num_truths
        iou = shared / (predicted_sizes[of_predicted] + truth_sizes[of_truth] - shared)
        match = (iou > 0.5) & (predicted_class[of_predicted] == truth_class[of_truth])
        of_predicted, of_truth, iou = of_predicted[match], of_truth[match], iou[match]

        false_positive = predicted_sizes >= self.min_region
        false_positive[of_predicted] = False
        false_negative = truth_sizes >= self.min_region
        false_negative[of_truth] = False
        np.add.at(self.iou_sum, truth_class[of_truth], iou)
        np.add.at(self.matched, truth_class[of_truth], 1)
        np.add.at(self.unmatched_predictions, predicted_class[false_positive], 1)
        np.add.at(self.unmatched_truths, truth_class[false_negative], 1)
        self.occurs[truth_class] = True
        self.occurs[predicted_class] = True

    def merge(self, other: PanopticQuality) -> None:
        """Adds what another one has counted."""
        self.confusion.merge(other.confusion)
        self.iou_sum += other.iou_sum
        self.matched += other.matched
        self.unmatched_predictions += other.unmatched_predictions
        self.unmatched_truths += other.unmatched_truths
        self.occurs |= other.occurs

    def _segments(
        self, semantic: np.ndarray, instance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N,) segment of each point (-1 none), (K,) points and (K,) class of each segment."""
        semantic, instance = semantic.astype(np.int64), instance.astype(np.int64)
        instance = np.where(np.isin(semantic, self.label_set.stuff_classes), 0, instance)
        in_segment = (instance >= 0) & (semantic >= 0) & (semantic < self.label_set.num_classes)
        stride = int(instance.max(initial=0)) + 1
        keys, rows, sizes = np.unique(
            semantic[in_segment] * stride + instance[in_segment], return_inverse=True, return_counts=True
        )
        segment = np.full(len(semantic), -1, dtype=np.int64)
        segment[in_segment] = rows
        return segment, sizes, keys // stride

    def compute(self) -> dict[str, Any]:
        """`pq`, `sq_mean`, `rq_mean`, the same for things and stuff (`pq_things` …), `pq_dagger`
        (PQ of things, IoU of stuff), `panoptic_miou`, `pq_per_class`; NaN if nothing was counted, and
        for stuff in a label set without any."""
        errors = self.unmatched_predictions + self.unmatched_truths
        sq = np.nan_to_num(ratio_or_nan(self.iou_sum, self.matched))
        rq = np.nan_to_num(ratio_or_nan(self.matched, self.matched + 0.5 * errors))
        pq = sq * rq
        iou = np.nan_to_num(np.array(list(self.confusion.compute()["iou"].values())))
        things, stuff = list(self.label_set.thing_classes), list(self.label_set.stuff_classes)
        figures = {
            "pq": pq.mean(),
            "sq_mean": sq.mean(),
            "rq_mean": rq.mean(),
            "panoptic_miou": iou.mean(),
        }
        for name, values in (("pq", pq), ("sq", sq), ("rq", rq)):
            figures[f"{name}_things"] = values[things].mean()
            figures[f"{name}_stuff"] = values[stuff].mean() if stuff else np.nan
        figures["pq_dagger"] = np.concatenate([pq[things], iou[stuff]]).mean()
        per_class = np.where(self.occurs, pq, np.nan).tolist()
        if not self.occurs.any():
            figures = dict.fromkeys(figures, float("nan"))
        return {name: float(value) for name, value in figures.items()} | {
            "pq_per_class": dict(zip(self.label_set.class_names, per_class, strict=True))
        }
