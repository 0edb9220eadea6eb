"""A mesh or cloud file as a scene: placed, with normals and superpoints, without views and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bifusion.arguments import check_positive
from bifusion.data.checks import color_note
from bifusion.data.open_scene import OpenScene
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.placement import (
    AXES,
    Placement,
    Up,
    axis_of,
    far_offset,
    level_note,
    placement_notes,
    up_to_z,
)
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.superpoints.normals import surface_normals
from bifusion.datasets.superpoints.surface import surface_superpoints
from bifusion.errors import InputError
from bifusion.types import Scene


@dataclass
class PlacedMesh:
    """A mesh in its scene's frame. `scene` has no superpoints and labels yet (zeros, None)."""

    scene: Scene
    faces: np.ndarray
    """(F, 3) int64, F is 0 for a cloud."""
    placement: Placement
    """How points came from the file's frame and unit into the scene's."""
    notes: list[str]
    """What the user should know of how the file was understood."""


def place_mesh(name: str, mesh: Mesh, alignment: np.ndarray, scale: float) -> PlacedMesh:
    """The mesh aligned, in metres, near the origin.

    Args:
        name: the scene's.
        alignment: (4, 4) rigid, the file's frame to one with z up, in the file's unit.
        scale: metres a unit of the file.
    """
    aligned = Placement(scale, alignment)
    placement = Placement(scale, alignment, far_offset(aligned.points(mesh.coord)))
    coord = placement.points(mesh.coord)
    normal, source = surface_normals(coord, mesh.faces, mesh.normal, alignment[:3, :3])
    said = color_note(mesh.color)
    notes = [
        *mesh.notes,
        *([said] if said else []),
        *placement_notes(placement, coord, mesh.spacing * scale),
    ]
    if len(mesh.faces) == 0:
        notes.append(f"the file has no faces: superpoints of the cloud, its normals {source}")
    scene = Scene(
        name=name,
        coord=coord.astype(np.float32),
        color=mesh.color,
        superpoint=np.zeros(len(coord), np.int32),
        normal=normal.astype(np.float32),
    )
    return PlacedMesh(scene, mesh.faces, placement, notes)


def open_mesh(path: Path, *, scale: float | None = None, up: Up | None = None) -> OpenScene:
    """The mesh or cloud in `path` as a scene with superpoints, without views and labels.

    Args:
        scale: metres a unit of the file; None: as it says, 1 where it says nothing.
        up: which of the file's axes points up; None: y in glTF, z in all others.
    Raises:
        InputError: a file that cannot be read (`read_mesh_file`).
    """
    check_positive(scale, "scale", "metres a unit, 0.001 for millimetres")
    if not (up is None or (isinstance(up, str) and up in AXES)):
        raise InputError(f"up: found {up!r}; expected one of {', '.join(AXES)}")
    mesh = read_mesh_file(path)
    if scale is None:
        scale = mesh.unit_m or 1.0
        if scale != 1:
            mesh.notes.append(f"{scale:g} m a unit, as the file says")
    upward = up or ("z" if mesh.up is None else axis_of(mesh.up))
    placed = place_mesh(path.stem, mesh, up_to_z(upward), scale)
    if upward != "z":
        placed.notes.append(f"{upward} was taken to point up: turned so that z does")
    if up is None and mesh.up is None and (note := level_note(mesh.coord, mesh.faces)):
        placed.notes.append(note)
    scene = placed.scene
    scene.superpoint = surface_superpoints(scene.coord, scene.normal, placed.faces)
    return OpenScene(
        **vars(placed.scene),
        axis_alignment=None if upward == "z" else placed.placement.aligned,
        offset_m=placed.placement.offset_m,
        notes=placed.notes,
    )
