"""Points by the cells of a grid that they lie in, of which only those that hold one are counted."""

from __future__ import annotations

import numpy as np


def occupied_cells(points: np.ndarray, edge: float) -> np.ndarray:
    """(N,) int64 which of the occupied cubes of that edge each of (N, 3) points lies in, counted from 0
    by x, then y, then z. The grid begins at the smallest coordinates.

    Cells are numbered anew after each axis: all cells between points that are far apart are too many to
    count.
    """
    cell = np.zeros(len(points), np.int64)
    for column in np.floor((points - points.min(axis=0)) / edge).astype(np.int64).T:
        cell = np.unique(cell * (column.max() + 1) + column, return_inverse=True)[1].reshape(-1)
    return cell
