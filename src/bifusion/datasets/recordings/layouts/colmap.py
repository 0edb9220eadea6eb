"""sparse/0/ and images/ beside a mesh: COLMAP's poses of pictures of a surface that is there already.

Sources: COLMAP's documentation ("Output Format", `colmap_model`) and the folders that its users keep.
COLMAP knows no unit, and its model holds no depth: a mesh in the same frame, in metres, gives both.
Depth is rendered from it, and the mesh is the scan's surface as it is.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from bifusion.data.images import resize_intrinsics
from bifusion.datasets.mesh_depth import MeshDepth
from bifusion.datasets.mesh_files.read import is_mesh_file, read_mesh_file
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.recordings.colmap_model import Lens, has_model, read_model
from bifusion.datasets.recordings.file_recording import (
    Cameras,
    FileRecording,
    FrameFiles,
    file_recording,
)
from bifusion.datasets.recordings.intrinsics import Calibration, given_intrinsics
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.parts import Part
from bifusion.datasets.recordings.poses import pose_list
from bifusion.datasets.recordings.reading import Reading
from bifusion.datasets.recordings.text_files import inside
from bifusion.errors import InputError
from bifusion.untrusted.files import is_leftover

MODELS = ("sparse/0", "sparse", ".")
NO_SURFACE = ("points3d.ply", "points3d.obj", "input.ply", "point_cloud.ply")
"""What COLMAP and its users write of the sparse points, in lower case."""
DECLARED = Reading(poses="world2cam")
DEPTH_WIDTH = 320
LOOKED_AT, LEAST_SEEN = 10, 0.2
"""Cameras that are asked how much of the mesh they see, and the share of their pixels that must."""


def is_colmap(folder: Path) -> bool:
    return _model_of(folder) is not None and (folder / "images").is_dir()


def open_colmap(folder: Path, options: OpenOptions) -> FileRecording:
    """The pictures that COLMAP registered, with depth of the mesh in the same folder.

    Raises InputError: no mesh or several, one without faces, cameras that do not see it.
    """
    model = _model_of(folder)
    assert model is not None
    path, mesh = _mesh_of(folder)
    lenses, posed = read_model(model)
    if options.intrinsics is not None:
        given = given_intrinsics(options.intrinsics)
        lenses = {k: Lens(given.K, given.size or lens.size, None) for k, lens in lenses.items()}
    stored = np.array([one.world2cam() for one in posed]).reshape(-1, 4, 4)
    poses = pose_list(stored, len(posed), options.reading(DECLARED))
    mesh.coord = mesh.coord - poses.offset_m
    rendered = MeshDepth(mesh.coord, mesh.faces)
    files = []
    for k, one in enumerate(posed):
        lens, color = lenses[one.camera], inside(folder / "images", one.name, model)
        read = partial(_depth_m, rendered, lens, poses.pose(k))
        part = Part(path, f"as {one.name} sees it", read)
        files.append(FrameFiles(one.name, color, part, K=lens.K, size=lens.size))
    notes = [lens.note for lens in lenses.values() if lens.note]
    notes.append(f"depth is rendered from {path.name}: how frames agree says nothing of the poses")
    recording = file_recording(
        folder, "colmap", files, stored, Cameras(Calibration(np.eye(3))), options, declared=DECLARED,
        depth_scale=1.0, up=mesh.up, notes=[*dict.fromkeys(notes), *mesh.notes], depth_alone=False,
    )  # fmt: skip
    recording.mesh = mesh
    _check_seen(recording, path)
    return recording


def _depth_m(rendered: MeshDepth, lens: Lens, cam2world: np.ndarray) -> np.ndarray:
    """(h, w) float32 metres, no wider than DEPTH_WIDTH, no higher than four times that."""
    scale = min(1.0, DEPTH_WIDTH / lens.size[0], 4 * DEPTH_WIDTH / lens.size[1])
    size = (max(1, round(lens.size[0] * scale)), max(1, round(lens.size[1] * scale)))
    return rendered.render(resize_intrinsics(lens.K, lens.size, size), cam2world, size)


def _check_seen(recording: FileRecording, path: Path) -> None:
    shares = []
    for index in np.unique(np.linspace(0, len(recording) - 1, LOOKED_AT).astype(int)).tolist():
        depth = recording.files[index].depth
        assert isinstance(depth, Part)
        shares.append(float((depth.read() > 0).mean()))
    if np.median(shares) < LEAST_SEEN:
        raise InputError(
            f"{path}: cameras see it in {np.median(shares):.0%} of their pixels: it is in another frame "
            "or unit than COLMAP's model; align the model to the mesh (COLMAP's model_aligner)"
        )


def _mesh_of(folder: Path) -> tuple[Path, Mesh]:
    paths = [one for one in sorted(folder.iterdir()) if is_mesh_file(one)]
    paths = [one for one in paths if one.name.lower() not in NO_SURFACE and not is_leftover(one)]
    if not paths:
        raise InputError(
            f"{folder}: holds poses of COLMAP, whose unit is arbitrary, and no depth; put a mesh in the "
            "same frame and in metres beside them (.ply, .obj, .glb), or scan the mesh alone"
        )
    if len(paths) > 1:
        names = ", ".join(one.name for one in paths)
        raise InputError(f"{folder}: which mesh belongs to COLMAP's poses? Found {names}; leave one")
    mesh = read_mesh_file(paths[0])
    if not len(mesh.faces):
        raise InputError(
            f"{paths[0]}: is a cloud, of which no depth can be rendered; make a mesh of it (COLMAP's "
            "poisson_mesher)"
        )
    return paths[0], mesh


def _model_of(folder: Path) -> Path | None:
    return next((folder / place for place in MODELS if has_model(folder / place)), None)
