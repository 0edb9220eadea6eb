"""rgb.mp4, depth/, confidence/, odometry.csv: Stray Scanner.

Sources: the app's own description (strayrobots/scanner, docs/format.md) and its writer
(OdometryEncoder.swift), which turns ARKit's camera by half a turn: poses are cam2world of OpenCV
cameras, y up, quaternions with the scalar last. Depth in millimetres, confidence 0, 1, 2, both 256×192;
intrinsics are for the video, newer versions of the app list those of each frame. Columns are found by
their names: newer versions add some, and leave cells empty.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.confidence import read_levels
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Y_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, pinhole
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.parts import Part
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, numbered
from bifusion.datasets.recordings.poses import from_quaternions
from bifusion.datasets.recordings.text_files import read_matrix
from bifusion.datasets.recordings.video import Video
from bifusion.errors import InputError
from bifusion.untrusted.tables import read_rows

ODOMETRY, MATRIX, VIDEO = "odometry.csv", "camera_matrix.csv", "rgb.mp4"
FRAMES = "rgb"
"""Folder of pictures 000000.jpg … that somebody made of the video."""
SIZE = (1920, 1440)
"""Of the app's videos, for which intrinsics are stated."""
POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
INTRINSICS = ("fx", "fy", "cx", "cy")
Columns = dict[str, list[str]]


def is_stray(folder: Path) -> bool:
    return (folder / ODOMETRY).is_file() and (folder / MATRIX).is_file()


def open_stray(folder: Path, options: OpenOptions) -> FileRecording:
    """Row k of odometry.csv has frame k of the video, which may be a frame short, and the depth that its
    column `frame` names."""
    path = folder / ODOMETRY
    columns = read_columns(path)
    poses = _numbers(columns, POSE, path)
    times = _numbers(columns, ("timestamp",), path)[:, 0]
    numbers = _numbers(columns, ("frame",), path)[:, 0]
    if not (np.isfinite(times).all() and (np.abs(numbers) < 1e9).all()):
        raise InputError(f"{path}: has a row without time or frame number; export the recording again")
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    own = _own_cameras(columns, path) if given is None else [None] * len(times)
    colors, size = _colors(folder, numbers.astype(int))
    depths, sure = (numbered(folder / name, (".png",)) for name in ("depth", "confidence"))
    files = [
        FrameFiles(f"{k:06d}", colors.get(k), depths.get(k), sure.get(k), time, K=K, size=size)
        for k, time, K in zip(numbers.astype(int).tolist(), times.tolist(), own, strict=True)
    ]
    stated = given or Calibration(_camera_matrix(folder / MATRIX), size)
    return file_recording(
        folder, "stray", files, from_quaternions(poses[:, 3:], poses[:, :3]), Cameras(stated, stated),
        options, up=Y_UP, read_confidence=read_levels,
    )  # fmt: skip


def read_columns(path: Path) -> Columns:
    """Name → cells of a table with a header. InputError: rows that are cut, no row, no header."""
    names, rows = read_rows(path, ",", advice="copy the recording again")
    if not rows:
        raise InputError(f"{path}: holds no row below its header; copy the recording again")
    for number, row in rows:
        cells = sum(row[name] is not None for name in names) + len(row.get(None, ()))
        if cells != len(names):
            raise InputError(
                f"{path}: row {number} has {cells} cells, the header {len(names)}; copy it again"
            )
    return {name.strip(): [row[name].strip() for _, row in rows] for name in names}


def _numbers(columns: Columns, names: tuple[str, ...], path: Path) -> np.ndarray:
    """(R, C) float64 of some columns."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}, but {', '.join(columns)}; expected Stray "
            "Scanner's"
        )
    try:
        return np.array([columns[name] for name in names], float).T
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected numbers in {', '.join(names)}") from None


def _own_cameras(columns: Columns, path: Path) -> list[np.ndarray | None]:
    """(3, 3) of each frame, which follow the focus; None where the app did not list them."""
    if any(name not in columns or not all(columns[name]) for name in INTRINSICS):
        return [None] * len(columns["frame"])
    return [pinhole(*row) for row in _numbers(columns, INTRINSICS, path).tolist()]


def _camera_matrix(path: Path) -> np.ndarray:
    K = read_matrix(path)
    if K.shape != (3, 3):
        raise InputError(f"{path}: has shape {K.shape}; expected a 3×3 matrix")
    return K


def _colors(folder: Path, numbers: np.ndarray) -> tuple[dict[int, Path | Part], tuple[int, int]]:
    """Colour by number, pictures or frames of the video, and the size that intrinsics are for.

    Where the beginning of a recording was cut off, its video begins with the first row's number.
    """
    pictures = numbered(folder / FRAMES, COLOR_ENDINGS)
    if pictures:
        return {**pictures}, SIZE
    path = folder / VIDEO
    if not path.is_file():
        raise InputError(f"{path}: missing; the recording needs it, or {FRAMES}/ with its frames")
    video = Video(path)
    cut = len(video) <= min(len(numbers) + 1, numbers.max())
    first = int(numbers[0]) if cut else 0
    frames = range(min(len(video), int(numbers.max()) - first + 1))
    return {first + k: Part(path, f"frame {k}", partial(video.read, k)) for k in frames}, video.size
