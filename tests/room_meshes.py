"""A small room as a coloured triangle mesh, and as the files that scanners leave of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from bifusion.datasets.mesh_files.textures import srgb_to_linear
from bifusion.datasets.ply.mesh import Mesh
from scene_factory import BOXES, ROOM, SURFACE_COLORS

Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""(3, 3) z up to y up."""


def room_mesh(spacing_m: float = 0.05) -> Mesh:
    """Floor, four walls and two boxes, z up; triangles face into the room."""
    low, high = ROOM
    sheets = [(2, low[2], low, high, 1)]
    sheets += [(axis, ROOM[side, axis], low, high, 1 - 2 * side) for axis in (0, 1) for side in (0, 1)]
    for box in BOXES:
        sheets.append((2, box[1, 2], *box, 1))
        sheets += [(axis, box[side, axis], *box, 2 * side - 1) for axis in (0, 1) for side in (0, 1)]
    surface = [0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 7, 8, 8, 8, 8]
    coord, color, faces, count = [], [], [], 0
    for (axis, at, start, end, facing), look in zip(sheets, surface, strict=True):
        points, triangles = _sheet(axis, at, start, end, facing, spacing_m)
        coord.append(points)
        faces.append(triangles + count)
        color.append(np.tile(SURFACE_COLORS[look], (len(points), 1)))
        count += len(points)
    return Mesh(np.concatenate(coord), np.concatenate(color), np.concatenate(faces))


def permuted(mesh: Mesh, seed: int = 0) -> Mesh:
    """The mesh with its vertices in another order."""
    order = np.random.default_rng(seed).permutation(len(mesh.coord))
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return Mesh(mesh.coord[order], mesh.color[order], number[mesh.faces])


def write_ply(path: Path, mesh: Mesh) -> Path:
    """Binary, double coordinates."""
    vertex = np.empty(len(mesh.coord), [("p", "<f8", 3), ("c", "u1", 3)])
    vertex["p"], vertex["c"] = mesh.coord, mesh.color
    face = np.empty(len(mesh.faces), [("n", "u1"), ("v", "<i4", 3)])
    face["n"], face["v"] = 3, mesh.faces
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertex)}"]
    lines += [f"property double {axis}" for axis in "xyz"]
    lines += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    lines += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(lines).encode() + vertex.tobytes() + face.tobytes())
    return path


def write_obj(path: Path, mesh: Mesh) -> Path:
    """With the colour behind each vertex."""
    rows = np.column_stack([mesh.coord, mesh.color / 255]).tolist()
    lines = ["v " + " ".join(f"{number:.6f}" for number in row) for row in rows]
    lines += ["f " + " ".join(str(corner + 1) for corner in face) for face in mesh.faces.tolist()]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_glb(path: Path, mesh: Mesh) -> Path:
    """Colours linear, as glTF has them."""
    linear = np.rint(srgb_to_linear(mesh.color / 255) * 255).astype(np.uint8)
    shape = trimesh.Trimesh(mesh.coord, mesh.faces, vertex_colors=linear, process=False)
    trimesh.Scene([shape]).export(str(path), file_type="glb")
    return path


def _sheet(
    axis: int, at: float, low: np.ndarray, high: np.ndarray, facing: int, spacing_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of squares across `axis`, its triangles facing along ±`axis`."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    lines = [
        np.linspace(low[a], high[a], max(2, round((high[a] - low[a]) / spacing_m) + 1))
        for a in (first, second)
    ]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    points = np.full((*grid.shape[:2], 3), at, float)
    points[..., [first, second]] = grid
    number = np.arange(grid.shape[0] * grid.shape[1]).reshape(grid.shape[:2])
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    triangles = np.concatenate([np.stack(t, axis=-1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    return points.reshape(-1, 3), triangles if facing > 0 else triangles[:, ::-1]
