"""Clusters of points by distance: DBSCAN in which every point is a core point (min_points 1)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from bifusion.occupied_cells import occupied_cells

CELLS_IN_RADIUS = 4
"""Cells are radius / 4 wide: their diagonal (0.43 of the radius) makes the points of one neighbours."""


def distance_clusters(points: np.ndarray, radius: float) -> np.ndarray:
    """(N,) int64 cluster of each of (N, 3) points, numbered from 0 in order of their first points.

    Two points are in one cluster if a chain of points no further apart than `radius` leads from one
    to the other: `sklearn.cluster.DBSCAN(eps=radius, min_samples=1)`, without its N·neighbours of
    memory. Points are first joined cell by cell, and only where clusters of cells come near each
    other is the distance of their points measured.
    """
    if len(points) == 0 or np.linalg.norm(np.ptp(points, axis=0)) < radius:  # any two are neighbours
        return np.zeros(len(points), np.int64)
    cell_of_point = occupied_cells(points, radius / CELLS_IN_RADIUS)
    first = np.unique(cell_of_point, return_index=True)[1]
    representatives = KDTree(points[first])
    cell_cluster = _components(representatives.query_pairs(radius, output_type="ndarray"), len(first))
    # a point is no further from its cell's representative than the cell's diagonal
    reach = radius * (1 + 2 * np.sqrt(3) / CELLS_IN_RADIUS)
    cell_cluster = _join_near(points, cell_of_point, cell_cluster, representatives, radius, reach)
    clusters = cell_cluster[cell_of_point]
    _, start, renamed = np.unique(clusters, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(start))[renamed]


def _join_near(
    points: np.ndarray,
    cell_of_point: np.ndarray,
    cell_cluster: np.ndarray,
    representatives: KDTree,
    radius: float,
    reach: float,
) -> np.ndarray:
    """Clusters of cells, joined where two of their points are within `radius` of each other."""
    if cell_cluster.max() == 0:
        return cell_cluster
    near = cell_cluster[representatives.query_pairs(reach, output_type="ndarray")]
    near = np.unique(np.sort(near[near[:, 0] != near[:, 1]], axis=1), axis=0)
    clusters = cell_cluster[cell_of_point]
    trees = {c: KDTree(points[clusters == c]) for c in np.unique(near)}
    bound = np.nextafter(radius, np.inf)  # exclusive
    touching = [
        (a, b)
        for a, b in near
        if np.isfinite(trees[b].query(trees[a].data, distance_upper_bound=bound)[0]).any()
    ]
    joined = _components(np.array(touching, dtype=np.int64).reshape(-1, 2), int(cell_cluster.max()) + 1)
    return joined[cell_cluster]


def _components(pairs: np.ndarray, number: int) -> np.ndarray:
    """(number,) connected component of each node of the graph with the edges `pairs` (E, 2)."""
    ends = pairs.T.astype(np.int32)  # all that graphs of scipy 1.11 take
    graph = coo_array((np.ones(len(pairs), bool), ends), shape=(number, number))
    return connected_components(graph, directed=False)[1].astype(np.int64)
