"""Checks of a scene's points: coordinates, colours, normals, superpoints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bifusion.data.checks import check_finite, color_note, require_text
from bifusion.datasets.check.opened import Finding, OpenedScene, error, warning
from bifusion.datasets.placement import FAR_M, size_note, stray_note
from bifusion.errors import InputError

FEW_POINTS = 500
LENGTH_TOLERANCE = 0.05
"""Of normals, which should be of length 1."""
MIXED = 0.25
"""Share of labelled points in superpoints of mostly another class; ScanNet's own: about 2 %."""


def files(scene: OpenedScene) -> Iterator[Finding]:
    """Arrays, cameras and scene.json that cannot be read, and a name that is no text."""
    yield from scene.unread
    try:
        require_text(scene.folder.resolve().name, "scene")
    except InputError as problem:
        yield error(problem)


def coordinates(scene: OpenedScene) -> Iterator[Finding]:
    """Finite, near the origin, as large as an indoor scan."""
    if "coord" not in scene.arrays:
        return
    path, coord = scene.folder / "coord.npy", scene.arrays["coord"]
    try:
        check_finite(coord, path)
    except InputError as problem:
        yield error(problem)
        return
    note = size_note(
        coord, lambda factor: f"multiplying coord.npy by {factor:g}", stated=scene.unit_stated
    )
    for said in (stray_note(coord), note):
        if said:
            yield warning(f"{path}: {said}")
    far = float(np.abs(coord).max())
    if far > FAR_M and not note:
        yield warning(
            f"{path}: points are {far:,.0f} m from the origin, where float32 is coarse; expected metres "
            "near it: prepare the scene from its mesh, or subtract an offset from points and poses"
        )
    if len(coord) < FEW_POINTS:
        yield warning(f"{path}: has {len(coord)} points; a room has thousands: was it cut off?")
    if len(np.unique(coord[:, 2])) == 1 and len(coord) > 1:
        yield warning(f"{path}: all points are at z = {coord[0, 2]:g} m; expected a room, z up")


def colors(scene: OpenedScene) -> Iterator[Finding]:
    """Not all the same, no shares of 1."""
    color = scene.arrays.get("color")
    if color is not None and (note := color_note(color)):
        yield warning(f"{scene.folder / 'color.npy'}: {note}")


def normals(scene: OpenedScene) -> Iterator[Finding]:
    """Finite and of length 1."""
    normal = scene.arrays.get("normal")
    if normal is None:
        return
    path = scene.folder / "normal.npy"
    length = np.linalg.norm(normal, axis=1)
    if not np.isfinite(length).all():
        bad = int((~np.isfinite(length)).sum())
        yield error(
            f"{path}: {bad} of {len(normal)} normals are not finite; remove the file, or estimate "
            "them again"
        )
        return
    off = np.abs(length - 1) > LENGTH_TOLERANCE
    if (length == 0).mean() > 0.5:
        yield warning(
            f"{path}: {(length == 0).mean():.0%} of the normals are 0, which is none; expected unit "
            "vectors: remove the file"
        )
    elif off.mean() > 0.01:
        yield warning(
            f"{path}: {off.mean():.0%} of the normals are not of length 1 (first: {length[off][0]:.3g}"
            "); expected unit vectors: divide them by their length"
        )


def superpoints(scene: OpenedScene) -> Iterator[Finding]:
    """Ids that are none, too few or too many superpoints, and such as cut across classes."""
    superpoint = scene.arrays.get("superpoint")
    if superpoint is None:
        return
    path = scene.folder / "superpoint.npy"
    if superpoint.min() < 0:
        yield error(
            f"{path}: superpoint id {int(superpoint.min())} found; expected ids ≥ 0 for every point: "
            f"`bifusion prepare superpoints {scene.folder} --overwrite`"
        )
        return
    ids, row = np.unique(superpoint, return_inverse=True)
    remedy = f"compute them with `bifusion prepare superpoints {scene.folder} --overwrite`"
    if len(superpoint) >= FEW_POINTS and not 1 < len(ids) < 0.9 * len(superpoint):
        yield warning(
            f"{path}: {len(ids)} superpoints of {len(superpoint)} points; expected tens to thousands, "
            f"as a superpoint gets one class: {remedy}"
        )
        return
    for labels, file, segment in scene.segments():
        known = (segment >= 0) & (segment < labels.num_classes) if len(segment) == len(row) else []
        if not np.any(known):
            continue
        flat = row[known] * labels.num_classes + segment[known]
        counts = np.bincount(flat, minlength=len(ids) * labels.num_classes)
        of_majority = counts.reshape(len(ids), -1).max(axis=1).sum()
        mixed = 1 - of_majority / np.count_nonzero(known)
        if mixed > MIXED:
            yield warning(
                f"{path}: {mixed:.0%} of the labelled points are in superpoints of mostly another class "
                f"of {file.name}, which nothing can tell apart then; are both of the same points in the "
                f"same order? Else {remedy}"
            )
