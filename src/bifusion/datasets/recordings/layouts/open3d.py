"""color/ and depth/ with trajectory.log or camera_trajectory.json: Open3D, Redwood, ICL-NUIM.

Sources: Choi, Zhou & Koltun 2015 (redwood-data.org, format of .log) and Open3D's own
PinholeCameraTrajectory, whose JSON holds world2cam, its matrices column by column. Depth in millimetres.
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
from bifusion.datasets.recordings.intrinsics import (
    Calibration,
    find_intrinsics,
    given_intrinsics,
    open3d_camera,
    pinhole,
)
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import (
    COLOR_ENDINGS,
    DEPTH_ENDINGS,
    first_folder,
    numbered,
    one_pose_each,
)
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import as_numbers, json_numbers, read_json, read_lines
from bifusion.errors import InputError

COLOR_FOLDERS = ("color", "image", "rgb")
LOGS = ("trajectory.log", "scene/trajectory.log", "traj.log")
JSONS = ("camera_trajectory.json", "trajectory.json")
DEFAULT_CAMERA = Calibration(pinhole(525, 525, 319.5, 239.5), (640, 480))
"""Open3D's PrimeSenseDefault, which its programs take where no camera is given."""


def is_open3d(folder: Path) -> bool:
    pictures = first_folder(folder, COLOR_FOLDERS) is not None and (folder / "depth").is_dir()
    return pictures and _list_of(folder) is not None


def open_open3d(folder: Path, options: OpenOptions) -> FileRecording:
    """Picture k has pose k; where the counts differ, the numbers in the .log name the pictures."""
    path = _list_of(folder)
    colors = numbered(first_folder(folder, COLOR_FOLDERS) or folder, COLOR_ENDINGS)
    depths = numbered(folder / "depth", DEPTH_ENDINGS)
    assert path is not None
    camera, reading = None, Reading()
    if path.suffix == ".json":
        stored, camera = read_trajectory_json(path)
        names, reading = None, Reading(poses="world2cam")
    else:
        names, stored = read_log(path)
    numbers = list(depths)
    if names is not None and len(names) != len(numbers) and set(names) <= set(numbers):
        numbers = names
    one_pose_each([depths[k] for k in numbers], stored, path)
    files = [FrameFiles(depths[k].stem, colors.get(k), depths[k]) for k in numbers]
    cameras, notes = _cameras(folder, camera, options)
    return file_recording(
        folder, "open3d", files, stored, cameras, options, declared=reading, notes=notes
    )


def read_log(path: Path) -> tuple[list[int], np.ndarray]:
    """First number of each block's heading, and the poses (V, 4, 4)."""
    rows = read_lines(path)
    if not rows or len(rows) % 5 or any(len(row) != 4 for k, row in enumerate(rows) if k % 5):
        raise InputError(f"{path}: expected blocks of one line of numbers and a 4×4 pose; it has others")
    poses = as_numbers([row for k, row in enumerate(rows) if k % 5], path).reshape(-1, 4, 4)
    headings = as_numbers([row[:1] for row in rows[::5]], path)[:, 0]
    if not (np.abs(headings) < 1e15).all():
        raise InputError(f"{path}: a block's heading is no frame number; copy it again")
    return headings.astype(np.int64).tolist(), poses


def read_trajectory_json(path: Path) -> tuple[np.ndarray, Calibration | None]:
    """World2cam poses (V, 4, 4) and the first frame's camera."""
    found = read_json(path, finite=False)
    frames = found.get("parameters") if isinstance(found, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise InputError(f"{path}: has no list 'parameters'; expected Open3D's PinholeCameraTrajectory")
    poses = [
        json_numbers(frame.get("extrinsic"), 16, f"{path}: extrinsic of frame {k}").reshape(4, 4).T
        for k, frame in enumerate(frames)
    ]
    camera = frames[0].get("intrinsic")
    return np.stack(poses), None if camera is None else open3d_camera(camera, str(path))


def _list_of(folder: Path) -> Path | None:
    return next((folder / name for name in (*LOGS, *JSONS) if (folder / name).is_file()), None)


def _cameras(
    folder: Path, stated: Calibration | None, options: OpenOptions
) -> tuple[Cameras, list[str]]:
    """Depth is registered: one camera."""
    if options.intrinsics is not None:
        return Cameras(given := given_intrinsics(options.intrinsics), given), []
    found = find_intrinsics(folder) or stated
    if found is not None:
        return Cameras(found, found), []
    note = (
        "no intrinsics in the folder: Open3D's default camera taken (525 525 319.5 239.5 at 640×480), "
        "--intrinsics gives another"
    )
    return Cameras(DEFAULT_CAMERA, DEFAULT_CAMERA), [note]
