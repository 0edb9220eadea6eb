"""results/frame000000.jpg, results/depth000000.png, traj.txt: Replica as rendered for NICE-SLAM.

Source: NICE-SLAM's configuration for Replica (Zhu et al., CVPR 2022). 1200×680 pixels, depth of 6553.5
units a metre, poses 16 numbers a line, cam2world of OpenCV, z up.
"""

from __future__ import annotations

from pathlib import Path

from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Z_UP
from bifusion.datasets.recordings.intrinsics import (
    Calibration,
    find_intrinsics,
    given_intrinsics,
    pinhole,
)
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pairs import COLOR_AND_DEPTH, check_shift
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, DEPTH_ENDINGS, numbered, one_pose_each
from bifusion.datasets.recordings.text_files import json_numbers, read_json, read_pose_lines
from bifusion.errors import InputError

CAMERA = Calibration(pinhole(600, 600, 599.5, 339.5), (1200, 680))
SCALE = 6553.5
PARAMETERS = "cam_params.json"
"""Of NICE-SLAM: camera and scale, where they are others."""


def is_replica(folder: Path) -> bool:
    return (folder / "traj.txt").is_file() and (folder / "results").is_dir()


def open_replica(folder: Path, options: OpenOptions) -> FileRecording:
    """Frame k has line k of traj.txt."""
    colors = numbered(folder / "results", COLOR_ENDINGS, "frame*")
    depths = numbered(folder / "results", DEPTH_ENDINGS, "depth*")
    check_shift(folder / "results", colors, depths, COLOR_AND_DEPTH)
    stored = read_pose_lines(folder / "traj.txt")
    one_pose_each(list(depths.values()), stored, folder / "traj.txt")
    files = [FrameFiles(f"{k:06d}", colors.get(k), depth) for k, depth in depths.items()]
    if options.intrinsics is None:
        camera = find_intrinsics(folder) or CAMERA
    else:
        camera = given_intrinsics(options.intrinsics)
    cameras = Cameras(camera, camera)
    scale = _scale(folder / PARAMETERS)
    return file_recording(folder, "replica", files, stored, cameras, options, depth_scale=scale, up=Z_UP)


def _scale(path: Path) -> float:
    """Units of the depth a metre, which NICE-SLAM's file of a camera states too."""
    found = read_json(path) if path.is_file() else {}
    camera = found.get("camera") if isinstance(found, dict) else None
    stated = camera.get("scale", SCALE) if isinstance(camera, dict) else SCALE
    (scale,) = json_numbers([stated], 1, f"{path}: scale")
    if not 1e-3 < scale < 1e6:
        raise InputError(f"{path}: scale: found {scale:g}; expected units of depth a metre")
    return float(scale)
