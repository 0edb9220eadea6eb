"""What a model says of a scan, on its user's vertices: classes, and objects with their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.arguments import require
from bifusion.datasets.scan.made import MadeScan
from bifusion.datasets.scan.options import VIEWS
from bifusion.inference.segmentation import Segmentation
from bifusion.inference.segmenter import Segmenter

NO_VIEWS = (
    "THIS MODEL WAS TRAINED WITH PICTURES AND THE SCAN HAS NONE: it goes by geometry and vertex colours "
    "alone, which is less than a model made for that. For scans without pictures take a OneFormer3D run"
)


@dataclass(frozen=True)
class LabelledObject:
    """One object. Boxes lie along the axes of the user's frame, in its unit."""

    id: int
    """In `LabelledScan.instance`."""
    label: int
    class_name: str
    score: float
    vertices: int
    """The user's vertices that are of it; 0 where it lies between the vertices of a coarse mesh."""
    low: np.ndarray
    """(3,) the box's smallest coordinates; like `high`."""
    high: np.ndarray
    size_m: np.ndarray
    """(3,) along the two horizontal axes that walls follow, the longer one first, and upwards."""

    @property
    def centre(self) -> np.ndarray:
        """(3,) of the box."""
        return (self.low + self.high) / 2

    @property
    def size(self) -> np.ndarray:
        """(3,) of the box."""
        return self.high - self.low


@dataclass(frozen=True)
class LabelledScan:
    """A scan of n vertices of its user's."""

    made: MadeScan
    segmentation: Segmentation
    """At all points of the scene, of which the user's vertices are the first."""
    objects: list[LabelledObject]
    """Best score first."""
    warnings: list[str]
    """Why the result is less than the model can give, for the user to see first."""

    @property
    def semantic(self) -> np.ndarray:
        """(n,) int16 class of each vertex in the user's order, −1 none."""
        return self.segmentation.semantic[: len(self.made.mesh.coord)]

    @property
    def instance(self) -> np.ndarray:
        """(n,) int32 object of each vertex, −1 none."""
        return self.segmentation.instances[: len(self.made.mesh.coord)]


def trained_views(segmenter: Segmenter) -> int:
    """Views of a scan that the model sees; for models without pictures, some to look at."""
    return segmenter.config.data.max_views or VIEWS


def segment(made: MadeScan, segmenter: Segmenter, *, min_score: float | None = None) -> LabelledScan:
    """Segments a scan and carries the result to the user's vertices. `min_score`: as of
    `Segmenter.predict`.

    Raises InputError as `Segmenter.predict`, and for arguments of other types.
    """
    require(isinstance(made, MadeScan), made, "made", "what make_scan returned")
    can_predict = hasattr(segmenter, "predict") and hasattr(segmenter, "config")
    require(can_predict, segmenter, "segmenter", "what bifusion.load returned")
    lacks_views = segmenter.config.uses_views and not made.scene.view_names
    segmentation = segmenter.predict(made.scene, min_score=min_score)
    return LabelledScan(
        made,
        segmentation,
        objects=_objects(made, segmentation),
        warnings=[NO_VIEWS] if lacks_views else [],
    )


def _objects(made: MadeScan, segmentation: Segmentation) -> list[LabelledObject]:
    instance, count = segmentation.instances, len(made.mesh.coord)
    inside = np.flatnonzero(instance >= 0)
    order = inside[np.argsort(instance[inside], kind="stable")]
    ids, starts = np.unique(instance[order], return_index=True)
    found = []
    for identity, rows in zip(ids.tolist(), np.split(order, starts[1:]), strict=False):
        points, label = made.coord[rows], int(segmentation.classes[identity])
        extent = np.ptp(made.scene.coord[rows].astype(np.float64), axis=0)
        found.append(
            LabelledObject(
                id=identity,
                label=label,
                class_name=str(segmentation.class_names[label]),
                score=float(segmentation.scores[identity]),
                vertices=int((rows < count).sum()),
                low=points.min(axis=0),
                high=points.max(axis=0),
                size_m=np.array([*np.sort(extent[:2])[::-1], extent[2]]),
            )
        )
    return sorted(found, key=lambda one: (-one.score, one.id))
