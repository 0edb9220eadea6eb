"""Said of a scene or a mesh that comes as it is, where its unit, upright or points are unlikely."""

from __future__ import annotations

import numpy as np

from bifusion.datasets.orientation.facing import Facing, cloud_facing, mesh_facing
from bifusion.datasets.orientation.gravity import Unclear, estimate_up
from bifusion.datasets.placement import (
    Up,
    axis_of,
    extent_of,
    faces_of_scan,
    is_too_large,
    size_note,
    stray_note,
    stray_points,
)
from bifusion.datasets.superpoints.normals import NEIGHBORS, estimate_normals
from bifusion.rng import numpy_rng

POINTS = 5_000
"""Looked at for which way is up: floors and walls show on few, and a prediction is not to wait."""

AGREE = 0.8
"""Median cosine of stored normals to the planes of points that they belong to."""


def scene_notes(
    coord: np.ndarray, normal: np.ndarray | None = None, *, unit_stated: bool = False
) -> list[str]:
    """Lines on coordinates (N, 3), with normals (N, 3) if there are any, that a model takes for metres
    with z up: stray points, another unit (where its own is not stated), another axis up."""
    if not np.isfinite(coord).all():
        return []  # refused by name where the scene is read
    # Planes are told from each other in metres, so a wrong unit goes first …
    up = None if is_too_large(extent_of(coord)) else _up_note(coord, normal)
    # … and a room on its side is as high as a hall.
    unit = up or size_note(
        coord, lambda factor: f"multiplying coordinates and poses by {factor:g}", stated=unit_stated
    )
    return [note for note in (stray_note(coord), unit) if note]


def mesh_up_note(
    coord: np.ndarray, faces: np.ndarray, normal: np.ndarray | None, taken: Up
) -> str | None:
    """What to say of a mesh or cloud whose axis `taken` is taken to point up, where the surface shows
    another; None where it does not tell.

    Args:
        coord: (N, 3) metres along the file's axes.
        faces: (F, 3), F is 0 for a cloud.
        normal: (N, 3) of the file, or None.
    """
    near_m = coord - coord.mean(axis=0)
    corner = near_m[faces_of_scan(near_m, faces)]
    if np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]).any():
        facing = mesh_facing(near_m, faces, POINTS)
    else:
        facing = _some_facing(near_m, normal)
    shown = None if facing is None else _axis_shown(facing, taken)
    return shown and f"by {shown[1]}, {shown[0]} points up rather than {taken}; if so, --up {shown[0]}"


def _up_note(coord: np.ndarray, normal: np.ndarray | None) -> str | None:
    facing = _some_facing(coord, normal)
    shown = None if facing is None else _axis_shown(facing, "z")
    return shown and (
        f"by {shown[1]}, {shown[0]} points up rather than z; if so, turn points, normals and poses so "
        "that z does"
    )


def _axis_shown(facing: Facing, taken: Up) -> tuple[Up, str] | None:
    """The axis other than `taken` that a surface shows to point up, and by what; None: it shows none."""
    estimate = estimate_up(facing, None)
    if isinstance(estimate, Unclear) or axis_of(estimate.up) == taken:
        return None
    return axis_of(estimate.up), estimate.how


def _some_facing(coord: np.ndarray, normal: np.ndarray | None) -> Facing | None:
    """Of some of a cloud's points; None: too few are there."""
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
    return facing
