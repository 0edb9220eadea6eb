"""What a final evaluation counts beside its metrics: points by how views see them, and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from bifusion.evaluation.evaluator import CoveredInstances
from bifusion.evaluation.gate_figures import GateFigures
from bifusion.evaluation.sight import sights_of
from bifusion.evaluation.sight_split import SightSplit
from bifusion.geometry import LiftingConfig
from bifusion.labels.label_set import LabelSet
from bifusion.types import Batch, FusionTrace, SceneResult, SceneTruth


class PointFigures:
    """Figures of points seen well, barely and not, of a learned gate at each point, and which points are
    right."""

    def __init__(self, label_set: LabelSet) -> None:
        self._split, self._gate = SightSplit(label_set), GateFigures(label_set)
        self.right: dict[str, np.ndarray] = {}
        """Scene -> (ceil(N/8),) uint8, `numpy.packbits` of the points whose predicted class is the
        annotated one; without those of models that have no semantic head."""

    def add(
        self,
        batch: Batch,
        results: list[SceneResult],
        truths: list[SceneTruth],
        covered: list[CoveredInstances],
        trace: FusionTrace | None,
        *,
        occlusion: LiftingConfig,
        right_without: Mapping[str, np.ndarray],
    ) -> None:
        """Counts the scenes of one batch.

        Args:
            results, truths, covered: of each scene what was predicted, its annotation, and what
                `Evaluator.add` returned.
            trace: what the fusion did; None where there was none.
            occlusion: when a point counts as seen.
            right_without: `right` of the same scenes with the views withheld, where known.
        """
        sights = sights_of(batch, occlusion)
        for result, truth, sight, cover in zip(results, truths, sights, covered, strict=True):
            self._split.add(result, truth, sight, cover)
            if result.semantic is not None:
                self.right[result.name] = np.packbits(result.semantic == truth.semantic)
        if trace is None:
            return
        gates = _of_points(trace.gate, batch)
        for gate, truth, sight in zip(gates, truths, sights, strict=True):
            packed = [right.get(truth.name) for right in (self.right, right_without)]
            right = [
                np.unpackbits(one, count=len(gate)).astype(bool) for one in packed if one is not None
            ]
            known = (right[0], right[1]) if len(right) == 2 else None
            self._gate.add(gate, truth.semantic, sight, learned=trace.learned, right=known)

    def merge(self, other: PointFigures) -> None:
        """Adds what another one has counted, after what is there."""
        self._split.merge(other._split)
        self._gate.merge(other._gate)
        self.right |= other.right

    def by_sight(self) -> dict[str, Any]:
        """`SightSplit.compute`."""
        return self._split.compute()

    def gate(self) -> dict[str, Any] | None:
        """`GateFigures.compute`."""
        return self._gate.compute()


def _of_points(gate: Tensor, batch: Batch) -> list[np.ndarray]:
    """Of each scene the (N,) float32 gate of each point, which is its voxel's."""
    of_points = gate.float().index_select(0, batch.point_to_voxel)
    return [part.cpu().numpy() for part in of_points.split(batch.points_per_scene)]
