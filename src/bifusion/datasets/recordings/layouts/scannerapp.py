"""frame_00000.json, depth_00000.png, conf_00000.png, frame_00000.jpg: 3D Scanner App's "All data".

Sources: the app's maker's own example with its notebook (laanlabs/3dScannerApp_samples), and real files.
`cameraPoseARFrame` is cam2world row by row, of an OpenGL camera in ARKit's world, y up, metres;
`intrinsics` row by row for the whole picture, whose size is not stated but follows from
`projectionMatrix`, which is 2·fx/width and 2·fy/height on its diagonal. Depth in millimetres, confidence
0, 1, 2, both 256×192, of every frame; colour of every third or so. Newer versions write depth as
frame_00000.exr (described by users; metres, as their other apps').
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.datasets.recordings.confidence import read_levels
from bifusion.datasets.recordings.exr import read_exr_m
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Y_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, picture_size
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import numbered
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import json_numbers, read_json
from bifusion.errors import InputError

FRAMES, DEPTHS, SURE = "frame_*", "depth_*", "conf_*"
SIZE = (1920, 1440)
"""Of ARKit's pictures, where no projection tells it."""
STEADY = 0.8
"""Least `motionQuality`, 0 to 1; below it the phone moved too fast for sharp pictures."""


@dataclass(frozen=True)
class Posed:
    """What a frame's file says."""

    K: np.ndarray
    size: tuple[int, int]
    cam2world: np.ndarray
    """(4, 4) of an OpenGL camera."""
    time_s: float | None
    steady: bool


def is_scannerapp(folder: Path) -> bool:
    said = any(folder.glob(f"{FRAMES}.json"))
    return said and any(any(folder.glob(kind)) for kind in (f"{DEPTHS}.png", f"{FRAMES}.exr"))


def open_scannerapp(folder: Path, options: OpenOptions) -> FileRecording:
    """The frames with depth, of which the app keeps pictures of every third or so, without those of fast
    motion."""
    colors = numbered(folder, (".jpg", ".jpeg", ".png"), FRAMES)
    depths, sure = (numbered(folder, (".png",), pattern) for pattern in (DEPTHS, SURE))
    in_metres = not depths
    depths = depths or numbered(folder, (".exr",), FRAMES)
    listed = numbered(folder, (".json",), FRAMES)
    if not listed.keys() & colors.keys():
        raise InputError(
            f"{folder}: none of its {len(listed):,} frames has a picture frame_00000.jpg; export 'All "
            "data' again"
        )
    posed = {k: read_frame(path) for k, path in listed.items()}
    steady = {k: one for k, one in posed.items() if one.steady}
    notes = []
    if len(steady) < len(posed):
        fast = len(posed) - len(steady)
        notes.append(f"{fast} of {len(posed)} frames were taken in fast motion and are left out")
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    files = [
        FrameFiles(
            str(k), colors.get(k), depths.get(k), sure.get(k), one.time_s,
            K=one.K if given is None else None, size=one.size,
        )
        for k, one in steady.items()
    ]  # fmt: skip
    return file_recording(
        folder, "scannerapp", files,
        np.array([one.cam2world for one in steady.values()]).reshape(-1, 4, 4),
        Cameras(given or Calibration(np.eye(3))), options, declared=Reading(axes="opengl"), up=Y_UP,
        notes=notes, read_depth=read_exr_m if in_metres else None, read_confidence=read_levels,
    )  # fmt: skip


def read_frame(path: Path) -> Posed:
    """One of the app's frame files. InputError: no pose or intrinsics, or such as no camera has."""
    found = read_json(path, finite=False)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no object; expected one of 3D Scanner App's frames")

    def matrix(key: str, side: int) -> np.ndarray:
        return json_numbers(found.get(key), side * side, f"{path}: {key}").reshape(side, side)

    K, pose = matrix("intrinsics", 3), matrix("cameraPoseARFrame", 4)
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise InputError(f"{path}: intrinsics: found {K.tolist()}; expected focal lengths in pixels")
    size = SIZE
    if "projectionMatrix" in found:
        size = _size(K, matrix("projectionMatrix", 4), path)
    quality = _number(found, "motionQuality")
    return Posed(K, size, pose, _number(found, "time"), quality is None or quality >= STEADY)


def _size(K: np.ndarray, projection: np.ndarray, path: Path) -> tuple[int, int]:
    """Width and height in pixels of the pictures that `K` and the projection are both of."""
    across, down = projection[0, 0], projection[1, 1]
    if not (across > 0 and down > 0):
        raise InputError(f"{path}: projectionMatrix: found {across:g}, {down:g}; export it again")
    width, height = np.rint([2 * K[0, 0] / across, 2 * K[1, 1] / down]).tolist()
    return picture_size(width, height, f"{path}: width, height by projectionMatrix")


def _number(found: dict[str, Any], key: str) -> float | None:
    value = found.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
