"""transforms.json with depth: nerfstudio, instant-ngp, NeRFCapture and many converters.

Sources: nerfstudio's page "Data conventions" and its process_data (record3d_utils, polycam_utils,
colmap_utils); instant-ngp's nerf_dataset_tips. Poses cam2world of OpenGL cameras; intrinsics for the
whole file or of each frame, their principal points measured from the top-left corner of the picture,
half a pixel before the centre of its first pixel. Depth of 16 bits, in millimetres, or, as `depth_path`,
in units of `integer_depth_scale` metres; of floats, millimetres or metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.datasets.recordings.depth_files import FLOATS
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.frame import Z_UP
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics, picture_size, pinhole
from bifusion.datasets.recordings.lens import BENDING, PINHOLES, check_lens
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, DEPTH_ENDINGS
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import inside, json_numbers, read_json
from bifusion.errors import InputError
from bifusion.untrusted.files import is_file

NAME = "transforms.json"
DEPTHS = ("depth_file_path", "depth_path")
LENS = ("k1", "k2", "p1", "p2", "k3", "k4")
OTHER_LENSES = ("is_fisheye", "is_latlong", "is_equirectangular")
"""instant-ngp's words for lenses that are no pinholes, of files that name no camera_model."""
Y_TO_Z = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
"""`applied_transform` of recordings from phones, whose world had y up. COLMAP's, which follows no
gravity, is given another."""
CORNER = 0.5
FLOAT_SCALES = (1.0, 1000.0)
"""nerfstudio takes floats for millimetres too, most programs write metres."""


def is_nerfstudio(folder: Path) -> bool:
    return (folder / NAME).is_file()


