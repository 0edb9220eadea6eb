"""Superpoints of a user's own surface: its seams closed, and what no face joins taken as a cloud.

Exporters cut a mesh: along the seams of its texture, or at every triangle, and leave vertices that no
face has. Segmentator, which knows connected meshes alone, would make each loose vertex and each cut
triangle a superpoint, and the decoder has a query for each.
"""

from __future__ import annotations

import numpy as np

from bifusion.datasets.superpoints.normals import estimate_normals
from bifusion.datasets.superpoints.superpoints import (
    CLOUD_NEIGHBORS,
    SEG_MIN_VERTS,
    first_appearance,
    graph_superpoints,
)
from bifusion.datasets.superpoints.welding import welded


def surface_superpoints(coord: np.ndarray, normal: np.ndarray | None, faces: np.ndarray) -> np.ndarray:
    """(N,) int32 superpoints of a scan: Segmentator's on its welded faces, the same on a cloud without.

    Parts of fewer than SEG_MIN_VERTS vertices that no face joins to others are one cloud together.

    Args:
        coord: (N, 3) metres, near the origin (float32 is computed with).
        normal: (N, 3) unit normals; not used with faces.
        faces: (F, 3) vertex indices; F is 0 for a cloud.
    """
    if not len(faces):
        return graph_superpoints(coord, normal, neighbors=CLOUD_NEIGHBORS)
    first, place = welded(coord)
    points = coord[first]
    found = graph_superpoints(points, faces=place[faces])
    loose = (np.bincount(found) < SEG_MIN_VERTS)[found]
    if loose.any():
        cloud = points[loose]
        own = graph_superpoints(cloud, estimate_normals(cloud), neighbors=CLOUD_NEIGHBORS)
        found[loose] = len(points) + own
    return first_appearance(found)[place]
