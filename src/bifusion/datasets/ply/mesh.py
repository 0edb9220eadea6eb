"""A triangle mesh or point cloud with colours, and the one in a PLY file, whichever program wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bifusion.data.checks import check_finite
from bifusion.datasets.ply.body import Columns, Lists, read_elements, stacked
from bifusion.datasets.ply.colors import has_colors, read_colors
from bifusion.datasets.ply.header import Header, read_header
from bifusion.datasets.ply.placed import placed
from bifusion.datasets.ply.surface_colors import SurfaceColors
from bifusion.errors import InputError

INDEX_NAMES = ("vertex_indices", "vertex_index")
"""What writers call the corners of a face; a single list of whole numbers may be called anything."""
NORMALS = ("nx", "ny", "nz")
GREY = 128
"""Of vertices that nothing gives a colour."""


@dataclass
class Mesh:
    """What a mesh file holds, in the file's own frame and unit of length."""

    coord: np.ndarray
    """(N, 3) float64, finite."""
    color: np.ndarray
    """(N, 3) uint8 RGB."""
    faces: np.ndarray
    """(F, 3) int64 vertex indices; F is 0 for a cloud."""
    normal: np.ndarray | None = None
    """(N, 3) float64 unit vectors, if the file has one for each vertex."""
    spacing: float = 0.0
    """Distance of neighbouring numbers of the stored type at the farthest coordinate, in the file's
    unit: nothing finer can be told there."""
    up: np.ndarray | None = None
    """(3,) unit vector, which way is up where the format says so."""
    unit_m: float | None = None
    """Metres a unit of length, where the file says so."""
    surface: SurfaceColors | None = None
    """Colours between its vertices, where the file says more of them than the vertices' own."""
    notes: list[str] = field(default_factory=list)
    """What was understood from the values, or left out, for the user to know."""


def read_mesh(path: Path, *, every_vertex: bool = False) -> Mesh:
    """The mesh or cloud in `path`: ascii or binary of either byte order, any number type.

    Polygons become fans of triangles, right for convex ones. Colours are 0 … 255, or 0 … 1 where they
    are stored as such (`read_colors`). Vertices whose place is not finite are left out with their faces,
    which is said; with `every_vertex`, for what goes by their numbers, they are refused.

    Raises:
        InputError: no readable PLY file, vertices without position or colour, none with a finite place,
            a face that names a vertex which is not there.
    """
    path = Path(path)
    header = read_header(path)
    elements = read_elements(path, header, ("vertex", "face"))
    vertex = _in_lower_case(elements.get("vertex", {}))
    coord = stacked(vertex, "xyz")
    if coord is None:
        raise InputError(
            f"{path}: has no vertices with x, y, z; its elements are {_described(header) or 'none'}"
        )
    if len(coord) == 0:
        raise InputError(f"{path}: holds no vertex; expected at least one")
    notes: list[str] = []
    face = _in_lower_case(elements.get("face", {}))
    faces = _triangles(face, header, len(coord), path, notes)
    if every_vertex:
        check_finite(coord, path)
    there = placed(coord, path, notes, faces)
    vertex, coord = there.columns(vertex), there.vertices(coord)
    farthest = np.abs(coord).max()
    stored_in = np.float64 if header.encoding == "ascii" else coord.dtype
    if not has_colors(vertex) and has_colors(face) and len(faces):
        color = there.vertices(_of_faces(face, len(there.vertex), path, notes))
    else:
        color = read_colors(vertex, path, header.comments, notes)
    return Mesh(
        coord=coord.astype(np.float64),
        color=color,
        faces=there.faces(faces),
        normal=unit_normals(vertex, NORMALS),
        spacing=float(np.spacing(farthest.astype(stored_in))) if coord.dtype.kind == "f" else 1.0,
        notes=notes,
    )


