"""rgb.txt, depth.txt, groundtruth.txt: TUM RGB-D, and own recordings in its layout.

Source: the benchmark's page "File formats" (Sturm et al., IROS 2012). Times of the streams differ: the
nearest within MOST_APART_S belong together, each where the camera was at its own time. Poses are those
of the colour camera, cam2world of OpenCV, quaternions with the scalar last; depth is registered to
colour. TUM's depth has 5000 units a metre, other recorders keep their device's 1000.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from bifusion.datasets.recordings.pairs import MOST_APART_S, nearest
from bifusion.datasets.recordings.poses import from_quaternions
from bifusion.datasets.recordings.text_files import as_numbers, inside, read_lines
from bifusion.errors import InputError
from bifusion.untrusted.files import is_file

TUM_SCALE = 5000.0
SCALES = (5000.0, 1000.0)
ASSOCIATIONS = ("associations.txt", "associate.txt", "association.txt")
TRAJECTORIES = ("groundtruth.txt", "CameraTrajectory.txt", "KeyFrameTrajectory.txt", "trajectory.txt")
LATEST_S = 1e10
"""Seconds since 1970 that no recording has."""
COLUMNS = (8, 9)
"""Of a trajectory: a time and a pose, and of RTAB-Map's "RGBD-SLAM + ID" the number of a node."""
CAMERAS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
"""fx, fy, cx, cy of TUM's cameras, of which the first two distort."""


@dataclass(frozen=True)
class Pair:
    """Pictures that belong together, with their times in seconds."""

    color: Path | None
    """None: no picture is near this depth."""
    color_s: float
    depth: Path
    depth_s: float


def is_tum(folder: Path) -> bool:
    lists = (folder / "rgb.txt").is_file() and (folder / "depth.txt").is_file()
    return lists or any((folder / name).is_file() for name in ASSOCIATIONS)


def open_tum(folder: Path, options: OpenOptions) -> FileRecording:
    """The pairs of colour and depth, and depth alone, that have a pose of the same time."""
    trajectory = next((folder / name for name in TRAJECTORIES if (folder / name).is_file()), None)
    if trajectory is None:
        raise InputError(
            f"{folder}: has no {' or '.join(TRAJECTORIES)}: pictures without poses make no scan; "
            "RTAB-Map or ORB-SLAM find poses and write this file"
        )
    pairs = read_pairs(folder)
    times, poses = read_trajectory(trajectory)
    of_color = _poses_at(times, poses, [pair.color_s for pair in pairs], trajectory)
    of_depth = _poses_at(times, poses, [pair.depth_s for pair in pairs], trajectory)
    files = [
        FrameFiles((pair.color or pair.depth).stem, pair.color, pair.depth, time_s=pair.color_s)
        for pair in pairs
    ]
    cameras, notes = _cameras(folder, options)
    official = _camera_name(folder) is not None
    recording = file_recording(
        folder, "tum", files, of_depth, cameras, options, color_stored=of_color,
        depth_scale=TUM_SCALE, up=Z_UP if official else None, notes=notes,
    )  # fmt: skip
    if not official and options.depth_scale is None and recording.depth_scale == TUM_SCALE:
        recording.scales = SCALES
    return recording


