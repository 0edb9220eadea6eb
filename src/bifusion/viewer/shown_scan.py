"""What the page shows of one scan, wherever it comes from.

Letters in shapes: N points, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bifusion.data.checks import require_text
from bifusion.errors import InputError
from bifusion.labels.label_set import Color, LabelSet
from bifusion.labels.palette import class_palette


@dataclass(frozen=True)
class ShownClass:
    """A class by its name and its colour, RGB of 0 … 255."""

    name: str
    color: Color


@dataclass(frozen=True)
class ShownObject:
    """One instance."""

    id: int
    """As the arrays it comes from number it; ≥ 0."""
    label: int
    """Its class: that of most of its points."""
    num_points: int
    low_m: tuple[float, float, float]
    """Smallest box along the scene's axes, scene frame; like high_m."""
    high_m: tuple[float, float, float]
    score: float | None = None
    """None where nothing tells."""


@dataclass(frozen=True)
class ShownSegmentation:
    """Classes and objects of all points: predicted, or annotated."""

    semantic: np.ndarray
    """(N,) integer class, −1 none."""
    instance: np.ndarray
    """(N,) integer id of its object, −1 none."""
    objects: tuple[ShownObject, ...]
    """One for each id in `instance`, ascending."""


@dataclass(frozen=True)
class ShownView:
    """A camera of the scan and a small picture of what it saw."""

    name: str
    K: np.ndarray
    """(3, 3) pinhole matrix in pixels of the picture as it was taken."""
    size: tuple[int, int]
    """Width and height of that picture."""
    cam2world: np.ndarray
    """(4, 4) rigid, OpenCV camera to scene frame."""
    thumbnail: bytes
    """JPEG, smaller."""
    warning: str | None = None
    """What contradicts the scan; None: nothing does."""


@dataclass(frozen=True)
class ShownMatch:
    """A region that fits a word."""

    similarity: float
    """Cosine with the word."""
    low_m: tuple[float, float, float]
    """Smallest box along the scene's axes, scene frame; like high_m."""
    high_m: tuple[float, float, float]
    object: int | None
    """Id of the predicted object that it is; None: a superpoint."""


@dataclass(frozen=True)
class ShownWord:
    """A word that was searched for, and how well each part of the scan fits it."""

    name: str
    similarity: np.ndarray
    """(S,) float32 cosine of each part, NaN where no view sees it."""
    matches: tuple[ShownMatch, ...]
    """The regions that fit best, the first one best of all."""


@dataclass(frozen=True)
class ShownScan:
    """Everything on the page; what is None or empty is not offered."""

    name: str
    coord: np.ndarray
    """(N, 3) finite metres, z up."""
    color: np.ndarray | None
    """(N, 3) uint8 RGB."""
    classes: tuple[ShownClass, ...] = ()
    predicted: ShownSegmentation | None = None
    annotated: ShownSegmentation | None = None
    seen: np.ndarray | None = None
    """(N,) number of `views` that see the point."""
    views: tuple[ShownView, ...] = ()
    part: np.ndarray | None = None
    """(N,) integer superpoint of each point, 0 … S−1, as `words` count them."""
    words: tuple[ShownWord, ...] = ()
    faces: np.ndarray | None = None
    """(F, 3) integer, the points that each triangle joins; None: a cloud."""
    notes: tuple[str, ...] = field(default=())
    """What the reader of the page should know, a sentence each."""

    def __post_init__(self) -> None:
        """InputError: arrays or triangles of other points, a coordinate that is not finite, a name that
        is no text."""
        require_text(self.name, "scan")
        count = len(self.coord)
        arrays: dict[str, np.ndarray | None] = {
            "color": self.color,
            "seen": self.seen,
            "part": self.part,
        }
        for name in ("predicted", "annotated"):
            part: ShownSegmentation | None = getattr(self, name)
            if part is not None:
                arrays |= {f"{name} classes": part.semantic, f"{name} objects": part.instance}
        for name, array in arrays.items():
            if array is not None and len(array) != count:
                raise InputError(
                    f"{self.name}: {name} of {len(array)} points, but there are {count} coordinates; "
                    "name the scene that the prediction was made of"
                )
        if self.faces is not None and len(self.faces):
            low, high = self.faces.min(), self.faces.max()
            if low < 0 or high >= count:
                raise InputError(
                    f"{self.name}: triangles join points {low} … {high}, but there are {count}; name "
                    "the mesh that the prediction was made of"
                )
        if count == 0 or not np.isfinite(self.coord).all():
            raise InputError(
                f"{self.name}: expected at least one point, all coordinates finite; prepare it again"
            )


def shown_classes(labels: LabelSet) -> tuple[ShownClass, ...]:
    """The classes of a label set, in their order."""
    colors = class_palette(labels).tolist()
    return tuple(
        ShownClass(name, (red, green, blue))
        for name, (red, green, blue) in zip(labels.class_names, colors, strict=True)
    )


def segmentation(
    coord: np.ndarray,
    semantic: np.ndarray,
    instance: np.ndarray,
    *,
    labels_of_objects: np.ndarray | None = None,
    scores: Mapping[int, float] | None = None,
) -> ShownSegmentation:
    """The objects that (N,) `instance` numbers, each with box, points and class.

    Args:
        labels_of_objects: (N,) class of the object at each point, where it is not the point's own.
        scores: by id, of those that have one.
    """
    source = semantic if labels_of_objects is None else labels_of_objects
    inside = np.flatnonzero(instance >= 0)
    order = inside[np.argsort(instance[inside], kind="stable")]
    ids, starts, counts = np.unique(instance[order], return_index=True, return_counts=True)
    if len(ids) == 0:
        return ShownSegmentation(semantic, instance, ())
    low = np.minimum.reduceat(coord[order], starts, axis=0).tolist()
    high = np.maximum.reduceat(coord[order], starts, axis=0).tolist()
    runs = np.split(source[order], starts[1:])
    known = scores or {}
    objects = [
        ShownObject(
            identity, int(np.bincount(run + 1).argmax()) - 1, count, tuple(box[0]), tuple(box[1]),
            known.get(identity),
        )
        for identity, run, count, *box in zip(
            ids.tolist(), runs, counts.tolist(), low, high, strict=True
        )
    ]  # fmt: skip
    return ShownSegmentation(semantic, instance, tuple(objects))
