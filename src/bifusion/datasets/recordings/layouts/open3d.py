"""color/ and depth/ with trajectory.log or camera_trajectory.json: Open3D, Redwood, ICL-NUIM.

Sources: Choi, Zhou & Koltun 2015 (redwood-data.org, format of .log), Open3D's own
PinholeCameraTrajectory, whose JSON holds world2cam, its matrices column by column, and the data sets
that Open3D downloads (bedroom.log, lounge_trajectory.log, livingroom1-traj.txt, scene/key.log). Depth in
millimetres.
"""

from __future__ import annotations

from dataclasses import replace
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
from bifusion.datasets.recordings.pairs import Pairs, pair
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
from bifusion.untrusted.files import is_file, is_leftover, open_regular

COLOR_FOLDERS = ("color", "image", "rgb")
LOGS = ("trajectory.log", "scene/trajectory.log", "traj.log")
KEY_LOG = "scene/key.log"
"""Of those pictures that Open3D's color_map_optimization took."""
OTHER_LOGS = ("*.log", "*traj*.txt")
NO_TRAJECTORY = "odometry"
"""In the names of logs that hold how each frame lies to the one before."""
PEEKED_BYTES = 2048
JSONS = ("camera_trajectory.json", "trajectory.json")
DEFAULT_CAMERA = Calibration(pinhole(525, 525, 319.5, 239.5), (640, 480))
"""Open3D's PrimeSenseDefault, which its programs take where no camera is given."""


def is_open3d(folder: Path) -> bool:
    pictures = first_folder(folder, COLOR_FOLDERS) is not None and (folder / "depth").is_dir()
    return pictures and bool(_lists_of(folder))


def open_open3d(folder: Path, options: OpenOptions) -> FileRecording:
    """Picture k has pose k; where the counts differ, the numbers in the .log name the pictures, if they
    are all there, or those alone lack that have a colour picture or come after the first.

    Of pictures that are paired by their times there may be as many poses as of either stream.
    """
    path, *others = _lists_of(folder)
    if others:
        names = ", ".join(one.name for one in (path, *others))
        raise InputError(f"{folder}: which of {names} holds the poses? Name it {LOGS[0]}")
    colors = numbered(first_folder(folder, COLOR_FOLDERS) or folder, COLOR_ENDINGS)
    depths = numbered(folder / "depth", DEPTH_ENDINGS)
    lenses: list[Calibration | None] = []
    reading = Reading()
    if path.suffix == ".json":
        stored, lenses = read_trajectory_json(path)
        names, reading = None, Reading(poses="world2cam")
    else:
        names, stored = read_log(path)
    pairs = pair(folder, colors, depths)
    files = _files(pairs, len(stored))
    if names is not None and len(names) != len(files) == len(depths) and _tells(names, depths, colors):
        of_number = dict(zip(depths, files, strict=True))
        files = [of_number.get(k) or FrameFiles(str(k), colors.get(k), None) for k in names]
    one_pose_each(files, stored, path)
    cameras, notes, stated = _cameras(folder, lenses, options)
    if stated:
        files = [replace(one, K=lens.K, size=lens.size) for one, lens in zip(files, stated, strict=True)]
    return file_recording(
        folder, "open3d", files, stored, cameras, options, declared=reading, notes=[*pairs.notes, *notes]
    )


def _tells(names: list[int], depths: dict[int, Path], colors: dict[int, Path]) -> bool:
    """Whether the numbers in a .log are those of the pictures, of which some may have no pose or some
    poses no picture. A log that counts from 0 what pictures count from 1 would look as if the first one
    were lost."""
    numbers = set(names)
    sure = min(numbers) in depths or numbers <= set(colors)
    return numbers <= set(depths) or (set(depths) < numbers and sure)


def _files(pairs: Pairs, poses: int) -> list[FrameFiles]:
    """Of each depth picture; of each colour picture where names carry times and there are as many poses
    as of these alone."""
    times = [None] * len(pairs.depths) if pairs.times_s is None else pairs.times_s.tolist()
    if pairs.times_s is not None and poses == len(pairs.colors) != len(pairs.depths):
        return [
            FrameFiles(color.stem, color, None if k is None else pairs.depths[k])
            for color, k in zip(pairs.colors, pairs.depth_of, strict=True)
        ]
    return [
        FrameFiles(depth.stem, color, depth, time_s=time)
        for color, depth, time in zip(pairs.color_of(), pairs.depths, times, strict=True)
    ]


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


def read_trajectory_json(path: Path) -> tuple[np.ndarray, list[Calibration | None]]:
    """World2cam poses (V, 4, 4) and each frame's camera, None where it states none."""
    found = read_json(path, finite=False)
    frames = found.get("parameters") if isinstance(found, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise InputError(f"{path}: has no list 'parameters'; expected Open3D's PinholeCameraTrajectory")
    poses = [
        json_numbers(frame.get("extrinsic"), 16, f"{path}: extrinsic of frame {k}").reshape(4, 4).T
        for k, frame in enumerate(frames)
    ]
    lenses = [frame.get("intrinsic") for frame in frames]
    return np.stack(poses), [None if one is None else open3d_camera(one, str(path)) for one in lenses]


def _lists_of(folder: Path) -> list[Path]:
    """The poses, under a name of Open3D's programs, else all logs of poses that there are."""
    known = (folder / name for name in (*LOGS, *JSONS))
    found = next((path for path in known if path.is_file()), None)
    if found is not None:
        return [found]
    others = {path for form in OTHER_LOGS for path in folder.glob(form) if _is_log(path)}
    return sorted(others) or [path for path in (folder / KEY_LOG,) if path.is_file()]


def _is_log(path: Path) -> bool:
    """Whether a file begins as logs of poses do, with a line of three whole numbers and a 4×4 pose."""
    if NO_TRAJECTORY in path.name.lower() or is_leftover(path) or not is_file(path):
        return False
    with open_regular(path) as file:
        lines = file.read(PEEKED_BYTES).decode("utf-8", "replace").splitlines()
    rows = [line.split() for line in lines if line.strip()][:5]
    whole = len(rows) == 5 and all(word.isdecimal() for word in rows[0])
    return whole and [len(row) for row in rows] == [3, 4, 4, 4, 4] and _is_last_row(rows[4])


def _is_last_row(words: list[str]) -> bool:
    try:
        return [float(word) for word in words] == [0, 0, 0, 1]
    except ValueError:
        return False


def _cameras(
    folder: Path, stated: list[Calibration | None], options: OpenOptions
) -> tuple[Cameras, list[str], list[Calibration]]:
    """Depth is registered: one camera. With notes, and each frame's own where `stated` are several."""
    if options.intrinsics is not None:
        return Cameras(given := given_intrinsics(options.intrinsics), given), [], []
    lenses = [lens for lens in stated if lens is not None]
    found = find_intrinsics(folder)
    if found is None and lenses:
        own = lenses if len(lenses) == len(stated) and _differ(lenses) else []
        return Cameras(lenses[0], lenses[0]), [], own
    if found is not None:
        return Cameras(found, found), [], []
    note = (
        "no intrinsics in the folder: Open3D's default camera taken (525 525 319.5 239.5 at 640×480), "
        "--intrinsics gives another"
    )
    return Cameras(DEFAULT_CAMERA, DEFAULT_CAMERA), [note], []


def _differ(lenses: list[Calibration]) -> bool:
    return any(lens.size != lenses[0].size or not np.array_equal(lens.K, lenses[0].K) for lens in lenses)
