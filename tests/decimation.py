"""Meshes with fewer vertices, as MeshLab, Blender or Open3D leave them: edges are collapsed
where that moves the surface least.

Garland and Heckbert, "Surface Simplification Using Quadric Error Metrics", SIGGRAPH 1997, with new
vertices at one end or in the middle of the old edge, and borders held by planes across them.
"""

from __future__ import annotations

import heapq

import numpy as np

from bifusion.datasets.ply.mesh import Mesh

BORDER = 10.0
"""Weight of the planes that hold borders."""
SHARES = (0.5, 0.0, 1.0)
"""Of the way from the first end of an edge to the second, where the new vertex may lie."""
Quadric = tuple[float, ...]
"""xx, xy, xz, xw, yy, yz, yw, zz, zw, ww of the sum of plane · planeᵀ."""
Point = tuple[float, ...]


def decimated(mesh: Mesh, share: float) -> Mesh:
    """The mesh with that share of its vertices."""
    work = _Work(mesh)
    while work.left > share * len(mesh.coord) and work.heap:
        work.collapse_next()
    return work.mesh()


class _Work:
    """A mesh while its edges are collapsed. A vertex that is gone has no neighbours."""

    def __init__(self, mesh: Mesh):
        self.coord: list[Point] = [tuple(row) for row in mesh.coord.tolist()]
        self.color: list[Point] = [tuple(row) for row in mesh.color.astype(float).tolist()]
        self.quadric = [tuple(row) for row in _quadrics(mesh).tolist()]
        self.faces = mesh.faces
        self.near: list[set[int]] = [set() for _ in self.coord]
        for a, b, c in mesh.faces.tolist():
            self.near[a] |= {b, c}
            self.near[b] |= {a, c}
            self.near[c] |= {a, b}
        self.stands = list(range(len(self.coord)))
        self.version = [0] * len(self.coord)
        self.left = len(self.coord)
        self.heap: list[tuple[float, int, int, int, int, float]] = []
        for a, others in enumerate(self.near):
            for b in others:
                if a < b:
                    self._offer(a, b)

    def collapse_next(self) -> None:
        _, a, b, version_a, version_b, share = heapq.heappop(self.heap)
        if version_a != self.version[a] or version_b != self.version[b]:
            return
        if len(self.near[a] & self.near[b]) > 2:
            return  # it would leave a fin
        self.coord[a] = _between(self.coord[a], self.coord[b], share)
        self.color[a] = _between(self.color[a], self.color[b], share)
        self.quadric[a] = tuple(p + q for p, q in zip(self.quadric[a], self.quadric[b], strict=True))
        self.stands[b] = a
        for other in self.near[b] - {a}:
            self.near[other].discard(b)
            self.near[other].add(a)
            self.near[a].add(other)
        self.near[a].discard(b)
        self.near[b] = set()
        self.version[a] += 1
        self.version[b] = -1
        self.left -= 1
        for other in self.near[a]:
            self._offer(min(a, other), max(a, other))

    def _offer(self, a: int, b: int) -> None:
        quadric = [p + q for p, q in zip(self.quadric[a], self.quadric[b], strict=True)]
        costs = [(_cost(quadric, _between(self.coord[a], self.coord[b], s)), s) for s in SHARES]
        cost, share = min(costs)
        heapq.heappush(self.heap, (cost, a, b, self.version[a], self.version[b], share))

    def mesh(self) -> Mesh:
        for vertex in range(len(self.stands)):
            root = vertex
            while self.stands[root] != root:
                root = self.stands[root]
            self.stands[vertex] = root
        stands = np.array(self.stands)
        kept = np.flatnonzero(stands == np.arange(len(stands)))
        number = np.full(len(stands), -1)
        number[kept] = np.arange(len(kept))
        faces = number[stands[self.faces]]
        whole = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
        color = np.rint(np.array(self.color)[kept]).astype(np.uint8)
        return Mesh(np.array(self.coord)[kept], color, faces[whole])


def _quadrics(mesh: Mesh) -> np.ndarray:
    """(N, 10) of each vertex, its faces' planes weighted by area, and planes across borders."""
    corner = mesh.coord[mesh.faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    area = np.linalg.norm(across, axis=1)
    normal = across / np.maximum(area, 1e-30)[:, None]
    total = np.zeros((len(mesh.coord), 10))
    planes = _plane_quadrics(normal, corner[:, 0]) * area[:, None]
    for k in range(3):
        np.add.at(total, mesh.faces[:, k], planes)
    edge = np.concatenate([mesh.faces[:, [k, (k + 1) % 3]] for k in range(3)])
    of_face = np.tile(np.arange(len(mesh.faces)), 3)
    _, place, count = np.unique(np.sort(edge, axis=1), axis=0, return_inverse=True, return_counts=True)
    border = np.flatnonzero(count[place.reshape(-1)] == 1)
    ends = mesh.coord[edge[border]]
    along = ends[:, 1] - ends[:, 0]
    out = np.cross(along, normal[of_face[border]])
    length = np.linalg.norm(out, axis=1, keepdims=True)
    held = _plane_quadrics(out / np.maximum(length, 1e-30), ends[:, 0]) * BORDER * length**2
    for k in range(2):
        np.add.at(total, edge[border, k], held)
    return total


def _plane_quadrics(normal: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(P, 10) of planes with unit normals through points."""
    plane = np.column_stack([normal, -(normal * point).sum(axis=1)])
    first, second = np.triu_indices(4)
    return plane[:, first] * plane[:, second]


def _cost(q: list[float], p: Point) -> float:
    x, y, z = p
    return (
        q[0] * x * x + q[4] * y * y + q[7] * z * z + q[9]
        + 2 * (q[1] * x * y + q[2] * x * z + q[3] * x + q[5] * y * z + q[6] * y + q[8] * z)
    )  # fmt: skip


def _between(a: Point, b: Point, share: float) -> Point:
    return tuple(p + share * (q - p) for p, q in zip(a, b, strict=True))
