"""The surface of a fused volume as a coloured triangle mesh: where the distance changes its sign.

Marching cubes (Lewiner et al., "Efficient Implementation of Marching Cubes' Cases with Topological
Guarantees", JGT 2003; scikit-image) runs on dense tiles of blocks that share a layer of voxels, and the
vertices of neighbouring tiles are made one. Memory is that of one tile, however large the scan is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from bifusion.bounds import NotNegative, PositiveInt, check_bounds
from bifusion.datasets.fusion.blocks import SIDE, block_keys
from bifusion.datasets.fusion.volume import Volume
from bifusion.datasets.ply.mesh import Mesh
from bifusion.errors import InputError

TILE = 16
"""Blocks along a tile's edge; 129³ voxels with the shared layer, some 20 MB."""
TILE_VOXELS = TILE * SIDE
ON_GRID = 1e-3
"""Voxels; a vertex nearer to a grid plane lies in it."""
EDGE_BITS = 20
"""Of a voxel's coordinate within the scan: 20 km at 2 cm."""
GREY = 128


@dataclass(frozen=True)
class SurfaceConfig:
    """What of the surface is kept."""

    least_seen: PositiveInt = 1
    """Pictures that must have measured each voxel around a piece of surface."""
    least_area_m2: NotNegative = 0.01
    """Connected parts that are smaller are left out."""


@dataclass
class Surface:
    """A mesh with what it rests on. Faces look at where they were seen from."""

    mesh: Mesh
    """Metres, in the world of the poses."""
    seen: np.ndarray
    """(N,) int: depth maps that measured the voxels at each vertex, the fewer of two."""
    colored: np.ndarray
    """(N,) bool: a colour picture shows the vertex; the others are grey."""


