"""Depth maps as a camera would see them of a mesh, for pictures that come without depth."""

from __future__ import annotations

import numpy as np

from bifusion.datasets.first_hits import first_hits


class MeshDepth:
    """Renders depth of one mesh.

    Args:
        coord: (N, 3) metres, near the origin.
        faces: (F, 3) vertex indices, F ≥ 1.
    """

    def __init__(self, coord: np.ndarray, faces: np.ndarray):
        self._corner = coord[faces[:, 0]]
        self._normal = np.cross(coord[faces[:, 1]] - self._corner, coord[faces[:, 2]] - self._corner)
        self._hits = first_hits(coord, faces)

    def render(self, K: np.ndarray, cam2world: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(H, W) float32 metres along the camera's z axis, 0 where the mesh is not hit.

        Args:
            K: (3, 3) pinhole matrix.
            cam2world: (4, 4) camera to the mesh's frame.
            size: width, height in pixels.
        """
        width, height = size
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        ray = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], axis=-1)
        direction = ray.reshape(-1, 3) @ cam2world[:3, :3].T
        origin = np.broadcast_to(cam2world[:3, 3], direction.shape)
        face = self._hits.intersects_first(origin, direction)
        normal = self._normal[face]  # -1, no hit, is dropped below
        slope = (direction * normal).sum(axis=1)
        above = ((self._corner[face] - origin) * normal).sum(axis=1)
        hit = (face >= 0) & (np.abs(slope) > 0)
        # Directions have length 1 along the camera's z axis, so the ray's parameter is the depth.
        depth_m = np.divide(above, slope, out=np.zeros(len(face)), where=hit)
        return np.maximum(depth_m, 0).reshape(height, width).astype(np.float32)
