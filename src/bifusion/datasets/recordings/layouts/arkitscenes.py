"""lowres_wide/, lowres_depth/, confidence/, lowres_wide.traj: ARKitScenes.

Sources: apple/ARKitScenes, DATA.md and threedod/benchmark_scripts/utils/tenFpsDataLoader.py. A line of
.traj is time, axis-angle in radians and translation in metres, of world2cam, ten a second; pictures, up
to 60 a second, have that of the same time. `.pincam` is width, height, fx, fy, cx, cy; its time may be
another in the last digit. OpenCV cameras, z up; depth in millimetres, confidence 0, 1, 2.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from bifusion.datasets.recordings.confidence import read_levels
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Z_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, picture_size, pinhole
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pairs import nearest
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import as_numbers, read_lines
from bifusion.errors import InputError
from bifusion.untrusted.files import is_leftover

TRAJECTORY = "lowres_wide.traj"
COLORS = (("wide", "wide_intrinsics"), ("lowres_wide", "lowres_wide_intrinsics"))
"""Folders of pictures and of their cameras, the larger ones first."""
POSE_APART_S, CAMERA_APART_S = 0.005, 0.0015
"""As the official loader has them."""
_TIME = re.compile(r"_(\d{1,12}(?:\.\d{1,9})?)$")
Timed = tuple[np.ndarray, list[Path]]
"""Times in seconds, rising, and the file of each."""


def is_arkitscenes(folder: Path) -> bool:
    return (folder / TRAJECTORY).is_file() and (folder / "lowres_depth").is_dir()


def open_arkitscenes(folder: Path, options: OpenOptions) -> FileRecording:
    """The depth maps that have a pose, each with the colour picture of its time."""
    depths = _timed(folder / "lowres_depth", ".png")
    times, poses = read_trajectory(folder / TRAJECTORY)
    at = depths[0]
    if not len(at):
        raise InputError(f"{folder / 'lowres_depth'}: has no pictures VIDEO_TIME.png; download them too")
    row = nearest(times, at)
    stored = np.where((np.abs(times[row] - at) <= POSE_APART_S)[:, None, None], poses[row], np.nan)
    with_pose = np.flatnonzero(np.isfinite(stored).all(axis=(1, 2)))
    notes = [
        f"{len(at) - len(with_pose)} of {len(at)} depth maps were taken between poses and are left out"
    ] * (len(with_pose) < len(at))
    images, cameras = next(
        pair for pair in COLORS if pair == COLORS[-1] or all((folder / one).is_dir() for one in pair)
    )
    colors, sure = (_timed(folder / name, ".png") for name in (images, "confidence"))
    lenses = _timed(folder / cameras, ".pincam")
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    files = []
    for k in with_pose.tolist():
        time = float(at[k])
        lens = None if given else _of_time(lenses, time, CAMERA_APART_S)
        if given is None and lens is None:
            raise InputError(f"{folder / cameras}: has no camera of {time:.3f} s; download it too")
        K, size = (None, None) if lens is None else read_pincam(lens)
        color, confidence = (_of_time(of, time, POSE_APART_S) for of in (colors, sure))
        files.append(FrameFiles(f"{time:.3f}", color, depths[1][k], confidence, time, K, size))
    return file_recording(
        folder, "arkitscenes", files, stored[with_pose], Cameras(given or Calibration(np.eye(3))),
        options, declared=Reading(poses="world2cam"), up=Z_UP, notes=notes, read_confidence=read_levels,
    )  # fmt: skip


def read_trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (P,) in seconds and world2cam poses (P, 4, 4), NaN where a line has none."""
    rows = read_lines(path)
    if not rows or any(len(row) != 7 for row in rows):
        raise InputError(f"{path}: expected lines of time, axis-angle and translation, and at least one")
    numbers = as_numbers(rows, path)
    numbers = numbers[np.isfinite(numbers[:, 0])]
    if not len(numbers):
        raise InputError(f"{path}: has no finite time; download it again")
    numbers = numbers[np.argsort(numbers[:, 0], kind="stable")]
    poses = np.full((len(numbers), 4, 4), np.nan)
    good = np.isfinite(numbers).all(axis=1) & (np.abs(numbers[:, 1:4]).max(axis=1) < 1e3)
    poses[good] = np.eye(4)
    poses[good, :3, :3] = Rotation.from_rotvec(numbers[good, 1:4]).as_matrix()
    poses[good, :3, 3] = numbers[good, 4:]
    return numbers[:, 0], poses


def read_pincam(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """(3, 3) matrix and width, height."""
    rows = read_lines(path)
    numbers = as_numbers(rows[:1], path).ravel() if rows else np.zeros(0)
    if numbers.shape != (6,) or not np.isfinite(numbers).all() or not (numbers[:4] > 0).all():
        raise InputError(f"{path}: expected width, height, fx, fy, cx, cy; download it again")
    width, height, fx, fy, cx, cy = numbers.tolist()
    return pinhole(fx, fy, cx, cy), picture_size(width, height, f"{path}: width, height")


def _timed(folder: Path, ending: str) -> Timed:
    """Files VIDEO_TIME.ending of a folder; none where there is no such folder."""
    found = []
    for path in folder.glob(f"*{ending}"):
        match = _TIME.search(path.name.removesuffix(ending))
        if match and not is_leftover(path):
            found.append((float(match[1]), path))
    found.sort()
    for (before, one), (time, other) in pairwise(found):
        if before == time:
            raise InputError(
                f"{folder}: {one.name} and {other.name} are of the same time: which is meant by it "
                "cannot be told; give the folder of one video, as downloaded"
            )
    return np.array([time for time, _ in found]), [path for _, path in found]


def _of_time(files: Timed, time: float, apart: float) -> Path | None:
    """The file of nearly that time, if there is one."""
    times, paths = files
    if not len(times):
        return None
    row = int(nearest(times, np.array([time]))[0])
    return paths[row] if abs(times[row] - time) <= apart else None