def extract_surface(volume: Volume, config: SurfaceConfig | None = None) -> Surface:
    """The mesh of all that was fused.

    Raises:
        InputError: there is none.
    """
    config = config or SurfaceConfig()
    check_bounds(config, "surface")
    vertices, faces, count = [], [], 0
    for tile in np.unique(volume.table.coords // TILE, axis=0):
        found = _tile_surface(volume, tile, config.least_seen)
        if found is not None:
            vertices.append(found[0] + tile * TILE_VOXELS)
            faces.append(found[1].astype(np.int64) + count)
            count += len(found[0])
    if not vertices:
        raise InputError(
            f"fusion: no surface came out of depth up to {volume.config.farthest_m:g} m; is its unit "
            "right (--depth-scale 5000 for fifths of a millimetre, as TUM has them), are the poses, and "
            f"does each place have {config.least_seen} pictures?"
        )
    grid, triangles = _welded(np.concatenate(vertices), np.concatenate(faces))
    size_m = volume.config.voxel_size_m
    grid, triangles = _without_crumbs(grid, triangles, config.least_area_m2 / size_m**2)
    if not len(triangles):
        raise InputError(
            f"fusion: no connected part of the surface is as large as {config.least_area_m2} m²; "
            "are the poses right?"
        )
    low, high, share = _edge_ends(volume, grid)
    color, colored = _colors(volume, low, high, share)
    seen = np.minimum(*(volume.seen.reshape(-1)[end] for end in (low, high))).astype(int)
    return Surface(Mesh(coord=grid * size_m, color=color, faces=triangles), seen, colored)


def _tile_surface(
    volume: Volume, tile: np.ndarray, least_seen: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """(n, 3) float64 vertices in voxels from the tile's first one, (f, 3) faces; None: no surface."""
    distance, known = _dense(volume, tile, least_seen)
    low = high = distance
    for axis in range(3):
        known = _pairs(np.logical_and, known, axis)
        low, high = _pairs(np.minimum, low, axis), _pairs(np.maximum, high, axis)
    # A corner right on the surface counts as behind it, as scikit-image has it.
    cube = known & (low <= 0) & (high > 0)
    if not cube.any():
        return None
    mask = np.pad(cube, ((1, 0),) * 3)  # scikit-image asks at a cube's last corner
    vertices, faces, _, _ = marching_cubes(distance, 0.0, mask=mask)
    return vertices.astype(np.float64), faces


def _dense(volume: Volume, tile: np.ndarray, least_seen: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, T, T) distance in truncations and whether it is known, T = TILE_VOXELS + 1."""
    offsets = np.stack(np.meshgrid(*[np.arange(TILE + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    rows = volume.table.find(block_keys(tile * TILE + offsets))
    there = np.flatnonzero(rows >= 0)
    rows, (x, y, z) = rows[there], offsets[there].T
    weight = volume.weight[rows]
    known = (weight > 0) & (volume.seen[rows] >= least_seen)
    value = np.divide(volume.distance[rows], weight, out=np.ones_like(weight), where=known)
    shape = (TILE + 1, SIDE) * 3
    dense = np.ones(shape, np.float32), np.zeros(shape, bool)
    for filled, part in zip(dense, (value, known), strict=True):
        filled[x, :, y, :, z, :] = part.reshape(-1, SIDE, SIDE, SIDE)
    length, inner = (TILE + 1) * SIDE, slice(0, TILE_VOXELS + 1)
    distance, is_known = (array.reshape(length, length, length)[inner, inner, inner] for array in dense)
    return np.ascontiguousarray(distance), is_known


def _pairs(combine: np.ufunc, values: np.ndarray, axis: int) -> np.ndarray:
    """Neighbours along an axis, combined: one shorter there."""
    values = np.moveaxis(values, axis, 0)
    return np.moveaxis(combine(values[:-1], values[1:]), 0, axis)


def _welded(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One vertex for all on the same edge of the grid, as tiles have them on both sides of the layer
    they share, and for all in the same corner; without the faces that lose a corner by it."""
    nearest = np.rint(vertices)
    off = np.abs(vertices - nearest)
    axis = off.argmax(axis=1)
    edge = nearest.astype(np.int64)
    between = np.flatnonzero(off.max(axis=1) >= ON_GRID)
    edge[between, axis[between]] = np.floor(vertices[between, axis[between]])
    axis[off.max(axis=1) < ON_GRID] = 3
    inner = np.flatnonzero((off >= ON_GRID).sum(axis=1) > 1)  # of Lewiner's cases: within a cube
    edge -= edge.min(axis=0)
    if edge.max() >> EDGE_BITS:
        raise InputError(
            f"the fused surface reaches over {edge.max():,} voxels; expected fewer than "
            f"{1 << EDGE_BITS:,}: leave out frames whose poses lie far away, or take larger voxels"
        )
    x, y, z = edge.T
    key = (((x << EDGE_BITS | y) << EDGE_BITS | z) << 2) | axis
    key[inner] = -1 - inner
    _, first, same = np.unique(key, return_index=True, return_inverse=True)
    return _compact(vertices, _proper(first[same][faces]))


def _proper(faces: np.ndarray) -> np.ndarray:
    """Faces with three different corners."""
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (c != a)]


def _compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the vertices that no face has, in the same order."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces]


def _without_crumbs(
    vertices: np.ndarray, faces: np.ndarray, least_area: float
) -> tuple[np.ndarray, np.ndarray]:
    """Without connected parts of less area, in voxels²."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    ends = edges.T.astype(np.int32)  # all that graphs of scipy 1.11 take
    graph = coo_array((np.ones(len(edges), bool), ends), shape=(len(vertices),) * 2)
    parts, part = connected_components(graph, directed=False)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    of_part = np.bincount(part[faces[:, 0]], area, parts)
    return _compact(vertices, faces[of_part[part[faces[:, 0]]] >= least_area])


def _edge_ends(volume: Volume, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two voxels between which each vertex lies, as numbers of storage, and its way, 0 … 1."""
    nearest = np.rint(grid)
    snapped = np.where(np.abs(grid - nearest) < ON_GRID, nearest, grid)
    low, high = np.floor(snapped), np.ceil(snapped)
    way = (snapped - low).max(axis=1)
    return _voxel_numbers(volume, low), _voxel_numbers(volume, high), way


def _voxel_numbers(volume: Volume, voxels: np.ndarray) -> np.ndarray:
    block, local = np.divmod(voxels.astype(np.int64), SIDE)
    rows = volume.table.find(block_keys(block))
    return ((rows * SIDE + local[:, 0]) * SIDE + local[:, 1]) * SIDE + local[:, 2]


def _colors(
    volume: Volume, low: np.ndarray, high: np.ndarray, way: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) uint8, between the colours of both voxels; grey where no picture has any, and (N,) bool
    where one has."""
    total, weights = np.zeros((len(low), 3)), np.zeros(len(low))
    for voxel, share in ((low, 1 - way), (high, way)):
        sums = volume.color.reshape(-1, 4)[voxel]
        known = sums[:, 3] > 0
        share = np.where(known, share + 1e-3, 0)
        total += share[:, None] * sums[:, :3] / np.where(known, sums[:, 3], 1)[:, None]
        weights += share
    mean = total / np.where(weights > 0, weights, 1)[:, None]
    colored = weights > 0
    return np.where(colored[:, None], np.rint(mean), GREY).astype(np.uint8), colored
