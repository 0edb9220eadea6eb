"""Normals of a scan's points: of its faces, as its file has them, or estimated."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import KDTree

from bifusion.datasets.superpoints.welding import welded

NEIGHBORS = 8


def surface_normals(
    coord: np.ndarray, faces: np.ndarray, stored: np.ndarray | None, rotation: np.ndarray
) -> tuple[np.ndarray, str]:
    """(N, 3) unit normals and where they come from.

    Args:
        coord: (N, 3) metres, scene frame.
        faces: (F, 3) vertex indices; with any the normals are theirs.
        stored: (N, 3) of the file, in its frame; None: it has none.
        rotation: (3, 3) the file's frame to the scene's.
    """
    if len(faces):
        return mesh_normals(coord, faces), "of the faces"
    if stored is not None:
        return stored @ rotation.T, "from the file"
    return estimate_normals(coord), "estimated"


def mesh_normals(coord: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(N, 3) unit vertex normals, faces weighted by area; zero where a vertex has no face.

    Vertices at one place share their normal.
    """
    first, place = welded(coord)
    a, b, c = (coord[faces[:, corner]] for corner in range(3))
    doubled_area = np.cross(b - a, c - a)
    corner, weight = place[faces].T.ravel(), np.tile(doubled_area, (3, 1))
    normal = np.stack([np.bincount(corner, weight[:, i], len(first)) for i in range(3)], axis=1)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return (normal / np.where(length > 0, length, 1))[place]


def estimate_normals(coord: np.ndarray, neighbors: int = NEIGHBORS) -> np.ndarray:
    """(N, 3) float32 unit normals: the direction in which each point's nearest ones spread least.

    Signs agree between neighbours (propagated along a minimum spanning tree of 1 − |n₁·n₂|; Hoppe et
    al., "Surface Reconstruction from Unorganized Points", SIGGRAPH 1992); in each connected part most
    of what faces up or down faces up, as floors and tables do that are scanned from above.

    Args:
        coord: (N, 3) metres, z up, finite.
        neighbors: points a plane is fitted to, besides the point itself.
    """
    count = min(neighbors + 1, len(coord))
    nearest = np.reshape(KDTree(coord).query(coord, k=count)[1], (len(coord), count))
    centred = coord[nearest].astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", centred, centred))
    normal = axes[:, :, 0]  # eigenvalues ascend: the first axis is the flattest direction
    return (normal * _agreeing_signs(normal, nearest)[:, None]).astype(np.float32)


def _agreeing_signs(normal: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """(N,) ±1 that make neighbouring normals point to one side."""
    number = len(normal)
    first, second = np.repeat(np.arange(number), nearest.shape[1]), nearest.ravel()
    bend = 1 - np.abs((normal[first] * normal[second]).sum(axis=1))
    ends = first.astype(np.int32), second.astype(np.int32)  # all that graphs of scipy 1.11 take
    # A stored 0 is no edge to scipy, so that flat places would fall apart.
    graph = coo_array((bend + 1e-6, ends), shape=(number, number)).tocsr()
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    parts, part = connected_components(tree, directed=False)
    sign = _signs_along(tree, np.unique(part, return_index=True)[1], normal)
    upward = np.bincount(part, sign * normal[:, 2], parts)
    return sign * np.where(upward < 0, -1.0, 1.0)[part]


def _signs_along(forest: csr_array, roots: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(N,) ±1: 1 at the roots (P,), one of each tree, and from there as neighbours agree."""
    number = len(normal)
    shape = number + 1, number + 1  # one more node, above all roots, so that one walk finds all
    rows = np.append(forest.indptr, forest.nnz)
    tree = csr_array((forest.data, forest.indices, rows), shape=shape)
    tree += coo_array((np.ones(len(roots)), (np.full(len(roots), number), roots)), shape=shape).tocsr()
    above = breadth_first_order(tree, number, directed=False)[1][:number]
    of_root = above == number
    parent = np.where(of_root, np.arange(number), above)
    agrees = (normal * normal[parent]).sum(axis=1) >= 0
    sign = np.where(agrees | of_root, 1.0, -1.0)
    while not of_root[parent].all():  # each round twice as far up
        sign *= sign[parent]
        parent = parent[parent]
    return sign
