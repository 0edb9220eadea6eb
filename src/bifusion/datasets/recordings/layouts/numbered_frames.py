"""frame-000000.color.png, .depth.png, .pose.txt: 7-Scenes, tsdf-fusion, BundleFusion, 3RScan.

Sources: 7-Scenes (Microsoft, Shotton et al. 2013) and the readme of each; 3RScan's and BundleFusion's
`_info.txt` states cameras and the depth's unit. Depth in millimetres, 0 and 65535 not measured; poses
cam2world of OpenCV.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.intrinsics import Calibration, find_intrinsics, given_intrinsics
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, DEPTH_ENDINGS
from bifusion.datasets.recordings.poses import usable
from bifusion.datasets.recordings.text_files import as_numbers, read_pose, read_text
from bifusion.errors import InputError

INFO = ("_info.txt", "info.txt")
PLACES = (".", "sequence")


def is_numbered_frames(folder: Path) -> bool:
    return any(any((folder / place).glob("frame-*.pose.txt")) for place in PLACES)


def open_numbered_frames(folder: Path, options: OpenOptions) -> FileRecording:
    """The frames that have a pose file, in the order of their numbers."""
    frames = next(folder / place for place in PLACES if any((folder / place).glob("frame-*.pose.txt")))
    info = _read_info(frames) or _read_info(folder)
    cameras, notes = _cameras(frames, info, options)
    poses = sorted(frames.glob("frame-*.pose.txt"), key=lambda path: (len(path.name), path.name))
    files = [_frame_files(path) for path in poses]
    stored = np.stack([read_pose(path) for path in poses])
    scale = float(info["m_depthShift"][0]) if "m_depthShift" in info else 1000.0
    return file_recording(
        folder, "7scenes", files, stored, cameras, options, depth_scale=scale, notes=notes
    )


def _frame_files(pose: Path) -> FrameFiles:
    name = pose.name.removesuffix(".pose.txt")
    return FrameFiles(
        name,
        _existing(pose, name, "color", COLOR_ENDINGS),
        _existing(pose, name, "depth", DEPTH_ENDINGS),
    )


def _existing(pose: Path, name: str, kind: str, endings: tuple[str, ...]) -> Path | None:
    both = (written for ending in endings for written in (ending, ending.upper()))
    paths = (pose.with_name(f"{name}.{kind}{ending}") for ending in both)
    return next((path for path in paths if path.is_file()), None)


def _cameras(
    frames: Path, info: dict[str, np.ndarray], options: OpenOptions
) -> tuple[Cameras, list[str]]:
    if options.intrinsics is not None:
        return Cameras(given_intrinsics(options.intrinsics)), []
    if "m_calibrationColorIntrinsic" in info:
        return Cameras(_stated(info, "Color"), _stated(info, "Depth")), []
    found = find_intrinsics(frames) or find_intrinsics(frames.parent)
    if found is None:
        raise InputError(
            f"{frames}: has no camera-intrinsics.txt and no _info.txt; give --intrinsics (of 7-Scenes' "
            "depth camera: '585 585 320 240')"
        )
    note = "one camera is stated for colour and depth: colour is taken as registered to depth"
    return Cameras(found, found), [note]


def _stated(info: dict[str, np.ndarray], camera: str) -> Calibration:
    """A camera of `_info.txt`, its matrices 16 numbers row by row."""
    key, placed = f"m_calibration{camera}Intrinsic", f"m_calibration{camera}Extrinsic"
    for one in (key, placed):
        if len(info.get(one, ())) != 16 and (one == key or one in info):
            raise InputError(f"_info.txt: {one} lacks its 16 numbers; copy the recording again")
    extrinsic = info[placed].reshape(4, 4) if placed in info else np.eye(4)
    if not usable(extrinsic[None])[0]:
        raise InputError(f"_info.txt: {placed} is no rigid transform; copy the recording again")
    size = [
        int(info[k][0]) for k in (f"m_{camera.lower()}Width", f"m_{camera.lower()}Height") if k in info
    ]
    K = info[key].reshape(4, 4)[:3, :3]
    return Calibration(K, (size[0], size[1]) if len(size) == 2 and min(size) > 0 else None, extrinsic)


def _read_info(folder: Path) -> dict[str, np.ndarray]:
    """Name → numbers of the lines `name = numbers`; empty where there is no such file."""
    path = next((folder / name for name in INFO if (folder / name).is_file()), None)
    found: dict[str, np.ndarray] = {}
    for line in read_text(path).splitlines() if path else ():
        key, _, value = (part.strip() for part in line.partition("="))
        if path and value and (key.startswith("m_calibration") or key in _NUMBERS):
            found[key] = as_numbers([value.split()], path)[0]
            if not np.isfinite(found[key]).all() or (key in _NUMBERS and not 0 < found[key][0] < 1e6):
                raise InputError(f"{path}: {key} is {value[:80]}; expected a positive number")
    return found


_NUMBERS = ("m_colorWidth", "m_colorHeight", "m_depthWidth", "m_depthHeight", "m_depthShift")
