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
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, pinhole
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pairs import COLOR_AND_DEPTH, check_shift
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, DEPTH_ENDINGS, numbered, one_pose_each
from bifusion.datasets.recordings.text_files import read_pose_lines

CAMERA = Calibration(pinhole(600, 600, 599.5, 339.5), (1200, 680))
SCALE = 6553.5


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
    camera = CAMERA if options.intrinsics is None else given_intrinsics(options.intrinsics)
    cameras = Cameras(camera, camera)
    return file_recording(folder, "replica", files, stored, cameras, options, depth_scale=SCALE, up=Z_UP)
