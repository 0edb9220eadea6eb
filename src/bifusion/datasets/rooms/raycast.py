"""A room's boxes as rectangles, and rays through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.datasets.first_hits import MISS, first_hits
from bifusion.datasets.rooms.layout import Layout


@dataclass
class Faces:
    """F rectangles, six a box. Surface coordinates are metres from the middle along u and v."""

    centre: np.ndarray
    """(F, 3) float32, like normal, u, v."""
    normal: np.ndarray
    """Unit, outwards."""
    u: np.ndarray
    """Unit; level on upright faces."""
    v: np.ndarray
    """Unit; upwards on upright faces."""
    half: np.ndarray
    """(F, 2) float32 half lengths along u and v."""
    item: np.ndarray
    """(F,) int."""

    def surface_uv(self, face: np.ndarray, point: np.ndarray) -> np.ndarray:
        """(n, 2) surface coordinates of `point` (n, 3) on the faces `face` (n,)."""
        offset = point - self.centre[face]
        return np.stack(
            [(offset * self.u[face]).sum(axis=1), (offset * self.v[face]).sum(axis=1)], axis=1
        )


class RayCaster:
    """First hits of rays with a room."""

    def __init__(self, faces: Faces):
        self.faces = faces
        along, across = faces.u * faces.half[:, :1], faces.v * faces.half[:, 1:]
        corners = faces.centre[:, None] + np.stack(
            [-along - across, along - across, along + across, -along + across], axis=1
        )
        quads = np.arange(len(faces.item))[:, None] * 4
        triangles = (quads + np.array([0, 1, 2, 0, 2, 3])).reshape(-1, 3)
        self._hits = first_hits(corners.reshape(-1, 3), triangles)

    def first_hit(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Face hit first (MISS: none) and the ray parameter t of the hit, origin + t · direction.

        Args:
            origin: (n, 3), or (3,) for a common origin.
            direction: (n, 3), any length.
        """
        origin = np.broadcast_to(origin, direction.shape)
        triangle = self._hits.intersects_first(origin, direction)
        face = np.where(triangle >= 0, triangle // 2, MISS)
        t = plane_distance(self.faces, face, origin, direction)
        return face, np.where(face == MISS, np.inf, t)


def plane_distance(
    faces: Faces, face: np.ndarray, origin: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """(n,) ray parameter at which each ray meets the plane of its face."""
    normal = faces.normal[face]
    above = ((faces.centre[face] - origin) * normal).sum(axis=1)
    slope = (direction * normal).sum(axis=1)
    return above / np.where(np.abs(slope) < 1e-9, 1e-9, slope)


def layout_faces(layout: Layout) -> Faces:
    """The rectangles of all boxes of a room."""
    cos, sin = np.cos(layout.yaw), np.sin(layout.yaw)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    axes = np.stack(
        [np.stack([cos, sin, zero], 1), np.stack([-sin, cos, zero], 1), np.stack([zero, zero, one], 1)],
        1,
    )
    parts = []
    for axis, (u, v) in enumerate([(1, 2), (0, 2), (0, 1)]):
        for sign in (-1.0, 1.0):
            normal = sign * axes[:, axis]
            centre = layout.centre + normal * layout.half[:, axis : axis + 1]
            parts.append((centre, normal, axes[:, u], axes[:, v], layout.half[:, [u, v]], layout.item))
    centre, normal, u, v, half, item = (np.concatenate(column) for column in zip(*parts, strict=True))
    lengths = (array.astype(np.float32) for array in (centre, normal, u, v, half))
    return Faces(*lengths, item=item)
