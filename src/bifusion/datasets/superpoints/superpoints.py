"""Superpoints: graph-based over-segmentation of a scan by normals (and colours), never by labels.

Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004, with the edge
weights and defaults of ScanNet's Segmentator (kThresh 0.01, segMinVerts 20), on a mesh's edges or on
the nearest neighbours of a point cloud.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from bifusion.errors import InputError

KTHRESH = 0.01
"""Segmentator's kThresh: larger, larger superpoints."""
SEG_MIN_VERTS = 20
"""Segmentator's segMinVerts: smaller superpoints are joined to a neighbour."""
CLOUD_NEIGHBORS = 6
"""Of a vertex of a triangle mesh, on average."""


def segmentator_superpoints(
    coord: np.ndarray, normal: np.ndarray | None, faces: np.ndarray
) -> np.ndarray:
    """(N,) int32 superpoints as ScanNet's Segmentator makes them, or the same of a cloud without faces.

    Args: as `surface_superpoints`, which mends what exporters of other meshes do.
    """
    if len(faces):
        return graph_superpoints(coord, faces=faces)
    return graph_superpoints(coord, normal, neighbors=CLOUD_NEIGHBORS)


def graph_superpoints(
    coord: np.ndarray,
    normal: np.ndarray | None = None,
    color: np.ndarray | None = None,
    *,
    faces: np.ndarray | None = None,
    edges: np.ndarray | None = None,
    neighbors: int = 8,
    kthresh: float = KTHRESH,
    min_points: int = SEG_MIN_VERTS,
) -> np.ndarray:
    """Superpoint of each point, (N,) int32, ids 0 … S-1 in order of first appearance.

    The graph is `edges` if given, else the edges of `faces`, else each point's `neighbors` nearest
    points. With `faces` and nothing else it is ScanNet's Segmentator.

    Args:
        coord: (N, 3) metres.
        normal: (N, 3) unit normals; None needs `faces`: mean of the adjacent faces' unit normals.
        color: (N, 3) 0 … 255, adds |Δcolour / 255|² to an edge's weight; None: no colour.
        faces: (F, 3) vertex indices.
        edges: (E, 2) point indices.
        kthresh: the paper's k: a component of size n joins over w ≤ (its largest inner edge) + k / n.
        min_points: components below this size are joined over their lightest edges afterwards. Parts
            of the graph that are smaller and connected to nothing stay as they are.
    Raises:
        InputError: neither `normal` nor `faces`.
    """
    coord = np.asarray(coord, dtype=np.float32)
    if normal is None:
        if faces is None:
            raise InputError(
                "superpoints: found neither normals nor faces; give one of them (estimate normals)"
            )
        normal = vertex_normals(coord, faces)
    if edges is None:
        edges = face_edges(faces) if faces is not None else neighbor_edges(coord, neighbors)
    weight = edge_weights(coord, np.asarray(normal, dtype=np.float32), edges)
    if color is not None:
        difference = (
            color[edges[:, 0]].astype(np.float32) - color[edges[:, 1]].astype(np.float32)
        ) / 255
        weight = weight + (difference * difference).sum(axis=1)
    order = np.argsort(weight, kind="stable")
    forest = _Forest(len(coord))
    _segment(forest, edges[order], weight[order], kthresh)
    _join_small(forest, edges[order], min_points)
    return first_appearance(forest.roots())


