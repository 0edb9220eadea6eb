"""An input of whatever kind as a scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.arguments import path_of, require
from bifusion.data.checks import require_text
from bifusion.data.open_scene import OpenScene, StoredViews
from bifusion.data.scene_folder import load_scene, read_offset, read_unit_stated
from bifusion.datasets.mesh_files.read import is_mesh_file
from bifusion.datasets.placement import Placement
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.scan.made import MadeScan
from bifusion.datasets.scan.mesh_scan import scan_mesh
from bifusion.datasets.scan.options import MESH, RECORDING, SCENE, ScanOptions, refuse_without_effect
from bifusion.datasets.scan.recording_scan import scan_recording
from bifusion.datasets.scan.telling import Telling
from bifusion.datasets.scene_notes import scene_notes
from bifusion.errors import InputError
from bifusion.untrusted.files import check_links


def make_scan(
    path: Path, options: ScanOptions | None = None, telling: Telling | None = None
) -> MadeScan:
    """A mesh or cloud file, a recording, or a scene folder as a scan.

    Raises InputError: nothing there; whatever is wrong with it, or cannot be told and is not given; an
    argument of another type.
    """
    path, options = path_of(path, "path"), checked_options(options)
    telling = Telling() if telling is None else telling
    require(isinstance(telling, Telling), telling, "telling", "a Telling")
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; expected a mesh or cloud (.ply, .obj, .glb, .las, "
            ".laz, .e57, .pcd), a recording, or a scene folder"
        )
    require_text(scan_name(path), "scan")
    if is_scene(path):
        refuse_without_effect(path, options, SCENE)
        return open_made(path, telling)
    if is_mesh_file(path) and options.layout is None:
        refuse_without_effect(path, options, MESH)
        return scan_mesh(path, options, telling)
    refuse_without_effect(path, options, RECORDING)
    return scan_recording(path, options, telling)


def checked_options(options: ScanOptions | None) -> ScanOptions:
    """The options, None: all as usual. InputError for anything else, or a value that nothing can be."""
    options = ScanOptions() if options is None else options
    require(isinstance(options, ScanOptions), options, "options", "ScanOptions")
    options.check()
    return options


def refuse_views(path: Path, views: int | None, layout: str | None) -> None:
    """InputError where a number of views is given with an input of which none are chosen."""
    if views is None or not (is_scene(path) or (is_mesh_file(path) and layout is None)):
        return
    what = "a scene folder, whose views are all taken" if is_scene(path) else "a mesh or cloud"
    raise InputError(f"{path}: is {what}; --views goes with recordings, of which frames are chosen")


def is_scene(path: Path) -> bool:
    """Whether a path is a scene folder."""
    return (path / "coord.npy").is_file()


def scan_name(path: Path) -> str:
    """What the scan of an input is called: a file's name without ending, or a folder's."""
    path = path.resolve()
    return path.stem if is_mesh_file(path) or path.is_file() else path.name


def open_made(folder: Path, telling: Telling) -> MadeScan:
    """A scene folder as it is; the user's frame is its own, with the offset of its scene.json.

    InputError: as `load_scene`; a link in it that leads out of it, as its pictures are handed on.
    """
    check_links(folder)
    scene = load_scene(folder, None)
    offset_m = read_offset(folder)
    coord = np.asarray(scene.coord, np.float64) + offset_m
    mesh = Mesh(coord, np.asarray(scene.color), np.zeros((0, 3), np.int64))
    telling.add([f"scene folder of {len(coord):,} points and {len(scene.view_names)} views"])
    stated = read_unit_stated(folder)
    telling.add(scene_notes(np.asarray(scene.coord), scene.normal, unit_stated=stated))
    views = StoredViews(folder) if scene.view_names else {}
    opened = OpenScene(**vars(scene), views=views, offset_m=offset_m, judged=True, unit_stated=stated)
    placement = Placement(offset_m=offset_m)
    return MadeScan("scene", opened, mesh, coord, placement, folder.name, list(telling.lines))
