"""Opens a recording, whichever of the known layouts it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bifusion.arguments import path_of, require
from bifusion.data.scene_folder import refuse_folder_of_scenes
from bifusion.datasets.recordings.check import judge_scale
from bifusion.datasets.recordings.frame import Recording
from bifusion.datasets.recordings.layouts.arkitscenes import is_arkitscenes, open_arkitscenes
from bifusion.datasets.recordings.layouts.colmap import is_colmap, open_colmap
from bifusion.datasets.recordings.layouts.hololens import is_hololens, open_hololens
from bifusion.datasets.recordings.layouts.nerfstudio import is_nerfstudio, open_nerfstudio
from bifusion.datasets.recordings.layouts.numbered_frames import (
    is_numbered_frames,
    open_numbered_frames,
)
from bifusion.datasets.recordings.layouts.open3d import is_open3d, open_open3d
from bifusion.datasets.recordings.layouts.polycam import is_polycam, open_polycam
from bifusion.datasets.recordings.layouts.r3d import is_r3d, open_r3d
from bifusion.datasets.recordings.layouts.record3d import is_record3d, open_record3d
from bifusion.datasets.recordings.layouts.replica import is_replica, open_replica
from bifusion.datasets.recordings.layouts.scannerapp import is_scannerapp, open_scannerapp
from bifusion.datasets.recordings.layouts.scannet_export import (
    is_scannet_export,
    open_scannet_export,
)
from bifusion.datasets.recordings.layouts.scannetpp import is_scannetpp, open_scannetpp
from bifusion.datasets.recordings.layouts.sens import is_sens, open_sens
from bifusion.datasets.recordings.layouts.stray import is_stray, open_stray
from bifusion.datasets.recordings.layouts.tum import is_tum, open_tum
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.refused import directions, lone_mesh, lone_videos
from bifusion.errors import InputError
from bifusion.untrusted.files import check_links, check_regular, entries, is_leftover

DEEPEST = 3
"""Folders, each the only one in the one above, as archives unpack to."""
MOST_LISTED = 12


@dataclass(frozen=True)
class Layout:
    """One way in which recordings are stored."""

    name: str
    looks_like: str
    """What one finds in it."""
    recognises: Callable[[Path], bool]
    open: Callable[[Path, OpenOptions], Recording]
    seen: str
    """What its reader was tried on: "real" files of strangers, or "written" ones, made by a test."""


LAYOUTS = (
    Layout("scannet", "color/ depth/ pose/ intrinsic/", is_scannet_export, open_scannet_export, "real"),
    Layout("sens", "NAME.sens", is_sens, open_sens, "written"),
    Layout(
        "7scenes",
        "frame-000000.color.png, .depth.png, .pose.txt (7-Scenes, BundleFusion; with _info.txt: 3RScan)",
        is_numbered_frames,
        open_numbered_frames,
        "real; _info.txt: written",
    ),
    Layout(
        "tum",
        "rgb.txt depth.txt groundtruth.txt",
        is_tum,
        open_tum,
        "real lists and poses, pictures written",
    ),
    Layout(
        "open3d",
        "color/ depth/ trajectory.log or camera_trajectory.json (Open3D, Redwood)",
        is_open3d,
        open_open3d,
        "real; .json: written",
    ),
    Layout(
        "replica",
        "results/frame000000.jpg results/depth000000.png traj.txt",
        is_replica,
        open_replica,
        "real poses, pictures written",
    ),
    Layout("hololens", "images/ depth/ poses.txt K.txt", is_hololens, open_hololens, "written"),
    Layout("record3d", "rgb/0.jpg depth/0.exr metadata.json", is_record3d, open_record3d, "real"),
    Layout(
        "r3d",
        "NAME.r3d (Record3D), or metadata and rgbd/ of one",
        is_r3d,
        open_r3d,
        "real metadata, pictures written",
    ),
    Layout(
        "nerfstudio", "transforms.json with depth pictures", is_nerfstudio, open_nerfstudio, "written"
    ),
    Layout(
        "polycam",
        "keyframes/ with images/ cameras/ depth/ (Polycam's raw data)",
        is_polycam,
        open_polycam,
        "written",
    ),
    Layout(
        "stray",
        "rgb.mp4 depth/ confidence/ odometry.csv camera_matrix.csv (Stray Scanner)",
        is_stray,
        open_stray,
        "real odometry, pictures written",
    ),
    Layout(
        "scannerapp",
        "frame_00000.json depth_00000.png frame_00000.jpg (3D Scanner App's All data)",
        is_scannerapp,
        open_scannerapp,
        "real; .exr: written",
    ),
    Layout(
        "arkitscenes",
        "lowres_wide/ lowres_depth/ lowres_wide_intrinsics/ lowres_wide.traj (ARKitScenes)",
        is_arkitscenes,
        open_arkitscenes,
        "written",
    ),
    Layout(
        "scannetpp",
        "iphone/ with rgb.mkv depth.bin pose_intrinsic_imu.json (ScanNet++)",
        is_scannetpp,
        open_scannetpp,
        "written",
    ),
    Layout("colmap", "sparse/0/ images/ beside a mesh in metres", is_colmap, open_colmap, "written"),
)


def open_recording(
    path: Path, options: OpenOptions | None = None, *, layout: str | None = None
) -> Recording:
    """The recording in a file or folder.

    Args:
        path: file, or folder; one that holds a single folder, .sens or .r3d file stands for it.
        options: what the files do not say, or say wrongly.
        layout: name of one of LAYOUTS, to look for no other; None: recognised.

    Raises:
        InputError: nothing there, no known layout or several, a link in the folder that leads out of it,
            or what its reader finds wrong.
    """
    path, options = path_of(path, "path"), OpenOptions() if options is None else options
    require(isinstance(options, OpenOptions), options, "options", "OpenOptions")
    options.check()
    if not path.is_dir():
        check_regular(path, missing="no such file or folder; expected a recording")
    if layout is not None:
        known = {one.name: one for one in LAYOUTS}
        if layout not in known:
            raise InputError(f"layout: found {layout!r}; expected one of {', '.join(known)}")
        found, place = _recognised(path, (known[layout],))
    else:
        found, place = _recognised(path)
    if path.is_dir():
        check_links(path)
    recording = found.open(place, options)
    if recording.scales:
        judge_scale(recording)
    return recording


def refuse_recording(path: Path) -> None:
    """InputError for a recording where a scene is expected."""
    found = [layout.name for layout in LAYOUTS if layout.recognises(path)]
    if found:
        raise InputError(f"{path}: is a recording ({' or '.join(found)}); `bifusion scan` labels it")


def _recognised(path: Path, layouts: Sequence[Layout] = LAYOUTS) -> tuple[Layout, Path]:
    place = path
    for _ in range(DEEPEST):
        found = [layout for layout in layouts if layout.recognises(place)]
        if len(found) == 1:
            return found[0], place
        if found:
            names = ", ".join(f"{layout.name} ({layout.looks_like})" for layout in found)
            raise InputError(f"{place}: looks like several layouts: {names}; choose one by --layout")
        children = place.iterdir() if place.is_dir() else ()
        inner = [
            child
            for child in children
            if (child.is_dir() or is_sens(child) or is_r3d(child)) and not is_leftover(child)
        ]
        if len(inner) != 1:
            break
        place = inner[0]
    if len(layouts) == 1:
        asked = layouts[0]
        raise InputError(f"{path}: does not look like {asked.name}; expected {asked.looks_like}")
    raise InputError(_unknown(path))


def _unknown(path: Path) -> str:
    """What to say of it; InputError for a folder of scene folders."""
    if path.is_file():
        known = directions(path)
        if known:
            return f"{path}: {known}"
        return (
            f"{path}: is no recording that is known; expected a mesh or cloud (.ply, .obj, .glb, .las, "
            ".laz, .e57, .pcd), a recording's file (.sens, .r3d) or its folder"
        )
    refuse_folder_of_scenes(path)
    known = lone_mesh(path) or lone_videos(path)
    if known and not any(child.is_dir() for child in path.iterdir()):
        return f"{path}: holds {entries(path, MOST_LISTED)}, no recording; {known}"
    hint = f" ({known})" if known else ""
    return (
        f"{path}: holds {entries(path, MOST_LISTED)}{hint}; expected one of these layouts: {_layouts()}"
    )


def _layouts() -> str:
    return "; ".join(f"{layout.name}: {layout.looks_like}" for layout in LAYOUTS)
