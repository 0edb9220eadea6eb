"""Whether depth images are in the unit they were read in: the scan tells."""

from __future__ import annotations

import numpy as np

from bifusion.data.view_fit import Camera
from bifusion.types import View

MOST_VIEWS = 20
GRID = (24, 32)
"""Rows and columns of cells in which the nearest point of the scan is compared with the image."""
FEW_CELLS = 30
STEADY = 0.1
"""Largest half of the middle half's spread of log ratios: of one factor, not of a wrong camera."""
OFF = 0.18
"""Least |log factor| that is spoken of (a fifth)."""
KNOWN_SCALES = (1.0, 100.0, 256.0, 1000.0, 4000.0, 5000.0, 6553.5, 10000.0)
"""Units a metre that recorders use: metres, centimetres, KITTI's, millimetres, Matterport's, TUM's,
Replica's as rendered for SLAM, tenths of millimetres."""
NEAR = 0.03


class DepthCheck:
    """Compares the depth of some views with the points of their scan.

    Args:
        coord: (N, 3) metres, the scene's frame.
        depth_scale: units a metre that the views' depth was read with.
    """

    def __init__(self, coord: np.ndarray, depth_scale: float):
        self._coord, self._scale = coord.astype(np.float64), depth_scale
        self._views = 0
        self._factors: list[float] = []

    def add(self, view: View) -> None:
        """Takes in a view, as long as there are few."""
        if self._views == MOST_VIEWS:
            return
        self._views += 1
        ratio = depth_ratios(self._coord, view)
        if len(ratio) < FEW_CELLS:
            return
        low, middle, high = np.percentile(np.log(ratio), (25, 50, 75))
        if high - low <= 2 * STEADY:
            self._factors.append(float(np.exp(middle)))

    def notes(self) -> list[str]:
        """A line if most views agree that the depth is off by one factor, and by which."""
        if 2 * len(self._factors) <= self._views:
            return []
        factor = float(np.median(self._factors))
        if abs(np.log(factor)) < OFF:
            return []
        right = self._scale * factor
        known = [scale for scale in KNOWN_SCALES if abs(np.log(scale / right)) < NEAR]
        return [
            f"depth images disagree with the scan by a factor {max(factor, 1 / factor):.3g}: they say "
            f"{factor:.3g} times the distance; --depth-scale {known[0] if known else right:.5g} would "
            f"make them agree (read with {self._scale:g} units a metre)"
        ]


def depth_ratios(coord: np.ndarray, view: View) -> np.ndarray:
    """(K,) measured depth over that of the scan's nearest point, cell by cell of the image.

    The nearest point of a cell hides the others; taken over cells, points seen through gaps between
    those of a sparse scan are few.
    """
    camera = Camera(np.linalg.inv(view.depth_cam2world), view.depth_K, view.depth_m)
    row, column, depth_m, inside = camera.project(coord)
    row, column, depth_m = row[inside], column[inside], depth_m[inside]
    height, width = view.depth_m.shape
    cell = row * GRID[0] // height * GRID[1] + column * GRID[1] // width
    order = np.lexsort((depth_m, cell))
    nearest = order[np.unique(cell[order], return_index=True)[1]]
    measured = view.depth_m[row[nearest], column[nearest]]
    return (measured / depth_m[nearest])[measured > 0]
