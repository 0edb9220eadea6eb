"""Semantic segmentation: IoU per class and its mean, as ScanNet's benchmark counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bifusion.labels.label_set import LabelSet


def mean_of_present(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN (without a warning) where there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def ratio_or_nan(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """Element-wise quotient in float64, NaN where the denominator is 0."""
    quotient = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) > 0)


def one_class_for_all(iou: Mapping[str, float | None]) -> str | None:
    """What is to be said of a model that is right in one class alone, or in none, where there are more:
    its mean IoU only tells how often that class comes. `iou`: class → IoU; None or NaN: not there."""
    present = {name: value for name, value in iou.items() if value is not None and value == value}
    right = [name for name, value in present.items() if value > 0]
    if len(present) < 2 or len(right) > 1:
        return None
    return f"no class{''.join(f' but {name}' for name in right)} is ever right, of {len(present)}"


class SemanticConfusion:
    """Confusion matrix of points, added up over scenes or over any subset of their points.

    Protocol of mmdetection3d's `seg_eval.py`: unannotated points (-1) are left out; a class that
    is neither annotated nor predicted is NaN and not part of the mean; one that is predicted but
    never annotated has IoU 0.
    """

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set
        classes = label_set.num_classes
        # The extra column holds predictions outside 0 … C-1: they miss, but are no class's error.
        self.counts = np.zeros((classes, classes + 1), dtype=np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> None:
        """Count points.

        Args:
            prediction: (N,) int, class of each point.
            truth: (N,) int, class of each point, -1 unannotated.
            where: (N,) bool, the points to count; all if None.

        Raises:
            ValueError: the arrays differ in length.
        """
        if prediction.shape != truth.shape or (where is not None and where.shape != truth.shape):
            shapes = [prediction.shape, truth.shape] + ([] if where is None else [where.shape])
            raise ValueError(f"prediction, truth and where must have one shape (N,), found {shapes}")
        classes = self.label_set.num_classes
        counted = (truth >= 0) & (truth < classes)
        if where is not None:
            counted &= where
        row = truth[counted].astype(np.int64)
        column = prediction[counted].astype(np.int64)
        column[(column < 0) | (column >= classes)] = classes
        cells = np.bincount(row * (classes + 1) + column, minlength=self.counts.size)
        self.counts += cells.reshape(self.counts.shape)

    def merge(self, other: SemanticConfusion) -> None:
        """Adds what another one has counted."""
        self.counts += other.counts

    def compute(self) -> dict[str, Any]:
        """`miou`, `acc` (share of correct points), `acc_cls` (mean recall of the annotated classes)
        and `iou` {class name: IoU}, all in [0, 1] or NaN where nothing could be counted."""
        correct = self.counts.diagonal()
        annotated = self.counts.sum(axis=1)
        predicted = self.counts[:, :-1].sum(axis=0)
        iou = ratio_or_nan(correct, annotated + predicted - correct)
        return {
            "miou": mean_of_present(iou),
            "acc": float(ratio_or_nan(correct.sum(), annotated.sum())),
            "acc_cls": mean_of_present(ratio_or_nan(correct, annotated)),
            "iou": dict(zip(self.label_set.class_names, iou.tolist(), strict=True)),
        }
