"""Triangles of a shown scan as few bytes: what the page's script takes apart again (`scripts/faces.js`).

Each triangle begins with its first corner in the points' order in the file, and triangles are sorted, so
that the first corner hardly grows from one to the next and the others lie near it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from bifusion.occupied_cells import occupied_cells

MOST_FACES = 400_000
"""Of a page: software draws so many in portions without a frame of half a second, and they are about
2 MB. A scan with more of them is shown in a coarser form."""
LEVEL = 6
CELLS_A_FACE = 3.0
"""Triangles that a square of a cell's edge of surface has, once vertices are joined in cells."""
GROWTH = 1.1


@dataclass(frozen=True)
class PackedFaces:
    """The triangles between points in the order of the file."""

    count: int
    content: bytes
    """Deflated: three columns of (count,) uint32, bytes of equal weight together, lowest first: first
    corners as differences from the triangle before, then how far behind it the others lie."""


def pack_faces(faces: np.ndarray, order: np.ndarray) -> PackedFaces:
    """(F, 3) triangles between points of which the file has those numbered `order` (N,), one by one."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    first, second, third = _sorted(rank[faces]).T
    columns = (np.diff(first, prepend=0), second - first, third - first)
    planes = [column.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes() for column in columns]
    return PackedFaces(len(faces), zlib.compress(b"".join(planes), LEVEL))


def fewer_faces(coord: np.ndarray, faces: np.ndarray, most: int) -> np.ndarray:
    """At most `most` triangles (G, 3) between some of the points; `faces` where they are no more.

    Decimated by clustering (Rossignac and Borrel, "Multi-resolution 3D approximations for rendering
    complex scenes", 1993): of the vertices in each cell of a grid the one nearest to their mean stands
    for all. What falls together goes.
    """
    if len(faces) <= most:
        return faces
    corner = coord[faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    edge = np.sqrt(CELLS_A_FACE * np.linalg.norm(across, axis=1).sum() / 2 / most)
    if not edge > 0:
        return faces[:0]  # none has an area
    while len(found := _clustered(coord, faces, edge)) > most:
        edge *= GROWTH
    return found


def _clustered(coord: np.ndarray, faces: np.ndarray, edge: float) -> np.ndarray:
    used = np.unique(faces)
    points = coord[used]
    cluster = occupied_cells(points, edge)
    count = np.bincount(cluster)
    sums = [np.bincount(cluster, column) for column in points.T]
    off = np.linalg.norm(points - (np.array(sums) / count).T[cluster], axis=1)
    nearest = np.lexsort((off, cluster))  # the first of each cluster stands for it
    standing = used[nearest[np.cumsum(count) - count]]
    stands = np.zeros(len(coord), np.int64)
    stands[used] = standing[cluster]
    corners = stands[faces]
    whole = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    corners = _sorted(corners[whole])
    again = (corners[1:] == corners[:-1]).all(axis=1)
    return corners[~np.append(False, again)] if len(corners) else corners


def _sorted(corners: np.ndarray) -> np.ndarray:
    """(F, 3) the same triangles, each from its smallest corner on, in ascending order."""
    turn = (corners.argmin(axis=1)[:, None] + np.arange(3)) % 3
    turned = np.take_along_axis(corners, turn, axis=1)
    return turned[np.lexsort(turned.T[::-1])]
