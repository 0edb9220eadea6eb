"""How well a depth map or an image fits a scan if a given camera took it. Figures only, no verdicts.

Letters in shapes: N points. Poses, pixels and units are those of CONVENTIONS.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

POOL = 20_000
"""Points of the scan that are kept: a single view of a whole flat sees a few percent of them."""
NEAREST_M = 0.1
TOLERANCE_M, TOLERANCE_RELATIVE = 0.05, 0.02
"""A point agrees with the depth map within 5 cm + 2 % of its distance, as where features are lifted."""
CLEARLY_M, CLEARLY_RELATIVE = 0.1, 0.05
"""Clearly in front of the measured surface: by more than 10 cm + 5 %."""
FARTHEST_M = 4.5
"""Depth beyond it is too coarse to say whether a scan has its surface (a Kinect's is off by 8 cm)."""
PIXELS = 32
"""Pixels a side of the grid that is looked up in the scan."""
PATCHES = (5, 6)
"""Rows and columns of patches within which colours are compared once more."""
FEW_PIXELS = 50
CELL_M, LARGEST_CELL_M, MOST_CELLS = 0.1, 0.5, 4e6
POINTS_A_CELL = 3


@dataclass(frozen=True)
class Camera:
    """A pinhole camera and what it took."""

    world2cam: np.ndarray
    K: np.ndarray
    pixels: np.ndarray
    """(H, W) depth in metres, 0 none, or (H, W, 3) colours."""

    def at_focal(self, factor: float) -> Camera:
        """With another focal length."""
        K = self.K.copy()
        K[[0, 1], [0, 1]] *= factor
        return Camera(self.world2cam, K, self.pixels)

    def project(self, coord: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Row, column and depth of (N, 3) points, and whether they fall on the image; (N,) each."""
        camera = coord @ self.world2cam[:3, :3].T + self.world2cam[:3, 3]
        depth_m = camera[:, 2]
        pixel = camera[:, :2] / np.maximum(depth_m, NEAREST_M)[:, None]
        pixel = np.floor(pixel * self.K[[0, 1], [0, 1]] + self.K[:2, 2] + 0.5)
        height, width = self.pixels.shape[:2]
        inside = (depth_m > NEAREST_M) & (pixel >= 0).all(axis=1) & (pixel < (width, height)).all(axis=1)
        column, row = np.clip(pixel, 0, (width - 1, height - 1)).astype(np.int64).T
        return row, column, depth_m, inside


class ScanSample:
    """What views are compared with: some points of the scan, and the space that all of them take up.

    The points are drawn once and are the same for the same scan; `coord` (N, 3) metres and `color`
    (N, 3) of 0 … 255, both float32 and in random order.
    """

    def __init__(self, coord: np.ndarray, color: np.ndarray):
        chosen = np.random.default_rng(0).permutation(len(coord))[:POOL]
        self.coord, self.color = coord[chosen].astype(np.float32), color[chosen].astype(np.float32)
        self.cell_m, self.low, self.occupied = _occupied_space(coord)

    def holds(self, position_m: np.ndarray) -> np.ndarray:
        """(N,) bool: some point of the scan is near each of (N, 3) positions."""
        cell = np.floor((position_m - self.low) / self.cell_m).astype(np.int64)
        inside = ((cell >= 0) & (cell < self.occupied.shape)).all(axis=1)
        found = np.zeros(len(cell), dtype=bool)
        found[inside] = self.occupied[tuple(cell[inside].T)]
        return found


def _occupied_space(coord: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Size of cells in metres, lowest corner (3,), and which cells hold a point or touch one that does.

    Cells of 10 cm, larger where the scan has less than three points in each or reaches very far.
    """
    cell_m = CELL_M
    while True:
        low = coord.min(axis=0).astype(np.float64) - 1.5 * cell_m
        shape = np.ceil((coord.max(axis=0) - low) / cell_m) + 2
        if np.prod(shape) <= MOST_CELLS:
            occupied = np.zeros(shape.astype(np.int64), dtype=bool)
            occupied[tuple(((coord - low) / cell_m).astype(np.int64).T)] = True
            if len(coord) >= POINTS_A_CELL * occupied.sum() or cell_m >= LARGEST_CELL_M:
                break
        cell_m *= 2
    for axis in range(3):
        along = np.moveaxis(occupied, axis, 0)
        spread = along.copy()
        spread[1:] |= along[:-1]
        spread[:-1] |= along[1:]
        occupied = np.moveaxis(spread, 0, axis)
    return cell_m, low, np.ascontiguousarray(occupied)


# ------------------------------------------------------------------------------------------ depth


@dataclass(frozen=True)
class DepthFit:
    agree: float
    """Share of the points in the depth camera's frustum that lie on what it measured."""
    in_front: float
    """Share of those not hidden that lie clearly in front of it."""
    visible: int
    """Points that are not hidden."""
    support: float
    """Share of measured pixels whose surface the scan has."""

    @property
    def fit(self) -> float:
        """In [0, 1]; points that other surfaces hide lower it for every camera alike."""
        return self.agree * self.support


def fit_depth(scan: ScanSample, camera: Camera, points: int) -> DepthFit:
    """How well a depth map fits the first `points` of a scan if `camera` took it."""
    row, column, depth_m, inside = camera.project(scan.coord[:points])
    measured_m = camera.pixels[row, column]
    common = inside & (measured_m > 0)
    away = depth_m - measured_m
    agree = int((common & (np.abs(away) <= TOLERANCE_M + TOLERANCE_RELATIVE * depth_m)).sum())
    front = int((common & (away < -CLEARLY_M - CLEARLY_RELATIVE * depth_m)).sum())
    return DepthFit(
        agree=agree / max(int(common.sum()), FEW_PIXELS),
        in_front=front / max(agree + front, 1),
        visible=agree + front,
        support=_support(scan, camera),
    )


def _support(scan: ScanSample, camera: Camera) -> float:
    """Share of a grid of measured pixels near some point of the scan; 1 where few are measured."""
    height, width = camera.pixels.shape
    rows = np.linspace(0, height - 1, PIXELS).astype(np.int64)
    columns = np.linspace(0, width - 1, PIXELS).astype(np.int64)
    depth_m = camera.pixels[rows[:, None], columns[None]]
    row, column = np.nonzero((depth_m > 0) & (depth_m < FARTHEST_M))
    if len(row) < FEW_PIXELS:
        return 1.0
    z = depth_m[row, column].astype(np.float64)
    x = (columns[column] - camera.K[0, 2]) / camera.K[0, 0] * z
    y = (rows[row] - camera.K[1, 2]) / camera.K[1, 1] * z
    rotation, translation = camera.world2cam[:3, :3], camera.world2cam[:3, 3]
    return float(scan.holds((np.stack([x, y, z], axis=1) - translation) @ rotation).mean())


def unhidden(scan: ScanSample, camera: Camera, points: int) -> np.ndarray:
    """(N,) rows of the scan's sample that lie on what the depth camera measured, at most `points`."""
    row, column, depth_m, inside = camera.project(scan.coord)
    away = np.abs(depth_m - camera.pixels[row, column])
    agree = inside & (away <= TOLERANCE_M + TOLERANCE_RELATIVE * depth_m)
    return np.nonzero(agree)[0][:points]


# ----------------------------------------------------------------------------------------- colour


@dataclass(frozen=True)
class ColorFit:
    points: int
    """Points that fall on the image."""
    contrast: float = 0.0
    """The smaller of the standard deviations, of 0 … 255, of scan and image at these points."""
    correlation: float = 0.0
    """Of the scan's own colours with the image's at the points' pixels, in [-1, 1]."""


def fit_colors(coord: np.ndarray, colors: np.ndarray, camera: Camera) -> ColorFit:
    """How well an image fits points (N, 3) of `colors` (N, 3) if `camera` took it.

    The correlation is the mean of two: over the image as a whole, and within patches of it. The first
    alone is high for many a wrong camera, as floors differ from walls wherever one looks; the second
    alone is noisy. A camera's gain, offset and white balance do not matter.
    """
    row, column, _, inside = camera.project(coord)
    number = int(inside.sum())
    if number < 2:
        return ColorFit(number)
    row, column = row[inside], column[inside]
    of_scan, of_image = colors[inside].astype(np.float64), camera.pixels[row, column].astype(np.float64)
    height, width = camera.pixels.shape[:2]
    patch = row * PATCHES[0] // height * PATCHES[1] + column * PATCHES[1] // width
    places = (np.zeros_like(patch), patch)
    return ColorFit(
        points=number,
        contrast=float(min(of_scan.std(axis=0).max(), of_image.std(axis=0).max())),
        correlation=sum(_correlation(of_scan, of_image, place) for place in places) / 2,
    )


def _correlation(first: np.ndarray, second: np.ndarray, place: np.ndarray) -> float:
    """Of (N, 3) values less the mean of those at the same place (N,); 0 where one is constant."""
    count = np.maximum(np.bincount(place), 1)[:, None]
    centred = []
    for values in (first, second):
        sums = np.stack([np.bincount(place, channel) for channel in values.T], axis=1)
        centred.append((values - (sums / count)[place]).ravel())
    scale = np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1]))
    return float(centred[0] @ centred[1] / scale) if scale > 1e-6 else 0.0
