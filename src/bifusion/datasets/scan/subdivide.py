"""Points in between on a mesh with large triangles: its surface, sampled without tearing it.

Every edge that is too long is halved, for both of its triangles, until none is. The user's vertices stay
the first ones, so what is said of the new points is said of theirs too.
"""

from __future__ import annotations

import numpy as np

from bifusion.datasets.placement import faces_of_scan, stray_points
from bifusion.datasets.ply.mesh import Mesh

LONGEST = 1.7
"""Longest edge of most of a scan's surface by the distance of its points (ScanNet: 7.3 by 4.3 cm)."""
COARSE = 1.3
"""So many times longer edges than those are too long; up to it a mesh is taken as it is."""
MOST_POINTS = 3_000_000
MOST_ROUNDS = 24


def coarseness(mesh: Mesh, spacing: float) -> float:
    """Longest edges of the surface (median by area) by what they are at a distance of points of
    `spacing`, in the mesh's unit; 0 for a cloud."""
    if not len(mesh.faces):
        return 0.0
    corner = mesh.coord[faces_of_scan(mesh.coord, mesh.faces)]
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max(axis=1)
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    order = np.argsort(longest)
    below = np.cumsum(area[order])
    median = longest[order[np.searchsorted(below, below[-1] / 2)]]
    return float(median / (LONGEST * spacing))


def subdivided(mesh: Mesh, spacing: float) -> Mesh:
    """The mesh with edges of at most LONGEST · spacing (its unit), or, a note says so, with MOST_POINTS
    points: the longest edges are halved then.

    New points lie halfway on edges. They have the colour that the texture of a triangle at the edge has
    there, or where there is none the mean of the ends'. Edges out to stray points
    stay: what they span is no surface, and would get more points than the room.
    """
    coord, color, faces = mesh.coord, mesh.color, mesh.faces
    whole, lies_in = np.arange(len(faces), dtype=np.int32), [np.zeros(0, np.int32)]  # of the mesh's own
    stray = np.flatnonzero(stray_points(coord))
    limit, left = LONGEST * spacing, 0
    for _ in range(MOST_ROUNDS):
        edges, place = _edges(faces)
        length = np.linalg.norm(coord[edges[:, 0]] - coord[edges[:, 1]], axis=1)
        length[np.isin(edges, stray).any(axis=1)] = 0
        wanted = np.flatnonzero(length > limit)
        new = min(len(wanted), max(0, MOST_POINTS - len(coord)))
        left = len(wanted) - new
        if new == 0:
            break
        long = np.zeros(len(edges), bool)
        long[wanted[np.argsort(-length[wanted], kind="stable")[:new]]] = True
        middle = np.full(len(edges), -1)
        middle[long] = len(coord) + np.arange(new)
        ends = edges[long]
        halfway = (color[ends[:, 0]].astype(np.uint16) + color[ends[:, 1]] + 1) // 2
        coord = np.concatenate([coord, (coord[ends[:, 0]] + coord[ends[:, 1]]) / 2])
        color = np.concatenate([color, halfway.astype(np.uint8)])
        halved = middle[place]
        lies_in.append(np.zeros(new, np.int32))
        piece, edge = np.nonzero(halved >= 0)
        lies_in[-1][halved[piece, edge] - (len(coord) - new)] = whole[piece]
        faces, parent = _split(faces, halved)
        whole = whole[parent]
    if mesh.surface is not None:
        added, face = slice(len(mesh.coord), None), np.concatenate(lies_in)
        seen, found = mesh.surface.colors(mesh.coord, mesh.faces, face, coord[added])
        color[added] = np.where(seen[:, None], found, color[added])
    notes = [_given_up(left, len(coord))] if left else []
    return Mesh(coord, color, faces, notes=notes, spacing=mesh.spacing, up=mesh.up)


def _given_up(edges: int, points: int) -> str:
    return (
        f"no more points in between than {MOST_POINTS:,} in all: with {points:,} points {edges:,} edges "
        "are still longer than those of usual scans, so labels there are coarser; scan its rooms one by "
        "one, or check its unit"
    )


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E, 2) vertices of every edge once, and (F, 3) the edge from each corner to the next."""
    pairs = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
    count = int(faces.max()) + 1
    key, place = np.unique(pairs[:, 0] * count + pairs[:, 1], return_inverse=True)
    return np.stack([key // count, key % count], axis=1), place.reshape(-1, 3)


def _split(faces: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of which edge k, from corner k to the next, gets the vertex `middle[:, k]`, −1 none; and
    which of `faces` each is a piece of."""
    halved = middle >= 0
    count = halved.sum(axis=1)
    # Turned so that one halved edge is the first, and of two the other is the second.
    first = np.where(count == 2, (halved.argmin(axis=1) + 1) % 3, halved.argmax(axis=1))
    turn = (first[:, None] + np.arange(3)) % 3
    (a, b, c), (m, n, o) = (np.take_along_axis(one, turn, axis=1).T for one in (faces, middle))
    one, two, three = (count == number for number in (1, 2, 3))
    parts, parents = [faces[count == 0]], [np.flatnonzero(count == 0)]
    for chosen, triangles in (
        (one, ((a, m, c), (m, b, c))),
        (two, ((m, b, n), (a, m, n), (a, n, c))),
        (three, ((a, m, o), (m, b, n), (o, n, c), (m, n, o))),
    ):
        parts += [np.stack([corner[chosen] for corner in triangle], axis=1) for triangle in triangles]
        parents += [np.flatnonzero(chosen)] * len(triangles)
    return np.concatenate(parts), np.concatenate(parents)
