"""Dense clouds, in which a few neighbours of a point are no piece of surface yet: one point a cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.datasets.ply.mesh import Mesh
from bifusion.occupied_cells import occupied_cells

DENSE = 2.0
"""Points a cell from which on a cloud is thinned."""
CELLS_A_SPACING = 2.0
"""Cells are so many times smaller than the distance of points at which the models are at home."""


@dataclass(frozen=True)
class Thinned:
    """One point for each occupied cell of a grid."""

    cloud: Mesh
    """Mean points, colours and normals (unit vectors, zeros where the points' cancel)."""
    cell: np.ndarray
    """(N,) int64 the cell of each of the points, a row of `cloud`."""


def thinned_cloud(cloud: Mesh, spacing: float) -> Thinned | None:
    """A cloud with one point a cell of half of `spacing`, in its unit; None: it is no denser."""
    cell = occupied_cells(cloud.coord, spacing / CELLS_A_SPACING)
    count = np.bincount(cell)
    if len(cell) < DENSE * len(count):
        return None
    normal = None
    if cloud.normal is not None:
        normal = _means(cloud.normal, cell, count)
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        normal /= np.where(length > 0, length, 1)
    color = np.rint(_means(cloud.color, cell, count)).astype(np.uint8)
    coord = _means(cloud.coord, cell, count)
    return Thinned(Mesh(coord, color, cloud.faces, normal, up=cloud.up), cell)


def _means(values: np.ndarray, cell: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(C, 3) float64 means of (N, 3) values over each cell; values that are not finite count as 0."""
    finite = np.where(np.isfinite(values), values, 0)
    return np.stack([np.bincount(cell, column) for column in finite.T], axis=1) / count[:, None]
