"""Which ways the surfaces of a scan face: the few directions that floors, walls and furniture share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.datasets.placement import faces_of_scan
from bifusion.errors import InputError
from bifusion.rng import numpy_rng

SAMPLES = 20_000
"""Pieces of surface that are looked at; more of them tell no more."""
STARTS = 200
ROUNDS = 6
NEAR = np.cos(np.deg2rad(10))
"""Pieces within 10° of a direction face it."""
SAME = np.cos(np.deg2rad(15))
LEAST_SHARE = 0.03
"""Of all area: directions that fewer face are none of the scan's."""
BLOCK = 256
"""Pieces compared with all starts at a time: their cosines stay in the processor's cache."""


@dataclass
class Facing:
    """S pieces of a scan's surface."""

    point: np.ndarray
    """(S, 3) metres."""
    normal: np.ndarray
    """(S, 3) unit vectors."""
    area: np.ndarray
    """(S,) shares of the whole area, with sum 1."""
    signed: bool
    """Whether normals point to where the surface was seen from; else either way."""

    def turned(self, rotation: np.ndarray) -> Facing:
        return Facing(self.point @ rotation.T, self.normal @ rotation.T, self.area, self.signed)


def mesh_facing(coord: np.ndarray, faces: np.ndarray, samples: int = SAMPLES) -> Facing:
    """Pieces of a mesh's faces, drawn by area; their winding says which way they face. Faces that
    reach out to stray points (`stray_points`) are not looked at.

    Args:
        coord: (N, 3) metres.
        faces: (F, 3) vertex indices.
        samples: pieces that are drawn.
    Raises:
        InputError: no face has an area.
    """
    faces = faces_of_scan(coord, faces)
    a, b, c = (coord[faces[:, corner]].astype(np.float64) for corner in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    if not area.sum() > 0:
        raise InputError(
            f"orientation: none of the {len(faces):,} faces has an area; export the mesh again"
        )
    drawn = numpy_rng(0, "facing").choice(len(faces), samples, p=area / area.sum())
    normal = cross[drawn] / area[drawn, None]
    point = (a[drawn] + b[drawn] + c[drawn]) / 3
    return Facing(point, normal, np.full(samples, 1 / samples), signed=True)


def cloud_facing(coord: np.ndarray, normal: np.ndarray, signed: bool) -> Facing:
    """Pieces of a cloud of about even density.

    Args:
        coord: (N, 3) metres.
        normal: (N, 3); points without one, zero or not finite, are left out.
        signed: whether normals point to where the surface was seen from.
    Raises:
        InputError: no point has a normal.
    """
    length = np.linalg.norm(normal, axis=1)
    there = np.flatnonzero(np.isfinite(length) & (length > 0))
    if not len(there):
        raise InputError(
            f"orientation: none of the {len(coord):,} points has a normal; estimate them first"
        )
    drawn = there
    if len(there) > SAMPLES:
        drawn = numpy_rng(0, "facing").choice(there, SAMPLES, replace=False)
    unit = normal[drawn] / length[drawn, None]
    return Facing(coord[drawn].astype(float), unit, np.full(len(drawn), 1 / len(drawn)), signed)


def main_axes(facing: Facing) -> np.ndarray:
    """(A, 3) unit directions, without sign, that much of the surface faces, the commonest first.

    Mean shift of the normals (Comaniciu and Meer, PAMI 2002) with a window of 10°, from many starts.
    """
    starts = numpy_rng(0, "axes").choice(len(facing.area), STARTS, p=facing.area)
    axes = facing.normal[starts]
    for _ in range(ROUNDS):
        axes = _mean_near(axes, facing)
    share = ((np.abs(facing.normal @ axes.T) > NEAR) * facing.area[:, None]).sum(axis=0)
    kept: list[np.ndarray] = []
    for row in np.argsort(-share, kind="stable"):
        if share[row] >= LEAST_SHARE and all(abs(axes[row] @ other) < SAME for other in kept):
            kept.append(axes[row])
    return np.array(kept).reshape(-1, 3)


def _mean_near(axes: np.ndarray, facing: Facing) -> np.ndarray:
    """(A, 3) unit: the mean, by area and without sign, of the normals near each of `axes` (A, 3)."""
    weighted = facing.normal * facing.area[:, None]
    summed = np.zeros_like(axes)
    for first in range(0, len(weighted), BLOCK):
        cosine = facing.normal[first : first + BLOCK] @ axes.T
        sign = (cosine > NEAR).astype(np.float64) - (cosine < -NEAR)
        summed += sign.T @ weighted[first : first + BLOCK]
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)


def refined(axis: np.ndarray, facing: Facing) -> np.ndarray:
    """(3,) the direction near `axis` that surfaces are most exactly level or upright to."""
    for window in np.deg2rad((10.0, 6.0, 4.0)):
        cosine = facing.normal @ axis
        level = facing.area * (np.abs(cosine) > np.cos(window))
        upright = facing.area * (np.abs(cosine) < np.sin(window))
        spread = (facing.normal * (level - upright)[:, None]).T @ facing.normal
        best = np.linalg.eigh(spread)[1][:, -1]
        axis = best * np.sign(best @ axis)
    return axis
