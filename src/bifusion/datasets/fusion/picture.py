"""What one depth picture says of the voxels of some blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bifusion.datasets.fusion.blocks import SIDE, VOLUME
from bifusion.datasets.recordings.frame import Camera, Frame

LEAST_Z_VOXELS = 1e-3
LEAST_SURE = 0.25
"""Half as much as depth of medium confidence: 0 would be none."""
LOCAL = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), axis=-1).reshape(VOLUME, 3)
"""(VOLUME, 3) a block's voxels, x slowest."""


@dataclass
class Looked:
    """n voxels of which a picture says something."""

    voxel: np.ndarray
    """(n,) int64 block · VOLUME + voxel in it, ascending."""
    distance: np.ndarray
    """(n,) float32 −1 … 1 truncations."""
    weight: np.ndarray
    """(n,) float32 above 0."""
    colored: np.ndarray
    """(c,) int64 rows of `voxel` that have a colour."""
    color: np.ndarray
    """(c, 3) float32, 0 … 255."""


class Picture:
    """One frame, as the fusion looks at it.

    A measurement weighs its confidence (at least LEAST_SURE, where such depth is used) / depth², a
    structured-light or time-of-flight sensor's variance growing so (Nguyen, Izadi and Lovell, 3DIMPVT
    2012), and behind the surface linearly less, to none at the truncation, so that thin things keep both
    sides (Bylow et al., RSS 2013).

    Args:
        frame: with depth, 0 where there is nothing to use.
        voxel_size_m: edge of a voxel.
        truncation: in voxels.
    """

    def __init__(self, frame: Frame, voxel_size_m: float, truncation: int):
        assert frame.depth_m is not None and frame.depth_camera is not None
        self.truncation = np.float32(truncation)
        self.depth_camera = _VoxelCamera(frame.depth_camera, voxel_size_m)
        self.depth = np.append((frame.depth_m / voxel_size_m).astype(np.float32).ravel(), 0)
        sure = 1.0 if frame.confidence is None else np.maximum(frame.confidence.ravel(), LEAST_SURE)
        squared = np.maximum(frame.depth_m.ravel(), 1e-6) ** 2
        self.weight = np.append(np.where(frame.depth_m.ravel() > 0, sure / squared, 0), 0)
        self.weight = self.weight.astype(np.float32)
        self.color, self.color_camera = None, self.depth_camera
        if frame.color is not None and frame.color_camera is not None:
            self.color = frame.color.reshape(-1, 3)
            self.color_camera = _VoxelCamera(frame.color_camera, voxel_size_m)

    def look(self, corners: np.ndarray) -> Looked:
        """What it says of blocks whose first voxels are (B, 3)."""
        pixel, z = self.depth_camera.pixels(corners)
        distance = self.depth[pixel] - z
        voxel = np.flatnonzero((distance > -self.truncation) & (self.depth[pixel] > 0))
        pixel, distance = pixel[voxel], distance[voxel] / self.truncation
        weight = self.weight[pixel] * np.minimum(1 + distance, 1)
        near = np.flatnonzero(distance < 1)
        colored, color = self._colors(corners, voxel, pixel, near)
        return Looked(voxel, np.minimum(distance, 1), weight, colored, color)

    def _colors(
        self, corners: np.ndarray, voxel: np.ndarray, pixel: np.ndarray, near: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.color is None:
            return near[:0], np.zeros((0, 3), np.float32)
        if self.color_camera.same(self.depth_camera):
            return near, self.color[pixel[near]].astype(np.float32)
        block, local = np.divmod(voxel[near], VOLUME)
        pixel = self.color_camera.pixels_of(corners[block] + LOCAL[local])
        inside = np.flatnonzero(pixel < len(self.color))
        return near[inside], self.color[pixel[inside]].astype(np.float32)


class _VoxelCamera:
    """A camera that projects voxels, whose coordinates are whole numbers."""

    def __init__(self, camera: Camera, voxel_size_m: float):
        self.height, self.width = camera.size
        world2cam = np.linalg.inv(camera.cam2world)
        self.linear = camera.K @ world2cam[:3, :3]
        self.constant = camera.K @ world2cam[:3, 3] / voxel_size_m

    def same(self, other: _VoxelCamera) -> bool:
        """Whether both see every voxel at the same pixel."""
        return (
            (self.height, self.width) == (other.height, other.width)
            and np.allclose(self.linear, other.linear)
            and np.allclose(self.constant, other.constant)
        )

    def pixels(self, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B · VOLUME,) pixel of each voxel of blocks, row by row, H·W outside; and its z in voxels."""
        base = (corners @ self.linear.T + self.constant).astype(np.float32)
        step = (LOCAL @ self.linear.T).astype(np.float32)
        x, y, z = ((base[:, axis, None] + step[:, axis]).ravel() for axis in range(3))
        return self._pixel(x, y, z), z

    def pixels_of(self, voxels: np.ndarray) -> np.ndarray:
        """(n,) pixel of each of (n, 3) voxels, H·W outside."""
        x, y, z = (voxels @ self.linear.T + self.constant).T
        return self._pixel(x, y, z)

    def _pixel(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        inverse = 1 / np.maximum(z, np.float32(LEAST_Z_VOXELS))
        column, row = np.rint(x * inverse), np.rint(y * inverse)
        inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        inside &= z > LEAST_Z_VOXELS
        pixel = row * self.width + column
        return np.where(inside, pixel, self.height * self.width).astype(np.int64)
