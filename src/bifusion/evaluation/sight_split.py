"""Results on points, and on instances, that views see well, barely or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from bifusion.evaluation.evaluator import CoveredInstances
from bifusion.evaluation.semantic import SemanticConfusion
from bifusion.evaluation.sight import PARTITIONS, UNSEEN, Sight
from bifusion.labels.label_set import LabelSet
from bifusion.types import SceneResult, SceneTruth


class _Group:
    """What is counted of one group."""

    def __init__(self, label_set: LabelSet) -> None:
        self.semantic = SemanticConfusion(label_set)
        self.num_points = self.num_instances = 0
        self.coverage_sum = 0.0

    def merge(self, other: _Group) -> None:
        self.semantic.merge(other.semantic)
        self.num_points += other.num_points
        self.coverage_sum += other.coverage_sum
        self.num_instances += other.num_instances

    def compute(self) -> dict[str, Any]:
        figures, nan = self.semantic.compute(), float("nan")
        return {
            "points": self.num_points,
            "miou": figures["miou"],
            "iou": figures["iou"],
            "instances": self.num_instances,
            "mask_coverage": self.coverage_sum / self.num_instances if self.num_instances else nan,
        }


class SightSplit:
    """Semantic figures and coverage of instances by how points are seen (`PARTITIONS`).

    An instance belongs to the group that most of its points are in.
    """

    def __init__(self, label_set: LabelSet) -> None:
        self._groups = {
            partition: [_Group(label_set) for _ in names] for partition, names in PARTITIONS.items()
        }

    def add(
        self, result: SceneResult, truth: SceneTruth, sight: Sight, covered: CoveredInstances
    ) -> None:
        """Counts one scene. `covered`: what `Evaluator.add` returned of it."""
        for partition, of_point in sight.groups().items():
            groups = self._groups[partition]
            for row, group in enumerate(groups):
                inside = of_point == row
                group.num_points += int((inside & (truth.semantic >= 0)).sum())
                if result.semantic is not None:
                    group.semantic.add(result.semantic, truth.semantic, where=inside)
            rows = _rows_of_instances(covered.point_index, of_point, len(covered.iou), len(groups))
            for row, iou in zip(rows, covered.iou, strict=True):
                groups[row].coverage_sum += float(iou)
                groups[row].num_instances += 1

    def merge(self, other: SightSplit) -> None:
        """Adds what another one has counted."""
        for partition, groups in self._groups.items():
            for group, added in zip(groups, other._groups[partition], strict=True):
                group.merge(added)

    def compute(self) -> dict[str, Any]:
        """ "seen" and "unseen", each {"points" (annotated), "miou", "iou" {class: IoU}, "instances",
        "mask_coverage": mean over instances of the best IoU with any predicted mask}; and "by_views" and
        "by_distance" of the points seen, {group: the same}. Figures of a head that the model does not
        have, and of a group without points, are NaN."""
        named = {
            partition: dict(zip(names, self._groups[partition], strict=True))
            for partition, names in PARTITIONS.items()
        }
        parts = {name: group.compute() for name, group in named.pop("sight").items()}
        return parts | {
            f"by_{partition}": {
                name: group.compute() for name, group in groups.items() if name != UNSEEN
            }
            for partition, groups in named.items()
        }


def _rows_of_instances(
    point_index: np.ndarray, of_point: np.ndarray, num_instances: int, num_groups: int
) -> np.ndarray:
    """(G,) row of the group that most points of each instance are in; of ties the first."""
    inside = point_index < num_instances
    cells = point_index[inside] * num_groups + of_point[inside]
    counts = np.bincount(cells, minlength=num_instances * num_groups)
    return counts.reshape(num_instances, num_groups).argmax(axis=1)
