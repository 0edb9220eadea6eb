"""How well views see the points of a scene, and the groups into which that parts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.geometry import LiftingConfig, distance_to_cameras, find_sightings
from bifusion.types import Batch

UNSEEN = "unseen"
DISTANCES_M = (1.0, 2.0, 3.0)
"""Where groups by distance begin and end."""
PARTITIONS: dict[str, tuple[str, ...]] = {
    "sight": (UNSEEN, "seen"),
    "views": (UNSEEN, "1 view", "2 views", "3 views or more"),
    "distance": (UNSEEN, "under 1 m", "1 to 2 m", "2 to 3 m", "over 3 m"),
}
"""What points are parted by -> names of the groups, in order; those that no view sees come first."""


@dataclass(frozen=True)
class Sight:
    """How well each of a scene's N points is seen."""

    views: np.ndarray
    """(N,) int64: views that see its voxel."""
    distance_m: np.ndarray
    """(N,) float32: mean distance to their cameras, metres; 0 where there are none."""

    @property
    def seen(self) -> np.ndarray:
        """(N,) bool: at least one view sees it."""
        return self.views > 0

    def groups(self) -> dict[str, np.ndarray]:
        """Of each of `PARTITIONS` the row of each point's group, (N,) int64."""
        most = len(PARTITIONS["views"]) - 1
        by_distance = 1 + np.digitize(self.distance_m, DISTANCES_M)
        return {
            "sight": self.seen.astype(np.int64),
            "views": np.minimum(self.views, most).astype(np.int64),
            "distance": np.where(self.seen, by_distance, 0).astype(np.int64),
        }


def sights_of(batch: Batch, occlusion: LiftingConfig) -> list[Sight]:
    """How well the views of the batch see the points of each scene: as they see their voxels.

    Found from the cameras alone, so that models that read no images are split the same way.
    """
    scene = batch.voxel_coords[:, 0]
    sightings = find_sightings(
        batch.voxel_position_m, scene, batch.views, occlusion, batch.voxels_per_scene
    )
    distance_m = distance_to_cameras(batch.voxel_position_m, batch.views, sightings)
    number, apart_m = (
        of_voxel.index_select(0, batch.point_to_voxel).split(batch.points_per_scene)
        for of_voxel in (sightings.count, distance_m)
    )
    return [
        Sight(views.cpu().numpy(), distance.cpu().numpy())
        for views, distance in zip(number, apart_m, strict=True)
    ]
