"""rgb/0.jpg, depth/0.exr, metadata.json: Record3D's export of EXR and JPG.

Sources: the app's maker in issues 36, 64, 27 of marek-simonik/record3d, and real files. Poses cam2world
of OpenGL cameras, quaternions with the scalar last; intrinsics column by column for the colour
pictures; depth float, metres. ARKit's world has y up, but recordings that begin at the identity pose
are of an old version, whose world is the first camera's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bifusion.datasets.recordings.exr import read_exr_m
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Y_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, pinhole
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import numbered
from bifusion.datasets.recordings.poses import from_quaternions
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import json_numbers, read_json
from bifusion.errors import InputError

FOLDERS = ("rgb", "depth")
AT_REST = 1e-3
"""Largest difference of a first pose from the identity that is none."""


def is_record3d(folder: Path) -> bool:
    return (folder / "metadata.json").is_file() and all((folder / name).is_dir() for name in FOLDERS)


def open_record3d(folder: Path, options: OpenOptions) -> FileRecording:
    """The frames whose files exist, which may be fewer than the poses: paired by the file's number."""
    path = folder / "metadata.json"
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no object; expected Record3D's metadata")
    poses = _rows(found, "poses", 7, path)
    stored = from_quaternions(poses[:, :4], poses[:, 4:])
    own = _rows(found, "perFrameIntrinsicCoeffs", 4, path)
    times = found.get("frameTimestamps")
    times = times if isinstance(times, list) else []
    colors, depths = (
        numbered(folder / "rgb", (".jpg", ".jpeg", ".png")),
        numbered(folder / "depth", (".exr",)),
    )
    files = [
        FrameFiles(
            str(k),
            colors.get(k),
            depths.get(k),
            time_s=_time(times, k),
            K=pinhole(*own[k]) if k < len(own) and options.intrinsics is None else None,
        )
        for k in sorted({*range(len(stored)), *colors, *depths})
    ]
    at_rest = len(poses) > 0 and np.abs(poses[0] - (0, 0, 0, 1, 0, 0, 0)).max() < AT_REST
    return file_recording(
        folder,
        "record3d",
        files,
        stored,
        _cameras(found, path, options),
        options,
        declared=Reading(axes="opengl"),
        up=None if at_rest else Y_UP,
        read_depth=read_exr_m,
    )


def _rows(found: dict[str, Any], key: str, width: int, path: Path) -> np.ndarray:
    """(V, width) float64 of a list of lists; (0, width) where there is none."""
    rows = found.get(key) or []
    if not isinstance(rows, list):
        raise InputError(f"{path}: {key} is no list; export the recording again")
    numbers = [json_numbers(row, width, f"{path}: {key} of frame {k}") for k, row in enumerate(rows)]
    return np.array(numbers).reshape(-1, width)


def _time(times: list[Any], k: int) -> float | None:
    return float(times[k]) if k < len(times) and isinstance(times[k], int | float) else None


def _cameras(found: dict[str, Any], path: Path, options: OpenOptions) -> Cameras:
    """The depth camera is the colour camera, its picture reduced."""
    width, height = json_numbers([found.get("w"), found.get("h")], 2, f"{path}: w, h")
    if not (1 <= width <= 1e5 and 1 <= height <= 1e5):
        raise InputError(f"{path}: w, h are {width:g}, {height:g}; expected pixels")
    size = (int(width), int(height))
    if options.intrinsics is not None:
        K = given_intrinsics(options.intrinsics).K
    else:
        K = json_numbers(found.get("K"), 9, f"{path}: K").reshape(3, 3).T
    return Cameras(Calibration(K, size), Calibration(K, size), size)