def vertex_normals(coord: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(N, 3) float32: mean of the adjacent faces' unit normals, *not* normalised again.

    As in Segmentator, where a crease therefore has shorter normals and heavier edges. Faces without
    area and vertices without faces count as zero vectors.
    """
    corners = coord[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(normal[:, axis], 3), len(coord)) for axis in range(3)],
        axis=1,
    )
    count = np.bincount(faces.ravel(), minlength=len(coord))[:, None]
    return (total / np.maximum(count, 1)).astype(np.float32)


def face_edges(faces: np.ndarray) -> np.ndarray:
    """(3F, 2): Segmentator's edges. Inner edges occur twice, once a face, perhaps in both directions,
    and may weigh differently in each (see `edge_weights`)."""
    faces = np.asarray(faces, dtype=np.int64)
    return faces[:, [0, 1, 0, 2, 2, 1]].reshape(-1, 2)


def neighbor_edges(coord: np.ndarray, neighbors: int) -> np.ndarray:
    """(E, 2): edges from every point to its nearest ones, itself excluded."""
    count = min(neighbors + 1, len(coord))
    nearest = np.reshape(KDTree(coord).query(coord, k=count)[1], (len(coord), count))
    edges = np.stack([np.repeat(np.arange(len(coord)), count), nearest.ravel()], axis=1)
    return edges[edges[:, 0] != edges[:, 1]]


def edge_weights(coord: np.ndarray, normal: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(E,) float32: 1 − n₁·n₂, squared where the surface bends outwards (n₂·(p₂ − p₁) > 0).

    Segmentator's weights: an outward bend is usually within an object, an inward one between two.
    """
    first, second = edges[:, 0], edges[:, 1]
    weight = 1 - (normal[first] * normal[second]).sum(axis=1)
    outward = ((coord[second] - coord[first]) * normal[second]).sum(axis=1) > 0
    return np.where(outward, weight * weight, weight)


class _Forest:
    """Disjoint sets with sizes, in plain lists: single look-ups are far faster than numpy's."""

    def __init__(self, count: int):
        self.parent = list(range(count))
        self.size = [1] * count

    def find(self, node: int) -> int:
        parent = self.parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def join(self, a: int, b: int) -> int:
        """Joins two different roots; returns the new root."""
        if self.size[a] < self.size[b]:
            a, b = b, a
        self.parent[b] = a
        self.size[a] += self.size[b]
        return a

    def roots(self) -> np.ndarray:
        """(N,) root of every node."""
        parent = np.array(self.parent)
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                return parent
            parent = above


def _segment(forest: _Forest, edges: np.ndarray, weight: np.ndarray, kthresh: float) -> None:
    """The paper's algorithm over edges in ascending order of weight.

    Between chunks of edges those that can no longer join anything are dropped at once: edges within
    a component, and edges of a component whose threshold is below the weights to come (it can never
    grow again, its threshold changes only by joining). This is exact. A minimum spanning tree instead
    of all edges would not be: two components may join over a direct edge although the tree connects
    them through a third one that is already closed.
    """
    threshold = [kthresh] * len(forest.parent)
    start, length = 0, max(1024, len(forest.parent) // 4)
    while start < len(edges):
        alive = edges[start : start + length]
        alive_weight = weight[start : start + length]
        roots = forest.roots()
        closed = (np.array(threshold) < alive_weight[0])[roots]
        a, b = alive[:, 0], alive[:, 1]
        keep = (roots[a] != roots[b]) & ~closed[a] & ~closed[b]
        candidates = zip(
            roots[a[keep]].tolist(), roots[b[keep]].tolist(), alive_weight[keep].tolist(), strict=True
        )
        for first, second, w in candidates:
            first, second = forest.find(first), forest.find(second)
            if first != second and w <= threshold[first] and w <= threshold[second]:
                root = forest.join(first, second)
                threshold[root] = w + kthresh / forest.size[root]
        start += length


def _join_small(forest: _Forest, edges: np.ndarray, min_points: int) -> None:
    """Joins components below `min_points` to a neighbour, over edges in ascending order of weight."""
    roots = forest.roots()
    small = (np.array(forest.size) < min_points)[roots]
    a, b = edges[:, 0], edges[:, 1]
    keep = (roots[a] != roots[b]) & (small[a] | small[b])
    for first, second in zip(roots[a[keep]].tolist(), roots[b[keep]].tolist(), strict=True):
        first, second = forest.find(first), forest.find(second)
        if first != second and min(forest.size[first], forest.size[second]) < min_points:
            forest.join(first, second)


def first_appearance(roots: np.ndarray) -> np.ndarray:
    """(N,) int32: `roots` renumbered 0 … S-1 in order of first appearance."""
    _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]
