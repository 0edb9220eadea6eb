"""images/, depth/, poses.txt, K.txt: HoloLens' research mode as exported for deep-video-mvs.

Source: its sample (Düzçeker et al., CVPR 2021). Line k of poses.txt, 16 numbers, belongs to the k-th
picture, whose name may start at another number; cam2world of OpenCV, depth in millimetres, y up.
"""

from __future__ import annotations

from pathlib import Path

from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Y_UP
from bifusion.datasets.recordings.intrinsics import find_intrinsics, given_intrinsics
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pairs import COLOR_AND_DEPTH, check_shift
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, DEPTH_ENDINGS, numbered, one_pose_each
from bifusion.datasets.recordings.text_files import read_pose_lines
from bifusion.errors import InputError


def is_hololens(folder: Path) -> bool:
    return (folder / "poses.txt").is_file() and (folder / "images").is_dir()


def open_hololens(folder: Path, options: OpenOptions) -> FileRecording:
    """The k-th picture has line k of poses.txt."""
    images = numbered(folder / "images", COLOR_ENDINGS)
    depths = numbered(folder / "depth", DEPTH_ENDINGS)
    check_shift(folder, images, depths, COLOR_AND_DEPTH)
    if not depths:
        raise InputError(f"{folder}: has no pictures in depth/; a scan is made of depth: export it too")
    stored = read_pose_lines(folder / "poses.txt")
    one_pose_each(list(images.values()), stored, folder / "poses.txt")
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    camera = given or find_intrinsics(folder)
    if camera is None:
        raise InputError(f"{folder}: has no K.txt; give --intrinsics 'fx fy cx cy'")
    files = [FrameFiles(image.stem, image, depths.get(k)) for k, image in images.items()]
    return file_recording(folder, "hololens", files, stored, Cameras(camera), options, up=Y_UP)
