"""Which triangle of a mesh a ray hits first: Embree's answer, or that of a tree of boxes in NumPy.

Embree's Python package has no wheel for Linux on 64-bit ARM, nor a source distribution.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

MISS = -1


@runtime_checkable
class FirstHits(Protocol):
    """Rays and one mesh."""

    def intersects_first(self, origin: np.ndarray, direction: np.ndarray, /) -> np.ndarray:
        """(n,) triangle hit first by each ray (n, 3) from `origin` (n, 3) on; MISS: none."""
        ...


def first_hits(coord: np.ndarray, faces: np.ndarray) -> FirstHits:
    """Embree where its package is installed.

    Args:
        coord: (N, 3) metres, near the origin.
        faces: (F, 3) vertex indices, F ≥ 1.
    """
    from trimesh import Trimesh  # half a second, which most who import this module never need

    try:
        from trimesh.ray.ray_pyembree import RayMeshIntersector
    except ModuleNotFoundError:
        return BoxTree(coord, faces)
    return RayMeshIntersector(Trimesh(coord, faces, process=False))


class BoxTree:
    """A balanced binary tree of boxes around triangles. All rays go down it together, a level at a time.

    Ten thousand rays through 80,000 triangles take about a second; Embree takes a hundredth of that.
    """

    PER_LEAF = 4
    TOGETHER = 1024
    """Rays: what bounds the memory."""
    SLACK = 1e-12
    """So much a triangle is larger, in its own sides, that no ray passes between two neighbours."""

    MARGIN_M = 1e-9
    """So much a box is larger, more where coordinates are large."""

    def __init__(self, coord: np.ndarray, faces: np.ndarray):
        corner = coord.astype(np.float64)[faces]
        levels = max(0, (len(faces) - 1) // self.PER_LEAF).bit_length()
        self._leaf = _halved(corner.mean(axis=1), levels)
        # x, y and z of all stand together: sums over rows of three take several times as long
        self._start, *ends = corner.transpose(1, 2, 0)
        self._along, self._across = (np.ascontiguousarray(end - self._start) for end in ends)
        low, high = corner[self._leaf].min(axis=(1, 2)).T, corner[self._leaf].max(axis=(1, 2)).T
        low, high = low - self.MARGIN_M * (1 + np.abs(low)), high + self.MARGIN_M * (1 + np.abs(high))
        self._boxes = [(low, high)]
        for _ in range(levels):
            low, high = np.minimum(low[:, ::2], low[:, 1::2]), np.maximum(high[:, ::2], high[:, 1::2])
            self._boxes.append((low, high))
        self._boxes.reverse()

    def intersects_first(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """(n,) triangle hit first by each ray (n, 3) from `origin` (n, 3) on; MISS: none.

        Of triangles hit at one distance it is that of the lowest number.
        """
        origin, direction = origin.astype(np.float64), direction.astype(np.float64)
        parts = [slice(begin, begin + self.TOGETHER) for begin in range(0, len(origin), self.TOGETHER)]
        with np.errstate(all="ignore"):  # what overflows is no hit
            found = [self._first(origin[part].T.copy(), direction[part].T.copy()) for part in parts]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _first(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        inverse = 1 / np.where(direction == 0, 1e-300, direction)
        ray = np.arange(origin.shape[1])
        box = np.zeros(origin.shape[1], dtype=np.int64)
        for level, (low, high) in enumerate(self._boxes):
            if level:
                ray, box = np.repeat(ray, 2), (2 * box[:, None] + np.arange(2)).ravel()
            start, speed = origin[:, ray], inverse[:, ray]
            one, other = ((side[:, box] - start) * speed for side in (low, high))
            enters, leaves = np.minimum(one, other).max(axis=0), np.maximum(one, other).min(axis=0)
            kept = (enters <= leaves) & (leaves >= 0)
            ray, box = ray[kept], box[kept]
        triangle = self._leaf[box].ravel()
        ray = np.repeat(ray, self._leaf.shape[1])
        t = self._distance(triangle, origin[:, ray], direction[:, ray])
        ray, triangle, t = (values[np.isfinite(t)] for values in (ray, triangle, t))
        nearest = np.lexsort((triangle, t, ray))
        nearest = nearest[np.diff(ray[nearest], prepend=-1) > 0]
        first = np.full(origin.shape[1], MISS)
        first[ray[nearest]] = triangle[nearest]
        return first

    def _distance(self, triangle: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """(n,) ray parameter at which each ray meets its triangle, inf where it does not.

        After Möller and Trumbore, 1997.
        """
        along, across = self._along[:, triangle], self._across[:, triangle]
        offset = origin - self._start[:, triangle]
        p, q = np.cross(direction, across, axis=0), np.cross(offset, along, axis=0)
        scale = 1 / (along * p).sum(axis=0)
        u, v = (offset * p).sum(axis=0) * scale, (direction * q).sum(axis=0) * scale
        t = (across * q).sum(axis=0) * scale
        inside = (u >= -self.SLACK) & (v >= -self.SLACK) & (u + v <= 1 + self.SLACK) & (t >= 0)
        return np.where(inside, t, np.inf)


def _halved(middle: np.ndarray, levels: int) -> np.ndarray:
    """(2^levels, n) rows of `middle` (F, 3), halved again and again across the longest side.

    Where they do not go up into the leaves, some stand in two.
    """
    leaves = 1 << levels
    order = np.resize(np.arange(len(middle)), leaves * -(-len(middle) // leaves))
    for level in range(levels):
        group = order.reshape(1 << level, -1)
        place = middle[group]
        longest = np.ptp(place, axis=1).argmax(axis=1)
        key = np.take_along_axis(place, longest[:, None, None], axis=2)[..., 0]
        order = np.take_along_axis(group, key.argsort(axis=1, kind="stable"), axis=1).ravel()
    return order.reshape(leaves, -1)