def _in_lower_case(columns: Columns) -> Columns:
    """Columns as most writers spell them; as they are where two would be one."""
    lower = {name.lower(): column for name, column in columns.items()}
    return lower if len(lower) == len(columns) else columns


def _described(header: Header) -> str:
    return "; ".join(
        f"{element.name} ({', '.join(prop.name for prop in element.properties)})"
        for element in header.elements
    )


def unit_normals(vertex: Columns, names: Sequence[str]) -> np.ndarray | None:
    """(N, 3) float64 normals of an element whose columns `names` hold one of some length for each row;
    None for others."""
    normal = stacked(vertex, names)
    if normal is None:
        return None
    normal = normal.astype(np.float64)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return normal / length if (np.isfinite(length) & (length > 0)).all() else None


def _of_faces(face: Columns, count: int, path: Path, notes: list[str]) -> np.ndarray:
    """(count, 3) uint8 colours of the vertices, means of those of the faces at each; grey at none."""
    corners, color = _corner_lists(face, path), read_colors(face, path, (), notes)
    assert corners is not None
    of_corner = np.repeat(color, corners.counts, axis=0)
    faces = np.bincount(corners.items, minlength=count)
    summed = np.stack([np.bincount(corners.items, one, count) for one in of_corner.T], axis=1)
    notes.append("colours are of the faces: vertices have the mean of theirs")
    mean = np.where(faces[:, None] > 0, summed / np.maximum(faces, 1)[:, None], GREY)
    return np.rint(mean).astype(np.uint8)


def _triangles(face: Columns, header: Header, count: int, path: Path, notes: list[str]) -> np.ndarray:
    """(F, 3) int64 corners of all faces, polygons as fans."""
    corners = _corner_lists(face, path)
    if corners is None:
        strips = [element.name for element in header.elements if element.name == "tristrips"]
        if strips:
            raise InputError(f"{path}: its faces are triangle strips; export it with single triangles")
        return np.zeros((0, 3), np.int64)
    if corners.items.size and not 0 <= corners.items.min() <= corners.items.max() < count:
        wrong = corners.items[(corners.items < 0) | (corners.items >= count)][0]
        raise InputError(
            f"{path}: a face names vertex {wrong}, but there are {count:,}, numbered from 0; "
            "export the file again"
        )
    short = int((corners.counts < 3).sum())
    if short:
        notes.append(f"{short:,} faces with fewer than three corners left out")
    if (corners.counts > 3).any():
        notes.append(f"{int((corners.counts > 3).sum()):,} polygons cut into triangles")
    return corners.items.astype(np.int64)[fans(corners.counts)]


def fans(counts: np.ndarray) -> np.ndarray:
    """(F, 3) int64 places, in a list of the corners of all polygons, of the triangles they are cut into.

    `counts` (P,) corners of each polygon; those with fewer than three give none.
    """
    pieces = np.maximum(counts - 2, 0)
    first = np.repeat(np.cumsum(counts) - counts, pieces)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.stack([first, first + piece + 1, first + piece + 2], axis=1)


def _corner_lists(face: Columns, path: Path) -> Lists | None:
    """The list of corners among a face's lists; None for a file without faces.

    Other lists (texture coordinates, which are no whole numbers) are passed over.
    """
    lists = {name: column for name, column in face.items() if isinstance(column, Lists)}
    for name in INDEX_NAMES:
        if name in lists:
            return _whole(lists[name], name, path)
    whole = [name for name, column in lists.items() if column.items.dtype.kind in "iu"]
    if len(whole) == 1:
        return lists[whole[0]]
    if not lists:
        return None
    raise InputError(
        f"{path}: which list of its faces names the corners? Found {', '.join(lists)}; expected "
        f"{' or '.join(INDEX_NAMES)}, or a single list of whole numbers"
    )


def _whole(lists: Lists, name: str, path: Path) -> Lists:
    if lists.items.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} holds {lists.items.dtype}; expected whole numbers")
    return lists
