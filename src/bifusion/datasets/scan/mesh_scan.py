"""A mesh or cloud file as a scan: its unit and its upright found out, its surface sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from bifusion.data.checks import color_note
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.orientation.facing import SAMPLES, Facing, cloud_facing, mesh_facing
from bifusion.datasets.orientation.orient import Orientation, orient, parse_up
from bifusion.datasets.placement import Placement, far_offset, placement_notes
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.scan.made import MadeScan, made_scan
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scan.subdivide import COARSE, coarseness, subdivided
from bifusion.datasets.scan.telling import Telling
from bifusion.datasets.scan.thinning import Thinned, thinned_cloud
from bifusion.datasets.scan.units import find_scale
from bifusion.datasets.superpoints.normals import NEIGHBORS, surface_normals
from bifusion.datasets.superpoints.surface import surface_superpoints
from bifusion.errors import InputError
from bifusion.rng import numpy_rng


def scan_mesh(path: Path, options: ScanOptions, telling: Telling) -> MadeScan:
    """The mesh or cloud in `path` as a scan without views.

    Raises InputError: as `read_mesh_file`; unit or upright that cannot be told and are not given.
    """
    telling.progress("reading", 0, 1)
    mesh = read_mesh_file(path)
    telling.progress("reading", 1, 1)
    telling.add([_counted(mesh), *mesh.notes])
    try:
        scale, said = find_scale(mesh.coord, options.scale, mesh.unit_m)
        telling.add([said])
        thinned = _thinned(mesh, options.spacing_m / scale, telling)
        orientation = _oriented(thinned.cloud if thinned else mesh, scale, options)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    telling.add(orientation.notes)
    surface = sampled(mesh, options.spacing_m / scale, telling)
    if note := color_note(surface.color):
        telling.add([note])
    placement = place(mesh, orientation, scale)
    coord_m = placement.points(surface.coord)
    stated = options.scale is not None or mesh.unit_m is not None
    telling.add(placement_notes(placement, coord_m, mesh.spacing * scale, stated=stated))
    telling.progress("superpoints", 0, 1)
    if thinned:
        coarse, whence = _searched(placement.points(thinned.cloud.coord), thinned.cloud, orientation)
        normal, superpoint = (found[thinned.cell] for found in coarse)
    else:
        (normal, superpoint), whence = _searched(coord_m, surface, orientation)
    telling.progress("superpoints", 1, 1)
    if not len(mesh.faces):
        telling.add([f"no faces: superpoints of the cloud, its normals {whence}"])
    kind = "mesh" if len(mesh.faces) else "cloud"
    source = f"{path.name}, {scale:g} m a unit"
    made = made_scan(
        kind, path.stem, mesh, surface, placement, source, normal, superpoint, coord_m, telling.lines
    )
    made.scene.unit_stated = stated
    return made


def _searched(
    coord_m: np.ndarray, surface: Mesh, orientation: Orientation
) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """(N, 3) normals and (N,) superpoints of a surface at `coord_m`, and where normals come from."""
    normal, whence = surface_normals(coord_m, surface.faces, surface.normal, orientation.rotation)
    return (normal, surface_superpoints(coord_m, normal, surface.faces)), whence


def _thinned(mesh: Mesh, spacing: float, telling: Telling) -> Thinned | None:
    """A dense cloud with fewer points to search; a line says so."""
    thinned = None if len(mesh.faces) else thinned_cloud(mesh, spacing)
    if thinned:
        line = (
            "a dense cloud: upright, normals and superpoints are found on one point in each of "
            f"{len(thinned.cloud.coord):,} cells; labels are of all points"
        )
        telling.add([line])
    return thinned


def place(mesh: Mesh, orientation: Orientation, scale: float) -> Placement:
    """From the mesh's frame and unit to its scene's, near the origin."""
    aligned = Placement(scale, orientation.alignment)
    return Placement(scale, orientation.alignment, far_offset(aligned.points(mesh.coord)))


def _oriented(mesh: Mesh, scale: float, options: ScanOptions) -> Orientation:
    near_m = (mesh.coord - mesh.coord.mean(axis=0)) * scale
    up = None if options.up is None else parse_up(options.up)
    return orient(_facing(mesh, near_m), hint=mesh.up, up=up)


def _facing(mesh: Mesh, near_m: np.ndarray) -> Facing:
    """Where the surface faces, of its faces, its file's normals, or the points' neighbours."""
    if len(mesh.faces):
        corner = near_m[mesh.faces]
        if np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]).any():
            return mesh_facing(near_m, mesh.faces)
    if mesh.normal is not None:
        return cloud_facing(near_m, mesh.normal, signed=True)
    if len(near_m) <= NEIGHBORS:
        raise InputError(f"{len(near_m)} points are no scan; expected a room's surface")
    return _drawn_facing(near_m)


def _drawn_facing(near_m: np.ndarray) -> Facing:
    """Of a cloud without normals: planes through the neighbours of some points."""
    drawn = near_m
    if len(near_m) > SAMPLES:
        drawn = near_m[numpy_rng(0, "cloud").choice(len(near_m), SAMPLES, replace=False)]
    nearest = near_m[KDTree(near_m).query(drawn, k=NEIGHBORS + 1)[1]]
    nearest = nearest - nearest.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", nearest, nearest))
    return cloud_facing(drawn, axes[:, :, 0], signed=False)


def sampled(mesh: Mesh, spacing: float, telling: Telling) -> Mesh:
    """The mesh, with points in between where its triangles are large; lines say so. The mesh lets its
    `surface` go, which holds pictures: nothing asks for it again."""
    coarse = coarseness(mesh, spacing)
    if coarse <= COARSE:
        mesh.surface = None
        return mesh
    surface = subdivided(mesh, spacing)
    colored = (
        "" if mesh.surface is None else ", the others in the colour of its texture or material there"
    )
    mesh.surface = None
    line = (
        f"its triangles are {coarse:.1f} times as large as those of usual scans: the model gets "
        f"{len(surface.coord):,} points of its surface, its vertices among them{colored}"
    )
    telling.add([line, *surface.notes])
    return surface


def _counted(mesh: Mesh) -> str:
    if len(mesh.faces):
        return f"mesh of {len(mesh.coord):,} vertices and {len(mesh.faces):,} triangles"
    return f"cloud of {len(mesh.coord):,} points"