def open_nerfstudio(folder: Path, options: OpenOptions) -> FileRecording:
    """The frames of transforms.json that have depth."""
    path = folder / NAME
    found = read_json(path, finite=False)
    frames = found.get("frames") if isinstance(found, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{path}: has no list 'frames'; expected nerfstudio's transforms.json")
    stated = [{**found, **frame, "frames": None} for frame in frames]
    notes: list[str] = []
    given = None if options.intrinsics is None else given_intrinsics(options.intrinsics)
    files = [_files(folder, k, one, given is None, notes) for k, one in enumerate(stated)]
    if files and not any(one.depth for one in files):
        raise InputError(
            f"{path}: names no depth pictures (depth_file_path), and a scan is made of depth; record "
            "with a phone that measures it, or give the scene's mesh alone"
        )
    if any("colmap_im_id" in frame for frame in frames):
        notes.append(
            "poses come from COLMAP, whose unit is arbitrary: sizes in metres are right only if they "
            "were scaled afterwards"
        )
    poses = [_pose(one, f"{path}: frame {k}") for k, one in enumerate(stated)]
    stored = np.array(poses).reshape(-1, 4, 4)
    if (scale := _applied_scale(found, path)) != 1:
        stored[:, :3, 3] /= scale
        notes.append(f"poses were scaled by {scale:g} (applied_scale), which was taken back")
    recording = file_recording(
        folder, "nerfstudio", files, stored,
        Cameras(given or Calibration(np.eye(3))), options, declared=Reading(axes="opengl"),
        depth_scale=_depth_scale(found, path), up=_up(found), notes=list(dict.fromkeys(notes)),
    )  # fmt: skip
    if FLOATS in recording.notes:
        recording.notes.remove(FLOATS)
        recording.scales = FLOAT_SCALES
    return recording


def _files(
    folder: Path, number: int, frame: dict[str, Any], own_camera: bool, notes: list[str]
) -> FrameFiles:
    path = folder / NAME
    color = _named(folder, frame.get("file_path"), path, COLOR_ENDINGS)
    named = next((frame[key] for key in DEPTHS if frame.get(key)), None)
    depth = _named(folder, named, path, DEPTH_ENDINGS)
    if depth is not None and depth.suffix and depth.suffix.lower() not in DEPTH_ENDINGS:
        raise InputError(
            f"{path}: names depth {depth.name}; expected one of {', '.join(DEPTH_ENDINGS)}, of 16 bits "
            "or of floats: convert it"
        )
    name = f"frame {number}" if color is None else color.stem
    if not own_camera:
        return FrameFiles(name, color, depth)
    where = f"{path}: frame {number}"
    size = _size(frame, where)
    K = _intrinsics(frame, size, where)
    model = str(frame.get("camera_model", "OPENCV"))
    if model.upper() not in (*PINHOLES, *BENDING):  # some converters write "pinhole"
        raise InputError(
            f"{where}: has camera_model {model[:40]!r}, and pinhole cameras are read; undistort "
            "the pictures first"
        )
    other = [key for key in OTHER_LENSES if frame.get(key)]
    if other:
        raise InputError(
            f"{where}: says {other[0]}, and pinhole cameras are read; undistort the pictures first"
        )
    lens = json_numbers([frame.get(key, 0) for key in LENS], len(LENS), f"{where}: {', '.join(LENS)}")
    note = check_lens(K, size, lens.tolist(), where)
    notes += [note] if note else []
    return FrameFiles(name, color, depth, K=K, size=size)


def _named(folder: Path, name: Any, path: Path, endings: Sequence[str]) -> Path | None:
    """The file of a name, to which instant-ngp adds the ending where it has none."""
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: names the file {str(name)[:80]!r}; expected a path in {folder}")
    file = inside(folder, name, path)
    if file.suffix.lower() in endings or is_file(file):
        return file
    complete = (file.with_name(file.name + ending) for ending in endings)
    return next((one for one in complete if is_file(one)), file)


def _size(frame: dict[str, Any], where: str) -> tuple[int, int]:
    width, height = json_numbers([frame.get("w"), frame.get("h")], 2, f"{where}: w, h")
    return picture_size(width, height, f"{where}: w, h")


def _intrinsics(frame: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """(3, 3), the centre of the first pixel at 0; focal lengths may be stated as angles of view, and one
    for both axes."""
    fx, fy = (_focal(frame, axis, length, where) for axis, length in zip("xy", size, strict=True))
    fy = fx if fy is None else fy
    center = [frame.get("cx", size[0] / 2), frame.get("cy", size[1] / 2)]
    fx, fy, cx, cy = json_numbers([fx, fy, *center], 4, f"{where}: fl_x, fl_y, cx, cy")
    if not (np.isfinite([fx, fy, cx, cy]).all() and fx > 0 and fy > 0):
        raise InputError(f"{where}: fl_x, fl_y: found {fx:g}, {fy:g}; expected focal lengths in pixels")
    return pinhole(fx, fy, cx - CORNER, cy - CORNER)


def _focal(frame: dict[str, Any], axis: str, length: int, where: str) -> Any:
    """What the frame says of the focal length along an axis, as it is or as an angle; None: nothing."""
    stated, key = frame.get(f"fl_{axis}"), f"camera_angle_{axis}"
    if stated is not None or key not in frame:
        return stated
    (angle,) = json_numbers([frame[key]], 1, f"{where}: {key}")
    return length / 2 / np.tan(angle / 2) if 0 < angle < np.pi else None


def _pose(frame: dict[str, Any], where: str) -> np.ndarray:
    """(4, 4) of four rows or of three."""
    rows = frame.get("transform_matrix")
    if not isinstance(rows, list) or len(rows) not in (3, 4):
        raise InputError(f"{where}: has no transform_matrix of four rows; export the recording again")
    numbers = [json_numbers(row, 4, f"{where}: transform_matrix") for row in rows]
    return np.stack([*numbers, np.array([0.0, 0, 0, 1])][:4])


def _depth_scale(found: dict[str, Any], path: Path) -> float:
    """Units of the depth a metre."""
    if "integer_depth_scale" not in found:
        return 1000.0
    (metres,) = json_numbers([found["integer_depth_scale"]], 1, f"{path}: integer_depth_scale")
    if not 1e-9 < metres < 1e3:
        raise InputError(f"{path}: integer_depth_scale: found {metres:g}; expected metres a unit")
    return float(1 / metres)


def _applied_scale(found: dict[str, Any], path: Path) -> float:
    """What the poses were multiplied by, depth not: nerfstudio scales that as it reads it."""
    (scale,) = json_numbers([found.get("applied_scale", 1)], 1, f"{path}: applied_scale")
    if not 1e-6 < scale < 1e6:
        raise InputError(f"{path}: applied_scale: found {scale:g}; expected a positive number")
    return float(scale)


def _up(found: dict[str, Any]) -> np.ndarray | None:
    """z of what nerfstudio made of a phone's recording; COLMAP's world has any up."""
    if found.get("orientation_override") == "none":
        return Z_UP
    applied = found.get("applied_transform")
    if not isinstance(applied, list) or len(applied) not in (3, 4):
        return None
    try:
        rotation = np.array(applied, float)[:3, :3]
    except (ValueError, TypeError, IndexError):
        return None
    return Z_UP if rotation.shape == (3, 3) and np.allclose(rotation, Y_TO_Z) else None
