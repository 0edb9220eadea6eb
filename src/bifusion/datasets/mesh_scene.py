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
    LARGEST_M,
    Placement,
    Up,
    axis_of,
    extent_note,
    extent_of,
    far_offset,
    is_too_large,
    level_note,
    placement_notes,
    up_to_z,
)
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.scene_notes import mesh_up_note
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


def place_mesh(
    name: str, mesh: Mesh, alignment: np.ndarray, scale: float, *, stated: bool = False
) -> PlacedMesh:
    """The mesh aligned, in metres, near the origin.

    Args:
        name: the scene's.
        alignment: (4, 4) rigid, the file's frame to one with z up, in the file's unit.
        scale: metres a unit of the file.
        stated: the file, or its user, says so.
    """
    aligned = Placement(scale, alignment)
    placement = Placement(scale, alignment, far_offset(aligned.points(mesh.coord)))
    coord = placement.points(mesh.coord)
    normal, source = surface_normals(coord, mesh.faces, mesh.normal, alignment[:3, :3])
    said = color_note(mesh.color)
    notes = [
        *mesh.notes,
        *([said] if said else []),
        *placement_notes(placement, coord, mesh.spacing * scale, stated=stated),
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
        InputError: a file that cannot be read (`read_mesh_file`), or, without `scale`, is larger than
            any building.
    """
    check_positive(scale, "scale", "metres a unit, 0.001 for millimetres")
    if not (up is None or (isinstance(up, str) and up in AXES)):
        raise InputError(f"up: found {up!r}; expected one of {', '.join(AXES)}")
    mesh = read_mesh_file(path)
    upward = up or ("z" if mesh.up is None else axis_of(mesh.up))
    stated = scale is not None or mesh.unit_m is not None
    if scale is None:
        scale = mesh.unit_m or 1.0
        _check_extent(path, mesh, Placement(scale, up_to_z(upward)))
        if scale != 1:
            mesh.notes.append(f"{scale:g} m a unit, as the file says")
    placed = place_mesh(path.stem, mesh, up_to_z(upward), scale, stated=stated)
    if upward != "z":
        placed.notes.append(f"{upward} was taken to point up: turned so that z does")
    if up is None and (note := _up_note(mesh, scale, upward)):
        placed.notes.append(note)
    scene = placed.scene
    scene.superpoint = surface_superpoints(scene.coord, scene.normal, placed.faces)
    return OpenScene(
        **vars(placed.scene),
        axis_alignment=None if upward == "z" else placed.placement.aligned,
        offset_m=placed.placement.offset_m,
        notes=placed.notes,
        judged=True,
    )


def _check_extent(path: Path, mesh: Mesh, placement: Placement) -> None:
    """InputError where the unit that is taken makes the mesh larger than any building; that which a
    file states may be of one that is only unlikely."""
    coord_m = placement.points(mesh.coord)
    extent, remedy = extent_of(coord_m), "give metres a unit with --scale (in Python scale=)"
    if mesh.unit_m is not None and extent.max() > LARGEST_M:
        raise InputError(
            f"{path}: the scan is {extent.max():,.0f} m across by the unit of its file, which no "
            f"building is; cut a room out of it, or {remedy}"
        )
    if mesh.unit_m is None and is_too_large(extent):
        note = extent_note(coord_m, lambda factor: f"scale {placement.scale * factor:g}")
        raise InputError(f"{path}: {note}; {remedy}")


def _up_note(mesh: Mesh, scale: float, upward: Up) -> str | None:
    """What to say where nobody says which axis is up, and the surface shows another than is taken."""
    note = mesh_up_note(mesh.coord * scale, mesh.faces, mesh.normal, upward)
    return note or (level_note(mesh.coord, mesh.faces) if mesh.up is None else None)
