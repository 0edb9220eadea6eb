"""keyframes/ with images, cameras, depth, confidence: Polycam's raw data.

Source: the app's maker's own description, PolyCam/polyform (README, "Polycam's data format"). One JSON a
picture, its name the time in microseconds: intrinsics, and `t_00` … `t_23`, the first three rows of
cam2world, of an OpenGL camera in ARKit's world, y up, metres. `corrected_images` and
`corrected_cameras`, where they are, are undistorted and optimised; undistortion leaves a black rim.
Depth in millimetres, of lower resolution; confidence 0, 127, 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.confidence import levels
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Y_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, picture_size, pinhole
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, numbered
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import json_numbers, read_json
from bifusion.errors import InputError
from bifusion.untrusted.pictures import read_color

KINDS = (("corrected_cameras", "corrected_images"), ("cameras", "images"))
"""Folders of cameras and pictures, the better ones first."""
HIGHEST = 255
RIM = 0.015
"""Share of the width that corrected pictures' black rim takes: nerfstudio crops 15 of 1024 pixels."""


@dataclass(frozen=True)
class Posed:
    """What a camera's file says."""

    K: np.ndarray
    size: tuple[int, int]
    cam2world: np.ndarray
    """(4, 4) of an OpenGL camera."""


def is_polycam(folder: Path) -> bool:
    return _keyframes(folder) is not None


def open_polycam(folder: Path, options: OpenOptions) -> FileRecording:
    """The pictures that have a camera, paired with depth by their names."""
    keyframes = _keyframes(folder)
    assert keyframes is not None
    cameras, images = next(pair for pair in KINDS if _has(keyframes, pair))
    corrected = cameras == KINDS[0][0]
    colors = numbered(keyframes / images, COLOR_ENDINGS)
    depths, sure = (numbered(keyframes / name, (".png",)) for name in ("depth", "confidence"))
    if not depths:
        raise InputError(
            f"{keyframes}: has no pictures in depth/, and a scan is made of depth; capture in LiDAR or "
            "Room mode and export 'raw data' (developer mode)"
        )
    posed = {k: read_camera(path) for k, path in numbered(keyframes / cameras, (".json",)).items()}
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    files = [
        FrameFiles(
            str(k), colors.get(k), depths.get(k), sure.get(k), k * 1e-6,
            K=one.K if given is None else None, size=one.size,
        )
        for k, one in posed.items()
    ]  # fmt: skip
    taken = len(numbered(keyframes / KINDS[1][0], (".json",)))
    if not corrected:
        notes = ["no corrected cameras: poses as the phone tracked them are read"]
    elif len(posed) < taken:
        notes = [f"{len(posed)} of {taken} pictures have a corrected camera; the others are left out"]
    else:
        notes = []
    return file_recording(
        folder, "polycam", files, np.array([one.cam2world for one in posed.values()]).reshape(-1, 4, 4),
        Cameras(given or Calibration(np.eye(3))), options, declared=Reading(axes="opengl"), up=Y_UP,
        notes=notes, read_confidence=partial(_read_confidence, rim=RIM if corrected else 0.0),
    )  # fmt: skip


def read_camera(path: Path) -> Posed:
    """One of Polycam's camera files."""
    found = read_json(path, finite=False)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no object; expected one of Polycam's cameras")

    def numbers(*keys: str) -> np.ndarray:
        listed = [found.get(key) for key in keys]
        return json_numbers(listed, len(keys), f"{path}: {', '.join(keys)}")

    fx, fy, cx, cy, width, height = numbers("fx", "fy", "cx", "cy", "width", "height")
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0 and fy > 0):
        raise InputError(f"{path}: fx, fy: found {fx:g}, {fy:g}; expected focal lengths in pixels")
    size = picture_size(width, height, f"{path}: width, height")
    pose = np.eye(4)
    pose[:3] = numbers(*(f"t_{row}{column}" for row in range(3) for column in range(4))).reshape(3, 4)
    return Posed(pinhole(fx, fy, cx, cy), size, pose)


def _read_confidence(path: Path, rim: float) -> np.ndarray:
    """(h, w) float32; −1, which is never used, in the rim, where corrected pictures are black."""
    found = levels(read_color(path)[..., 0], path, HIGHEST)
    wide = int(np.ceil(rim * found.shape[1]))
    inner = np.zeros(found.shape, bool)
    inner[wide : found.shape[0] - wide, wide : found.shape[1] - wide] = True
    return np.where(inner, found, np.float32(-1))


def _keyframes(folder: Path) -> Path | None:
    """The folder itself, or its keyframes/."""
    places = (folder / "keyframes", folder)
    return next((place for place in places if any(_has(place, pair) for pair in KINDS)), None)


def _has(place: Path, pair: tuple[str, str]) -> bool:
    cameras, images = (place / name for name in pair)
    return cameras.is_dir() and images.is_dir() and any(cameras.glob("*.json"))
