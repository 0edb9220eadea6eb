"""What a learned gate does point by point: how it is distributed, and where it lets more 2D in.

All figures are of points that at least one view sees; a point has the gate s·α of its voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bifusion.evaluation.sight import PARTITIONS, UNSEEN, Sight
from bifusion.labels.label_set import LabelSet

BINS = 20
"""Of the histogram over [0, 1]."""
OUTCOMES = ("wrong both ways", "right only without views", "right only with views", "right both ways")
"""What images make of a point's class: of the third kind are the points where 2D is informative."""


class GroupMoments:
    """Number, mean and standard deviation of a value in each of several groups."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._sums = np.zeros((3, len(self.names)))

    def add(self, row: np.ndarray, value: np.ndarray) -> None:
        """Counts `value` (K,) in the groups `row` (K,); rows below 0 are in none."""
        inside = row >= 0
        row, value = row[inside], value[inside].astype(np.float64)
        powers = (np.ones_like(value), value, value**2)
        length = len(self.names)
        self._sums += np.stack([np.bincount(row, weights=p, minlength=length) for p in powers])

    def merge(self, other: GroupMoments) -> None:
        """Adds what another one has counted."""
        self._sums += other._sums

    def compute(self) -> dict[str, dict[str, float]]:
        """{group: {"points", "mean", "std"}}, NaN where a group has no points."""
        number, total, squares = self._sums
        some = np.where(number > 0, number, np.nan)
        mean = total / some
        std = np.sqrt(np.maximum(squares / some - mean**2, 0.0))
        rows = zip(self.names, number, mean, std, strict=True)
        return {name: {"points": int(n), "mean": float(m), "std": float(s)} for name, n, m, s in rows}


class GateFigures:
    """The gate of seen points: all, by class, by how well they are seen, by what images change."""

    def __init__(self, label_set: LabelSet) -> None:
        self._histogram = np.zeros(BINS, dtype=np.int64)
        self._scene_stds: list[float] = []
        self._learned = True
        self._moments = {
            "all": GroupMoments(["all"]),
            "classes": GroupMoments(label_set.class_names),
            "views": GroupMoments([name for name in PARTITIONS["views"] if name != UNSEEN]),
            "distance": GroupMoments([name for name in PARTITIONS["distance"] if name != UNSEEN]),
            "outcome": GroupMoments(OUTCOMES),
        }

    def add(
        self,
        gate: np.ndarray,
        semantic: np.ndarray,
        sight: Sight,
        *,
        learned: bool,
        right: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Counts one scene.

        Args:
            gate: (N,) float in [0, 1], s·α of each point; of points not seen it is not looked at.
            semantic: (N,) int annotated class, -1 none.
            learned: whether the gate is (a fixed one has nothing to show).
            right: (N,) bool each, the predicted class is the annotated one with the views, and with
                the views withheld; None: not known.
        """
        self._learned &= learned
        seen = sight.seen
        value, groups = gate[seen], {name: rows[seen] for name, rows in sight.groups().items()}
        if len(value) == 0:
            return
        self._histogram += np.histogram(value, bins=BINS, range=(0.0, 1.0))[0]
        self._scene_stds.append(float(value.astype(np.float64).std()))
        semantic = semantic[seen].astype(np.int64)
        rows = {
            "all": np.zeros(len(value), dtype=np.int64),
            "classes": semantic,
            "views": groups["views"] - 1,
            "distance": groups["distance"] - 1,
        }
        if right is not None:
            with_views, without = (part[seen] for part in right)
            rows["outcome"] = np.where(semantic >= 0, 2 * with_views + without, -1)
        for name, row in rows.items():
            self._moments[name].add(row, value)

    def merge(self, other: GateFigures) -> None:
        """Adds what another one has counted, after what is there."""
        self._learned &= other._learned
        self._histogram += other._histogram
        self._scene_stds += other._scene_stds
        for name, moments in self._moments.items():
            moments.merge(other._moments[name])

    def compute(self) -> dict[str, Any] | None:
        """None for a gate that is fixed, for one that is shut (s is 0), and where no view sees a point.

        "points", "mean", "std" of all; "std_within_scenes": the mean of the scenes' own; "histogram":
        points in each of 20 equal bins of [0, 1]; "classes", "views", "distance", "outcome": {group:
        {"points", "mean", "std"}}, the last empty of points where it is not known what views change.
        """
        if not self._learned or not self._scene_stds:
            return None
        tables = {name: moments.compute() for name, moments in self._moments.items()}
        return {
            **tables.pop("all")["all"],
            "std_within_scenes": float(np.mean(self._scene_stds)),
            "histogram": self._histogram.tolist(),
            **tables,
        }
