"""Lists of poses: which of them can be used, quaternions, and what is far from the origin."""

from __future__ import annotations

import numpy as np

from bifusion.data.checks import ROTATION_TOLERANCE
from bifusion.datasets.placement import far_offset

UNIT_TOLERANCE = 0.01
"""Largest |1 − norm| of a quaternion; files keep four digits at least."""


def from_quaternions(quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(V, 4, 4) of quaternions x, y, z, w (V, 4) and translations (V, 3); NaN for no rotation."""
    norm = np.linalg.norm(quaternion, axis=1, keepdims=True)
    proper = np.abs(norm - 1) <= UNIT_TOLERANCE
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, z, w = np.where(proper, quaternion / norm, np.nan).T
    pose = np.zeros((len(quaternion), 4, 4))
    pose[:, :3, :3] = np.moveaxis(
        np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        ),
        2,
        0,
    )
    pose[:, :3, 3] = translation
    pose[:, 3, 3] = 1
    return pose


def usable(poses: np.ndarray) -> np.ndarray:
    """(V,) bool: finite and rigid, as poses of frames that were tracked are."""
    finite = np.isfinite(poses).all(axis=(1, 2))
    safe = np.where(finite[:, None, None], poses, np.eye(4))
    rotation = safe[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        skewness = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(axis=(1, 2))
        proper = np.linalg.det(rotation) > 0
    last_row = np.abs(safe[:, 3] - (0, 0, 0, 1)).max(axis=1) <= 1e-6
    sane = np.abs(safe[:, :3, 3]).max(axis=1) < 1e9
    return finite & (skewness <= ROTATION_TOLERANCE) & proper & last_row & sane


def near_origin(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses (V, 4, 4) without the offset of cameras that are all far away, and it, (3,) metres."""
    offset_m = far_offset(poses[:, :3, 3])
    near = poses.copy()
    near[:, :3, 3] -= offset_m
    return near, offset_m
