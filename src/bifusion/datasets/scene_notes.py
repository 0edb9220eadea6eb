"""What is said of a scene that comes as it is, where its unit, upright or points are unlikely."""

from __future__ import annotations

import numpy as np

from bifusion.datasets.orientation.facing import cloud_facing
from bifusion.datasets.orientation.gravity import Unclear, estimate_up
from bifusion.datasets.placement import (
    axis_of,
    extent_note,
    extent_of,
    is_too_large,
    stray_note,
    stray_points,
)
from bifusion.datasets.superpoints.normals import NEIGHBORS, estimate_normals
from bifusion.rng import numpy_rng

POINTS = 5_000
"""Looked at for which way is up: floors and walls show on few, and a prediction is not to wait."""


AGREE = 0.8
"""Median cosine of stored normals to the planes of points that they belong to."""


def scene_notes(coord: np.ndarray, normal: np.ndarray | None = None) -> list[str]:
    """Lines on coordinates (N, 3), with normals (N, 3) if there are any, that a model takes for metres
    with z up: stray points, another unit, another axis up."""
    if not np.isfinite(coord).all():
        return []  # refused by name where the scene is read
    # Planes are told from each other in metres, so a wrong unit goes first …
    up = None if is_too_large(extent_of(coord)) else _up_note(coord, normal)
    # … and a room on its side is as high as a hall.
    unit = up or extent_note(coord, lambda factor: f"multiplying coordinates and poses by {factor:g}")
    return [note for note in (stray_note(coord), unit) if note]


def _up_note(coord: np.ndarray, normal: np.ndarray | None) -> str | None:
    rows = np.flatnonzero(~stray_points(coord))
    if len(rows) <= NEIGHBORS:
        return None
    if len(rows) > POINTS:
        rows = numpy_rng(0, "up").choice(rows, POINTS, replace=False)
    facing = cloud_facing(coord[rows], estimate_normals(coord[rows]), signed=False)
    if normal is not None:
        cosine = np.abs((normal[rows] * facing.normal).sum(axis=1))
        if np.median(cosine) > AGREE:  # else points were turned without them
            facing = cloud_facing(coord[rows], normal[rows], signed=True)
    estimate = estimate_up(facing, None)
    if isinstance(estimate, Unclear) or axis_of(estimate.up) == "z":
        return None
    return (
        f"by {estimate.how}, {axis_of(estimate.up)} points up rather than z; if so, turn points, "
        "normals and poses so that z does"
    )
