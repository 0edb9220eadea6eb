"""Folders color/ depth/ pose/ intrinsic/ as exported from .sens, which many programs write and read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Z_UP
from bifusion.datasets.recordings.intrinsics import given_intrinsics
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import has_numbered
from bifusion.datasets.recordings.text_files import as_numbers, pose_of, read_matrix
from bifusion.datasets.scannet.posed_images import (
    COLOR_FOLDERS,
    DEPTH_FOLDERS,
    POSE_FOLDERS,
    PosedImages,
    find_posed_images,
    folder_called,
)
from bifusion.errors import InputError

SCAN = re.compile(r"scene\d{4}_\d{2}")
"""Names of ScanNet's scans, whose world has z up; other programs' worlds have any."""


def is_scannet_export(folder: Path) -> bool:
    """pose/ beside color/ or depth/, or numbered pose files beside intrinsic.txt."""
    poses = folder_called(folder, POSE_FOLDERS) if folder.is_dir() else None
    if poses is not None and (poses.name == POSE_FOLDERS[0] or has_numbered(poses, (".txt",))):
        return folder_called(folder, (*COLOR_FOLDERS, *DEPTH_FOLDERS)) is not None
    return (folder / "intrinsic.txt").is_file() and any(folder.glob("[0-9]*.txt"))


def open_scannet_export(folder: Path, options: OpenOptions) -> FileRecording:
    """As `find_posed_images` finds them; depth of 1000 units a metre, poses cam2world of OpenCV.

    Source: ScanNet's SensReader, and OpenMask3D, SAM3D, OpenScene, which ask for this layout.
    """
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    images = find_posed_images(folder, given)
    if all(frame.depth is None for frame in images.frames):
        raise InputError(
            f"{folder}: holds no depth pictures; scans are made of depth: export it, or give the mesh"
        )
    stored = np.stack([_pose(frame.pose) for frame in images.frames])
    files = [FrameFiles(frame.name, frame.color, frame.depth) for frame in images.frames]
    up = Z_UP if SCAN.search(folder.resolve().name) else None
    return file_recording(folder, "scannet", files, stored, _cameras(images), options, up=up)


def _cameras(images: PosedImages) -> Cameras:
    depth = images.depth_camera()
    if depth is not None:
        return Cameras(images.color_camera(), depth)
    if not np.array_equal(images.color_extrinsic, images.depth_extrinsic):
        raise InputError(
            f"{images.folder}: has extrinsics of a depth camera of its own; add its intrinsic_depth.txt"
        )
    return Cameras(images.color_camera())


def _pose(path: Path) -> np.ndarray:
    """(4, 4); NaN, which is left out later, for a file that holds nothing."""
    numbers = read_matrix(path)
    return pose_of(numbers, path) if numbers.size else as_numbers([["nan"] * 4] * 4, path)
