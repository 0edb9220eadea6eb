"""Lists of poses: which of them can be used, quaternions, and what is far from the origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bifusion.data.checks import ROTATION_TOLERANCE
from bifusion.datasets.placement import far_offset
from bifusion.datasets.recordings.reading import Reading
from bifusion.errors import listing

ASTRAY, ASTRAY_TIMES = 1000.0, 100.0
"""In the recording's own unit; …"""
ROUNDED = 0.03
"""Largest |RᵀR − 1| of a rotation that was written with two digits."""
MOST_NAMED = 3
"""Frames that a note names."""
UNIT_TOLERANCE = 0.01
"""Largest |1 − norm| of a quaternion; files keep four digits at least."""


def from_quaternions(quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(V, 4, 4) of quaternions x, y, z, w (V, 4) and translations (V, 3); NaN for no rotation."""
    norm = np.linalg.norm(quaternion, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(np.abs(norm - 1) <= UNIT_TOLERANCE, quaternion / norm, np.nan)
    x, y, z, w = unit[:, 0], unit[:, 1], unit[:, 2], unit[:, 3]
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
    finite = np.asarray(np.isfinite(poses).all(axis=(1, 2)))
    safe = np.where(finite[:, None, None], poses, np.eye(4))
    rotation = safe[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        skewness = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(axis=(1, 2))
        proper = np.asarray(np.linalg.det(rotation)) > 0
    last_row = np.abs(safe[:, 3, :] - np.array([0, 0, 0, 1])).max(axis=1) <= 1e-6
    sane = np.abs(safe[:, :3, 3]).max(axis=1) < 1e9
    return finite & (skewness <= ROTATION_TOLERANCE) & proper & last_row & sane


@dataclass(frozen=True)
class PoseList:
    """The poses of a recording's list, and which of them belongs to which frame."""

    listed: np.ndarray
    """(P, 4, 4) the whole list as cam2world, NaN where a pose cannot be used."""
    row: np.ndarray
    """(V,) int64 row of each frame; outside the list for frames that have none."""
    offset_m: np.ndarray
    """(3,) metres that were taken off all of them, as they were far from the origin."""
    astray: np.ndarray
    """(P,) bool: a pose that cannot be used as it lies kilometres from the others; or as …"""
    bent: np.ndarray
    """(P,) bool: … it is finite, but no rigid transform."""
    bent_how: str
    """What most of those are, in words; empty where nothing tells."""

    def pose(self, index: int, shift: int = 0) -> np.ndarray:
        """(4, 4) of frame `index`, or of the row `shift` further on; NaN if there is none."""
        row = int(self.row[index]) + shift
        return self.listed[row] if 0 <= row < len(self.listed) else np.full((4, 4), np.nan)

    @property
    def listed_for(self) -> np.ndarray:
        """(V,) bool: the list has a row for the frame."""
        return (self.row >= 0) & (self.row < len(self.listed))

    @property
    def tracked(self) -> np.ndarray:
        """(V,) bool: the frame has a pose that can be used."""
        good = np.asarray(np.isfinite(self.listed).all(axis=(1, 2)))
        return np.array(
            [has and good[row] for has, row in zip(self.listed_for, self.row, strict=True)], bool
        )

    def unusable(self) -> list[tuple[np.ndarray, str]]:
        """(V,) bool of frames without a usable pose, by what is wrong with it, in words."""
        posed = self.listed_for
        astray, bent = np.zeros(len(posed), bool), np.zeros(len(posed), bool)
        astray[posed], bent[posed] = self.astray[self.row[posed]], self.bent[self.row[posed]]
        return [
            (~posed, "without a pose in the list"),
            (astray, "with a pose kilometres from all others"),
            (bent, f"with a pose that is not rigid{self.bent_how}"),
            (posed & ~self.tracked & ~astray & ~bent, "with a pose that is not finite (tracking lost)"),
        ]

    def only(self, kept: np.ndarray) -> PoseList:
        """Of those of the frames whose numbers are `kept`."""
        return replace(self, row=self.row[kept])


def pose_list(
    stored: np.ndarray, frames: int, reading: Reading, offset_m: np.ndarray | None = None
) -> PoseList:
    """The list (P, 4, 4) as stored, for as many frames, in the same order; `offset_m`: what was taken
    off another list of the same recording."""
    good = usable(stored)
    bent = np.asarray(np.isfinite(stored).all(axis=(1, 2))) & ~good
    listed, is_astray = np.full(stored.shape, np.nan), np.zeros(len(stored), bool)
    is_astray[good] = astray(reading.cam2world(stored[good])[:, :3, 3])
    good &= ~is_astray
    poses = reading.cam2world(stored[good])
    if offset_m is None:
        offset_m = far_offset(poses[:, :3, 3]) if good.any() else np.zeros(3)
    if good.any():
        poses[:, :3, 3] -= offset_m
        listed[good] = poses
    rows = np.arange(frames) + reading.pose_shift
    return PoseList(listed, rows, offset_m, is_astray, bent, _bent_how(stored[bent]))


def _bent_how(poses: np.ndarray) -> str:
    """What most of (B, 4, 4) poses that are finite and not rigid are, in words; empty: nothing known."""
    rotation, placed = poses[:, :3, :3], (poses[:, 3, :] == (0, 0, 0, 1)).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        skewness = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(axis=(1, 2))
        proper = np.asarray(np.linalg.det(rotation)) > 0
    if 2 * (placed & proper & (skewness < ROUNDED)).sum() > len(poses):
        return " (its numbers have too few digits: export it with six behind the point)"
    smaller, mirrored = poses.copy(), poses.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.cbrt(np.abs(np.linalg.det(rotation)))[:, None, None]
        smaller[:, :3, :3] /= np.where(scale > 0, scale, 1)
    smaller[~np.isfinite(smaller).all(axis=(1, 2))] = 0
    mirrored[:, :3, 0] *= -1
    forms = (
        (np.swapaxes(poses, 1, 2), " (its matrix stands column by column: transpose it)"),
        (mirrored, " (it mirrors: its world or its camera is left-handed)"),
        (smaller, " (it scales: divide its first three columns by their length)"),
    )
    return next((words for form, words in forms if 2 * usable(form).sum() > len(poses)), "")


def astray(positions: np.ndarray) -> np.ndarray:
    """(V,) bool: which of the positions (V, 3) no camera of the same recording had: further from their
    median than ASTRAY, and than ASTRAY_TIMES as far as the median one. Whatever the unit is: a walk in
    millimetres is thousands across, and so is its median distance."""
    if len(positions) == 0:
        return np.zeros(0, bool)
    distance = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    return distance > max(ASTRAY, ASTRAY_TIMES * float(np.median(distance)))


def left_out_notes(reasons: Sequence[tuple[np.ndarray, str]], names: Sequence[str]) -> list[str]:
    """Lines on frames, by `names` (V,), that are left out for each of `reasons`: (V,) bool and words."""
    lines = []
    for rows, why in reasons:
        named = [names[row] for row in np.flatnonzero(rows).tolist()]
        if named:
            told = listing(named, MOST_NAMED)
            lines.append(f"{len(named)} of {len(names)} frames {why} left out: {told}")
    return lines


def offset_notes(offset_m: np.ndarray) -> list[str]:
    """What to say of an offset that was taken off."""
    if not offset_m.any():
        return []
    x, y, z = offset_m
    return [f"cameras are far from the origin: offset ({x:.0f}, {y:.0f}, {z:.0f}) m taken off"]