def _poses_at(times: np.ndarray, poses: np.ndarray, at: list[float], trajectory: Path) -> np.ndarray:
    """(V, 4, 4) poses of the times `at`, NaN where none is within MOST_APART_S; InputError where the
    trajectory is of another clock."""
    wanted = np.array(at)
    row = nearest(times, wanted)
    apart = np.abs(times[row] - wanted)
    if apart.min() > MOST_APART_S:
        large = max(times[-1], wanted.max()) > LATEST_S
        unit = "; times so large are nanoseconds: divide them by 10⁹" if large else ""
        raise InputError(
            f"{trajectory}: is of {times[0]:.2f} … {times[-1]:.2f} s, the pictures are of "
            f"{wanted.min():.2f} … {wanted.max():.2f} s: no pose within {MOST_APART_S:g} s of a "
            f"picture; expected one clock, in seconds{unit}"
        )
    return np.where((apart <= MOST_APART_S)[:, None, None], poses[row], np.nan)


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of colour and depth, in the order of the list.

    Those that are each other's nearest are a pair, so that no depth counts twice where there are more
    pictures. Depth that no picture is near comes without one, at its own time; where pairs are listed,
    they alone count.
    """
    path = next((folder / name for name in ASSOCIATIONS if (folder / name).is_file()), None)
    if path is not None:
        rows = read_lines(path)
        if any(len(row) < 4 for row in rows):
            raise InputError(f"{path}: expected lines of time, colour picture, time, depth picture")
        if rows and all("depth" in row[1].lower() and "depth" not in row[3].lower() for row in rows):
            rows = [[*row[2:4], *row[:2]] for row in rows]  # associate.py depth.txt rgb.txt; ICL-NUIM
        return [
            Pair(
                inside(folder, row[1], path),
                _time(row[0], path),
                inside(folder, row[3], path),
                _time(row[2], path),
            )
            for row in rows
        ]
    colors, depths = (_read_list(folder / name) for name in ("rgb.txt", "depth.txt"))
    if not depths:
        raise InputError(f"{folder / 'depth.txt'}: lists no picture; copy the recording again")
    color_s, depth_s = (np.array([time for time, _ in one]) for one in (colors, depths))
    row = nearest(depth_s, color_s)
    mutual = nearest(color_s, depth_s)[row] == np.arange(len(colors)) if colors else row
    near = [
        (path, time, k)
        for (time, path), k, is_mutual in zip(colors, row.tolist(), mutual.tolist(), strict=True)
        if is_mutual and abs(depth_s[k] - time) <= MOST_APART_S
    ]
    alone = sorted({*range(len(depths))} - {k for _, _, k in near})
    pairs = [Pair(path, time, depths[k][1], depths[k][0]) for path, time, k in near]
    without = [Pair(None, time, path, time) for time, path in (depths[k] for k in alone)]
    return sorted([*pairs, *without], key=lambda pair: pair.color_s)


def read_trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (P,) and poses (P, 4, 4), by time, of lines `time tx ty tz qx qy qz qw`, all
    of them with a number behind it or none."""
    rows = read_lines(path)
    columns = {len(row) for row in rows}
    if len(columns) != 1 or not columns <= {*COLUMNS}:
        raise InputError(
            f"{path}: has lines of {', '.join(map(str, sorted(columns))) or 'no'} columns; expected "
            "time, tx ty tz, qx qy qz qw in all lines, and at least one (RTAB-Map: export RGBD-SLAM)"
        )
    numbers = as_numbers(rows, path)
    numbers = numbers[np.isfinite(numbers[:, 0])]
    if len(numbers) == 0:
        raise InputError(f"{path}: has no finite time; copy the recording again")
    numbers = numbers[np.argsort(numbers[:, 0], kind="stable")]
    return numbers[:, 0], from_quaternions(numbers[:, 4:8], numbers[:, 1:4])


def _read_list(path: Path) -> list[tuple[float, Path]]:
    rows = read_lines(path)
    if any(len(row) < 2 for row in rows):
        raise InputError(f"{path}: expected lines of time and file name")
    listed = [(_time(row[0], path), _listed(row[1:], path)) for row in rows]
    return [*dict.fromkeys(listed)]  # a line that is there twice counts once


def _listed(words: list[str], path: Path) -> Path:
    """The picture of a line's words behind its time: a name with blanks, where there is such a file."""
    whole = inside(path.parent, " ".join(words), path)
    return whole if len(words) == 1 or is_file(whole) else inside(path.parent, words[0], path)


def _time(word: str, path: Path) -> float:
    try:
        time = float(word)
    except ValueError:
        time = float("nan")
    if not np.isfinite(time):
        raise InputError(f"{path}: has {word[:40]!r} for a time; expected seconds")
    return time


def _cameras(folder: Path, options: OpenOptions) -> tuple[Cameras, list[str]]:
    """Depth is registered: one camera."""
    if options.intrinsics is not None:
        return Cameras(given := given_intrinsics(options.intrinsics), given), []
    found = find_intrinsics(folder)
    if found is not None:
        return Cameras(found, found), []
    name = _camera_name(folder)
    if name is None:
        raise InputError(
            f"{folder}: says nothing of its camera; give --intrinsics 'fx fy cx cy' (TUM's own are "
            "known by the name, rgbd_dataset_freiburg1_desk; ROS's default is 525 525 319.5 239.5)"
        )
    camera = Calibration(pinhole(*CAMERAS[name]), (640, 480))
    lens = "" if name == "freiburg3" else "; its lens distorts, which is not corrected"
    return Cameras(camera, camera), [f"intrinsics of TUM's {name}{lens}"]


def _camera_name(folder: Path) -> str | None:
    match = re.search(r"freiburg[123]", folder.resolve().name)
    return match[0] if match else None
