"""What Record3D says of a recording, the same in its archives and in its export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bifusion.datasets.recordings.file_recording import Cameras
from bifusion.datasets.recordings.frame import Y_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, pinhole
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.poses import from_quaternions
from bifusion.datasets.recordings.text_files import json_numbers
from bifusion.errors import InputError

AT_REST = 1e-3
"""Largest difference of a first pose from the identity that is none."""


@dataclass(frozen=True)
class Metadata:
    """Poses and cameras."""

    stored: np.ndarray
    """(V, 4, 4) cam2world of OpenGL cameras, NaN where there is none."""
    cameras: Cameras
    """The depth camera is the colour camera, its picture reduced."""
    own: np.ndarray
    """(≤ V, 4) fx, fy, cx, cy of each frame, where they are listed and the user gave none."""
    times: list[Any]
    up: np.ndarray | None

    def K(self, k: int) -> np.ndarray | None:
        """(3, 3) of frame k, where it has its own."""
        return pinhole(*self.own[k]) if k < len(self.own) else None

    def time_s(self, k: int) -> float | None:
        """When frame k was taken, where that is listed."""
        known = k < len(self.times) and isinstance(self.times[k], int | float)
        return float(self.times[k]) if known else None


def read_metadata(found: Any, where: str, options: OpenOptions) -> Metadata:
    """Of the JSON in `metadata.json` or `metadata`. InputError: it is no such thing."""
    if not isinstance(found, dict):
        raise InputError(f"{where}: holds no object; expected Record3D's metadata")
    poses = _rows(found, "poses", 7, where)
    own = _rows(found, "perFrameIntrinsicCoeffs", 4, where)
    times = found.get("frameTimestamps")
    first = poses[np.isfinite(poses).all(axis=1)][:1]
    at_rest = len(first) > 0 and np.abs(first - (0, 0, 0, 1, 0, 0, 0)).max() < AT_REST
    return Metadata(
        from_quaternions(poses[:, :4], poses[:, 4:]),
        _cameras(found, where, options),
        own if options.intrinsics is None else own[:0],
        times if isinstance(times, list) else [],
        None if at_rest else Y_UP,
    )


def _rows(found: dict[str, Any], key: str, width: int, where: str) -> np.ndarray:
    """(V, width) float64 of a list of lists, NaN of a null; (0, width) where there is none."""
    rows = found.get(key) or []
    if not isinstance(rows, list):
        raise InputError(f"{where}: {key} is no list; export the recording again")
    numbers = [
        json_numbers([None] * width if row is None else row, width, f"{where}: {key} of frame {k}")
        for k, row in enumerate(rows)
    ]
    return np.array(numbers).reshape(-1, width)


def _cameras(found: dict[str, Any], where: str, options: OpenOptions) -> Cameras:
    width, height = json_numbers([found.get("w"), found.get("h")], 2, f"{where}: w, h")
    if not (1 <= width <= 1e5 and 1 <= height <= 1e5):
        raise InputError(f"{where}: w, h are {width:g}, {height:g}; expected pixels")
    size = (int(width), int(height))
    if options.intrinsics is not None:
        given = given_intrinsics(options.intrinsics)
        camera = replace(given, size=given.size or size)
    else:
        camera = Calibration(json_numbers(found.get("K"), 9, f"{where}: K").reshape(3, 3).T, size)
    return Cameras(camera, camera, size)
