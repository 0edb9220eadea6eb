"""iphone/ with rgb.mkv, depth.bin, pose_intrinsic_imu.json: ScanNet++.

Sources: scannetpp/scannetpp (iphone/prepare_iphone_data.py, which also writes rgb/frame_000000.jpg and
depth/frame_000000.png, and the data set's documentation). Key `frame_000000` → `aligned_pose`, cam2world
of an OpenCV camera in the laser scan's frame, z up, metres; `intrinsic` for pictures of 1920×1440. Depth
of 256×192, in millimetres where it is stored as pictures.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.datasets.recordings.depth_bin import DepthBin
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Z_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.parts import Part
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, numbered
from bifusion.datasets.recordings.text_files import json_numbers, read_json
from bifusion.datasets.recordings.video import Video
from bifusion.errors import InputError

POSES, DEPTH = "pose_intrinsic_imu.json", "depth.bin"
VIDEOS = ("rgb.mkv", "rgb.mp4")
"""Of the data set's second version and of its first."""
SIZE = (1920, 1440)
_FRAME = re.compile(r"frame_(\d{1,9})")


def is_scannetpp(folder: Path) -> bool:
    return any((place / POSES).is_file() for place in (folder, folder / "iphone"))


def open_scannetpp(folder: Path, options: OpenOptions) -> FileRecording:
    """The frames of the iPhone's recording that have a pose."""
    phone = folder if (folder / POSES).is_file() else folder / "iphone"
    path = phone / POSES
    found = read_json(path, finite=False)
    frames = found if isinstance(found, dict) else {}
    numbers = {name: int(match[1]) for name in frames if (match := _FRAME.fullmatch(name))}
    if not numbers:
        raise InputError(f"{path}: has no keys frame_000000 …; expected ScanNet++'s poses")
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    listed = [(name, number) for name, number in numbers.items() if isinstance(frames[name], dict)]
    placed = [one for one in listed if frames[one[0]].get("aligned_pose") is not None] or listed
    lost = [f"{len(numbers) - len(placed)} of {len(numbers)} frames without aligned_pose left out"]
    listed = placed
    colors, size = _colors(phone, [number for _, number in listed])
    depths = _depths(phone, [number for _, number in listed])
    stored = [_matrix(frames[name], "aligned_pose", 4, f"{path}: {name}") for name, _ in listed]
    files = [
        FrameFiles(
            name, colors.get(number), depths.get(number), size=size,
            K=None if given else _matrix(frames[name], "intrinsic", 3, f"{path}: {name}"),
        )
        for name, number in listed
    ]  # fmt: skip
    recording = file_recording(
        phone, "scannetpp", files, np.array(stored).reshape(-1, 4, 4),
        Cameras(given or Calibration(np.eye(3))), options,
        depth_scale=1.0 if any(isinstance(depth, Part) for depth in depths.values()) else 1000.0,
        up=Z_UP, notes=lost * (len(placed) < len(numbers)),
    )  # fmt: skip
    if phone != folder:
        recording.name = folder.resolve().name
    return recording


def _matrix(frame: dict[str, Any], key: str, side: int, where: str) -> np.ndarray:
    rows = frame.get(key)
    if not isinstance(rows, list) or len(rows) != side:
        raise InputError(f"{where}: has no {key} of {side} rows; download it again")
    return np.stack([json_numbers(row, side, f"{where}: {key}") for row in rows])


def _colors(phone: Path, numbers: list[int]) -> tuple[dict[int, Path | Part], tuple[int, int]]:
    """Colour by number, pictures or frames of the video, and the size that intrinsics are for."""
    pictures = numbered(phone / "rgb", COLOR_ENDINGS)
    if pictures:
        return {**pictures}, SIZE
    path = next((phone / name for name in VIDEOS if (phone / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{phone / VIDEOS[0]}: missing; the recording needs it, or rgb/ with its frames"
        )
    video = Video(path)
    return {
        k: Part(path, f"frame {k}", partial(video.read, k)) for k in numbers if k < len(video)
    }, video.size


def _depths(phone: Path, numbers: list[int]) -> dict[int, Path | Part]:
    """Depth by number: pictures, or frames of depth.bin."""
    pictures = numbered(phone / "depth", (".png",))
    path = phone / DEPTH
    if pictures:
        return {**pictures}
    if not path.is_file():
        raise InputError(f"{path}: missing; the recording needs it, or depth/ with its frames")
    packed = DepthBin(path)
    return {k: Part(path, f"frame {k}", partial(packed.read_m, k)) for k in numbers if k < len(packed)}
